// Noises around a noise: every point of a disc is a nudge, its distance from the middle an angle on the sphere of noises (Eq. 18).
import {noise} from './mathematics.js';

export const WIDEST = 30;  // degrees between the middle and the rim; two independent noises are about 90 apart

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const scaled = (a, factor) => a.map(value => value * factor);

// Two directions at right angles to the centre and to each other, all three of the centre's length.
export function frame(seeds, size) {
  const centre = noise(seeds[0], size), length = Math.sqrt(dot(centre, centre)), axes = [centre];
  for (const seed of seeds.slice(1)) {
    let axis = noise(seed, size);
    for (const other of axes) { const share = dot(axis, other) / length ** 2; axis = axis.map((value, i) => value - share * other[i]); }
    axes.push(scaled(axis, length / Math.sqrt(dot(axis, axis))));
  }
  return axes;
}

export const degrees = ([x, y]) => WIDEST * Math.hypot(x, y);

// [x, y] in the unit disc: equal distances from its middle are equal angles to the centre, in whichever direction.
export function nudged([centre, right, up], [x, y]) {
  const radius = Math.hypot(x, y), angle = degrees([x, y]) * Math.PI / 180;
  if (!radius) return centre;
  const a = Math.cos(angle), b = Math.sin(angle) * x / radius, c = Math.sin(angle) * y / radius;
  return centre.map((value, i) => a * value + b * right[i] + c * up[i]);
}
