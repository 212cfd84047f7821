// The embedded model in a worker: the page stays responsive, and all widgets of a page share one model.
//
// A request is {kind, id, ...}; it is answered by one {kind: 'done', id, seconds, ...}, {kind: 'cancelled', id} or {kind: 'failed', id, message}.
// Requests are worked off in the order in which they come, one at a time. Only `cancel` overtakes.
//
//   load    {manifest, base, parts}   parts: some of 'unet', 'decoder', 'text', 'encoder'. What is there is not loaded again.
//                                     Meanwhile {kind: 'progress', id, done, total} in bytes. base: the URL of the folder of this file.
//   text    {prompts}                 -> {embeddings}
//   encode  {images}                  -> {latents}      E (Eq. 16)
//   decode  {latents}                 -> {images}       D (Eq. 16)
//   noise   {latents, t, ...how}      -> {noises}       one guided answer of the UNet (Eq. 5) at time t, 1 to 999
//   sample  {latents, steps, ...how}  -> {latents, images}  DDIM (Eq. 3). first, last: only these steps of `steps` (0 and steps - 1 if not
//                                     given), so that a prompt can change on the way (Eq. 15); plain: no images, only latents.
//   invert  {latents, steps, ...how}  -> {latents}      DDIM inversion (Eq. 4): the same steps backwards, from `last` to `first`.
//   memory  {}                        -> {heap, texts}  bytes of the runtime's memory, captions kept
//   cancel  {id}                      ends that request before its next call of a network or download; it is answered by 'cancelled'
//
// ...how: {prompts, scales, guidance}: a caption, its embedding, or a list of them with one for each latent; the strength of the LoRA, 0 for
// the base model and 1 for Smooth Diffusion, one number or one for each latent; w of Eq. 5, the model's own if not given; 1: no guidance.
// Latents (4 x 16 x 16), images (3 x 64 x 64, in [-1, 1]) and embeddings (24 x 192) are lists of Float32Array, one an image.
// `sample` and `invert` tell each step: {kind: 'step', id, step, of}.
//
// Memory: a network is given at most LARGEST images a call, and every tensor is disposed of after the call, so that the runtime's memory
// stays at what the largest call needed. Captions are kept (TEXTS); pictures are not: what a page keeps is its own matter (engine.js).
// Everything is fetched from the page's own site and compared with the sha256 that the book was built with.
'use strict';
const LARGEST = 4, TEXTS = 64, sessions = new Map(), texts = new Map(), cancelled = new Set();
let manifest = null, base = '', binary = null, current = null, latest = 0, fetching = null, tail = Promise.resolve();
const heaps = [];

WebAssembly.Memory = class extends WebAssembly.Memory {  // the runtime makes its own: kept to tell its size
  constructor(...given) { super(...given); heaps.push(this); }
};

const breath = () => new Promise(resolve => setTimeout(resolve));  // lets a cancellation in
const total = list => list.reduce((sum, one) => sum + one, 0);

async function checkpoint() {
  await breath();
  if (cancelled.has(current)) throw Error('cancelled');
}

// Files --------------------------------------------------------------------------------------------------------------------------

