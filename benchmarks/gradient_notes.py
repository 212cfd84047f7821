"""How exact a gradient of L_reg the shipped adapters were trained with: print it, or note it in their cards.

    python -m benchmarks.gradient_notes [NAME ...]            # all that have L_reg: about twenty minutes on one core
    python -m benchmarks.gradient_notes --write [NAME ...]    # into `gradient_note` of each card

The way and its step are those of the card's settings; settings that name no step are older than the measured one and had the fixed
default of their time. The error is the relative L2 distance to double backward's gradient in float32, over 48 training images in batches of
16: for the weights that the training started from and for those that it ended with.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from companion.base import paths
from companion.base.config import OneSentenceParser
from companion.weights import pipelines as models
from companion.weights.cards import read_card, write_card
from smoothlib.regularizer.gradients import FORMER_DIFFERENCES

from .gradient_error import error, gradient_of
from .real_samples import lora_unet, real_samples

SAMPLES, BATCH = 48, 16
samples = cache(real_samples)


def settings_of(name: str) -> dict[str, Any] | None:
    """The objective's options of the adapter's training, with the step of its time; None without L_reg or on another model."""
    trainings = list(read_card(paths.ADAPTERS / name).get("training", {}).values())
    options = trainings[0]["settings"]["objective_options"] if trainings else {}
    if not options.get("regularization") or options.get("pipeline") != "mini":
        return None
    regularizer = options.get("regularizer") or {}
    gradient = regularizer.get("gradient") or ("double_backward" if regularizer.get("mode") == "official" else "central")
    former = {"difference": FORMER_DIFFERENCES[gradient]} if gradient in FORMER_DIFFERENCES else {}
    return options | {"seed": trainings[0]["settings"]["seed"], "regularizer": former | regularizer | {"gradient": gradient}}


def error_of(options: Mapping[str, Any], **weights: Any) -> dict[str, float]:
    """Error of the gradient in `lora_unet(**weights)`: of all samples and in the worst batch."""
    unet, regularizer = lora_unet(**weights), options["regularizer"]
    common = dict(batch=BATCH, guidance_scale=options.get("regularized_guidance", 1.0))
    exact = {name: value for name, value in regularizer.items() if not name.startswith("difference")} | {"gradient": "double_backward"}
    # one more exact pass for the target of L_reg, the mean of r
    r = gradient_of(exact, unet, samples(SAMPLES), None, **common).r
    wanted = gradient_of(exact, unet, samples(SAMPLES), r, **common)
    found = gradient_of(regularizer, unet, samples(SAMPLES), r, **common)
    worst = max(error(a, b) for a, b in zip(found.batches, wanted.batches, strict=True))
    return {"error": float(f"{error(found.whole, wanted.whole):.3g}"), "worst_batch": float(f"{worst:.3g}")}


def note(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`gradient_note` of a card."""
    regularizer = options["regularizer"]
    full = options["trainable"] == "unet"
    start = dict(rank=0) if full else dict(rank=options["rank"], layers=options.get("lora_layers", "attention"), seed=options["seed"])
    return {
        "gradient": regularizer["gradient"],
        "difference": regularizer.get("difference"),
        "measured": f"relative L2 error of L_reg's gradient, {SAMPLES} training images in batches of {BATCH}, float32",
        "before_training": error_of(options, **start),
        "after_training": error_of(options, adapter=name),
    }


def main() -> None:
    """Command line."""
    known = {name: settings for name in models.list_adapters() if (settings := settings_of(name)) is not None}
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--write", action="store_true", help="write the notes into the cards")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"NAME must be one of {', '.join(known)}, got {unknown[0]!r}")
    print("| Adapter | `gradient` | `difference` | Error before training | worst batch | after training | worst batch |")
    print("|---|---|---|---|---|---|---|")
    for name in options.names or known:
        found = note(name, known[name])
        errors = [f"{100 * found[when][what]:.2g} %" for when in ("before_training", "after_training") for what in ("error", "worst_batch")]
        print(f"| {name} | `{found['gradient']}` | {found['difference']} | {' | '.join(errors)} |", flush=True)
        if options.write:
            write_card(paths.ADAPTERS / name, gradient_note=found)


if __name__ == "__main__":
    main()
