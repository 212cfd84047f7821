// One worker for all widgets of a page (its messages: worker.js), and one request at a time: the next is the most urgent of those that wait.
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);
const KEPT = 24e6;  // bytes of pictures of recent settings: 240 pairs
export const home = new URL('./', import.meta.url);
let worker = null, manifest = null, current = null, last = 0, keptBytes = 0;
const open = new Map(), waiting = new Map(), kept = new Map();

export function unable() {
  if (location.protocol === 'file:') return 'The model cannot run on a page that was opened as a file: open it from a server, such as that of python -m http.server.';
  let simd = false;
  try { simd = WebAssembly.validate(SIMD); } catch { /* no WebAssembly at all */ }
  return simd && globalThis.DecompressionStream ? ''
    : 'This browser cannot run the model: it lacks WebAssembly SIMD or DecompressionStream, which browsers have had since 2023.';
}

function begin() {
  if (worker) return;
  worker = new Worker(new URL('worker.js', home));
  worker.onerror = event => {
    for (const {reject} of open.values()) reject(Error(event.message || 'the worker could not run'));
    open.clear();
    worker.terminate();
    worker = null;
  };
  worker.onmessage = ({data}) => {
    const request = open.get(data.id);
    if (data.kind === 'progress' || data.kind === 'step') { request?.told?.(data); return; }
    open.delete(data.id);
    if (data.kind === 'done') request.resolve(data);
    else request.reject(Error(data.kind === 'cancelled' ? 'cancelled' : data.message));
  };
}

// One message of worker.js and its answer; {id, answer}. What has to wait for its turn goes through `ask`.
function send(request, told) {
  begin();
  const id = ++last;
  const answer = new Promise((resolve, reject) => open.set(id, {resolve, reject, told}));
  worker.postMessage({...request, id});
  return {id, answer};
}

const cancel = id => worker?.postMessage({kind: 'cancel', id});
export const memory = () => send({kind: 'memory'}).answer;

// Load the parts of the model that a widget needs. told({done, total}) in bytes; an AbortSignal cancels. Resolves with the manifest.
export async function load(parts, told, signal) {
  if (!manifest) {
    const answer = await fetch(new URL('model/manifest.json', home), {signal}).catch(error => { throw signal.aborted ? Error('cancelled') : error; });
    if (!answer.ok) throw Error(`the list of the model's files could not be loaded (${answer.status})`);
    manifest = await answer.json();
  }
  const {id, answer} = send({kind: 'load', manifest, base: home.href, parts}, told);
  signal.addEventListener('abort', () => cancel(id));
  if (signal.aborted) cancel(id);
  await answer;
  return manifest;
}

export function known(key) {
  const found = kept.get(key);
  if (found) { kept.delete(key); kept.set(key, found); }  // the most recently used are last
  return found?.data;
}

function keep(key, data) {
  const bytes = Object.values(data).filter(Array.isArray).flat().reduce((sum, one) => sum + one.byteLength, 0);
  kept.set(key, {data, bytes});
  keptBytes += bytes;
  for (const [old, entry] of kept) {
    if (keptBytes <= KEPT) break;
    kept.delete(old);
    keptBytes -= entry.bytes;
  }
}

// A request of worker.js, answered when its turn comes, or at once if `key` is kept; the answer is kept under `key` unless that is null.
// `slot`: a new wish of a slot replaces the one that waits there. `urgency`: the lowest goes first, and interrupts a higher one, which
// begins again afterwards. Rejects with the message 'cancelled' if it was replaced or dropped.
export function ask(slot, urgency, key, request, told) {
  const found = key !== null && known(key);
  if (found) { drop(slot); return Promise.resolve(found); }
  return new Promise((resolve, reject) => {
    drop(slot);
    waiting.set(slot, {slot, urgency, key, request, told, resolve, reject});
    if (current && current.urgency > urgency) cancel(current.id);
    next();
  });
}

// Give up what a slot wished for. The most urgent is finished if it has begun: a reader who keeps moving sees something.
export function drop(slot) {
  waiting.get(slot)?.reject(Error('cancelled'));
  waiting.delete(slot);
  if (current?.slot !== slot || current.urgency === 0) return;
  current.dropped = true;
  cancel(current.id);
}

async function next() {
  if (current || !waiting.size) return;
  const job = [...waiting.values()].reduce((a, b) => b.urgency < a.urgency ? b : a);
  waiting.delete(job.slot);
  const {id, answer} = send(job.request, job.told);
  current = Object.assign(job, {id, dropped: false});
  try {
    const data = await answer;
    if (job.key !== null) keep(job.key, data);
    job.resolve(data);
  } catch (error) {
    const interrupted = error.message === 'cancelled' && !job.dropped && !waiting.has(job.slot);
    if (interrupted) waiting.set(job.slot, job);  // something more urgent came between
    else job.reject(error);
  }
  current = null;
  next();
}
