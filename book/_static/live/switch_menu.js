// Which word of a caption is switched, and to what.
import {FIELDS, changed, fill, values} from './caption_menu.js';

// Two menus in `element`; `told()` hears of every change by the reader.
export function switchMenu(element, manifest, told) {
  element.innerHTML = '<label>Switch <select class="live-field"></select></label><label>to <select class="live-value"></select></label>';
  const [field, value] = element.querySelectorAll('select');
  let words, names, options;

  function offer(wanted) {
    options = values(manifest, words, names[field.selectedIndex]).filter(option => option !== words[names[field.selectedIndex]]);
    fill(value, options, wanted);
    value.disabled = false;
  }
  // `source` is what the picture shows; `target`, where it is given, is what is chosen at first.
  function set(source, target) {
    words = source;
    names = Object.keys(FIELDS).filter(name => values(manifest, words, name).length > 1);
    field.replaceChildren(...names.map(name => new Option(FIELDS[name].toLowerCase(), name)));
    const first = target ? names.find(name => source[name] !== target[name]) : names[0];
    field.value = first;
    offer(target?.[first]);
  }
  field.addEventListener('change', () => { offer(); told(); });
  value.addEventListener('change', told);
  return {set, words: () => changed(manifest, words, names[field.selectedIndex], options[value.selectedIndex])};
}
