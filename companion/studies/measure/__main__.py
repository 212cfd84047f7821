"""`python -m companion.studies.measure --model MODEL --adapter ADAPTER`: ISTD and its kin of any Stable Diffusion pipeline, and a report.

    python -m companion.studies.measure --adapter smooth                          # the embedded model, with and without its Smooth-LoRA
    python -m companion.studies.measure --model owner/name@commit --prompts prompts.txt --adapter my_lora.safetensors --out out/mine

Walks between two noises are sampled for every prompt, with the same noises for each row. The report is a folder: `report.html` with the
table, the tests, a sheet of walks and the step curves; `walks.png` and `steps.png`; `measure.json`, a record with every value.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ...base import paths
from ...base.config import ConfigurationError, OneSentenceParser, errors_as_exit_codes


def parser() -> OneSentenceParser:
    """The command line; its defaults are those of Table 1, with fewer prompts."""
    line = OneSentenceParser(prog="python -m companion.studies.measure", description="How smooth is the latent space of your pipeline?")
    line.add_argument("--model", default="mini", help="a folder with a diffusers pipeline, a hub id (owner/name@commit), or mini (default)")
    line.add_argument(
        "--adapter", action="append", default=[], help="a LoRA of it: file, folder or shipped name; may be given several times"
    )
    line.add_argument("--prompts", type=Path, help="a text file, one prompt a line; default: shipped captions, drawn by --seed")
    line.add_argument("--num-prompts", type=int, help="how many shipped captions (default 8)")
    line.add_argument("--num-inference-steps", type=int, default=20)
    line.add_argument("--guidance-scale", type=float, help="default: what the model's card says, else 7.5")
    line.add_argument("--frames", type=int, default=11, help="images of a walk (default 11)")
    line.add_argument("--batch-size", type=int, default=88, help="images at once (default 88; on a GPU with 8 GB take 11 at 512 x 512)")
    line.add_argument("--seed", type=int, default=0)
    line.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    line.add_argument("--out", type=Path, default=paths.OUT / "measure", help="folder of the report (default out/measure)")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the report, print the table and where the report lies; exit code 2 and one sentence where something does not fit."""
    options = vars(parser().parse_args(arguments))
    from .study import MeasureStudy, configuration  # PyTorch is imported only where there is something to do

    with errors_as_exit_codes(parser().prog):
        folder = _folder(options.pop("out"))
        study = MeasureStudy(configuration(options))
        measured = study.measure_all(study.rows)
    from .report import write_report

    print(write_report(folder, study, {label: found for label, (found,) in measured.items()}))
    return 0


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"Parameter out is {str(out)!r}, but must be a folder that can be written: {error.strerror}.") from error
    return out


if __name__ == "__main__":
    sys.exit(main())
