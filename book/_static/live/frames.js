// A walk's frames, made one after the other while nothing more urgent is asked for: with few steps first, then with many.
import {ask, known} from './engine.js';
import {distance, slerp, noise} from './mathematics.js';

export const FRAMES = 11, REST = 350;  // frames of a walk, as in the paper (A.3); milliseconds after which a slider has come to rest

// One frame of a walk: {key, request} for `ask`. `scales`: strengths of the LoRA, a picture for each.
export function frame({pair, caption, scales, steps, size}, eta) {
  const start = slerp(noise(pair[0], size), noise(pair[1], size), eta);
  return {
    key: JSON.stringify(['walk', pair, caption, scales, steps, eta]),
    request: {kind: 'sample', latents: scales.map(() => start), prompts: caption, scales, steps},
  };
}

export const places = Array.from({length: FRAMES}, (_, k) => k / (FRAMES - 1));
export const made = walk => places.map(eta => known(frame(walk, eta).key)?.images ?? null);

// Distances of neighbours, a row for each strength; null where a frame is missing.
export function distances(frames, rows) {
  return Array.from({length: rows}, (_, row) => frames.slice(1).map((images, k) => images && frames[k] ? distance(frames[k][row], images[row]) : null));
}

// Make the frames of `walks` that are not there, place by place, `told` after each; ends early, with false, when `ask` is cancelled or
// alive() no longer holds.
export async function fill(walks, slot, urgency, alive, told) {
  for (const eta of places) {
    for (const walk of walks) {
      if (!alive()) return false;
      const {key, request} = frame(walk, eta);
      try {
        await ask(slot, urgency, key, request);
      } catch (error) {
        if (error.message === 'cancelled') return false;
        throw error;
      }
      if (alive()) told();
    }
  }
  return alive();
}
