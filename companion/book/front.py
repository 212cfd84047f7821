"""The pictures that a reader sees first: two walks above the bars of their steps, and a walk under two sliders."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .encoding import data_uris, film_strip
from .fitting import NOTE_LENGTH
from .interactive import Widget
from .page import COLOURS, MAX_KB, PageFigure, to_pixels
from .theme import THEME

Walk = Sequence[Any] | np.ndarray  # (F, 3, H, W)

HERO_STYLE = """
.smooth-hero{padding:.4em}
.smooth-hero figure{margin:0 0 .6em}.smooth-hero figcaption{font-weight:600;text-align:left;margin:0;color:inherit;font-size:14px}
.smooth-hero img{display:block!important;width:100%!important;height:auto!important;margin:0!important;border-radius:0!important;
filter:none!important;background:#fff!important}
.smooth-bars{display:flex;height:110px;align-items:flex-end;border-bottom:1px solid var(--line);padding:0 calc(50%/var(--frames))}
.smooth-bars span{flex:1;display:flex;align-items:flex-end;justify-content:center;height:100%;gap:2px}
.smooth-bars i{width:min(34%,26px);height:calc(var(--h)*1%);background:var(--s0)}
.smooth-bars i+i{background:repeating-linear-gradient(45deg,var(--s1) 0 5px,var(--ground) 5px 7px);border:1px solid var(--s1)}
.smooth-key i{display:inline-block;width:14px;height:12px;margin:0 .3em 0 0;background:var(--s0);vertical-align:-1px}
.smooth-key b i{background:repeating-linear-gradient(45deg,var(--s1) 0 5px,var(--ground) 5px 7px);border:1px solid var(--s1)}
.smooth-key b{font-weight:400;margin-left:1em}
"""

EXPLORE_STYLE = """
.smooth-explore .smooth-stage{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-end}
.smooth-explore .smooth-view{overflow:hidden;flex:none;border:1px solid var(--line)}
.smooth-explore.smooth-on .smooth-view{width:194px;height:194px}
.smooth-explore img{display:block!important;margin:0!important;border-radius:0!important;filter:none!important;background:#fff!important;
width:100%!important;max-width:none!important;height:auto!important;image-rendering:pixelated}
.smooth-explore.smooth-on img{width:calc(192px*var(--frames))!important}
.smooth-explore .smooth-bars{flex:1 1 200px;height:194px;min-width:180px;padding:0}
.smooth-explore .smooth-bars i{width:70%;background:var(--s0);opacity:.55}
.smooth-explore .smooth-bars i.smooth-now{opacity:1;outline:2px solid var(--ink)}
.smooth-explore label{display:flex;flex-wrap:wrap;gap:.1em .8em;align-items:center;margin:.3em 0}
.smooth-explore label>b{flex:0 0 11em;font-weight:400}
.smooth-explore input{flex:1 1 10em;min-width:0;accent-color:var(--s0)}
.smooth-explore select{max-width:100%}
.smooth-explore .smooth-at{min-height:1.4em;font-variant-numeric:tabular-nums}
"""
EXPLORE_SCRIPT = """(function(){document.querySelectorAll('.smooth-explore:not(.smooth-on)').forEach(function(root){
var select=root.querySelector('select'),sections=Array.from(root.querySelectorAll('section')),
inputs=Array.from(root.querySelectorAll('input')),place=inputs[0],strength=inputs[1],at=root.querySelector('.smooth-at');
function show(){var k=+place.value,s=+strength.value,last=+place.max,names=strength.dataset.names.split(' ');
var where='picture '+(k+1)+' of '+(last+1),much='strength '+names[s];
place.setAttribute('aria-valuetext',where);strength.setAttribute('aria-valuetext',much);
sections.forEach(function(p,i){p.hidden=i!==select.selectedIndex;
var image=p.querySelector('img');image.style.transform='translate('+-100*k/(last+1)+'%,'+-100*s/names.length+'%)';
image.alt=image.dataset.alt+', '+where+', '+much;
var steps=p.dataset.steps.split(';')[s].split(' ').map(Number),top=+p.dataset.top;
Array.from(p.querySelectorAll('.smooth-bars i')).forEach(function(bar,j){bar.style.setProperty('--h',100*steps[j]/top);
bar.classList.toggle('smooth-now',j===k-1)});
if(!p.hidden)at.textContent=where+', '+much+': '+(k?'the step to this picture changed it by '+steps[k-1].toFixed(1):'the first picture')+
'; largest step '+Math.max.apply(null,steps).toFixed(1)})}
inputs.forEach(function(i){i.addEventListener('input',show)});
select.addEventListener('change',function(){place.value=sections[select.selectedIndex].dataset.start;show()});
root.classList.add('smooth-on');show()})})();"""


def hero(walks: Mapping[str, Walk], steps: Mapping[str, np.ndarray], *, caption: str, note: str, max_kb: int = MAX_KB) -> Widget:
    """Two walks, one above the other, and the bars of their steps.

    Args:
        walks: row label -> F images (F, 3, H, W), two rows.
        steps: row label -> (F - 1,) distances of neighbouring images.
        caption: the prompt, and how it was chosen. note: in which unit steps are, and how the pictures are scaled.

    Raises:
        ValueError: not two rows, or numbers of images and of steps that do not match.
    """
    frames = _checked(walks, steps)
    count = len(next(iter(frames.values())))
    uris, encoding = data_uris([film_strip(walk) for walk in frames.values()], max_bytes=max_kb * 1000 - 6000)
    of = f"{count} pictures of one walk"
    figures = "".join(
        f'<figure><figcaption>{escape(row)}</figcaption><img class="dark-light" src="{uri}" alt="{escape(row)}: {of}"></figure>'
        for row, uri in zip(walks, uris, strict=True)
    )
    top = max(float(np.max(values)) for values in steps.values())
    pairs = zip(*steps.values(), strict=True)
    bars = "".join(
        f'<span><i style="--h:{100 * a / top:.1f}" title="{a:.1f}"></i><i style="--h:{100 * b / top:.1f}" title="{b:.1f}"></i></span>'
        for a, b in pairs
    )
    first, second = map(escape, walks)
    said = "; ".join(f"{row} {' '.join(f'{value:.1f}' for value in values)}" for row, values in steps.items())
    html = (
        f'<div class="smooth-hero smooth-theme" style="--frames:{count}"><style>{THEME}{HERO_STYLE}</style>'
        f'<p>{escape(caption)}</p>{figures}<p class="smooth-key"><i></i>{first}<b><i></i>{second}</b>: change at each step</p>'
        f'<div class="smooth-bars" role="img" aria-label="Steps: {escape(said)}">{bars}</div>'
        f'<p class="smooth-soft">{escape(note)} {escape(encoding)}.</p></div>'
    )
    return Widget(html, f"{caption}\n  steps: {said}")


def preview(walks: Mapping[str, Walk], steps: Mapping[str, np.ndarray], *, title: str) -> Figure:
    """The same as a picture of 1200 x 630 pixels, which others show where a page of the book is linked."""
    frames = _checked(walks, steps)
    figure = PageFigure(figsize=(12, 6.3), dpi=100, facecolor="white")
    figure.text(0.5, 0.95, title, ha="center", va="center", fontsize=24)
    for k, (row, walk) in enumerate(frames.items()):
        axes = figure.add_axes((0.04, 0.62 - 0.3 * k, 0.92, 0.26))
        axes.set_axis_off()
        axes.imshow(film_strip(walk), interpolation="antialiased")
        axes.set_title(row, fontsize=17, pad=5)
    axes = figure.add_axes((0.12, 0.07, 0.76, 0.2))
    places = np.arange(len(next(iter(steps.values()))))
    for k, (row, values) in enumerate(steps.items()):
        axes.bar(places + 0.36 * k, values, 0.34, color=COLOURS[k], hatch="//" * k, edgecolor="white", label=row)
    axes.set_xticks([])
    axes.set_ylabel("change", fontsize=15)
    axes.legend(fontsize=14, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def strength_explorer(
    prompts: Sequence[Mapping[str, Any]], *, strengths: Sequence[float], alt: str, note: str, max_kb: int = MAX_KB
) -> Widget:
    """A walk under two sliders: where on the walk, and how strong the adapter is; beside the picture the bars of all steps.

    Args:
        prompts: mappings with `caption`, `walks` (one walk (F, 3, H, W) a strength) and `steps` ((S, F - 1)).
        strengths: scale of the adapter, S numbers, the first 0: the model without it.

    Raises:
        ValueError: shapes that do not match, or too many pictures for `max_kb`.
    """
    sheets, tops, count = [], [], len(prompts[0]["walks"][0])
    for prompt in prompts:
        steps = np.asarray(prompt["steps"], dtype=float)
        if steps.shape != (len(strengths), count - 1) or [len(walk) for walk in prompt["walks"]] != [count] * len(strengths):
            raise ValueError(f"prompts has steps of shape {steps.shape}, but must have {(len(strengths), count - 1)} and as many walks.")
        sheets.append(np.concatenate([film_strip([to_pixels(image) for image in walk]) for walk in prompt["walks"]], axis=0))
        tops.append(float(steps.max()))
    names = " ".join(f"{value:.0%}".replace("%", "\u202f%") for value in strengths)
    starts = [int(np.argmax(np.asarray(prompt["steps"])[0])) for prompt in prompts]  # the next step is the base model's largest jump

    def section(i: int, uri: str) -> str:
        steps = np.asarray(prompts[i]["steps"], dtype=float)
        rows = ";".join(" ".join(f"{value:.2f}" for value in row) for row in steps)
        bars = "".join(f'<span><i style="--h:{100 * value / tops[i]:.1f}"></i></span>' for value in steps[0])
        described = f"{prompts[i]['caption']}: {len(strengths)} walks of {count} pictures"
        image = f'<img class="dark-light" src="{uri}" alt="{escape(described)}" data-alt="{escape(prompts[i]["caption"])}">'
        return (
            f'<section data-steps="{rows}" data-top="{tops[i]:.2f}" data-start="{starts[i]}" style="--frames:{count}">'
            f'<div class="smooth-stage"><figure class="smooth-view">{image}</figure>'
            f'<div class="smooth-bars smooth-live" role="img" aria-label="Bars of the walk\'s steps">{bars}</div></div></section>'
        )

    def markup(uris: Sequence[str], encoding: str) -> str:
        options = "".join(f"<option>{escape(prompt['caption'])}</option>" for prompt in prompts)
        start = f'min="0" max="{count - 1}" value="{starts[0]}" step="1"'
        much = f'min="0" max="{len(strengths) - 1}" value="0" step="1" data-names="{names}"'
        sliders = (
            f'<label><b>Move the noise</b><input type="range" {start}></label>'
            f'<label><b>Strength of the LoRA</b><input type="range" {much}></label>'
        )
        style = f"<style>{THEME}{HERO_STYLE}{EXPLORE_STYLE}</style>"
        sections = "".join(section(i, uri) for i, uri in enumerate(uris))
        return (
            f'<div class="smooth-explore smooth-theme" role="group" aria-label="{escape(alt)}">{style}'
            f'<div class="smooth-live"><label><b>Prompt</b><select>{options}</select></label>{sliders}'
            f'<div class="smooth-at" aria-hidden="true"></div></div>{sections}<p class="smooth-soft">{escape(note)} {escape(encoding)}.</p>'
            f"</div><script>{EXPLORE_SCRIPT}</script>"
        )

    rest = len(markup([""] * len(prompts), "").encode()) + NOTE_LENGTH
    uris, encoding = data_uris(sheets, max_bytes=max_kb * 1000 - rest)
    lines = [f"  {prompt['caption']}: largest step " + ", ".join(f"{max(s):.1f}" for s in prompt["steps"]) for prompt in prompts]
    return Widget(markup(uris, encoding), "\n".join([alt, *lines]))


def _checked(walks: Mapping[str, Walk], steps: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    frames = {row: [to_pixels(image) for image in walk] for row, walk in walks.items()}
    counts = {len(walk) for walk in frames.values()} | {len(values) + 1 for values in steps.values()}
    if len(frames) != 2 or list(steps) != list(walks) or len(counts) != 1:
        raise ValueError(f"walks has the rows {list(walks)} and steps {list(steps)}, but must have two rows of one length.")
    return frames
