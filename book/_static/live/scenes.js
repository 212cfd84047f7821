// The test scenes that the book ships for editing: each with its caption, and with the true picture of the edited caption.
import {home} from './engine.js';
import {shown} from './caption_menu.js';
import {floats} from './own_picture.js';

// What a scene's edit changes, in few words: its caption stands elsewhere.
export function title({words, target}) {
  const field = Object.keys(words).find(name => words[name] !== target[name]);
  return `${field === 'word' ? '' : `${words.word}: `}${shown(words[field])} → ${shown(target[field])}`;
}

// [{id, words, target, pixels, truth}, ...]; pixels and truth are (3, side, side) from -1 to 1.
export async function scenes(manifest) {
  const entry = manifest.files['scenes.bin'], answer = await fetch(new URL(entry.path, home));
  if (!answer.ok) throw Error(`the test scenes could not be loaded (${answer.status})`);
  const bytes = new Uint8Array(await answer.arrayBuffer()), size = manifest.image.reduce((a, b) => a * b);
  if (bytes.length !== 2 * size * manifest.scenes.length) throw Error('the test scenes are not the file that this book was built with');
  const picture = k => floats(bytes.subarray(k * size, (k + 1) * size), 3);
  return manifest.scenes.map((scene, k) => ({...scene, pixels: picture(2 * k), truth: picture(2 * k + 1)}));
}
