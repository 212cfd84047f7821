/* The toy of the method page: gains of a denoiser in the plane, as ellipses, over the strength of the regularizer. Closed forms throughout;
   the page states them and tests/test_toy.py computes them again. `SmoothToy.solve` is the mathematics, the rest draws. */
(function () {
  'use strict';
  const VARIANCES = [1.6, 0.15], MODE = 1.5, SPREAD = 0.12, COLUMNS = 9, ROWS = 5, WIDE = 3, HIGH = 1.6;

  function grid() {
    const points = [];
    for (let j = 0; j < ROWS; j++) for (let i = 0; i < COLUMNS; i++)
      points.push([-WIDE + 2 * WIDE * i / (COLUMNS - 1), -HIGH + 2 * HIGH * j / (ROWS - 1)]);
    return points;
  }

  /* One Gaussian with the variances of the two axes: the gains are those of a linear denoiser and the same everywhere. */
  function gaussian(alphaBar, lambda) {
    const s2 = 1 - alphaBar, s = Math.sqrt(s2), total = VARIANCES.map(v => alphaBar * v + s2);
    const ideal = VARIANCES.map((v, i) => s * Math.sqrt(alphaBar) * v / total[i]);
    const cost = total.map(V => V * alphaBar / (s2 * s2)), pull = lambda * s2 / 4;
    const gap = (ideal[0] - ideal[1]) / (1 + pull * (1 / cost[0] + 1 / cost[1]));
    const gains = [ideal[0] - pull * gap / cost[0], ideal[1] + pull * gap / cost[1]];
    return { gainsAt: () => gains, variation: s2 * gap * gap / 8, share: 1 - gap / (ideal[0] - ideal[1]) };
  }

  /* Two modes at (-MODE, 0) and (MODE, 0): the ideal denoiser bends between them. */
  function modes(alphaBar, lambda) {
    const s2 = 1 - alphaBar, s = Math.sqrt(s2), a = Math.sqrt(alphaBar), V = alphaBar * SPREAD + s2;
    const straight = a * SPREAD / V, bend = s2 * MODE / V, sharp = a * MODE / V;
    const estimate = x => [straight * x[0] + bend * Math.tanh(sharp * x[0]), straight * x[1]];
    const ideal = x => [s * (straight + bend * sharp / Math.cosh(sharp * x[0]) ** 2), s * straight];
    const points = grid(), density = points.map(x =>
      (Math.exp(-((x[0] - a * MODE) ** 2) / (2 * V)) + Math.exp(-((x[0] + a * MODE) ** 2) / (2 * V))) * Math.exp(-(x[1] ** 2) / (2 * V)));
    const whole = density.reduce((p, q) => p + q), mean = f => points.reduce((sum, x, i) => sum + density[i] / whole * f(x), 0);
    const middle = x => (ideal(x)[0] + ideal(x)[1]) / 2, common = mean(middle);
    const variation = s2 * mean(x => (middle(x) - common) ** 2 + (ideal(x)[0] - ideal(x)[1]) ** 2 / 8);
    const cost = alphaBar / (2 * s2) * mean(x => (estimate(x)[0] - common / s * x[0]) ** 2 + (estimate(x)[1] - common / s * x[1]) ** 2);
    const share = lambda * variation / (lambda * variation + cost);
    return { gainsAt: x => ideal(x).map(g => (1 - share) * g + share * common), variation: (1 - share) ** 2 * variation, share };
  }

  function solve(kind, alphaBar, lambda) { return (kind === 'gaussian' ? gaussian : modes)(alphaBar, lambda); }
  window.SmoothToy = { solve, grid };

  const SVG = 'http://www.w3.org/2000/svg', UNIT = 56, SCALE = 24;
  function drawn(parent, tag, values) {
    const e = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(values)) e.setAttribute(name, value);
    return parent.appendChild(e);
  }

  function take(root) {
    const [kind, strength, level] = ['kind', 'strength', 'level'].map(name => root.querySelector(`[data-toy=${name}]`));
    const svg = root.querySelector('svg'), said = root.querySelector('[data-toy=said]'), probe = [0, 0];
    const X = x => (x + WIDE) * UNIT + 40, Y = y => (HIGH - y) * UNIT + 36;
    const lambdaOf = () => +strength.value === 0 ? 0 : 10 ** (+strength.value / 10 - 2);
    const ellipse = (x, gains, name) => drawn(svg, 'ellipse', { cx: X(x[0]), cy: Y(x[1]), rx: Math.max(gains[0] * SCALE, 1), ry: Math.max(gains[1] * SCALE, 1), class: name });
    function show() {
      const lambda = lambdaOf(), alphaBar = +level.value, found = solve(kind.value, alphaBar, lambda);
      svg.querySelectorAll('*:not(title)').forEach(e => e.remove());
      const at = Math.sqrt(alphaBar) * MODE;
      if (kind.value === 'modes') [-at, at].forEach(x => drawn(svg, 'path', { d: `M${X(x) - 7} ${Y(0)}h14m-7-7v14`, class: 'toy-mode' }));
      grid().forEach(x => ellipse(x, found.gainsAt(x), 'toy-ellipse'));
      ellipse(probe, found.gainsAt(probe), 'toy-probe');
      drawn(svg, 'circle', { cx: X(probe[0]), cy: Y(probe[1]), r: 5, class: 'toy-dot' });
      const gains = found.gainsAt(probe), text = lambda.toPrecision(2), l = lambda === 0 ? '0' : String(+text);
      strength.setAttribute('aria-valuetext', `lambda ${l}`);
      level.setAttribute('aria-valuetext', `alpha-bar ${alphaBar.toFixed(2)}`);
      root.querySelector('[data-toy=lambda]').textContent = l;
      root.querySelector('[data-toy=alpha]').textContent = alphaBar.toFixed(2);
      said.textContent = `At (${probe.map(p => p.toFixed(1)).join(', ')}): gains ${gains.map(g => g.toFixed(3)).join(' and ')}, ratio ${(gains[0] / gains[1]).toFixed(2)}. ` +
        `Variation ${found.variation.toExponential(1)}.`;
    }
    function move(x, y) {
      probe[0] = Math.min(WIDE, Math.max(-WIDE, x));
      probe[1] = Math.min(HIGH, Math.max(-HIGH, y));
      show();
    }
    function toPointer(event) {
      const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      move((p.x - 40) / UNIT - WIDE, HIGH - (p.y - 36) / UNIT);
    }
    svg.addEventListener('pointerdown', event => { svg.setPointerCapture(event.pointerId); toPointer(event); });
    svg.addEventListener('pointermove', event => { if (svg.hasPointerCapture(event.pointerId)) toPointer(event); });
    svg.addEventListener('keydown', event => {
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      if (step) { event.preventDefault(); move(probe[0] + step[0], probe[1] + step[1]); }
    });
    [kind, strength, level].forEach(e => e.addEventListener('input', show));
    root.classList.add('toy-on');
    show();
  }
  function start() { document.querySelectorAll('.smooth-toy:not(.toy-on)').forEach(take); }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start); else start();
})();