async function fetched(name, told) {
  const entry = manifest.files[name];
  const answer = await fetch(new URL(entry.path, base), {signal: fetching.signal});
  if (!answer.ok) throw Error(`${entry.path} could not be loaded (${answer.status})`);
  const parts = [], reader = answer.body.getReader();
  for (let part; !(part = await reader.read()).done;) { parts.push(part.value); told(part.value.length); }
  let bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  if (name.endsWith('.gz') && bytes[0] === 0x1f && bytes[1] === 0x8b) {  // a server may have unpacked it
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

async function load({id, parts, ...given}) {
  ({manifest, base} = given);
  fetching = new AbortController();
  const wasm = 'ort-wasm-simd-threaded.wasm.gz', missing = parts.filter(part => !sessions.has(part)).map(part => `${part}.onnx`);
  const size = total([...(binary ? [] : [wasm]), ...missing].map(name => manifest.files[name].bytes));
  let done = 0;
  const told = bytes => postMessage({kind: 'progress', id, done: Math.min(size, done += bytes), total: size});
  if (!binary) {
    const bytes = await fetched(wasm, told), scripts = ['ort.wasm.min.js', 'ort-wasm-simd-threaded.mjs'];
    const [script, module] = scripts.map(name => new URL(manifest.files[name].path, base).href);
    if (!self.ort) importScripts(script);
    ort.env.logLevel = 'error';
    ort.env.wasm.numThreads = 1;  // more need headers that a plain server does not send
    ort.env.wasm.wasmBinary = binary = bytes.buffer;
    ort.env.wasm.wasmPaths = {mjs: module};
  }
  for (const name of missing) {
    await checkpoint();
    const bytes = await fetched(name, told);
    sessions.set(name.replace('.onnx', ''), await ort.InferenceSession.create(bytes, {executionProviders: ['wasm'], logSeverityLevel: 3}));
  }
  return {};
}

// Networks -----------------------------------------------------------------------------------------------------------------------

const tensor = (data, dims) => new ort.Tensor(data instanceof Int32Array ? 'int32' : 'float32', data, dims);

async function run(part, feeds) {
  const session = sessions.get(part);
  if (!session) throw Error(`the part ${part} of the model is not loaded`);
  const out = await session.run(feeds), answer = out[session.outputNames[0]], data = answer.data.slice();
  answer.dispose();
  for (const one of Object.values(feeds)) one.dispose();
  return data;
}

function joined(list) {
  const out = new Float32Array(total(list.map(one => one.length)));
  let at = 0;
  for (const one of list) { out.set(one, at); at += one.length; }
  return out;
}

const split = (data, count) => Array.from({length: count}, (_, k) => data.slice(k * data.length / count, (k + 1) * data.length / count));

async function each(part, input, list, dims) {  // a network over a list, LARGEST at a time
  const found = [];
  for (let k = 0; k < list.length; k += LARGEST) {
    await checkpoint();
    const some = list.slice(k, k + LARGEST);
    found.push(...split(await run(part, {[input]: tensor(joined(some), [some.length, ...dims])}), some.length));
  }
  return found;
}

const encode = async ({images}) => ({latents: await each('encoder', 'images', images, manifest.image)});
const decode = async ({latents}) => ({images: await each('decoder', 'latents', latents, manifest.latent)});

function tokens(prompt) {
  const {ids, start, end, length} = manifest.words, words = prompt.toLowerCase().split(/\s+/).filter(Boolean);
  for (const word of words) if (!Object.hasOwn(ids, word)) throw Error(`the prompt has the word "${word}", which the model has never read`);
  if (words.length > length - 2) throw Error(`the prompt has ${words.length} words, but must have at most ${length - 2}`);
  return Int32Array.from({length}, (_, k) => k === 0 ? start : k <= words.length ? ids[words[k - 1]] : end);
}

async function embedding(prompt) {
  if (typeof prompt !== 'string') return prompt;
  let found = texts.get(prompt);
  if (!found) {
    const ids = tokens(prompt);
    found = await run('text', {ids: tensor(ids, [1, ids.length])});
    texts.set(prompt, found);
    if (texts.size > TEXTS) texts.delete(texts.keys().next().value);
  }
  return found;
}

async function text({prompts}) {
  const embeddings = [];
  for (const prompt of prompts) embeddings.push((await embedding(prompt)).slice());
  return {embeddings};
}

const list = (given, count) => Array.isArray(given) ? given : Array(count).fill(given);

// Eq. 5 for any number of latents, each with its own prompt and its own strength of the LoRA.
async function guided(latents, t, words, empty, strengths, guidance) {
  const found = [], twice = guidance !== 1;
  for (let k = 0; k < latents.length; k += LARGEST) {
    await checkpoint();
    const some = latents.slice(k, k + LARGEST), prompts = words.slice(k, k + LARGEST), count = some.length, rows = twice ? 2 * count : count;
    const scales = strengths.slice(k, k + LARGEST);
    const noises = await run('unet', {
      latents: tensor(joined(twice ? [...some, ...some] : some), [rows, ...manifest.latent]),
      timesteps: tensor(new Float32Array(rows).fill(t), [rows]),
      embeddings: tensor(joined(twice ? [...some.map(() => empty), ...prompts] : prompts), [rows, manifest.words.length, manifest.width]),
      scales: tensor(Float32Array.from(twice ? [...scales, ...scales] : scales), [rows]),
    });
    const answers = split(noises, rows);
    if (twice) for (let i = 0; i < count; i++) answers[count + i].forEach((e, j) => { answers[i][j] += guidance * (e - answers[i][j]); });
    found.push(...answers.slice(0, count));
  }
  return found;
}

async function prepared({latents, prompts, scales, guidance = manifest.guidance}) {
  const words = await Promise.all(list(prompts, latents.length).map(embedding)), empty = await embedding('');
  const strengths = list(scales, latents.length).map(Number);
  if (words.length !== latents.length || strengths.length !== latents.length) throw Error('prompts and scales must be one, or one for each latent');
  return (x, t) => guided(x, t, words, empty, strengths, guidance);
}

async function noise(request) {
  return {noises: await (await prepared(request))(request.latents, request.t)};
}

// Time ---------------------------------------------------------------------------------------------------------------------------

// Step i of `steps` as [t, cumulative alpha at t, that at its end], from the noise to the picture.
function way(steps) {
  const {alphas, final, offset} = manifest.schedule, stride = Math.floor(alphas.length / steps);
  const times = Array.from({length: steps}, (_, i) => offset + (steps - 1 - i) * stride);
  return times.map((t, i) => [t, alphas[t], i + 1 < steps ? alphas[times[i + 1]] : final]);
}

function moved(x, e, from, to) {  // DDIM's step between two levels, which serves both directions
  const ratio = Math.sqrt(to / from), share = Math.sqrt(to) * (Math.sqrt(1 / to - 1) - Math.sqrt(1 / from - 1));
  return x.map((value, i) => ratio * value + share * e[i]);
}

async function walked(request, back) {
  const {id, steps, first = 0, last = steps - 1} = request;
  if (!(steps >= 1 && steps <= 999 && first >= 0 && last < steps)) throw Error(`steps is ${steps}, first ${first}, last ${last}, but must be 0 <= first, last < steps <= 999`);
  let x = request.latents;
  const answer = await prepared(request), part = way(steps).slice(first, last + 1);
  if (back) part.reverse();
  for (const [k, [t, high, low]] of part.entries()) {
    const noises = await answer(x, t);
    x = x.map((one, i) => moved(one, noises[i], back ? low : high, back ? high : low));
    postMessage({kind: 'step', id, step: k + 1, of: part.length});
  }
  return x;
}

async function sample(request) {
  const latents = await walked(request, false);
  return request.plain ? {latents} : {latents, ...await decode({latents})};
}

const invert = async request => ({latents: await walked(request, true)});

function memory() {
  return {heap: total(heaps.map(one => one.buffer.byteLength)), texts: texts.size};
}

// Requests -----------------------------------------------------------------------------------------------------------------------

const KINDS = {load, text, encode, decode, noise, sample, invert, memory};

async function answer(request) {
  const {id, kind} = request, began = performance.now();
  current = id;
  try {
    await checkpoint();
    if (!Object.hasOwn(KINDS, kind)) throw Error(`the request's kind is ${kind}, but must be one of ${Object.keys(KINDS).join(', ')}`);
    const found = await KINDS[kind](request), buffers = Object.values(found).filter(Array.isArray).flat().map(one => one.buffer);
    postMessage({kind: 'done', id, seconds: (performance.now() - began) / 1000, ...found}, [...new Set(buffers)]);
  } catch (error) {
    const ended = cancelled.has(id);
    postMessage(ended ? {kind: 'cancelled', id} : {kind: 'failed', id, message: String(error.message || error)});
  }
  cancelled.delete(id);
  latest = id;
  current = null;
}

onmessage = ({data}) => {
  if (data.kind === 'cancel') {
    if (data.id > latest) cancelled.add(data.id);  // ids grow; what is answered can no longer end
    if (current === data.id) fetching?.abort();
  } else tail = tail.then(() => answer(data));
};
