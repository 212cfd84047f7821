"""Write what was measured between the markers of README.md: `make readme`.

`<!-- claims --> ... <!-- /claims -->` holds the verdicts on the paper's claims, `<!-- table2 --> ... <!-- /table2 -->` Table 2, both from
data/results, `<!-- mini --> ... <!-- /mini -->` the quality of the embedded model from its card.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from companion.base import paths
from companion.evidence import records as results
from companion.evidence.claims import CHECKED, ClaimsTable, Verdict, evaluate
from companion.evidence.tables import markdown_table
from companion.evidence.weighing import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED
from companion.weights.cards import read_card

README = paths.ROOT / "README.md"
LABELS = {  # metric of the card -> what it says, its format
    "cls_agreement": ("generated images that show the caption's class", ".3f"),
    "ground_agreement": ("... the caption's ground", ".3f"),
    "setting_agreement": ("... the caption's setting", ".3f"),
    "frechet_distance": ("Fréchet distance of generated to real images (MobileNetV2 features, not FID)", ".1f"),
    "frechet_distance_reconstructions": ("... of the autoencoder's reconstructions to real images", ".1f"),
    "frechet_distance_real_vs_real": ("... of real to real images, as many", ".1f"),
    "vae_psnr": ("autoencoder alone: PSNR in dB", ".2f"),
    "vae_ssim": ("... SSIM", ".4f"),
    "vae_lpips": ("... LPIPS, which its decoder was trained on", ".4f"),
    "vae_mse": ("... MSE on [-1, 1]", ".4f"),
}


def claims(verdicts: Sequence[Verdict]) -> str:
    """How many claims have which verdict, and those that are decided or open, each with a figure that decides it and what its rows are."""
    decided = [one for one in verdicts if one.outcome in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, CHECKED)]
    rows = [("Claim", "In the paper", "Verdict", "A figure that decides it, and what was measured")]
    rows += [(one.claim.claim, one.claim.where, one.text, " ".join([one.deciding_figure, *one.measured_on])) for one in decided]
    return f"{ClaimsTable(verdicts).counts()}\n\n{markdown_table(rows) if decided else 'Nothing is recorded yet.'}"


def table2(record: Mapping[str, Any]) -> str:
    """The paper's rows of Table 2 with the recorded ones under them, and what both were measured on."""
    table = results.comparison_table("table2", recorded=record)
    settings, made = record["provenance"]["config"], record["provenance"]["date"][:10]
    return (
        f"*Paper*: {table.paper.model}; {table.paper.items}. *Recorded*: {record['model']}; n = {len(record['items'])} images "
        f"of {settings['dataset']}/{settings['split']}, {settings['num_inference_steps']} DDIM steps, mean [95 % interval], {made}.\n\n"
        f"{table.markdown()}"
    )


def model_quality(card: Mapping[str, Any]) -> str:
    """The figures in the card of a model as a table; the card's `status`, if it has one, above."""
    metrics = dict(card.get("metrics") or {})
    status = f"Status of the weights: {card['status']}.\n\n" if card.get("status") else ""
    if not metrics:
        return f"{status}These weights are not measured yet."
    lines = [f"| on {metrics.pop('n')} test captions, guidance {card['guidance_scale']:g} | |", "| --- | --- |"]
    for name in sorted(metrics, key=[*LABELS, *metrics].index):
        label, form = LABELS.get(name, (name, ".4g"))
        lines.append(f"| {label} | {metrics[name]:{form}} |")
    return status + "\n".join(lines)


def between_markers(text: str, name: str, content: str) -> str:
    """`text` with `content` between `<!-- name -->` and `<!-- /name -->`. ValueError unless it has exactly one such pair."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"README.md must have the markers {start} and {end}, each once and in this order.")
    return re.sub(f"{start}.*{end}", lambda _: f"{start}\n\n{content}\n\n{end}", text, flags=re.DOTALL)


def updated(text: str) -> str:
    """README's text with the numbers that are in data/ now."""
    text = between_markers(text, "claims", claims(evaluate()))
    text = between_markers(text, "table2", table2(results.load_record(paths.RESULTS / "table2_recon.json")))
    return between_markers(text, "mini", model_quality(read_card(paths.MODELS / "mini")))


if __name__ == "__main__":
    try:
        README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
