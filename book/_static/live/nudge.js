// Nudge: a disc of noises around one noise. Equal nudges side by side for the base model and Smooth Diffusion, and how far each picture moves.
import {ask, drop, known} from './engine.js';
import {distance, statistics} from './mathematics.js';
import {distances} from './distances.js';
import {REST} from './frames.js';
import {APART, choices, draw, find as within, how, menuMarkup} from './menu.js';
import {WIDEST, degrees, frame, nudged} from './nudges.js';
import {pad} from './pad.js';

const SCALES = [0, 1], ROWS = {base: 'Base model', smooth: 'Smooth Diffusion'}, NAMES = Object.keys(ROWS);
const ROUND = 8;  // equal nudges in as many directions
let figures = 0;

const MARKUP = `${menuMarkup}
<div class="live-choices"><label>Seed <input type="number" class="live-seed" min="0" max="999999" step="1" value="1"></label>
<button type="button" class="live-another">Another picture</button></div>
<div class="live-beside"><div class="live-padded"><svg class="live-pad"></svg>
<button type="button" class="live-centre">Back to the centre</button></div>
${NAMES.map(name => `<div><canvas class="live-${name}" width="64" height="64" role="img"
  aria-label="${ROWS[name]}: no picture yet"></canvas>${ROWS[name]}
<p class="live-${name}-moved"></p></div>`).join('')}</div>
<p class="live-where live-note"></p>
<p><button type="button" class="live-round">Go round: ${ROUND} equal nudges</button> <button type="button" class="live-stop" hidden>Stop</button></p>
<svg class="live-distances" role="img"></svg>
<table><caption></caption><thead>
<tr>${['Going round once', 'nudge', 'mean distance', 'CV'].map(word => `<th scope="col">${word}</th>`).join('')}</tr></thead><tbody>
${NAMES.map(name => `<tr><th scope="row">${ROWS[name]}</th>
${['angle', 'mean', 'cv'].map(word => `<td class="live-${name}-${word}">–</td>`).join('')}</tr>`).join('')}
</tbody></table><p class="smooth-soft">Distances are L2 over all pixels, from 0 to 1, to the picture at the centre. CV: their standard deviation over their mean, in
${ROUND} directions. ${APART.replace('walk', 'picture')}</p>`;

