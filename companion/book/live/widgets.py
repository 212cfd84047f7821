"""The widgets' HTML: complete without a script, which only fills it. Labels and status lines are there for readers who listen."""

from collections.abc import Mapping
from typing import Any

from companion.book.theme import THEME

from .export import WITHOUT

_SELECTS = {"class": "What", "colour": "Colour", "setting": "Where", "ground": "Ground"}
_ROWS = {"base": "Base model", "smooth": "Smooth Diffusion"}
_NUMBERS = {"istd": "ISTD", "mean": "mean step", "cv": "CV"}


def walk(manifest: Mapping[str, Any] | None, static: str) -> str:
    """The widget Walk, or the sentence that it is not there.

    Args:
        manifest: that of `export.export`; None where the extra is not installed.
        static: the path from the page to the folder `_static`.
    """
    if manifest is None:
        return f'<p class="live-without">{WITHOUT}</p>'
    selects = "".join(f'<label>{label} <select class="live-{name}"></select></label>' for name, label in _SELECTS.items())
    seeds = "".join(
        f'<label>{label} <input type="number" class="live-{name}" min="0" max="999999" step="1"></label>'
        for name, label in (("seed-a", "First seed"), ("seed-b", "Second seed"))
    )
    pictures = "".join(
        f'<div><canvas class="live-{name}" width="64" height="64" role="img" aria-label="Picture by: {label}"></canvas>{label}</div>'
        for name, label in _ROWS.items()
    )
    head = "".join(f"<th>{label}</th>" for label in _NUMBERS.values())
    rows = ""
    for name, label in _ROWS.items():
        cells = "".join(f'<td class="live-{name}-{number}">–</td>' for number in _NUMBERS)
        rows += f"<tr><th>{label}</th>{cells}</tr>"
    return f"""<style>{THEME}</style><link rel="stylesheet" href="{static}/live/live.css">
<div class="smooth-theme live-walk" role="group" aria-label="A walk that the model makes in your browser">
<div class="live-start"><p>The small model of this book can run on your own device: nothing is sent anywhere.</p>
<p class="smooth-live"><button type="button" class="live-load">Load the model, {manifest["bytes"] / 1e6:.0f} MB</button>
<button type="button" class="live-cancel" hidden>Cancel</button>
<progress class="live-progress" hidden aria-label="Loading the model"></progress> <span class="live-size"></span></p>
<noscript>It needs JavaScript.</noscript></div>
<div class="live-body" hidden>
<div class="live-choices">{selects}</div>
<div class="live-choices">{seeds}<button type="button" class="live-another">Another pair</button></div>
<div class="live-pair">{pictures}</div>
<label>Between the two noises, <span class="live-settings"></span>
<input type="range" class="live-eta" min="0" max="100" step="5" value="0"></label>
<svg class="live-curve" viewBox="0 0 420 170" role="img" aria-label="Step distances of this walk"></svg>
<table><thead><tr><th>This walk</th>{head}</tr></thead><tbody>{rows}</tbody></table>
<p class="smooth-soft live-how"></p></div>
<p class="live-status" role="status"></p></div>
<script type="module" src="{static}/live/live.js"></script>"""
