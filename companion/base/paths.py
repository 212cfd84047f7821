"""Where things are: the only module besides `weights.pipelines` that knows a folder.

Every location derives from `ROOT`, the repository checkout (or `$SMOOTHLIB_ROOT` for an installed copy whose data lies elsewhere), so a
notebook finds its data whatever its working directory is.
"""

import os
from pathlib import Path

ROOT = Path(os.environ.get("SMOOTHLIB_ROOT", Path(__file__).resolve().parents[2]))

CONFIGS = ROOT / "configs"
DATA = ROOT / "data"
PAPER = DATA / "paper"  # the paper's tables as printed
SCENES = DATA / "scenes"  # records, webp shards, edit and drag pairs
MODELS = DATA / "models"  # mini pipeline, adapters, metric networks
ADAPTERS = MODELS / "adapters"
METRIC_NETWORKS = MODELS / "metrics"
RESULTS = DATA / "results"  # recorded runs (tracked)
RUNS = Path(os.environ.get("SMOOTHLIB_RUNS", ROOT / "runs"))  # per-item results and checkpoints (not tracked)
OUT = Path(os.environ.get("SMOOTHLIB_OUT", ROOT / "out"))  # records and pages of the latest run (not tracked)