export function start(root, manifest, began) {
  root.innerHTML = MARKUP;
  const find = name => within(root, name), figure = root.closest('.live-widget'), said = within(figure, 'status'), slot = `nudge${figures++}`;
  const [few, many] = manifest.steps, size = manifest.latent.reduce((a, b) => a * b), menu = choices(root, manifest, restart);
  const state = {seed: 1, axes: null, seen: new Map(), turn: 0, round: null};
  let timer = 0;

  const key = (place, steps) => JSON.stringify(['nudge', state.seed, menu.caption(), place.map(value => value.toFixed(4)), steps]);
  function request(place, steps) {
    const latent = nudged(state.axes, place);
    return {kind: 'sample', latents: SCALES.map(() => latent), scales: SCALES, prompts: menu.caption(), steps};
  }
  const wish = (urgency, place, steps, where = slot) => ask(where, urgency, key(place, steps), request(place, steps));
  // How far the picture of each model moved from the centre's, of the same number of steps; null while one is not there.
  function distancesAt(place, steps) {
    const here = known(key(place, steps))?.images, centre = known(key([0, 0], steps))?.images;
    return here && centre ? NAMES.map((_, row) => distance(here[row], centre[row])) : null;
  }

  function show(images, place, steps) {
    const moved = distancesAt(place, steps), where = `${degrees(place).toFixed(0)}° from the centre, ${steps} steps`;
    NAMES.forEach((name, row) => {
      draw(find(name), images[row], `${ROWS[name]}: ${menu.caption()}, ${where}`);
      find(`${name}-moved`).textContent = moved ? `moved by ${moved[row].toFixed(2)}` : '';
    });
    find('where').textContent = where;
    figure.dataset.first ??= ((performance.now() - began) / 1000).toFixed(2);  // seconds from the button to the first picture
    figure.dataset.shown = `${place.map(value => Math.round(value * 10))} ${steps}`;
    return moved;
  }

  const failed = error => { if (error.message !== 'cancelled') said.textContent = `The picture could not be made: ${error.message}.`; };

  function moved() {
    clearTimeout(timer);
    stop();
    const place = disc.place(), turn = state.turn;
    if (!again()) wish(0, place, few).then(({images}) => {
      if (turn === state.turn && !state.round && !known(key(disc.place(), many))) show(images, place, few);
    }, failed);
    timer = setTimeout(rested, REST);
  }

  function again() {  // what the marker points at, if it is there
    const place = disc.place(), done = known(key(place, many));
    if (done) show(done.images, place, many);
    return Boolean(done);
  }

  async function rested() {
    const place = disc.place(), turn = state.turn;
    try {
      await wish(1, [0, 0], many, `${slot} centre`);
      const {images} = await wish(1, place, many);
      if (turn !== state.turn || String(place) !== String(disc.place())) return;
      see(place);
      const numbers = show(images, place, many);
      if (!numbers) return;  // the centre was pushed out by newer pictures
      const [base, smooth] = numbers.map(value => value.toFixed(2)), by = degrees(place).toFixed(0);
      said.textContent = by === '0' ? 'At the centre.'
        : `Nudged by ${by}°, the base model's picture moves by ${base}, Smooth Diffusion's by ${smooth}.`;
      await wish(2, [0, 0], few, `${slot} centre`);  // so that the next quick pictures have their distance too
    } catch (error) { failed(error); }
  }

  function see(place) {
    const numbers = distancesAt(place, many);
    if (!numbers || state.seen.has(String(place))) return;
    state.seen.set(String(place), numbers.map(value => [degrees(place), value]));
    disc.mark(place);
    distances(find('distances'), NAMES.map((_, row) => [...state.seen.values()].map(both => both[row])), WIDEST);
  }

  async function round() {
    const radius = Math.hypot(...disc.place()) || 0.5;
    const places = Array.from({length: ROUND}, (_, k) => [Math.cos, Math.sin].map(part => radius * part(2 * Math.PI * k / ROUND)));
    clearTimeout(timer);
    drop(slot);
    const mine = state.round = {};
    find('round').disabled = true;
    find('stop').hidden = false;
    find('stop').focus();
    try {
      await wish(1, [0, 0], many, `${slot} centre`);
      for (const [k, place] of places.entries()) {
        said.textContent = `Nudge ${k + 1} of ${ROUND}.`;
        const {images} = await wish(1, place, many, `${slot} round`);
        if (mine !== state.round) return;
        see(place);
        disc.point(place);
        show(images, place, many);
      }
      const found = NAMES.map((_, row) => statistics(places.map(place => distancesAt(place, many)[row])));
      NAMES.forEach((name, row) => {
        find(`${name}-angle`).textContent = `${degrees(places[0]).toFixed(0)}°`;
        find(`${name}-mean`).textContent = found[row].mean.toFixed(2);
        find(`${name}-cv`).textContent = found[row].cv.toFixed(3);
      });
      const [base, smooth] = found.map(({cv}) => `${(100 * cv).toFixed(0)} %`);
      said.textContent = `${ROUND} equal nudges of ${degrees(places[0]).toFixed(0)}°: the distances vary by ${base} for the base model, ` +
        `by ${smooth} for Smooth Diffusion.`;
    } catch (error) { failed(error); } finally {
      if (mine === state.round) { stop(); again(); }
    }
  }

  function stop() {
    if (state.round) disc.point(disc.place());
    state.round = null;
    drop(`${slot} round`);
    find('round').disabled = false;
    if (document.activeElement === find('stop')) find('round').focus();  // the focus is not lost with the button
    find('stop').hidden = true;
  }

  function restart() {
    state.turn++;
    state.axes = frame([state.seed, state.seed + 1000001, state.seed + 2000003], size);
    state.seen.clear();
    disc.clear();
    distances(find('distances'), NAMES.map(() => []), WIDEST);
    for (const name of NAMES) for (const word of ['angle', 'mean', 'cv']) find(`${name}-${word}`).textContent = '–';
    for (const one of [slot, `${slot} centre`]) drop(one);
    moved();
  }

  find('another').addEventListener('click', () => { find('seed').value = ++state.seed; restart(); });
  find('seed').addEventListener('change', event => {
    const given = Number(event.target.value || NaN);
    if (Number.isInteger(given) && given >= 0 && given <= 999999) { state.seed = given; restart(); return; }
    said.textContent = `The seed is ${event.target.value || 'empty'}, but must be a whole number from 0 to 999999.`;
    event.target.value = state.seed;
  });
  find('centre').addEventListener('click', () => disc.centre());
  find('round').addEventListener('click', round);
  find('stop').addEventListener('click', () => { stop(); again(); said.textContent = 'Stopped.'; });
  const disc = pad(find('pad'), {
    label: 'Nudge of the noise in two directions', most: WIDEST, distance: degrees, moved,
    said: ([x, y]) => `${degrees([x, y]).toFixed(0)} degrees from the centre, ${Math.round(10 * x)} to the right, ${Math.round(10 * y)} up`,
  });
  root.querySelector('caption').textContent = how(manifest, `${many} steps`);
  restart();
  return {state, axes: () => state.axes, picture: (place, steps) => wish(0, place, steps, `${slot} test`), prompt: menu.caption};
}
