"""Edits a minute, batched against one at a time: `python -m benchmarks.editing [--edits 6] [--steps 10] [--methods sdedit edict]`.

Every method edits the same pairs of the embedded data with its published settings, its inversion included. Both ways give the same pictures
(see tests/test_edit_*.py); what differs is the time.
"""

import argparse
import time

from companion.base.machine import machine
from companion.data.edits import load_edits
from companion.studies.editing.methods import PLANS, Entry, Recipe
from companion.studies.editing.run import Editing
from companion.studies.editing.scores import EditJudges
from companion.studies.editing.study import pairs_of
from companion.weights.pipelines import default_guidance_scale, load_pipeline

STRENGTH = 0.8  # at which most methods are published; see `companion.studies.editing.methods`


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=6, help="pairs; the batch is of as many")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=tuple(PLANS), default=list(PLANS))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    pipe = load_pipeline("mini").to(arguments.device)
    judges = EditJudges("packaged", arguments.device, pipe.vae_scale_factor)
    pairs = pairs_of(load_edits(size="mini"), "odd", -(-arguments.edits // 6), 0)[: arguments.edits]
    recipe = Recipe(default_guidance_scale("mini"), arguments.steps, arguments.steps)
    host = machine()
    print(f"{host['name']}, {host['threads']} threads; {len(pairs)} edits, {arguments.steps} steps; an edit's measures are included")
    for method in arguments.methods:
        entry = Entry(method, "own" if PLANS[method].own else "null_text")
        edit = recipe.edit(entry, STRENGTH if STRENGTH in entry.plan.strengths else 1.0)
        rates = {}
        for batch_size in (len(pairs), 1):
            started = time.perf_counter()
            for start in range(0, len(pairs), batch_size):
                found = Editing(pipe, edit, judges)(pairs[start : start + batch_size])
            rates[batch_size] = 60 * len(pairs) / (time.perf_counter() - started)
        batched, alone = rates[len(pairs)], rates[1]
        cost = f"{found[0]['evaluations']:.0f} evaluations an edit"
        print(f"{entry.title}: {cost}; a minute: {batched:.1f} in a batch, {alone:.1f} one at a time, ratio {batched / alone:.2f}")


if __name__ == "__main__":
    main()
