// A round pad: a point in two directions, by mouse, finger, pen or arrow keys. It is a slider to those who listen.
const CELLS = 10, SIZE = 240, RADIUS = 108;  // cells from the middle to the rim; the drawing's units

// `said(place)` puts a place into words, `distance(place)` into the number of a slider, up to `most`; `moved(place)` is told of each new one.
export function pad(svg, {label, most, distance, said, moved}) {
  let cell = [0, 0], pointer = null;
  const rings = [1, 2, 3].map(k => `<circle r="${RADIUS * k / 3}" fill="none" stroke="var(--grid)"/>` +
    `<text x="3" y="${-RADIUS * k / 3 + 12}">${Math.round(most * k / 3)}°</text>`);
  svg.setAttribute('viewBox', `${-SIZE / 2} ${-SIZE / 2} ${SIZE} ${SIZE}`);
  svg.innerHTML = `<circle class="live-disc" r="${RADIUS}"/><path d="M${-RADIUS} 0H${RADIUS}M0 ${-RADIUS}V${RADIUS}" stroke="var(--grid)"/>` +
    `${rings.join('')}<g class="live-seen"></g><circle class="live-marker" r="9"/>`;
  const marker = svg.querySelector('.live-marker'), seen = svg.querySelector('.live-seen');
  for (const [name, value] of Object.entries({role: 'slider', tabindex: 0, 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': most}))
    svg.setAttribute(name, value);

  const place = () => cell.map(value => value / CELLS);
  function point([x, y]) {
    marker.setAttribute('cx', x * RADIUS);
    marker.setAttribute('cy', -y * RADIUS);
  }
  function tell() {
    point(place());
    svg.setAttribute('aria-valuenow', distance(place()).toFixed(1));
    svg.setAttribute('aria-valuetext', said(place()));
  }
  function go(to) {
    if (Math.hypot(...to) > CELLS + 1e-9 || to[0] === cell[0] && to[1] === cell[1]) return;
    cell = to;
    tell();
    moved(place());
  }
  function under(event) {
    const box = svg.getBoundingClientRect(), unit = SIZE / box.width * CELLS / RADIUS;
    let to = [(event.clientX - box.left - box.width / 2) * unit, (box.top + box.height / 2 - event.clientY) * unit];
    const far = Math.max(1, Math.hypot(...to) / CELLS), near = to.map(value => Math.round(value / far));
    to = Math.hypot(...near) > CELLS ? to.map(value => Math.trunc(value / far)) : near;  // rounded out of the disc
    go(to.map(value => value + 0));  // no -0
  }
  svg.addEventListener('pointerdown', event => {
    if (event.button) return;
    pointer = event.pointerId;
    svg.setPointerCapture(pointer);
    svg.focus({preventScroll: true});
    under(event);
    event.preventDefault();
  });
  svg.addEventListener('pointermove', event => { if (event.pointerId === pointer) under(event); });
  for (const name of ['pointerup', 'pointercancel']) svg.addEventListener(name, event => { if (event.pointerId === pointer) pointer = null; });
  const STEPS = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
  svg.addEventListener('keydown', event => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === 'Home') go([0, 0]);
    else if (STEPS[event.key]) go(cell.map((value, i) => value + STEPS[event.key][i]));
    else return;
    event.preventDefault();
  });
  tell();
  return {
    place,
    point,  // draws the marker elsewhere for a while; the place stays
    centre: () => go([0, 0]),
    mark: ([x, y]) => { seen.insertAdjacentHTML('beforeend', `<circle cx="${x * RADIUS}" cy="${-y * RADIUS}" r="3"/>`); },
    clear: () => { seen.replaceChildren(); },
  };
}
