"""The judge of edits on the embedded pairs: the true edit, the untouched source, and what is not known."""

import dataclasses

import pytest
import torch

from companion.data.edits import load_edits
from companion.judges.edits import CONVENTIONS, EditJudge, unasked


@pytest.fixture(scope="module")
def judge():
    return EditJudge()


@pytest.fixture(scope="module")
def items():
    """Six edits of each kind."""
    edits = load_edits()
    return [edits.item(66 * kind + i) for kind in range(6) for i in range(6)]


def test_the_true_edit_is_as_near_as_can_be_and_the_source_moves_nowhere(judge, items):
    truth = judge.values(torch.stack([item.target for item in items]), items, cell=4)
    source = judge.values(torch.stack([item.source for item in items]), items, cell=4)
    assert truth.keys() == source.keys() == CONVENTIONS.keys() and all(value.shape == (36,) for value in truth.values())
    for name, value in {"lpips": 0.0, "lpips_inside": 0.0, "ssim": 1.0, "ssim_inside": 1.0, "psnr": 100.0, "psnr_inside": 100.0}.items():
        torch.testing.assert_close(truth[name], torch.full((36,), value))
    rule = torch.tensor([not item.has_outside for item in items])
    for name, value in {"lpips_outside": 0.0, "mse_outside": 0.0, "ssim_outside": 1.0, "psnr_outside": 100.0}.items():
        assert torch.equal(source[name].isnan(), rule) and torch.equal(truth[name].isnan(), rule)
        torch.testing.assert_close(source[name][~rule], torch.full((24,), value))
    assert (source["directional_alignment"] == 0).all() and truth["directional_alignment"].mean() > 0.5
    assert truth["success"].mean() > 0.8 and source["success"].mean() < 0.1
    assert truth["text_alignment"].mean() > source["text_alignment"].mean() + 10
    assert source["unasked_kept"].mean() > 0.8 and truth["unasked_kept"].mean() > 0.8


def test_without_truth_mask_or_record_the_rest_is_still_measured(judge, items):
    bare = [dataclasses.replace(item, target=None, mask=None, source_record=None, target_record=None) for item in items[:2]]
    found = judge.values(bare[0].source.expand(2, -1, -1, -1), bare, cell=4)
    assert {name for name, value in found.items() if not value.isnan().any()} == {"text_alignment", "directional_alignment"}
    mixed = [items[0], bare[1], dataclasses.replace(items[2], mask=None)]
    found = judge.values(torch.stack([item.source for item in mixed]), mixed, cell=4)
    assert found["lpips"].isnan().tolist() == [False, True, False] and found["lpips_inside"].isnan().tolist() == [False, True, True]
    assert found["mse_outside"].isnan().tolist() == [False, True, True] and found["success"].isnan().tolist() == [False, True, False]
    with pytest.raises(ValueError, match="items has 1 entries, but must have one for each of the 2 pictures"):
        judge.values(torch.zeros(2, 3, 64, 64), items[:1], cell=4)


def test_unasked_fields_are_averaged_without_those_that_do_not_apply():
    agreeing = {name: torch.tensor([value]) for name, value in {"cls": 1.0, "colour": torch.nan, "ground": 0.0, "extra": 1.0}.items()}
    assert unasked(agreeing, ["replace"]).item() == 0.5
