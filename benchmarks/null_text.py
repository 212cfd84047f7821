"""Null-text inversion of a batch against one image at a time: `python -m benchmarks.null_text [--images 8] [--steps 10]`.

Both ways find the same embeddings (see tests/test_inversion.py); what differs is the time.
"""

import time

import torch

from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from companion.data import load as datasets
from companion.weights import pipelines as models
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.sampling import encode_images, encode_prompts


def seconds_for(pipe, items, batch_size: int, steps: int, guidance_scale: float) -> tuple[float, int]:
    """Seconds to invert all items in batches of `batch_size`, and the optimiser steps taken in all."""
    started, inner_steps = time.perf_counter(), 0
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        embeds = encode_prompts(pipe, [item.caption for item in batch])
        pivots = ddim_invert(pipe, encode_images(pipe, torch.stack([item.image for item in batch])), embeds, num_inference_steps=steps)
        inner_steps += int(null_text_inversion(pipe, pivots, embeds, guidance_scale=guidance_scale).inner_steps.sum())
    return time.perf_counter() - started, inner_steps


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    pipe = models.load_pipeline(arguments.model)
    items = datasets.load_items(limit=arguments.images)
    guidance_scale = models.default_guidance_scale(arguments.model)
    host = machine()
    print(f"{host['name']}, {host['threads']} threads; {arguments.images} images, {arguments.steps} steps, guidance {guidance_scale:g}")
    best: dict[int, float] = {}
    for _ in range(arguments.repeats):
        for batch_size in (1, arguments.images):  # alternated, so that a slow moment hits both
            seconds, inner_steps = seconds_for(pipe, items, batch_size, arguments.steps, guidance_scale)
            best[batch_size] = min(best.get(batch_size, seconds), seconds)
            print(f"batch {batch_size:3d}: {arguments.images / seconds:.3f} images/s, {inner_steps} optimiser steps")
    print(f"batched / one at a time: {best[1] / best[arguments.images]:.2f}x images per second")


if __name__ == "__main__":
    main()
