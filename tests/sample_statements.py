"""Records of which every mean is known, and statements about their rows."""

import numpy as np

from companion.evidence import records as results
from companion.evidence.statements import Statement
from companion.evidence.weighing import weigh

N = 20
NOISE = np.random.default_rng(0).normal(0, 0.05, N)
COLUMNS = {
    "cv": {"label": "CV", "direction": "down"},
    "lpips_cv": {"label": "LPIPS CV", "direction": "down"},
    "mean_step": {"label": "Mean step", "direction": "none"},
    "frechet_distance": {"label": "FD", "direction": "down"},
    "scene_alignment": {"label": "Alignment", "direction": "up"},
}


def values(mean, shift=0):
    return mean + np.roll(NOISE, shift) - NOISE.mean()


def record(rows, *, name="table1_istd", table="table1", totals=None, seeds=None, pairs=(), model="mini, 64 x 64"):
    """rows: label -> metric -> mean; every item's value is that mean and a little noise, other noise in other rows."""
    made = {
        label: {m: values(mean, i + j) for j, (m, mean) in enumerate(metrics.items())} for i, (label, metrics) in enumerate(rows.items())
    }
    return results.make_record(
        name,
        table=table,
        model=model,
        items=[str(i) for i in range(N)],
        rows=made,
        pairs=pairs,
        columns=COLUMNS if table else None,
        totals=totals,
        facts={"training_seeds": seeds} if seeds else None,
        provenance={"modules": {}},
    )


def image_values(mean, noise, seed, n=400):
    """A number of a whole set as a record holds it: what each of n images contributes has this standard deviation around the mean."""
    contributed = np.random.default_rng(seed).normal(0, noise, n)
    return {"mean": float(mean), "n": n, "image_values": (mean + contributed - contributed.mean()).tolist()}


def one(statement, found):
    (evidence,) = weigh(statement, found)
    return evidence


def paired(*rows, direction="lower", metric="istd", kind="paired", margin=None):
    return Statement("table1_istd", kind, metric, rows, direction, margin)
