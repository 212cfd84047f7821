// Walk: two noises and a slider between them; the base model and Smooth Diffusion side by side.
import {ask, drop, known} from './engine.js';
import {distance, noise, slerp, statistics} from './mathematics.js';
import {curve} from './curve.js';

const FRAMES = 11, SCALES = [0, 1], ROWS = ['base', 'smooth'];
const REST = 350;  // milliseconds after which a slider has come to rest
let figures = 0;

export function walk(figure, manifest, began) {
  const find = name => figure.querySelector(`.live-${name}`), slider = find('eta'), said = find('status'), slot = `walk${figures++}`;
  const [few, many] = Object.keys(manifest.schedules).map(Number).sort((a, b) => a - b);
  const size = manifest.latent.reduce((a, b) => a * b), menu = choices(figure, manifest, restart);
  const state = {seeds: [1, 2], first: null};
  let timer = 0, turn = 0;

  const job = (eta, steps) => ({
    seeds: state.seeds, eta, steps, scales: SCALES, caption: menu.caption(),
    noise: slerp(noise(state.seeds[0], size), noise(state.seeds[1], size), eta),
  });
  const eta = () => Number(slider.value) / 100;

  function show(picture, at, steps) {
    picture.images.forEach((image, k) => draw(find(ROWS[k]), image));
    find('settings').textContent = `η ${at.toFixed(2)}, ${steps} steps`;
    slider.setAttribute('aria-valuetext', `eta ${at.toFixed(2)}, ${steps} steps`);
    figure.dataset.shown = `${at} ${steps}`;
    if (state.first === null) {
      state.first = (performance.now() - began) / 1000;
      figure.dataset.first = state.first.toFixed(2);
    }
    figure.dataset.seconds = picture.seconds.toFixed(2);
  }

  async function wish(steps, urgency) {
    const at = eta(), mine = turn;
    try {
      const picture = await ask(slot, urgency, job(at, steps));
      if (mine === turn && !(steps === few && known(job(eta(), many)))) show(picture, at, steps);
      return mine === turn;
    } catch (error) {
      if (error.message !== 'cancelled') said.textContent = `The picture could not be made: ${error.message}.`;
      return false;
    }
  }

  function moved() {
    clearTimeout(timer);
    drop(`${slot} frames`);
    slider.setAttribute('aria-valuetext', `eta ${eta().toFixed(2)}`);
    const done = known(job(eta(), many));
    if (done) show(done, eta(), many);
    else wish(few, 0);
    timer = setTimeout(rested, REST);
  }

  async function rested() {
    if (await wish(many, 1)) fill();
  }

  async function fill() {  // the frames of the walk, one after the other, while nothing else is asked for
    const mine = turn;
    for (let k = 0; k < FRAMES && mine === turn; k++) {
      said.textContent = `Frame ${k + 1} of ${FRAMES}.`;
      try { await ask(`${slot} frames`, 2, job(k / (FRAMES - 1), many)); } catch (error) {
        if (error.message !== 'cancelled') said.textContent = `The walk could not be made: ${error.message}.`;
        else if (mine === turn) said.textContent = 'The walk goes on when the slider rests.';
        return;
      }
      if (mine === turn) numbers();
    }
  }

  function numbers() {
    const frames = Array.from({length: FRAMES}, (_, k) => known(job(k / (FRAMES - 1), many))?.images);
    const steps = ROWS.map((_, row) => frames.slice(1).map((images, k) => images && frames[k] ? distance(frames[k][row], images[row]) : null));
    curve(find('curve'), steps);
    const whole = frames.every(Boolean);
    ROWS.forEach((name, row) => {
      const {istd, mean, cv} = whole ? statistics(steps[row]) : {};
      for (const [word, value] of Object.entries({istd, mean, cv})) find(`${name}-${word}`).textContent = value?.toFixed(word === 'cv' ? 3 : 2) ?? '–';
    });
    if (whole) said.textContent = `The walk is complete: ${FRAMES} frames of ${many} steps each.`;
  }

  function restart() {
    turn++;
    drop(`${slot} frames`);
    drop(slot);
    numbers();
    moved();
  }

  slider.addEventListener('input', moved);
  find('another').addEventListener('click', () => { state.seeds = state.seeds.map(seed => seed + 2); restart(); });
  for (const [k, name] of ['seed-a', 'seed-b'].entries()) {
    find(name).addEventListener('change', event => {
      const given = Number(event.target.value);
      if (!Number.isInteger(given) || given < 0 || given > 999999 || given === state.seeds[1 - k]) {
        said.textContent = `The seed is ${event.target.value || 'empty'}, but must be a whole number from 0 to 999999, and not that of the other noise.`;
        event.target.value = state.seeds[k];
        return;
      }
      state.seeds = state.seeds.map((seed, i) => i === k ? given : seed);
      restart();
    });
  }
  find('another').addEventListener('click', seeds);
  function seeds() { find('seed-a').value = state.seeds[0]; find('seed-b').value = state.seeds[1]; }
  seeds();
  find('how').textContent = `Live: DDIM, ${few} steps while the slider moves and ${many} at rest, guidance ${manifest.guidance}, ${manifest.precision}. ` +
    'These numbers are of this one walk; the recorded ones are of many.';
  restart();
  return {job: at => job(at, many), picture: (at, steps) => ask(`${slot} test`, 0, job(at, steps)), numbers, state};
}

function draw(canvas, image) {
  const side = Math.sqrt(image.length / 3), area = side * side, data = new ImageData(side, side);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = Math.round((image[c * area + i] + 1) * 127.5);
    data.data[4 * i + 3] = 255;
  }
  canvas.width = canvas.height = side;
  canvas.getContext('2d').putImageData(data, 0, 0);
}

// The menu of captions: what is chosen stays possible, so a class without colours has none, and a setting offers its own grounds.
function choices(figure, manifest, changed) {
  const select = name => figure.querySelector(`.live-${name}`), cls = select('class'), colour = select('colour'), setting = select('setting'), ground = select('ground');
  const fill = (menu, words) => {
    const before = menu.value;
    menu.replaceChildren(...words.map(word => new Option(word ?? 'its own', word ?? '')));
    if (words.some(word => (word ?? '') === before)) menu.value = before;
    menu.disabled = words.length < 2;
  };
  const colours = () => fill(colour, manifest.subjects.filter(one => one.word === cls.value).map(one => one.colour));
  const grounds = () => fill(ground, manifest.places.filter(([word]) => word === setting.value).map(([, word]) => word));
  fill(cls, [...new Set(manifest.subjects.map(one => one.word))]);
  fill(setting, [...new Set(manifest.places.map(([word]) => word))]);
  if ([...cls.options].some(option => option.value === 'sofa')) cls.value = 'sofa';
  colours(); grounds();
  cls.addEventListener('change', () => { colours(); changed(); });
  setting.addEventListener('change', () => { grounds(); changed(); });
  for (const menu of [colour, ground]) menu.addEventListener('change', changed);
  return {caption: () => ({
    file: manifest.subjects.find(one => one.word === cls.value && (one.colour ?? '') === colour.value).file,
    row: manifest.places.findIndex(([a, b]) => a === setting.value && b === ground.value),
  })};
}
