"""The data card's sheet is drawn from the data that ship: the first pair of each kind, with its own truth and mask."""

import runpy

import numpy as np
from PIL import Image

from companion.base.paths import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "draw_scene_kinds.py"))


def test_the_stored_sheet_is_what_the_tool_draws():
    assert np.array_equal(np.asarray(Image.open(TOOL["FILE"]).convert("RGB")), np.asarray(TOOL["sheet"]()))


def test_each_column_is_the_first_pair_of_its_kind():
    pairs = TOOL["firsts"]()
    assert [pair.record["id"] for pair in pairs] == [*(f"{kind}-000" for kind in TOOL["KINDS"]), "drag-000"]
    assert all((pair.source != pair.target).any() for pair in pairs)
