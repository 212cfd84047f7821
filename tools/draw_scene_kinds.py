"""Draw the data card's sheet: the first edit of each kind and the first drag, with truth and mask. `python tools/draw_scene_kinds.py`"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from companion.data.load import ScenePair, load_pairs  # noqa: E402

FILE = ROOT / "book" / "_static" / "figures" / "scene_kinds.png"
KINDS = ("replace", "add", "recolour", "ground", "setting", "style")  # of edits; the first drag follows
SIDE, GAP = 96, 4  # pixels: of a picture as it is shown, between two


def firsts() -> list[ScenePair]:
    """The first pair of each kind, in the order of the data."""
    edits, (drag, *_) = load_pairs("edits"), load_pairs("drags")
    return [*(next(pair for pair in edits if pair.record["edit"] == kind) for kind in KINDS), drag]


def sheet() -> Image.Image:
    """A column for each kind: the source above, its true edit, and the mask."""
    pairs = firsts()
    whole = Image.new("RGB", (len(pairs) * (SIDE + GAP) - GAP, 3 * (SIDE + GAP) - GAP), "#bbbbbb")
    for column, pair in enumerate(pairs):
        for row, picture in enumerate((pair.source, pair.target, np.repeat(pair.mask[..., None] * np.uint8(255), 3, axis=2))):
            shown = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            whole.paste(shown, (column * (SIDE + GAP), row * (SIDE + GAP)))
    return whole


if __name__ == "__main__":
    sheet().save(FILE, optimize=True)
