"""A record as a reconstruction study makes it, and one with columns that the paper has not."""

import numpy as np
import torch

from companion.evidence import records as results
from companion.evidence.records import make_record

RNG = np.random.default_rng(0)
VAE = {"mse": RNG.gamma(2, 0.005, 12), "lpips": RNG.random(12), "ssim": RNG.random(12), "psnr": RNG.normal(30, 2, 12)}
DDIM = {metric: values + 0.1 for metric, values in VAE.items()}
PAPER_ROWS = {"VAE": "VAE Reconstruction", "Base + DDIM, guidance 1": "Stable Diff. + DDIM"}


def make(rows=None, **changes):
    made = results.provenance(
        config={"num_images": 12, "seed": 0} | changes.pop("config", {}),
        models={"mini": "0123abcd"},
        data_hash="feed",
        seed=0,
        dtype=torch.float32,
        duration=61.26,
        origins=[],
    )
    arguments = {
        "table": "table2",
        "model": "the embedded model, 64x64",
        "items": [f"test-{i}" for i in range(12)],
        "rows": {"VAE": VAE, "Base + DDIM, guidance 1": DDIM, "Base + DDIM, guidance 3": {"mse": DDIM["mse"]}} if rows is None else rows,
        "paper_rows": PAPER_ROWS if rows is None else {},
        "conventions": {"mse": "images in [-1, 1]"},
        "pairs": [("VAE", "Base + DDIM, guidance 1")] if rows is None else [],
        "provenance": made,
    }
    return make_record("table2_recon", **(arguments | changes))


COLUMNS = {"cv": {"label": "CV", "direction": "down"}, "frechet_distance": {"label": "FD", "direction": "down"}}


def make_with_columns(**changes):
    rows = {"Base": {"istd": RNG.random(12), "cv": RNG.random(12)}, "Smooth": {"istd": RNG.random(12) + 5, "cv": RNG.random(12) + 5}}
    totals = {"Base": {"frechet_distance": 12.5}, "Smooth": {"frechet_distance": 13.25}}
    arguments = dict(table="table1", rows=rows, paper_rows={"Base": "Stable Diffusion"}, columns=COLUMNS, totals=totals)
    return make(**(arguments | {"pairs": [("Base", "Smooth")]} | changes))
