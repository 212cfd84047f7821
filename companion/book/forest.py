"""A forest plot of claims: a line a claim, with effect, interval and verdict; filter and order need no kernel."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .interactive import Widget
from .theme import THEME, VERDICTS, colour

WIDTH, LINE = 240, 14  # pixels of the axis, and of one interval
END = 3.0  # the axis ends at three standard deviations at the latest; what lies beyond has an arrow
STYLE = """
.smooth-forest table{border-collapse:collapse;width:100%;margin:.4em 0;font-size:13px;table-layout:auto}
.smooth-forest th,.smooth-forest td{padding:.2em .5em .2em 0;text-align:left;vertical-align:middle;border:0;background:none;color:inherit}
.smooth-forest tbody tr{border-top:1px solid var(--grid)}
.smooth-forest td.smooth-effect{width:248px}
.smooth-forest .smooth-verdict{white-space:nowrap;font-weight:600}
.smooth-forest .smooth-verdict i{font-style:normal;display:inline-block;width:1.2em;text-align:center}
@media(max-width:600px){.smooth-forest thead,.smooth-forest tr{display:block}.smooth-forest td,.smooth-forest th{display:block}
.smooth-forest thead th:not(.smooth-effect){display:none}.smooth-forest tbody tr{padding:.3em 0}}
"""
SCRIPT = """(function(){document.querySelectorAll('.smooth-forest:not(.smooth-on)').forEach(function(root){
var body=root.querySelector('tbody'),rows=Array.from(body.rows),buttons=Array.from(root.querySelectorAll('button')),
select=root.querySelector('select'),count=root.querySelector('[aria-live]');
var ways={paper:function(r){return +r.dataset.place},verdict:function(r){return +r.dataset.rank*1000+ +r.dataset.place},
effect:function(r){return r.dataset.effect===''?1e6+ +r.dataset.place:-r.dataset.effect}};
function show(){var on=buttons.filter(function(b){return b.getAttribute('aria-pressed')==='true'})[0].dataset.outcome,n=0;
var key=ways[select.value];rows.slice().sort(function(a,b){return key(a)-key(b)}).forEach(function(r){
r.hidden=on!=='all'&&r.dataset.outcome!==on;n+=!r.hidden;body.appendChild(r)});count.textContent=n+' shown'}
buttons.forEach(function(b){b.addEventListener('click',function(){
buttons.forEach(function(o){o.setAttribute('aria-pressed',String(o===b))});show()})});
select.addEventListener('change',show);root.classList.add('smooth-on');show()})})();"""


def forest_plot(rows: Sequence[Mapping[str, Any]], *, alt: str) -> Widget:
    """Claims as lines: name, effect with interval, verdict.

    Args:
        rows: in the paper's order, one mapping a claim: `name`, `claim` (its sentence), `href` (its full entry, or ""), `outcome` (one of
            `theme.VERDICTS`) and `parts`, the intervals that decide it together: mappings with `effect`, `low`, `high` in standard
            deviations, positive where the claim holds, and `label`, what a pointer over the line says; `effect` None where a part has none.
        alt: what the plot shows, in a sentence.

    Raises:
        ValueError: no rows, an unknown outcome, or an interval that does not hold its effect.
    """
    _check(rows)
    ends = [abs(part[key]) for row in rows for part in row["parts"] if part["effect"] is not None for key in ("low", "high")]
    end = min(END, max(ends, default=1.0))
    counts = Counter(row["outcome"] for row in rows)
    found = [outcome for outcome in VERDICTS if counts[outcome]]
    buttons = "".join(
        f'<button type="button" data-outcome="{outcome}" aria-pressed="{str(outcome == "all").lower()}">{sign} {outcome} {number}</button>'
        for outcome, sign, number in [("all", "", len(rows)), *((one, VERDICTS[one][0], counts[one]) for one in found)]
    )
    order = '<option value="paper">paper\'s order</option><option value="verdict">verdict</option><option value="effect">effect</option>'
    controls = (
        f'<div class="smooth-live" role="group" aria-label="Which claims are shown">{buttons}'
        f'<label>Order <select>{order}</select></label> <span class="smooth-soft" aria-live="polite"></span></div>'
    )
    head = f'<th>Claim</th><th class="smooth-effect">{_axis(end)}</th><th>Verdict</th>'
    body = "".join(_row(row, place, found.index(row["outcome"]), end) for place, row in enumerate(rows))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    html = (
        f'<div class="smooth-forest smooth-theme" role="group" aria-label="{escape(alt)}"><style>{THEME}{STYLE}</style>{controls}{table}'
        f"</div><script>{SCRIPT}</script>"
    )
    lines = [f"  {VERDICTS[row['outcome']][0]} {row['name']}: {row['outcome']}" for row in rows]
    return Widget(html, "\n".join([alt, *lines]))


def _check(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        raise ValueError("rows is empty, but must have at least one claim.")
    for row in rows:
        if row["outcome"] not in VERDICTS:
            raise ValueError(f"rows has the outcome {row['outcome']!r}, but must have one of {', '.join(VERDICTS)}.")
        for part in row["parts"]:
            if part["effect"] is not None and not part["low"] <= part["effect"] <= part["high"]:
                raise ValueError(f"rows has the effect {part['effect']} outside [{part['low']}, {part['high']}] in {row['name']!r}.")


def _x(value: float, end: float) -> float:
    return WIDTH / 2 + max(-end, min(end, value)) / end * (WIDTH / 2 - 8)


def _axis(end: float) -> str:
    step = 1 if end >= 1.5 else 0.5
    ticks = [k * step for k in range(-int(end / step), int(end / step) + 1)]
    texts = "".join(f'<text x="{_x(tick, end):.1f}" y="26" text-anchor="middle">{tick:g}</text>' for tick in ticks)
    words = f'<text x="0" y="10">◂ claim fails</text><text x="{WIDTH}" y="10" text-anchor="end">claim holds ▸</text>'
    return f'<svg width="{WIDTH}" height="30" role="img" aria-label="effect in standard deviations">{words}{texts}</svg>'


def _row(row: Mapping[str, Any], place: int, rank: int, end: float) -> str:
    outcome = row["outcome"]
    weakest = min((part["effect"] for part in row["parts"] if part["effect"] is not None), default=None)
    plot = _lines(row["parts"], end, row["name"]) if row["parts"] else ""
    name = escape(row["name"])
    name = f'<a href="{escape(row["href"])}" title="{escape(row["claim"])}">{name}</a>' if row["href"] else name
    data = f'data-place="{place}" data-rank="{rank}" data-outcome="{outcome}" data-effect="{"" if weakest is None else f"{weakest:.4f}"}"'
    sign = f'<i aria-hidden="true">{VERDICTS[outcome][0]}</i>'
    verdict = f'<span class="smooth-verdict" style="color:{colour(outcome)}">{sign}{outcome}</span>'
    return f'<tr {data}><td>{name}</td><td class="smooth-effect">{plot}</td><td>{verdict}</td></tr>'


def _lines(parts: Sequence[Mapping[str, Any]], end: float, name: str) -> str:
    height = LINE * len(parts)
    shapes = [f'<path d="M{WIDTH / 2} 0V{height}" stroke="var(--line)"/>']
    said = []
    for k, part in enumerate(parts):
        y = LINE * (k + 0.5)
        if part["effect"] is None:
            words = f'<text x="{WIDTH / 2 - 6}" y="{y + 4}" text-anchor="end" fill="var(--soft)">no interval recorded</text>'
            shapes.append(f"<g><title>{escape(part['label'])}</title>{words}</g>")
            said.append("no interval recorded")
            continue
        x, low, high = (_x(part[key], end) for key in ("effect", "low", "high"))
        paint = colour(part["outcome"])
        shapes.append(
            f'<g><title>{escape(part["label"])}</title><path d="M{low:.1f} {y}H{high:.1f}" stroke="{paint}" stroke-width="2"/>'
            f"{_marker(part, x, y, paint)}{_arrow(part, y, end, paint)}</g>"
        )
        said.append(f"{part['effect']:+.2f} [{part['low']:+.2f}, {part['high']:+.2f}]")
    return f'<svg width="{WIDTH}" height="{height}" role="img" aria-label="{escape(name)}: {"; ".join(said)}">{"".join(shapes)}</svg>'


def _marker(part: Mapping[str, Any], x: float, y: float, paint: str) -> str:
    """A dot, hollow where the part is open, a cross where it is refuted."""
    if part["outcome"] == "not reproduced":
        return f'<path d="M{x - 4:.1f} {y - 4}l8 8m0-8l-8 8" stroke="{paint}" stroke-width="2.5" fill="none"/>'
    fill = paint if part["outcome"] == "reproduced" else "var(--ground)"
    return f'<circle cx="{x:.1f}" cy="{y}" r="4" stroke="{paint}" stroke-width="2" fill="{fill}"/>'


def _arrow(part: Mapping[str, Any], y: float, end: float, paint: str) -> str:
    """Where an interval goes on beyond the axis."""
    right = f'<path d="M{WIDTH} {y}l-7-4v8z" fill="{paint}"/>' if part["high"] > end else ""
    left = f'<path d="M0 {y}l7-4v8z" fill="{paint}"/>' if part["low"] < -end else ""
    return right + left
