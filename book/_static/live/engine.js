// One worker for all widgets of a page, and one picture at a time: the next is the most urgent of those that wait.
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);
export const home = new URL('./', import.meta.url);
let worker = null, loading = null, manifest = null, current = null, last = 0, ended = 0;
const listeners = new Set(), waiting = new Map(), kept = new Map();
const KEPT = 200;  // pairs of pictures of recent settings; about 100 kB each

export function unable() {
  if (location.protocol === 'file:') return 'The model cannot run on a page that was opened as a file: open it from a server, such as python -m http.server.';
  let simd = false;
  try { simd = WebAssembly.validate(SIMD); } catch { /* no WebAssembly at all */ }
  if (!simd || !globalThis.DecompressionStream) return 'This browser cannot run the model: it lacks WebAssembly SIMD or DecompressionStream, which browsers have had since 2023.';
  return '';
}

export function load(progress) {
  listeners.add(progress);
  loading ||= begin().catch(error => { stop(); throw error; });
  return loading.finally(() => listeners.delete(progress));
}

async function begin() {
  const mine = ended;
  const answer = await fetch(new URL('model/manifest.json', home));
  if (!answer.ok) throw Error(`the model's list of files could not be loaded (${answer.status})`);
  manifest = await answer.json();
  if (mine !== ended) throw Error('cancelled');
  return new Promise((resolve, reject) => {
    begin.reject = reject;
    worker = new Worker(new URL('worker.js', home));
    worker.onerror = event => reject(Error(event.message || 'the worker could not start'));
    worker.onmessage = ({data}) => {
      if (data.kind === 'progress') for (const told of listeners) told(data.done, data.total);
      else if (data.kind === 'ready') resolve(manifest);
      else if (data.id === undefined) reject(Error(data.message));
      else answered(data);
    };
    worker.postMessage({kind: 'load', manifest, base: home.href});
  });
}

export function stop() {
  worker?.terminate();
  ended++;
  begin.reject?.(Error('cancelled'));
  worker = loading = current = null;
  waiting.clear();
}

function answered(data) {
  const job = current;
  current = null;
  if (job && data.kind === 'picture') {
    kept.set(job.key, data);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    job.resolve(data);
  } else if (job && data.kind === 'cancelled' && !job.dropped && !waiting.has(job.slot)) {
    waiting.set(job.slot, job);  // something more urgent came between
  } else if (job) job.reject(Error(data.kind === 'cancelled' ? 'cancelled' : data.message));
  next();
}

export const known = job => kept.get(keyOf(job));
const keyOf = job => JSON.stringify([job.seeds, job.eta, job.caption, job.steps, job.scales]);

// `slot`: a new wish of a slot replaces the one that waits there. `urgency`: the lowest goes first, and interrupts a higher one.
export function ask(slot, urgency, job) {
  const key = keyOf(job), found = kept.get(key);
  if (found) { drop(slot); return Promise.resolve(found); }
  return new Promise((resolve, reject) => {
    drop(slot);
    waiting.set(slot, {...job, key, urgency, slot, resolve, reject});
    if (current && current.urgency > urgency) worker.postMessage({kind: 'cancel', id: current.id});
    next();
  });
}

export function drop(slot) {
  waiting.get(slot)?.reject(Error('cancelled'));
  waiting.delete(slot);
  if (current?.slot !== slot || current.urgency === 0) return;
  current.dropped = true;
  worker?.postMessage({kind: 'cancel', id: current.id});
}

function next() {
  if (current || !waiting.size || !worker) return;
  const job = [...waiting.values()].reduce((a, b) => b.urgency < a.urgency ? b : a);
  waiting.delete(job.slot);
  current = {...job, id: ++last};
  worker.postMessage({kind: 'picture', id: last, noise: job.noise, caption: job.caption, steps: job.steps, scales: job.scales});
}
