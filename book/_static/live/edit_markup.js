// What the widget Invert and edit consists of.
export const ROWS = {base: 'Base model', smooth: 'Smooth Diffusion'};
export const STRIDE = 5;  // hundredths between two places of the slider: one of 20 steps

const cell = (name, label) => `<div><canvas class="live-${name}" width="64" height="64" role="img"
  aria-label="${label}: no picture yet"></canvas>${label}</div>`;
const head = ['PSNR in dB', 'back again, to the picture', 'edited, to the true edit'].map(word => `<th scope="col">${word}</th>`).join('');
const rows = Object.entries(ROWS).map(([name, label]) => `<tr><th scope="row">${label}</th>
  <td class="live-${name}-returned">–</td><td class="live-${name}-reached">–</td></tr>`).join('');

export const markup = `<div class="live-choices"><label>Picture <select class="live-scene"></select></label>
<label>or your own: <input type="file" class="live-file" accept="image/*"></label></div>
<p class="live-own" role="status"></p>
<fieldset><legend>It shows</legend><div class="live-choices live-shows"></div></fieldset>
<div class="live-choices live-switch"></div>
<label class="live-slide">Share of the steps under the new caption, <span class="live-settings"></span>
<input type="range" class="live-ratio" min="0" max="100" step="${STRIDE}" value="80"></label>
<p class="live-note live-captions"></p>
<div class="live-grid">${cell('picture', 'The picture')}${cell('base-back', 'Base model, back again')}${cell('smooth-back', 'Smooth, back again')}
${cell('truth', 'The true edit')}${cell('base-edit', 'Base model, edited')}${cell('smooth-edit', 'Smooth, edited')}</div>
<p class="live-working" hidden><progress aria-label="Steps of the network"></progress> <button type="button" class="live-halt">Cancel</button></p>
<p class="live-again" hidden><button type="button" class="live-go">Go on</button></p>
<table><caption></caption><thead><tr>${head}</tr></thead><tbody>${rows}</tbody></table>`;
