"""What a page carries of a widget before anyone asks for it: a sentence and a button. All else is loaded when the button is pressed."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from .export import WITHOUT, loaded_bytes

FAILED = "The model needs a page that comes from a server, such as that of python -m http.server; this one could not load its scripts."


@dataclass(frozen=True)
class LiveWidget:
    """A widget's name for those who listen, what it invites to, and the networks that it loads; its script is live/NAME.js."""

    label: str
    invitation: str
    parts: tuple[str, ...] = ("unet", "decoder", "text")


WIDGETS = {
    "walk": LiveWidget(
        "A walk that the model makes in your browser",
        "Move between two noises: your device makes each picture.",
    ),
    "smoothness": LiveWidget(
        "One walk at every strength of the LoRA, made in your browser",
        "Turn up the Smooth-LoRA on one walk, from 0 to 1.5: your own device makes the pictures and measures what that buys and costs.",
    ),
    "nudge": LiveWidget(
        "Nudges around one noise, made in your browser",
        "Point where the noise goes: your device makes that picture, and measures the change.",
    ),
    "edit": LiveWidget(
        "A picture inverted and edited in your browser",
        "Take a test scene or a picture of your own, and switch a word of its caption: your own device inverts the picture, brings it "
        "back, and edits it.",
        ("unet", "decoder", "text", "encoder"),
    ),
}


def launcher(name: str, manifest: Mapping[str, Any] | None, static: str) -> str:
    """The widget `name` of WIDGETS before it is loaded, or the sentence that it is not there.

    Args:
        manifest: that of `export.export`; None where the extra is not installed.
        static: the path from the page to the folder `_static`.

    Raises:
        ValueError: no such widget.
    """
    if name not in WIDGETS:
        raise ValueError(f"live is {name!r}, but must be one of {', '.join(WIDGETS)}")
    if manifest is None:
        return f'<p class="live-without">{WITHOUT}</p>'
    widget = WIDGETS[name]
    failed = f"this.closest('.live-widget').querySelector('.live-status').textContent='{FAILED}'"
    begin = f"import('{escape(static)}/live/live.js').then(l=>l.begin(this),()=>{{{failed}}})"
    size = loaded_bytes(manifest, widget.parts) / 1e6
    return (
        f'<div class="live-widget" data-live="{name}" data-parts="{" ".join(widget.parts)}" '
        f'role="group" aria-label="{escape(widget.label)}">'
        f"<p>{escape(widget.invitation)} Nothing is sent.</p>"
        f'<p><button type="button" class="live-load" onclick="{begin}">Load the model, {size:.0f} MB</button></p>'
        '<noscript>It needs JavaScript.</noscript><p class="live-status" role="status"></p></div>'
    )
