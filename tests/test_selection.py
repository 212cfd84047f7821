"""Choosing images by their records: what matches is kept in order, and what cannot match is named."""

import numpy as np
import pytest

from companion.data.load import SceneSplit
from companion.data.subset import Selection, matching

RECORDS = [{"id": f"s{i}", "caption": f"caption {i}", "cls": cls, "style": style} for i, (cls, style) in enumerate(
    [("cat", "photo"), ("dog", "photo"), ("cat", "sepia"), ("car", "photo"), ("dog", "sepia")]
)]  # fmt: skip


def test_every_field_must_have_one_of_its_values():
    assert matching(RECORDS, {"cls": ["cat", "dog"]}) == [0, 1, 2, 4]
    assert matching(RECORDS, {"cls": ["cat", "dog"], "style": ["photo"]}) == [0, 1]
    assert matching(RECORDS, None) == matching(RECORDS, {}) == [0, 1, 2, 3, 4]


def test_a_selection_is_a_split():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, axis=-1)
    chosen = Selection(SceneSplit(images, RECORDS), {"style": ["sepia"]})
    assert len(chosen) == 2 and [record["id"] for record in chosen.records] == ["s2", "s4"]
    item = chosen.item(1)
    assert (item.id, item.caption) == ("s4", "caption 4") and (item.image * 127.5 + 127.5).round().unique().tolist() == [4]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"class": ["cat"]}, "only names the field 'class', but the records' fields are id, caption, cls, style"),
        ({"cls": "cat"}, "only must give 'cls' a list of values, not 'cat'"),
        ({"cls": ["cow"]}, "only is {'cls': .'cow'.}, but none of the 5 records matches"),
    ],
)
def test_what_fits_nothing_is_named(only, message):
    with pytest.raises(ValueError, match=message):
        matching(RECORDS, only)
