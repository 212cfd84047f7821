// A caption by four menus: what is chosen stays possible, so a class without colours has none, and a setting offers its own grounds.
export const FIELDS = {word: 'What', colour: 'Colour', setting: 'Where', ground: 'Ground'};
const unique = values => [...new Set(values)];

// The values that a field of `words` can take, the rest staying as it is.
export function values(manifest, words, field) {
  if (field === 'word') return unique(manifest.subjects.map(one => one.word));
  if (field === 'colour') return manifest.subjects.filter(one => one.word === words.word).map(one => one.colour);
  if (field === 'setting') return unique(manifest.places.map(one => one.setting));
  return manifest.places.filter(one => one.setting === words.setting).map(one => one.ground);
}

// `words` with one field changed, and what depends on it if it is no longer possible.
export function changed(manifest, words, field, value) {
  const next = {...words, [field]: value};
  for (const other of ['colour', 'ground']) {
    const possible = values(manifest, next, other);
    if (!possible.includes(next[other])) next[other] = possible[0];
  }
  return next;
}

export function caption(manifest, words) {
  const subject = manifest.subjects.find(one => one.word === words.word && one.colour === words.colour);
  const place = manifest.places.find(one => one.setting === words.setting && one.ground === words.ground);
  return `${subject.begins} ${place.ends}`;
}

export const shown = value => value ?? 'its own';

export function fill(select, options, value) {
  select.replaceChildren(...options.map((option, k) => new Option(shown(option), k)));
  select.selectedIndex = Math.max(0, options.indexOf(value));
  select.disabled = options.length < 2;
}

// Four menus in `element`; `told(words)` hears of every change by the reader.
export function captionMenu(element, manifest, words, told) {
  const selects = Object.fromEntries(Object.entries(FIELDS).map(([field, label]) => {
    const select = document.createElement('select'), around = document.createElement('label');
    select.className = `live-${field === 'word' ? 'class' : field}`;
    around.append(`${label} `, select);
    element.append(around);
    select.addEventListener('change', () => {
      set(changed(manifest, words, field, values(manifest, words, field)[select.selectedIndex]));
      told(words);
    });
    return [field, select];
  }));
  function set(next) {
    words = next;
    for (const [field, select] of Object.entries(selects)) fill(select, values(manifest, words, field), words[field]);
  }
  set(words);
  return {set, words: () => words};
}
