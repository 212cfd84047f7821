"""Colours of plots that are drawn in the page itself: a light and a dark variant, chosen by the page's mode.

Plots take the variant of the page; pictures never do: their pixels are the result. Where a page has no mode (JupyterLab, Colab, a saved
page) the light variant is shown on a ground of its own.
"""

VERDICTS = {  # outcome -> sign, light colour, dark colour: told apart without colour, too
    "reproduced": ("✓", "#005a8f", "#6cc0f0"),
    "not reproduced": ("✗", "#a33c00", "#ff9d66"),
    "inconclusive": ("?", "#595959", "#bdbdbd"),
    "not measured yet": ("○", "#595959", "#bdbdbd"),
    "checked as mathematics": ("∴", "#00684c", "#4fd0a5"),
    "not testable here": ("–", "#595959", "#bdbdbd"),
}
SERIES = (  # light, dark, marker
    ("#0072b2", "#56b4e9", "circle"),
    ("#c24f00", "#ff9d66", "diamond"),
    ("#007a5a", "#4fd0a5", "triangle"),
    ("#a8467f", "#f0a3d0", "square"),
    ("#7a5c00", "#e6c34d", "cross"),
    ("#4d4d4d", "#d0d0d0", "plus"),
    ("#3b3b9e", "#a9a9ff", "down"),
)

_LIGHT = ["--ground:#fff", "--ink:#1b1b1b", "--soft:#595959", "--line:#767676", "--grid:#e3e3e3"]
_DARK = ["--ground:#14181e", "--ink:#e6e6e6", "--soft:#b8b8b8", "--line:#8c8c8c", "--grid:#333a44"]


def _slug(outcome: str) -> str:
    return outcome.replace(" ", "-")


def _variables(base: list[str], which: int) -> str:
    colours = [f"--v-{_slug(outcome)}:{entry[1 + which]}" for outcome, entry in VERDICTS.items()]
    return ";".join([*base, *colours, *(f"--s{i}:{entry[which]}" for i, entry in enumerate(SERIES))])


THEME = f"""
.smooth-theme{{{_variables(_LIGHT, 0)};background:var(--ground);color:var(--ink);font:14px/1.4 system-ui,sans-serif;
border:1px solid var(--line);border-radius:4px;padding:.8em;box-sizing:border-box;max-width:100%;margin:0 0 1em}}
html[data-theme="dark"] .smooth-theme{{{_variables(_DARK, 1)}}}
.smooth-theme *{{box-sizing:border-box}}
.smooth-theme p,.smooth-theme ul,.smooth-theme figure{{margin:.4em 0;padding:0;color:inherit;font-size:inherit;text-align:left}}
.smooth-theme svg{{display:block;font:12px system-ui,sans-serif;fill:var(--ink);overflow:visible}}
.smooth-theme .smooth-soft{{color:var(--soft);font-size:12px}}
.smooth-theme a{{color:inherit}}
.smooth-theme button,.smooth-theme select{{font:inherit;color:var(--ink);background:var(--ground);border:1px solid var(--line);
border-radius:3px;padding:.15em .5em;margin:.15em .2em .15em 0;cursor:pointer}}
.smooth-theme button[aria-pressed=true]{{background:var(--ink);color:var(--ground)}}
.smooth-theme :focus-visible{{outline:3px solid var(--s0);outline-offset:2px}}
.smooth-theme [hidden],.smooth-theme:not(.smooth-on) .smooth-live{{display:none!important}}
.smooth-theme .smooth-narrow{{display:none}}
@media(max-width:600px){{.smooth-theme .smooth-narrow{{display:block}}.smooth-theme .smooth-wide{{display:none}}}}
@media print{{html .smooth-theme{{{_variables(_LIGHT, 0)}}}}}
"""


def colour(outcome: str) -> str:
    """The CSS colour of a verdict."""
    return f"var(--v-{_slug(outcome)})"
