// Walk: two noises and a slider between them; the base model and Smooth Diffusion side by side.
import {ask, drop, known} from './engine.js';
import {distances, fill, frame, FRAMES, made, REST} from './frames.js';
import {statistics} from './mathematics.js';
import {APART, choices, draw, find, how, menuMarkup, seedMarkup, seeds} from './menu.js';
import {curve} from './curve.js';

const SCALES = [0, 1], ROWS = {base: 'Base model', smooth: 'Smooth Diffusion'}, NUMBERS = {istd: 'ISTD', mean: 'mean step', cv: 'CV'};
let figures = 0;

const cells = name => Object.keys(NUMBERS).map(number => `<td class="live-${name}-${number}">–</td>`).join('');
const MARKUP = `${menuMarkup}${seedMarkup}
<div class="live-pair">${Object.entries(ROWS).map(([name, label]) => `<div><canvas class="live-${name}" width="64" height="64" role="img"
  aria-label="${label}: no picture yet"></canvas>${label}</div>`).join('')}</div>
<label class="live-slide">Between the two noises, <span class="live-settings"></span>
<input type="range" class="live-eta" min="0" max="100" step="5" value="0"></label>
<svg class="live-curve" viewBox="0 0 420 170" role="img" aria-label="Step distances of this walk"></svg>
<p><button type="button" class="live-stop">Stop</button> <span class="live-note"></span></p>
<table><caption></caption><thead><tr><th scope="col">This walk</th>${Object.values(NUMBERS).map(label => `<th scope="col">${label}</th>`).join('')}</tr></thead>
<tbody>${Object.entries(ROWS).map(([name, label]) => `<tr><th scope="row">${label}</th>${cells(name)}</tr>`).join('')}</tbody></table>
<p class="smooth-soft">Steps are L2 distances of neighbouring pictures, pixels from 0 to 1. ISTD: their standard deviation; CV: ISTD over the mean step. ${APART}</p>`;

export function start(root, manifest, began) {
  root.innerHTML = MARKUP;
  const figure = root.closest('.live-widget'), said = find(figure, 'status'), note = find(root, 'note'), slider = find(root, 'eta');
  const slot = `walk${figures++}`, [few, many] = manifest.steps, size = manifest.latent.reduce((a, b) => a * b);
  const menu = choices(root, manifest, restart), chosen = seeds(root, restart, text => { said.textContent = text; });
  let timer = 0, turn = 0;

  const walk = steps => ({pair: chosen.pair, caption: menu.caption(), scales: SCALES, steps, size});
  const eta = () => Number(slider.value) / 100;
  const failed = error => { if (error.message !== 'cancelled') said.textContent = `The picture could not be made: ${error.message}.`; };

  function show({images, seconds}, at, steps) {
    const settings = `η ${at.toFixed(2)}, ${steps} steps`;
    Object.entries(ROWS).forEach(([name, label], k) => draw(find(root, name), images[k], `${label}: ${menu.caption()}, ${settings}`));
    find(root, 'settings').textContent = settings;
    slider.setAttribute('aria-valuetext', `eta ${at.toFixed(2)}, ${steps} steps`);
    figure.dataset.first ??= ((performance.now() - began) / 1000).toFixed(2);  // seconds from the button to the first picture
    figure.dataset.seconds = seconds.toFixed(2);
    figure.dataset.shown = `${at} ${steps}`;
  }

  async function wish(steps, urgency) {
    const at = eta(), mine = turn, {key, request} = frame(walk(steps), at);
    try {
      const picture = await ask(slot, urgency, key, request);
      if (mine !== turn) return false;
      if (steps !== few || !known(frame(walk(many), eta()).key)) show(picture, at, steps);
      return true;
    } catch (error) {
      failed(error);
      return false;
    }
  }

  function moved() {
    clearTimeout(timer);
    drop(`${slot} frames`);
    slider.setAttribute('aria-valuetext', `eta ${eta().toFixed(2)}`);
    const done = known(frame(walk(many), eta()).key);
    if (done) { drop(slot); show(done, eta(), many); } else wish(few, 0);
    timer = setTimeout(rested, REST);
  }

  async function rested() {
    const mine = turn, at = eta(), alive = () => mine === turn && at === eta();
    if (!await wish(many, 1) || !alive()) return;
    try {
      for (const steps of [few, many]) if (!await fill([walk(steps)], `${slot} frames`, 2, alive, () => numbers(steps))) return;
      numbers(many);
      const word = name => find(root, `${name}-cv`).textContent;
      said.textContent = `The walk is complete: ${FRAMES} frames of ${many} steps each. CV ${word('base')} for the base model, ${word('smooth')} for Smooth Diffusion.`;
    } catch (error) { failed(error); }
  }

  // Of the walk with many steps if it is whole, else of that with few, as far as it has come.
  function numbers(filling = few) {
    const found = {[few]: made(walk(few)), [many]: made(walk(many))};
    const steps = found[many].every(Boolean) ? many : few, frames = found[steps], whole = frames.every(Boolean);
    const rows = distances(frames, SCALES.length), count = found[filling].filter(Boolean).length;
    curve(find(root, 'curve'), rows, Object.values(ROWS));
    Object.keys(ROWS).forEach((name, row) => {
      const values = whole ? statistics(rows[row]) : {};
      for (const number of Object.keys(NUMBERS)) find(root, `${name}-${number}`).textContent = values[number]?.toFixed(number === 'cv' ? 3 : 2) ?? '–';
    });
    root.querySelector('caption').textContent = how(manifest, `${steps} steps`);
    note.textContent = count === FRAMES ? `Curve and numbers: ${steps} steps a picture.` : `Frame ${count} of ${FRAMES}, ${filling} steps a picture.`;
    figure.dataset.walk = whole ? steps : 0;
  }

  function restart() {
    turn++;
    drop(`${slot} frames`);
    drop(slot);
    numbers();
    moved();
  }

  slider.addEventListener('input', moved);
  find(root, 'stop').addEventListener('click', () => {
    turn++;
    clearTimeout(timer);
    drop(`${slot} frames`);
    drop(slot);
    said.textContent = 'Stopped. The walk goes on when the slider moves.';
  });
  restart();
  return {
    walk, frame: (at, steps) => frame(walk(steps), at),
    picture: (at, steps) => { const {key, request} = frame(walk(steps), at); return ask(`${slot} asked`, 0, key, request); },
  };
}
