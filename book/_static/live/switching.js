// The text edit of Eq. 15 for one picture under one caption, by requests to the worker: inverted up to the noise (Eq. 4), sampled back down
// under its own caption, and from any place on that way under another. Base model and Smooth Diffusion go together.
import {ask, known} from './engine.js';

const SCALES = [0, 1];

// The first step under the target's caption: r T whole steps are the last ones, rounded down after the noise of floating point is removed.
export const switchStep = (ratio, steps) => steps - Math.floor(steps * ratio + 1e-9);

// In dB, of images from -1 to 1.
export function psnr(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] - b[i]) / 2) ** 2;
  return -10 * Math.log10(sum / a.length);
}

const key = (picture, source, steps, ...what) => JSON.stringify(['edit', picture.id, source, steps, ...what]);

// {picture, source, steps, latents, images}: `latents` from the noise to the reconstruction, a pair for each step; `images` is what comes back.
// told() hears of each of the 2 `steps` steps; ends with 'cancelled' once alive() no longer holds.
export async function invert(picture, source, steps, slot, alive, told) {
  const how = {steps, scales: SCALES, prompts: source}, named = what => key(picture, source, steps, what);
  const wish = (what, request) => {
    if (!alive()) throw Error('cancelled');
    return ask(slot, 1, named(what), request, told);
  };
  const {latents: [z]} = await wish('encoded', {kind: 'encode', images: [picture.pixels]});
  let {latents} = await wish('noise', {kind: 'invert', latents: [z, z], guidance: 1, ...how});
  const way = [latents];
  for (let k = 0; k < steps; k++) {
    ({latents} = await wish(`step ${k}`, {kind: 'sample', latents, first: k, last: k, plain: true, ...how}));
    way.push(latents);
  }
  const {images} = await wish('back', {kind: 'decode', latents});
  return {picture, source, steps, latents: way, images};
}

const keyOf = (way, target, first) => key(way.picture, way.source, way.steps, 'switched', target, first);

// The edit at a ratio if it is there, else undefined: {images}.
export function knownEdit(way, target, ratio) {
  const first = switchStep(ratio, way.steps);
  return first === way.steps ? way : known(keyOf(way, target, first));
}

// The same way to the switch, the target's caption from there: {images}.
export async function edited(way, target, ratio, slot, urgency, told) {
  const first = switchStep(ratio, way.steps);
  if (first === way.steps) return way;
  const request = {kind: 'sample', latents: way.latents[first], first, steps: way.steps, scales: SCALES, prompts: target};
  return ask(slot, urgency, keyOf(way, target, first), request, told);
}
