"""The rules choose in Stable Diffusion 1.5 what was published for it, and their counterparts in smaller UNets."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny import tiny_unet

from companion.weights.pipelines import load_pipeline
from smoothlib.editing.layers import CHOICES, coarse_self, layer_table


@pytest.fixture(scope="module")
def sd():
    """Stable Diffusion 1.5's UNet without storage: diffusers' defaults are its architecture."""
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)


def test_what_was_published_is_what_the_rules_choose(sd):
    rows = layer_table(sd)
    assert len(rows) == len(CHOICES) == 8
    assert [row["here"] for row in rows] == [row["published"] for row in rows]


def test_the_embedded_models_counterparts():
    here = [row["here"] for row in layer_table(load_pipeline("mini").unet)]
    assert here == [
        "all cross-attentions",
        "down_blocks[1], mid_block, up_blocks[1]",
        "down_blocks[1], up_blocks[1]",
        "up_blocks[1].resnets[1]",
        "up_blocks[1].attentions[1], up_blocks[2]",
        "all cross-attentions",
        "up_blocks[1]",
        "up_blocks[2]",
    ]


def test_other_unets_have_counterparts_too():
    rows = layer_table(tiny_unet())
    assert [row["here"] for row in rows][1:5] == [
        "down_blocks[0], mid_block, up_blocks[1]", "down_blocks[0], up_blocks[1]", "up_blocks[1].resnets[1]", "up_blocks[1].attentions[1]"
    ]  # fmt: skip


@pytest.mark.parametrize(("side", "factors"), [(None, {4, 8}), (1 / 4, {4, 8}), (1 / 8, {8}), (1, {1, 2, 4, 8}), (0, set())])
def test_coarse_is_a_share_of_the_latents_side(sd, side, factors):
    assert {site.factor for site in coarse_self(sd, side)} == factors
    assert all(site.kind == "self" for site in coarse_self(sd, side))
