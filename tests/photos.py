"""Four captioned pictures to train the tiny pipeline on."""

from pathlib import Path

import pytest
from PIL import Image
from tiny import ship_tiny_pipeline

from companion.base import paths


def photo_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of pictures and their captions; the tiny pipeline is the model "mini", and runs lie beside it."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    ship_tiny_pipeline(tmp_path / "models", monkeypatch)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        Image.linear_gradient("L").rotate(40 * i).resize((16, 16)).convert("RGB").save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {i}")
    return folder
