// Widgets in which the embedded model answers. Nothing, this file included, is loaded before a reader presses a widget's button.
// The widget NAME is NAME.js, which exports start(root, manifest, began): it fills `root` (an element) when the model is there.
import {home, load, unable} from './engine.js';

const MB = bytes => `${(bytes / 1e6).toFixed(1)} MB`;

function styled(figure) {
  figure.classList.add('smooth-theme', 'smooth-on');
  if (document.querySelector('link[data-live]')) return;
  for (const name of ['model/theme.css', 'live.css']) {
    const link = Object.assign(document.createElement('link'), {rel: 'stylesheet', href: new URL(name, home).href});
    link.dataset.live = '';
    document.head.append(link);
  }
}

export async function begin(button) {
  const figure = button.closest('.live-widget'), said = figure.querySelector('.live-status'), reason = unable();
  if (reason) { button.disabled = true; said.textContent = reason; return; }
  styled(figure);
  const stop = new AbortController(), began = performance.now(), name = figure.dataset.live;
  const wait = Object.assign(document.createElement('p'), {className: 'live-wait'});
  wait.innerHTML = '<progress value="0" max="1" aria-label="Loading the model"></progress> <span></span> <button type="button" class="live-cancel">Cancel</button>';
  const [bar, size, cancel] = wait.children;
  button.disabled = true;
  button.closest('p').after(wait);
  said.textContent = 'Loading the model.';
  cancel.addEventListener('click', () => stop.abort());
  cancel.focus();
  const told = ({done, total}) => {
    bar.max = total; bar.value = done;
    bar.setAttribute('aria-valuetext', size.textContent = done < total ? `${MB(done)} of ${MB(total)}` : `${MB(total)}, being prepared`);
  };
  try {
    const [manifest, widget] = await Promise.all([load(figure.dataset.parts.split(' '), told, stop.signal), import(`./${name}.js`)]);
    const root = Object.assign(document.createElement('div'), {className: 'live-body'});
    wait.replaceWith(root);
    button.closest('p').remove();
    said.textContent = 'The model is loaded.';
    figure.live = await widget.start(root, manifest, began);
    root.querySelector('select, input, button')?.focus({preventScroll: true});
  } catch (error) {
    wait.remove();
    button.disabled = false;
    button.focus();
    said.textContent = error.message === 'cancelled' ? 'Loading was cancelled.' : `The model could not be loaded: ${error.message}.`;
  }
}
