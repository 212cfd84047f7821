// Invert and edit: a picture is inverted (Eq. 4), comes back under its own caption, and changes as a word is switched on the way (Eq. 15).
import {drop} from './engine.js';
import {caption, captionMenu} from './caption_menu.js';
import {ROWS, STRIDE, markup} from './edit_markup.js';
import {draw, find as within, how} from './menu.js';
import {ownPicture} from './own_picture.js';
import {scenes, title} from './scenes.js';
import {edited, invert, knownEdit, psnr, switchStep} from './switching.js';
import {switchMenu} from './switch_menu.js';

const NAMES = Object.keys(ROWS), REST = 200;  // milliseconds until the slider rests
const OWN = {word: 'sofa', colour: null, setting: 'apartment', ground: 'wood'};  // what a reader's picture is taken for at first
let figures = 0, brought = 0;

export async function start(root, manifest, began) {
  const offered = await scenes(manifest), steps = Math.max(...manifest.steps);
  root.innerHTML = markup;
  const find = name => within(root, name), figure = root.closest('.live-widget'), said = within(figure, 'status'), slot = `edit${figures++}`;
  const slider = find('ratio'), bar = root.querySelector('progress');
  const shows = captionMenu(find('shows'), manifest, offered[0].words, described), word = switchMenu(find('switch'), manifest, aimed);
  let shown = null, way = null, turn = 0, timer = 0;

  const ratio = () => Number(slider.value) / 100, source = () => caption(manifest, shows.words()), target = () => caption(manifest, word.words());
  const itsOwn = () => shown.truth && source() === caption(manifest, shown.words);
  const truth = () => itsOwn() && target() === caption(manifest, shown.target) ? shown.truth : null;
  const failed = error => { if (error.message !== 'cancelled') said.textContent = `The picture could not be made: ${error.message}.`; };

  function put(name, image, label) {
    const canvas = find(name);
    if (image) { draw(canvas, image, label); return; }
    canvas.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
    canvas.setAttribute('aria-label', label);
  }

  function working(done, of) {
    if (done === null && document.activeElement === find('halt')) slider.focus();  // the focus is not lost with the button
    find('working').hidden = done === null;
    if (done === null) return;
    bar.max = of;
    bar.value = done;
    bar.setAttribute('aria-valuetext', `step ${done} of ${of}`);
  }

  function settings() {
    const text = `r ${ratio().toFixed(2)}: ${steps - switchStep(ratio(), steps)} of ${steps} steps`;
    find('settings').textContent = text;
    slider.setAttribute('aria-valuetext', text);
    find('captions').textContent = `“${source()}” → “${target()}”`;
    put('truth', truth(), truth() ? `The true edit: ${target()}` : 'There is no true picture of this edit');
  }

  function wipe(part, number) {  // what was shown belongs to other settings
    for (const name of NAMES) {
      put(`${name}-${part}`, null, `${ROWS[name]}, ${part === 'back' ? 'back again' : 'edited'}: no picture yet`);
      find(`${name}-${number}`).textContent = '–';
    }
  }

  function show(part, number, images, wanted, label) {
    NAMES.forEach((name, row) => {
      put(`${name}-${part}`, images[row], `${ROWS[name]}${label}, ${steps} steps`);
      find(`${name}-${number}`).textContent = wanted ? psnr(images[row], wanted).toFixed(1) : 'no true picture';
    });
  }

  function showEdit({images}, at) {
    show('edit', 'reached', images, truth(), `: ${target()}, r ${at.toFixed(2)}`);
    figure.dataset.first ??= ((performance.now() - began) / 1000).toFixed(2);  // seconds from the button to the first edit
    figure.dataset.shown = `${shown.id} ${at}`;
  }

  // One thing at a time: whatever begins ends what was going on.
  async function act(work) {
    const mine = ++turn, alive = () => mine === turn;
    clearTimeout(timer);
    for (const one of [slot, `${slot} fill`]) drop(one);
    find('again').hidden = true;
    working(null);
    try { await work?.(alive); } catch (error) { if (alive()) failed(error); } finally { if (alive()) working(null); }
  }

  async function invertIt(alive) {
    const at = performance.now();
    let done = 0;
    way = null;
    put('picture', shown.pixels, `The picture: ${source()}`);
    wipe('back', 'returned');
    wipe('edit', 'reached');
    settings();
    said.textContent = 'Inverting.';
    working(0, 2 * steps);
    const found = await invert(shown, source(), steps, slot, alive, () => { if (alive()) working(++done, 2 * steps); });
    if (!alive()) return;
    way = found;
    show('back', 'returned', way.images, shown.pixels, `, back again: ${source()}`);
    figure.dataset.inverting = ((performance.now() - at) / 1000).toFixed(2);
    await editIt(alive);
  }

  async function editIt(alive) {
    const at = ratio(), wanted = target(), asked = performance.now(), of = steps - switchStep(at, steps);
    if (of) working(0, of);
    const found = await edited(way, wanted, at, slot, 1, ({step}) => { if (alive()) working(step, of); });
    if (!alive()) return;
    showEdit(found, at);
    working(null);
    figure.dataset.editing = ((performance.now() - asked) / 1000).toFixed(2);
    const [base, smooth] = NAMES.map(name => find(`${name}-reached`).textContent);
    said.textContent = `Edited at r ${at.toFixed(2)}. ` +
      (truth() ? `PSNR to the true edit: base model ${base} dB, Smooth Diffusion ${smooth} dB.` : 'There is no true picture of this edit.');
    const places = Array.from({length: 100 / STRIDE}, (_, k) => (k + 1) * STRIDE / 100).sort((a, b) => Math.abs(a - at) - Math.abs(b - at));
    for (const place of places) {  // the slider's other places, nearest first, while nothing else is asked for
      if (!alive()) return;
      await edited(way, wanted, place, `${slot} fill`, 2);
    }
    figure.dataset.filled = wanted;
  }

  function aimed() {
    settings();
    wipe('edit', 'reached');
    if (way) act(editIt);
  }

  function moved() {
    settings();
    if (!way) return;  // on its way up: the edit will be made for where the slider is then
    act();
    const done = knownEdit(way, target(), ratio());
    if (done) showEdit(done, ratio()); else wipe('edit', 'reached');
    timer = setTimeout(() => act(editIt), REST);
  }

  function described() {
    word.set(shows.words(), itsOwn() ? shown.target : null);
    act(invertIt);
  }

  function take(picture, text) {
    shown = picture;
    find('own').textContent = text;
    shows.set(shown.words);
    described();
  }

  async function bring(file) {
    const [, height, width] = manifest.image, own = await ownPicture(file, width), side = Math.min(own.width, own.height);
    const cut = own.width === own.height ? '' : `cut to its middle ${side} x ${side} pixels and `;
    find('scene').selectedIndex = -1;
    take({id: `own ${++brought}`, words: OWN, pixels: own.pixels}, `Your picture stays on this device. It was ${cut}resized to ${width} x ${height} ` +
      'pixels, the size that this small model sees. Say below what it shows: the model knows these words alone.');
  }

  find('scene').replaceChildren(...offered.map((one, k) => new Option(title(one), k)));
  find('scene').addEventListener('change', () => { find('file').value = ''; take(offered[find('scene').value], ''); });
  find('file').addEventListener('change', async ({target: field}) => {
    if (!field.files.length) return;
    try { await bring(field.files[0]); } catch (error) { field.value = ''; said.textContent = `${error.message}.`; }
  });
  slider.addEventListener('input', moved);
  find('halt').addEventListener('click', () => {
    act();
    said.textContent = 'Cancelled.';
    find('again').hidden = false;
    find('go').focus();
  });
  find('go').addEventListener('click', () => { act(way ? editIt : invertIt); slider.focus(); });
  root.querySelector('caption').textContent = `${how(manifest, `${steps} steps up and ${steps} down`)}. Up without guidance. These numbers are of this one picture; ` +
    'the recorded results of this book are of many, and the two are never mixed.';
  take(offered[0], '');
  return {offered, source, target, take, way: () => way, edited: at => edited(way, target(), at, `${slot} asked`, 0)};
}
