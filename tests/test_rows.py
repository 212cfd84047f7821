"""Rows: the pipeline behind each, whatever table asks."""

import pytest
import torch
from tiny import generate

from smoothlib import models
from smoothlib.rows import load_row


def test_a_rows_lora_is_part_of_its_weights():
    beside = models.load_pipeline("mini", adapter="smooth")
    pipe, weights = load_row("mini", "smooth")
    base, lora = models.load_pipeline("mini").unet, beside.unet.mid_block.resnets[0].conv1
    assert pipe.unet.state_dict().keys() == base.state_dict().keys()
    wanted = base.mid_block.resnets[0].conv1.weight + lora.get_delta_weight("smooth")
    torch.testing.assert_close(pipe.unet.mid_block.resnets[0].conv1.weight, wanted)
    torch.testing.assert_close(generate(pipe), generate(beside), atol=1e-4, rtol=1e-4)
    assert weights == models.fingerprint(pipe) != models.fingerprint(beside)  # other arithmetic, other key


@pytest.mark.parametrize("adapter", [None, "full"])
def test_rows_without_a_lora_compute_with_the_weights_as_they_are(adapter):
    pipe, weights = load_row("mini", adapter)
    assert weights == models.fingerprint(models.load_pipeline("mini", adapter=adapter)) == models.fingerprint(pipe)
