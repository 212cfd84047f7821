// A reader's own picture: read on this device and sent nowhere. Its middle square is cut out and resized to what the model sees.
const MOST_BYTES = 10e6, MOST_PIXELS = 25e6, RATIO = 10000;

// The picture as (3, side, side) from -1 to 1, and its size before. What cannot be used is refused in one sentence.
export async function ownPicture(file, side) {
  const name = file.name.replace(/[^ -~\u00a0-\uffff]/g, '').slice(0, 80) || 'The file';
  if (file.size > MOST_BYTES) throw Error(`${name} has ${(file.size / 1e6).toFixed(1)} MB, but must have at most ${MOST_BYTES / 1e6} MB`);
  const image = await opened(file, name), {naturalWidth: width, naturalHeight: height} = image, short = Math.min(width, height);
  if (width * height > MOST_PIXELS) throw Error(`${name} has ${width} x ${height} pixels, but must have at most ${MOST_PIXELS / 1e6} million`);
  if (Math.max(width, height) > RATIO * short) throw Error(`${name} has ${width} x ${height} pixels, but must be at most ${RATIO} times as long as wide`);
  return {pixels: square(image, width, height, side), width, height};
}

// Its size is known before it is decoded.
async function opened(file, name) {
  const image = new Image(), url = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => { image.onload = resolve; image.onerror = reject; image.src = url; });
    if (!image.naturalWidth || !image.naturalHeight) throw Error('no size');
  } catch { throw Error(`${name} cannot be read, but must be a picture such as a PNG, JPEG or WebP file`); }
  finally { URL.revokeObjectURL(url); }
  return image;
}

// Halved until it is less than twice as large as it will be: one large step would skip pixels.
function square(image, width, height, side) {
  let from = image, size = Math.min(width, height), left = (width - size) / 2, top = (height - size) / 2, pen;
  do {
    const next = size >= 2 * side ? Math.max(side, Math.ceil(size / 2)) : side, canvas = new OffscreenCanvas(next, next);
    pen = canvas.getContext('2d', {willReadFrequently: true});
    pen.fillStyle = '#fff';  // what is transparent shows white
    pen.fillRect(0, 0, next, next);
    pen.imageSmoothingQuality = 'high';
    pen.drawImage(from, left, top, size, size, 0, 0, next, next);
    [from, size, left, top] = [canvas, next, 0, 0];
  } while (size > side);
  return floats(pen.getImageData(0, 0, side, side).data, 4);
}

// Bytes with `stride` of them a pixel, red first, as (3, side, side) from -1 to 1.
export function floats(bytes, stride) {
  const area = bytes.length / stride, out = new Float32Array(3 * area);
  for (let i = 0; i < area; i++) for (let c = 0; c < 3; c++) out[c * area + i] = bytes[stride * i + c] / 127.5 - 1;
  return out;
}
