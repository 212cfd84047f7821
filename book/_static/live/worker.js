// The model in a worker, so that the page stays responsive. Messages in: load, picture, cancel. Messages out: progress, ready, picture,
// cancelled, failed. Everything is fetched from the page's own site and compared with the sha256 that the book was built with.
'use strict';
let manifest, base, unet, decoder, empty, cancelled = 0;
const captions = new Map();

const breath = () => new Promise(resolve => setTimeout(resolve));  // lets a cancellation in

async function fetched(file, told) {
  const entry = manifest.files[file];
  const answer = await fetch(new URL(entry.path, base));
  if (!answer.ok) throw Error(`${entry.path} could not be loaded (${answer.status})`);
  const parts = [], reader = answer.body.getReader();
  for (let part; !(part = await reader.read()).done;) { parts.push(part.value); told?.(part.value.length); }
  let bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  if (file.endsWith('.gz') && bytes[0] === 0x1f && bytes[1] === 0x8b) {  // a server may have unpacked it
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  }
  if (self.crypto?.subtle) {  // not on pages without https
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    const hex = [...digest].map(byte => byte.toString(16).padStart(2, '0')).join('');
    if (hex !== entry.sha256) throw Error(`${entry.path} is not the file that this book was built with`);
  }
  return bytes;
}

function halves(bytes) {
  const given = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2), out = new Float32Array(given.length);
  for (let i = 0; i < given.length; i++) {
    const h = given[i], exponent = h >> 10 & 31, fraction = h & 1023, sign = h & 32768 ? -1 : 1;
    out[i] = sign * (exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity)
      : (1 + fraction / 1024) * 2 ** (exponent - 15));
  }
  return out;
}

async function load(message) {
  ({manifest, base} = message);
  let done = 0;
  const told = bytes => postMessage({kind: 'progress', done: done += bytes, total: manifest.bytes});
  const binary = await fetched('ort-wasm-simd-threaded.wasm.gz', told);
  importScripts(new URL(manifest.files['ort.wasm.min.js'].path, base).href);
  ort.env.logLevel = 'error';
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = binary.buffer;
  ort.env.wasm.wasmPaths = {mjs: new URL(manifest.files['ort-wasm-simd-threaded.mjs'].path, base).href};
  const options = {executionProviders: ['wasm'], logSeverityLevel: 3};
  unet = await ort.InferenceSession.create(await fetched('unet.onnx', told), options);
  decoder = await ort.InferenceSession.create(await fetched('decoder.onnx', told), options);
  empty = halves(await fetched('empty.bin', told));
  postMessage({kind: 'ready'});
}

async function embedding({file, row}) {
  if (!captions.has(file)) captions.set(file, halves(await fetched(file)));
  const size = empty.length;
  return captions.get(file).subarray(row * size, (row + 1) * size);
}

async function run(session, feeds) {
  const out = await session.run(feeds), tensor = out[session.outputNames[0]], data = tensor.data.slice();
  tensor.dispose();
  for (const one of Object.values(feeds)) one.dispose();
  return data;
}

const tensor = (data, dims) => new ort.Tensor('float32', data, dims);

// DDIM (Eq. 3) with guidance (Eq. 5): the same noise once for each strength of the LoRA, in one batch of the network.
async function picture({id, noise, caption, steps, scales}) {
  const began = performance.now(), count = scales.length, size = noise.length, shape = manifest.latent;
  const words = await embedding(caption), context = new Float32Array(2 * count * empty.length);
  const strengths = new Float32Array(2 * count);
  for (let k = 0; k < count; k++) {
    context.set(empty, k * empty.length);
    context.set(words, (count + k) * empty.length);
    strengths[k] = strengths[count + k] = scales[k];
  }
  const x = new Float32Array(count * size);
  for (let k = 0; k < count; k++) x.set(noise, k * size);
  for (const [t, alpha, next] of manifest.schedules[steps]) {
    await breath();
    if (id <= cancelled) return postMessage({kind: 'cancelled', id});
    const twice = new Float32Array(2 * x.length);
    twice.set(x); twice.set(x, x.length);
    const noises = await run(unet, {
      latents: tensor(twice, [2 * count, ...shape]), timesteps: tensor(new Float32Array(2 * count).fill(t), [2 * count]),
      embeddings: tensor(context, [2 * count, ...manifest.words]), scales: tensor(strengths, [2 * count]),
    });
    const ratio = Math.sqrt(next / alpha), share = Math.sqrt(next) * (Math.sqrt(1 / next - 1) - Math.sqrt(1 / alpha - 1));
    for (let i = 0; i < x.length; i++) {
      const without = noises[i];
      x[i] = ratio * x[i] + share * (without + manifest.guidance * (noises[x.length + i] - without));
    }
  }
  const pixels = await run(decoder, {latents: tensor(x, [count, ...shape])}), images = [];
  for (let k = 0; k < count; k++) images.push(pixels.slice(k * pixels.length / count, (k + 1) * pixels.length / count));
  postMessage({kind: 'picture', id, images, seconds: (performance.now() - began) / 1000}, images.map(image => image.buffer));
}

onmessage = async ({data}) => {
  if (data.kind === 'cancel') { cancelled = Math.max(cancelled, data.id); return; }
  try {
    await (data.kind === 'load' ? load(data) : picture(data));
  } catch (error) {
    postMessage({kind: 'failed', id: data.id, message: String(error.message || error)});
  }
};
