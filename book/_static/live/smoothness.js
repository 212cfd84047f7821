// Smoothness: one walk, and a slider for the strength of the LoRA: what it buys, equal steps, and what it costs, other pictures and detail.
import {ask, drop, known} from './engine.js';
import {distances, fill, frame, FRAMES, made, places, REST} from './frames.js';
import {detail, distance, statistics} from './mathematics.js';
import {APART, choices, draw, find, how, menuMarkup, seedMarkup, seeds} from './menu.js';
import {curve} from './curve.js';

const COLUMNS = ['Strength', 'steps', 'ISTD', 'CV', 'mean step', 'change', 'detail'], MIDDLE = places[(FRAMES - 1) / 2];
let figures = 0;

const MARKUP = `${menuMarkup}${seedMarkup}
<label class="live-slide">Strength of the LoRA: <span class="live-settings"></span>
<input type="range" class="live-strength" min="0" max="150" step="25" value="100"></label>
<div class="live-strip"><canvas class="live-base" width="704" height="64" role="img" aria-label="Base model: no picture yet"></canvas>Base model (strength 0)</div>
<div class="live-strip"><canvas class="live-smooth" width="704" height="64" role="img" aria-label="No picture yet"></canvas><span class="live-name"></span></div>
<svg class="live-curve" viewBox="0 0 420 170" role="img" aria-label="Step distances of this walk"></svg>
<p><button type="button" class="live-stop">Stop</button> <span class="live-note"></span></p>
<div class="live-scroll" tabindex="0" role="group" aria-label="Numbers for each strength"><table><caption></caption>
<thead><tr>${COLUMNS.map(label => `<th scope="col">${label}</th>`).join('')}</tr></thead><tbody></tbody></table></div>
<p class="smooth-soft">What it buys: equal steps, a lower CV (ISTD over the mean step). What it costs: pictures that are not the base model's (change: the mean L2 distance
between the two at the same noise, pixels from 0 to 1), and detail (differences of neighbouring pixels, in % of the base model's). The LoRA was trained at strength 1;
a shorter mean step means that the walk changes less. ${APART}</p>`;

export function start(root, manifest, began) {
  root.innerHTML = MARKUP;
  const figure = root.closest('.live-widget'), said = find(figure, 'status'), note = find(root, 'note'), slider = find(root, 'strength');
  const slot = `smoothness${figures++}`, [few, many] = manifest.steps, size = manifest.latent.reduce((a, b) => a * b), seen = new Set([0]);
  const menu = choices(root, manifest, restart), chosen = seeds(root, restart, text => { said.textContent = text; });
  let timer = 0, turn = 0;

  const strength = () => Number(slider.value) / 100;
  const walk = (scale, steps) => ({pair: chosen.pair, caption: menu.caption(), scales: [scale], steps, size});
  const failed = error => { if (error.message !== 'cancelled') said.textContent = `The picture could not be made: ${error.message}.`; };

  // The frames of a strength: those of many steps if they are all there, else those of few.
  function best(scale) {
    const fine = made(walk(scale, many));
    return fine.every(Boolean) ? {steps: many, frames: fine, whole: true} : (frames => ({steps: few, frames, whole: frames.every(Boolean)}))(made(walk(scale, few)));
  }

  function strip(name, scale, label) {
    const canvas = find(root, name), {steps, frames} = best(scale), there = frames.filter(Boolean).length;
    canvas.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
    const described = `${label}, ${menu.caption()}: ${there} of ${FRAMES} pictures of the walk, ${steps} steps`;
    canvas.setAttribute('aria-label', described);
    frames.forEach((images, k) => { if (images) draw(canvas, images[0], described, k, FRAMES); });
  }

  function rowOf(scale) {
    const own = best(scale);
    if (!own.whole) return null;
    const [steps] = distances(own.frames, 1), base = made(walk(0, own.steps)), mean = list => list.reduce((sum, one) => sum + one, 0) / list.length;
    const there = base.every(Boolean), ratio = there ? mean(own.frames.map(([image]) => detail(image))) / mean(base.map(([image]) => detail(image))) : null;
    return {...statistics(steps), scale, steps: own.steps, other: there ? mean(base.map(([image], k) => distance(image, own.frames[k][0]))) : null, detail: ratio};
  }

  function numbers() {
    const now = strength(), label = `Strength ${now.toFixed(2)}`, rows = [...seen].sort((a, b) => a - b).map(rowOf).filter(Boolean);
    strip('base', 0, 'Base model');
    strip('smooth', now, label);
    find(root, 'name').textContent = label;
    curve(find(root, 'curve'), [best(0), best(now)].map(({frames}) => distances(frames, 1)[0]), ['Base model', label]);
    root.querySelector('tbody').innerHTML = rows.map(one => `<tr${one.scale === now ? ' aria-current="true"' : ''}><th scope="row">${one.scale.toFixed(2)}</th>
      ${[one.steps, one.istd.toFixed(2), one.cv.toFixed(3), one.mean.toFixed(2), one.other?.toFixed(2) ?? '–', one.detail === null ? '–' : `${(100 * one.detail).toFixed(0)}\u202f%`]
        .map(text => `<td>${text}</td>`).join('')}</tr>`).join('');
    root.querySelector('caption').textContent = how(manifest, 'steps as each row says');
    figure.dataset.walk = rows.some(one => one.scale === now) ? `${now} ${best(now).steps}` : '';
    return rows.find(one => one.scale === now);
  }

  function progress(scale, steps) {
    const count = made(walk(scale, steps)).filter(Boolean).length;
    note.textContent = `Strength ${scale.toFixed(2)}: frame ${count} of ${FRAMES}, ${steps} steps a picture.`;
    numbers();
  }

  async function moved() {
    clearTimeout(timer);
    drop(`${slot} frames`);
    const now = strength(), mine = ++turn, {key, request} = frame(walk(now, few), MIDDLE);
    find(root, 'settings').textContent = now.toFixed(2);
    slider.setAttribute('aria-valuetext', `strength ${now.toFixed(2)}`);
    seen.add(now);
    numbers();
    timer = setTimeout(rested, REST);
    if (known(frame(walk(now, many), MIDDLE).key)) return;
    try {
      await ask(slot, 0, key, request);
      figure.dataset.first ??= ((performance.now() - began) / 1000).toFixed(2);  // seconds from the button to the first picture
      if (mine === turn) progress(now, few);
    } catch (error) { failed(error); }
  }

  async function rested() {
    const mine = turn, now = strength(), alive = () => mine === turn, scales = [...new Set([0, now])];
    try {
      for (const steps of [few, many]) {
        if (!await fill(scales.map(scale => walk(scale, steps)), `${slot} frames`, 2, alive, () => progress(now, steps))) return;
      }
      const own = numbers(), base = rowOf(0);
      note.textContent = `Complete: ${FRAMES} frames of ${many} steps each.`;
      said.textContent = now === 0 ? `The base model's walk is complete: CV ${base.cv.toFixed(3)}.`
        : `Strength ${now.toFixed(2)} buys a CV of ${own.cv.toFixed(3)}, base model ${base.cv.toFixed(3)}; its pictures lie ${own.other.toFixed(2)} from the base model's ` +
          `and have ${(100 * own.detail).toFixed(0)} % of its detail.`;
    } catch (error) { failed(error); }
  }

  function restart() {
    seen.clear();
    seen.add(0);
    drop(slot);
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
  return {rowOf, frames: (scale, steps) => made(walk(scale, steps))};
}
