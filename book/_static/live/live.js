// Widgets in which the embedded model answers. Nothing is loaded before a reader asks.
import {load, stop, unable} from './engine.js';
import {walk} from './walk.js';

const MB = bytes => `${(bytes / 1e6).toFixed(1)} MB`;

for (const figure of document.querySelectorAll('.live-walk')) begin(figure);

function begin(figure) {
  const find = name => figure.querySelector(`.live-${name}`), button = find('load'), cancel = find('cancel'), bar = find('progress'), said = find('status');
  figure.classList.add('smooth-on');
  const reason = unable();
  if (reason) { button.hidden = true; said.textContent = reason; return; }
  const idle = text => { button.disabled = false; cancel.hidden = bar.hidden = true; said.textContent = text; };
  cancel.addEventListener('click', () => { stop(); button.focus(); });
  button.addEventListener('click', async () => {
    button.disabled = true;
    cancel.hidden = bar.hidden = false;
    said.textContent = 'Loading the model.';
    const began = performance.now();
    try {
      const manifest = await load((done, total) => {
        bar.max = total; bar.value = done;
        bar.setAttribute('aria-valuetext', `${MB(done)} of ${MB(total)}`);
        find('size').textContent = `${MB(done)} of ${MB(total)}`;
      });
      find('start').hidden = true;
      find('body').hidden = false;
      figure.live = walk(figure, manifest, began);
    } catch (error) {
      idle(error.message === 'cancelled' ? 'Loading was cancelled.' : `The model could not be loaded: ${error.message}.`);
      find('size').textContent = '';
    }
  });
}
