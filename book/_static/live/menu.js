// What the widgets share on the page: the menu of captions, two seeds, pictures on canvases, the line that tells how they were made.
import {caption, captionMenu} from './caption_menu.js';

const SEED_LIMIT = 999999;

export const find = (root, name) => root.querySelector(`.live-${name}`);

export const menuMarkup = '<div class="live-choices live-caption"></div>';

export const seedMarkup = `<div class="live-choices">${[['seed-a', 'First noise'], ['seed-b', 'Second noise']].map(([name, label]) =>
  `<label>${label}, seed <input type="number" class="live-${name}" min="0" max="${SEED_LIMIT}" step="1"></label>`).join('')}
  <button type="button" class="live-another">Another pair</button></div>`;

// The menu of captions, which begins with that of the book's examples. Returns {caption()}.
export function choices(root, manifest, changed) {
  const first = {word: 'sofa', colour: 'red', setting: 'apartment', ground: 'wood'};
  const menu = captionMenu(find(root, 'caption'), manifest, first, changed);
  return {caption: () => caption(manifest, menu.words())};
}

// Two seeds, and the button that takes the next two. Returns the object whose `pair` is theirs.
export function seeds(root, changed, complain, first = [1, 2]) {
  const state = {pair: first}, fields = ['seed-a', 'seed-b'].map(name => find(root, name));
  const show = () => fields.forEach((field, k) => { field.value = state.pair[k]; });
  fields.forEach((field, k) => field.addEventListener('change', () => {
    const given = Number(field.value);
    if (field.value === '' || !Number.isInteger(given) || given < 0 || given > SEED_LIMIT || given === state.pair[1 - k]) {
      complain(`The seed is ${field.value || 'empty'}, but must be a whole number from 0 to ${SEED_LIMIT}, and not that of the other noise.`);
      show();
      return;
    }
    state.pair = state.pair.map((seed, i) => i === k ? given : seed);
    changed();
  }));
  find(root, 'another').addEventListener('click', () => {
    state.pair = state.pair.map(seed => (seed + 2) % (SEED_LIMIT + 1));
    show();
    changed();
  });
  show();
  return state;
}

// An image (3 x H x W, -1 to 1) at column `at` of a canvas that holds `count` of them; the canvas says what it shows.
export function draw(canvas, image, label, at = 0, count = 1) {
  const side = Math.sqrt(image.length / 3), area = side * side, data = new ImageData(side, side);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = Math.round((image[c * area + i] + 1) * 127.5);
    data.data[4 * i + 3] = 255;
  }
  if (canvas.width !== side * count) canvas.width = side * count;
  if (canvas.height !== side) canvas.height = side;
  canvas.getContext('2d').putImageData(data, at * side, 0);
  canvas.setAttribute('aria-label', label);
}

// What a live number has to carry: sampler, steps, guidance, precision; and that it is no recorded one.
export const how = (manifest, steps) => `Live, on this device: DDIM, ${steps}, guidance ${manifest.guidance}, ${manifest.precision}`;
export const APART = 'These numbers are of this one walk; the recorded results of this book are of many, and the two are never mixed.';
