// The step distances of a walk, drawn as its frames come: a point for each pair of neighbours that are there.
const WIDTH = 420, HEIGHT = 170, LEFT = 44, RIGHT = 12, TOP = 30, BOTTOM = 34;
const MARKS = ['M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z', 'M-3.6-3.6h7.2v7.2h-7.2z'], DASHES = ['none', '7 4'];

// `names`: what the rows are, for the key above the curves.
export function curve(svg, rows, names) {
  const there = rows.flat().filter(value => value !== null), highest = Math.max(1, ...there) * 1.1, count = rows[0].length;
  const x = k => LEFT + (k + 1) * (WIDTH - LEFT - RIGHT) / (count + 0.5), y = value => HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM);
  const parts = [0, 0.5, 1].map(share => `<path d="M${LEFT} ${y(share * highest)}H${WIDTH - RIGHT}" stroke="var(--grid)"/>` +
    `<text x="${LEFT - 6}" y="${y(share * highest) + 4}" text-anchor="end">${(share * highest).toFixed(1)}</text>`);
  for (let k = 0; k < count; k++) parts.push(`<text x="${x(k)}" y="${HEIGHT - BOTTOM + 15}" text-anchor="middle">${k + 2}</text>`);
  parts.push(`<text x="${(LEFT + WIDTH) / 2}" y="${HEIGHT - 3}" text-anchor="middle">frame that the step leads to</text>`);
  rows.forEach((values, row) => {
    let line = '', open = false;
    values.forEach((value, k) => {
      if (value === null) { open = false; return; }
      line += `${open ? 'L' : 'M'}${x(k)} ${y(value)}`;
      open = true;
      parts.push(`<path class="live-point" d="${MARKS[row]}" fill="var(--s${row})" transform="translate(${x(k)} ${y(value)})"/>`);
    });
    parts.push(`<path d="${line || 'M0 0'}" fill="none" stroke="var(--s${row})" stroke-width="2" stroke-dasharray="${DASHES[row]}"/>`);
  });
  names.forEach((name, row) => parts.push(`<path d="M${LEFT + 150 * row} 9h28" stroke="var(--s${row})" stroke-width="2" stroke-dasharray="${DASHES[row]}"/>` +
    `<path d="${MARKS[row]}" fill="var(--s${row})" transform="translate(${LEFT + 150 * row + 14} 9)"/><text x="${LEFT + 150 * row + 34}" y="13">${name}</text>`));
  svg.innerHTML = parts.join('');
  svg.setAttribute('aria-label', `Step distances of this walk, ${names.join(' and ')}: ${there.length / rows.length} of ${count} for each model so far`);
}
