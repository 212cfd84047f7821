// What the widgets compute themselves: noise from a seed, the arc between two noises (Eq. 18), and the numbers of a walk (A.3).

function uniform(seed) {  // mulberry32
  let state = seed >>> 0;
  return () => {
    state = state + 0x6d2b79f5 >>> 0;
    let t = Math.imul(state ^ state >>> 15, state | 1);
    t ^= t + Math.imul(t ^ t >>> 7, t | 61);
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}

export function noise(seed, size) {
  const draw = uniform(Math.imul(seed + 1, 0x9e3779b1)), out = new Float32Array(size);
  for (let i = 0; i < size; i += 2) {  // Box and Muller's pairs
    const length = Math.sqrt(-2 * Math.log(1 - draw())), angle = 2 * Math.PI * draw();
    out[i] = length * Math.cos(angle);
    if (i + 1 < size) out[i + 1] = length * Math.sin(angle);
  }
  return out;
}

export function slerp(a, b, eta) {
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) { ab += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  const angle = Math.acos(ab / Math.sqrt(aa * bb)), p = Math.sin((1 - eta) * angle) / Math.sin(angle), q = Math.sin(eta * angle) / Math.sin(angle);
  return a.map((value, i) => p * value + q * b[i]);
}

export function distance(a, b) {  // L2 over all values, of pixels in [0, 1]; images are in [-1, 1]
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
  return Math.sqrt(sum) / 2;
}

export function statistics(distances) {
  const mean = distances.reduce((sum, value) => sum + value, 0) / distances.length;
  const istd = Math.sqrt(distances.reduce((sum, value) => sum + (value - mean) ** 2, 0) / distances.length);
  return {istd, mean, cv: mean ? istd / mean : NaN};
}

// Mean absolute difference of neighbouring pixels, along rows and columns, of a square image with three channels.
export function detail(image) {
  const side = Math.sqrt(image.length / 3);
  let sum = 0;
  for (let i = 0; i < image.length; i++) {
    if ((i + 1) % side) sum += Math.abs(image[i + 1] - image[i]);
    if (i % (side * side) < side * (side - 1)) sum += Math.abs(image[i + side] - image[i]);
  }
  return sum / (2 * 3 * side * (side - 1)) / 2;  // of pixels from 0 to 1
}
