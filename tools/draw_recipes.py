"""Draw the pictures of the recipe page: run its snippets as the tests do, and keep what they make. `python tools/draw_recipes.py`"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> None:
    import test_recipes as recipes

    with tempfile.TemporaryDirectory() as folder:
        recipes.prepare(Path(folder))
        os.chdir(folder)
        for snippet in (recipes.GENERATE, recipes.INTERPOLATE, recipes.EDIT):
            recipes.run(snippet)
        for name in ("without", "half", "smooth", "walk", "mine", "edited"):
            shutil.copy(f"{name}.png", recipes.FIGURES / f"recipe_{name}.png")
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
