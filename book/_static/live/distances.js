// How far the picture moved against how far the noise was nudged: a point for each neighbour that was seen, both models in one drawing.
const WIDTH = 420, HEIGHT = 190, LEFT = 44, RIGHT = 12, TOP = 22, BOTTOM = 40;
const MARKS = ['M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z', 'M-3.6-3.6h7.2v7.2h-7.2z'];

// rows: for each model [[degrees, distance], ...]
export function distances(svg, rows, widest) {
  const highest = Math.max(1, ...rows.flat().map(([, value]) => value)) * 1.1;
  const x = angle => LEFT + angle / widest * (WIDTH - LEFT - RIGHT), y = value => HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM);
  const parts = [0, 0.5, 1].map(share => `<path d="M${LEFT} ${y(share * highest)}H${WIDTH - RIGHT}" stroke="var(--grid)"/>` +
    `<text x="${LEFT - 6}" y="${y(share * highest) + 4}" text-anchor="end">${(share * highest).toFixed(1)}</text>`);
  for (let k = 0; k <= 3; k++)
    parts.push(`<text x="${x(k * widest / 3)}" y="${HEIGHT - BOTTOM + 16}" text-anchor="middle">${Math.round(k * widest / 3)}°</text>`);
  parts.push(`<text x="${(LEFT + WIDTH) / 2}" y="${HEIGHT - 6}" text-anchor="middle">nudge of the noise; upwards: how far the picture moves</text>`);
  ['base model', 'Smooth Diffusion'].forEach((name, row) => parts.push(
    `<path d="${MARKS[row]}" fill="var(--s${row})" transform="translate(${LEFT + 12 + 110 * row} 8)"/><text x="${LEFT + 22 + 110 * row}" y="12">${name}</text>`));
  rows.forEach((points, row) => points.forEach(([angle, value]) => parts.push(
    `<path class="live-point" d="${MARKS[row]}" fill="var(--s${row})" fill-opacity="0.8" transform="translate(${x(angle)} ${y(value)})"/>`)));
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  svg.innerHTML = parts.join('');
  svg.setAttribute('aria-label', `How far the picture moves for each of ${rows[0].length} nudges of the noise; the table has the numbers`);
}
