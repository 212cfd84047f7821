"""Interactive figures without a kernel: a walk under a slider, and a source wiped over its reconstruction.

Plain HTML with one inline script and images as data URIs: the same in the book, in JupyterLab, on Colab and in a saved page, with nothing
loaded from outside. Without scripts all images stand on the page as film strips or pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from .browser import COMPARE_SCRIPT, STYLE, WALK_SCRIPT
from .encoding import LONGEST_SIDE, film_strip, shrink
from .fitting import Markup, fitted
from .page import MAX_KB, to_pixels
from .step_curve import MAX_ROWS, sample, step_curve

Distances = Mapping[str, Sequence[float] | np.ndarray]
CV_NOTE = "CV: standard deviation of a walk's step distances over their mean; 0 is a steady walk."


@dataclass(frozen=True)
class Widget:
    """What a notebook shows: `html` where it can, `text` elsewhere."""

    html: str = field(repr=False)
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def walk_scrubber(
    walks: Sequence[Mapping[str, Any]],
    distances: Sequence[Distances],
    *,
    captions: Sequence[str],
    alt: str,
    choice: str = "Prompt",
    distance_label: str = "Step distance",
    max_size: int = 256,
    max_kb: int = MAX_KB,
) -> Widget:
    """Walks of several rows (Base, Smooth) side by side under one slider; below them their step distances d_1, ..., d_{F-1} (Sec. 4.1).

    Args:
        walks: one mapping a prompt: row label -> F images (F, 3, H, W); the same rows, F and image size everywhere, eta = 0, ..., 1.
        distances: one mapping a prompt: row label -> (F - 1,) distances of adjacent frames.
        captions: one a prompt; where there are several, the reader chooses.
        alt: what the figure shows, in a sentence.
        choice: what is chosen by caption.
        distance_label: heading of the curve: which distance, in which unit.
        max_size: larger images are shrunk to this many pixels.
        max_kb: the whole figure's size. Images are lossless where they fit, else WebP of the best quality that does, else smaller, and then
            the first of the choices alone; the note says which.

    Raises:
        ValueError: lengths, rows or shapes do not match, a distance is negative or not finite, or the images do not fit in `max_kb`.
    """
    _check_texts(alt, captions, "captions", len(walks))
    frames, rows = _check_walks(walks), list(walks[0])
    steps = _check_distances(distances, rows, len(frames[0][0]), len(walks))
    count, (height, width) = len(frames[0][0]), frames[0][0][0].shape[:2]
    cv = [{row: values.std() / values.mean() for row, values in prompt.items()} for prompt in steps]
    highest = max(values.max() for prompt in steps for values in prompt.values())

    def section(i: int, uris: Sequence[str]) -> str:
        views = "".join(
            f'<figure><figcaption>{sample(r)}{escape(row)}</figcaption><div class="smooth-view">'
            + _image(uri, f"{row}, {captions[i]}", f": {count} frames of the walk")
            + "</div></figure>"
            for r, (row, uri) in enumerate(zip(rows, uris, strict=True))
        )
        values = "".join(
            f'<li>{sample(r)}{escape(row)}: CV {cv[i][row]:.3f}, mean step {steps[i][row].mean():.3g}<span class="smooth-live">; '
            f'<span data-steps="{" ".join(f"{value:.3g}" for value in steps[i][row])}"></span></span></li>'
            for r, row in enumerate(rows)
        )
        description = f"{distance_label} over frames: " + "; ".join(f"{row} with CV {cv[i][row]:.3f}" for row in rows)
        curve = step_curve(steps[i], highest=highest, title=distance_label, description=description)
        body = f'<div class="smooth-images" style="--frames:{count}">{views}</div>{curve}<ul>{values}</ul>'
        return f'<section><p class="smooth-caption">{escape(captions[i])}</p>{body}</section>'

    def make(choices: int, size: int) -> tuple[list[np.ndarray], Markup]:
        strips = [film_strip([shrink(frame, size) for frame in walk]) for prompt in frames[:choices] for walk in prompt]

        def markup(uris: Sequence[str], encoding: str) -> str:
            slide = f'<label class="smooth-slide">Frame <input type="range" min="0" max="{count - 1}" value="0" step="1"></label>'
            chooser = _select(choice, captions[:choices])
            controls = f'<div class="smooth-live">{chooser}{slide}<div class="smooth-at" aria-hidden="true"></div></div>'
            sections = "".join(section(i, uris[i * len(rows) : (i + 1) * len(rows)]) for i in range(choices))
            note = f"{CV_NOTE} {_pixels_note(width, height, size, encoding)}{_left_out(choices, len(walks))}"
            shown, wide = strips[0].shape[1] // count, 256 if len(rows) < 3 else 192
            return _widget("smooth-walk", alt, controls + sections, note, WALK_SCRIPT, shown, wide=wide, narrow=128)

        return strips, markup

    side = min(max_size, LONGEST_SIDE // count, max(width, height))
    html, shown = fitted(make, choices=len(walks), side=side, max_kb=max_kb)
    lines = [f"  {caption}: CV " + ", ".join(f"{row} {cv[i][row]:.3f}" for row in rows) for i, caption in enumerate(captions[:shown])]
    return Widget(html, "\n".join([f"{alt} ({count} frames under a slider: open the page or the notebook in a browser)", *lines]))


def renewed(html: str) -> str:
    """A stored interactive figure with the style and script of today, which take up the markup of any day; other HTML as it is."""
    for kind, script in (("smooth-walk", WALK_SCRIPT), ("smooth-compare", COMPARE_SCRIPT)):
        start, style, body, end = f'<div class="smooth-widget {kind} ', "<style>", "</style>", "</div><script>"
        if html.startswith(start) and html.rstrip().endswith("</script>") and all(html.count(part) == 1 for part in (style, body, end)):
            before, _, rest = html.partition(style)
            markup = rest.partition(body)[2].partition(end)[0]
            return f"{before}{style}{STYLE}{body}{markup}{end}{script}</script>"
    return html


def before_after(
    pairs: Sequence[tuple[Any, Any]],
    *,
    labels: Sequence[str],
    alt: str,
    sides: tuple[str, str] = ("Source", "Reconstruction"),
    choice: str = "Image",
    max_size: int = 384,
    max_kb: int = MAX_KB,
) -> Widget:
    """Source and reconstruction on top of each other, with a slider that wipes from one to the other (Figures 4 and 9).

    Args:
        pairs: (source, reconstruction), each (3, H, W), all of the same size.
        labels: one a pair, such as its caption and score; where there are several, the reader chooses.
        alt: what the figure shows, in a sentence.
        sides: the names of the left and the right image.
        choice: what is chosen by label.
        max_size, max_kb: as for `walk_scrubber`.

    Raises:
        ValueError: lengths or shapes do not match, or the images do not fit in `max_kb`.
    """
    _check_texts(alt, labels, "labels", len(pairs))
    if len(sides) != 2 or not all(side.strip() for side in sides):
        raise ValueError(f"sides is {tuple(sides)!r}, but must be two names.")
    if wrong := next((len(pair) for pair in pairs if len(pair) != 2), None):
        raise ValueError(f"pairs has an entry of {wrong} images, but each must be (source, reconstruction).")
    images = [to_pixels(image) for pair in pairs for image in pair]
    _check_same_shape(images, "pairs")
    height, width = images[0].shape[:2]

    def section(i: int, uris: Sequence[str]) -> str:
        figures = "".join(
            f"<figure><figcaption>{escape(side)}</figcaption>{_image(uri, f'{side}: {labels[i]}')}</figure>"
            for side, uri in zip(sides, uris, strict=True)
        )
        pair = f'<div class="smooth-images smooth-pair">{figures}</div>'
        return f'<section><p class="smooth-caption">{escape(labels[i])}</p>{pair}</section>'

    def make(choices: int, size: int) -> tuple[list[np.ndarray], Markup]:
        small = [shrink(image, size) for image in images[: 2 * choices]]

        def markup(uris: Sequence[str], encoding: str) -> str:
            left, right = map(escape, sides)
            names = f'aria-label="{left} or {right}" data-left="{left}" data-right="{right}"'
            slider = f'<input type="range" min="0" max="100" value="50" step="1" {names}>'
            slide = f'<label class="smooth-slide smooth-live">{slider}</label><div class="smooth-at smooth-live" aria-hidden="true"></div>'
            sections = "".join(section(i, uris[2 * i : 2 * i + 2]) for i in range(choices))
            chooser = f'<div class="smooth-live">{_select(choice, labels[:choices])}</div>'
            note = _pixels_note(width, height, size, encoding) + _left_out(choices, len(pairs))
            return _widget("smooth-compare", alt, chooser + sections + slide, note, COMPARE_SCRIPT, small[0].shape[1], wide=320, narrow=256)

        return small, markup

    html, shown = fitted(make, choices=len(pairs), side=min(max_size, max(width, height)), max_kb=max_kb)
    lines = [f"  {label}" for label in labels[:shown]]
    return Widget(html, "\n".join([f"{alt} (a slider: open the page or the notebook in a browser)", *lines]))


def _check_texts(alt: str, texts: Sequence[str], name: str, expected: int) -> None:
    if not alt.strip():
        raise ValueError("alt is empty, but must say what the figure shows.")
    if not expected or len(texts) != expected:
        raise ValueError(f"{name} has {len(texts)} entries for {expected} choices, but must have one for each of at least one.")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{name} has an entry without text, but each must name what is shown.")


def _check_walks(walks: Sequence[Mapping[str, Any]]) -> list[list[list[np.ndarray]]]:
    """Prompt, row, frame -> (H, W, 3) uint8."""
    rows = list(walks[0])
    if not 1 <= len(rows) <= MAX_ROWS:
        raise ValueError(f"walks has {len(rows)} rows, but must have from 1 to {MAX_ROWS}.")
    if other := next((list(walk) for walk in walks if list(walk) != rows), None):
        raise ValueError(f"walks has the rows {other} for one prompt and {rows} for the first, but must have the same for all.")
    frames = [[[to_pixels(frame) for frame in walk[row]] for row in rows] for walk in walks]
    counts = sorted({len(walk) for prompt in frames for walk in prompt})
    if len(counts) != 1 or counts[0] < 3:
        raise ValueError(f"walks has walks of {counts} frames, but all must have the same number, at least 3.")
    _check_same_shape([frame for prompt in frames for walk in prompt for frame in walk], "walks")
    return frames


def _check_distances(distances: Sequence[Distances], rows: list[str], count: int, prompts: int) -> list[dict[str, np.ndarray]]:
    if len(distances) != prompts or any(set(found) != set(rows) for found in distances):
        raise ValueError(f"distances is for {len(distances)} prompts, but must have the rows {rows} for each of {prompts}.")
    steps = [{row: np.asarray(found[row], dtype=float) for row in rows} for found in distances]
    for values in (values for found in steps for values in found.values()):
        if values.shape != (count - 1,) or not np.isfinite(values).all() or (values < 0).any() or not values.any():
            raise ValueError(
                f"distances has the values {values.tolist()}, but must have {count - 1} a walk, finite, none negative, not all 0."
            )
    return steps


def _check_same_shape(images: Sequence[np.ndarray], name: str) -> None:
    if len(shapes := sorted({image.shape for image in images})) != 1:
        raise ValueError(
            f"{name} has images of {len(shapes)} sizes, {shapes[0][:2]} and {shapes[1][:2]} among them, but all must have one size."
        )


def _image(uri: str, alt: str, more: str = "") -> str:
    return f'<img class="dark-light" src="{uri}" alt="{escape(alt + more)}" data-alt="{escape(alt)}">'


def _select(choice: str, texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return ""
    options = "".join(f"<option>{escape(text)}</option>" for text in texts)
    return f"<label>{escape(choice)} <select>{options}</select></label>"


def _pixels_note(width: int, height: int, max_size: int, encoding: str) -> str:
    shrunk = f", shrunk to {max_size}" if max(width, height) > max_size else ""
    return f"Images: {width} x {height} pixels{shrunk}; {encoding}."


def _left_out(shown: int, count: int) -> str:
    return "" if shown == count else f" The first {shown} of {count}: the others would make the page too large."


def _widget(kind: str, alt: str, body: str, note: str, script: str, shown: int, *, wide: int, narrow: int) -> str:
    """The whole figure. Images of `shown` pixels are enlarged by the whole factor that comes nearest to `wide` (`narrow` on a phone)."""
    wide, narrow = (shown * max(1, round(target / shown)) if shown <= target else min(shown, 2 * target) for target in (wide, narrow))
    classes = f"smooth-widget {kind} dark-light" + (" smooth-pixels" if shown < wide else "")
    style = f'style="--wide:{wide}px;--narrow:{narrow}px"'
    start = f'<div class="{classes}" role="group" aria-label="{escape(alt)}" {style}><style>{STYLE}</style>'
    return f'{start}{body}<p class="smooth-note">{escape(note)}</p></div><script>{script}</script>'
