"""What the tests of single editing methods share: smooth pictures, prompts, and the claims that every method is held to."""

import pytest
import torch
from tiny import IMAGE_SIZE, assert_one_sentence, counted_calls, noise

SOURCES, TARGETS = ["a red car", "a dog", "two cats"], ["a red dog", "a cat", "two red cats"]


def pictures(count=3, size=IMAGE_SIZE, dtype=torch.float32):
    """(B, 3, size, size) in [-1, 1]: gentle gradients, as an autoencoder can hold them."""
    coarse = torch.nn.functional.interpolate(noise(count, 3, 3, 3, seed=5, dtype=dtype), size=size, mode="bicubic")
    return coarse.clamp(-1, 1)


def seeded(count, first=0):
    """A generator for each image."""
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def assert_batch_equals_one_at_a_time(edit, *, tolerance):
    """`edit(slice)` -> Edited of those images; the largest difference."""
    together = edit(slice(None)).latents
    alone = torch.cat([edit(slice(i, i + 1)).latents for i in range(len(together))])
    torch.testing.assert_close(together, alone, rtol=0, atol=tolerance)
    assert (together[0] - together[1]).abs().max() > 0.1  # they are not one picture


def assert_refused(pipe, run, match):
    """`run()` raises one sentence before the UNet is called."""
    with counted_calls(pipe) as calls, pytest.raises(ValueError, match=match) as raised:
        run()
    assert calls == []
    assert_one_sentence(raised)


def fail_at(unet, monkeypatch, call):
    """The UNet's forward raises at its call number `call`, counted from 0."""
    forward, made = unet.forward, []

    def failing(*arguments, **named):
        made.append(1)
        if len(made) > call:
            raise KeyboardInterrupt
        return forward(*arguments, **named)

    monkeypatch.setattr(unet, "forward", failing)
