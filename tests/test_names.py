"""What `import smoothlib` gives: names that load late, an example in each docstring that runs, and README's walk as it is printed."""

import ast
import contextlib
import doctest
import io
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

import smoothlib
from companion.base.paths import ROOT

NAMES = [name for name in smoothlib.__all__ if name != "__version__"]


def python(code, folder=ROOT):
    """What a fresh interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_importing_the_method_does_not_wait_for_pytorch():
    heavy = "{'torch', 'diffusers', 'transformers', 'numpy', 'companion'}"
    assert python(f"import sys, smoothlib; dir(smoothlib); print({heavy} & set(sys.modules))") == "set()\n"
    assert python("from smoothlib import slerp; print(slerp.__module__)") == "smoothlib.diffusion\n"


def test_all_names_are_listed_and_there():
    assert len(NAMES) > 20 and set(smoothlib.__all__) <= set(dir(smoothlib))
    namespace = {}
    exec("from smoothlib import *", namespace)
    assert [name for name in NAMES if namespace[name].__name__ != name] == []
    with pytest.raises(AttributeError, match="module 'smoothlib' has no attribute 'nothing'"):
        _ = smoothlib.nothing


def test_the_packages_import_each_name_from_its_module():
    """Which code is behind a result is read from the imports; a name that loads late would lead nowhere."""
    found = []
    for file in [file for package in ("companion", "smoothlib") for file in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module == "smoothlib" or (node.level and not node.module)):
                found += [f"{file.relative_to(ROOT)}: {alias.name}" for alias in node.names if alias.name in NAMES]
    assert not found


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_each_name_runs(name):
    """Each stands alone: nothing is defined but what it imports."""
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(smoothlib, name), name, globs={})
    assert re.search(rf"from smoothlib import .*\b{name}\b", example.docstring)
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        failed, tried = doctest.DocTestRunner().run(example, out=report.write)
    assert tried and not failed, report.getvalue()


def test_the_walk_in_the_readme_runs_as_it_is_printed(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE).group(1)
    assert "from smoothlib import" in code and "interpolation(" in code
    printed = python(code, folder=tmp_path)
    numbers = ast.literal_eval(printed)
    assert numbers.keys() == {"istd", "mean_step", "cv"} and all(value > 0 for value in numbers.values())
    with Image.open(tmp_path / "walk.png") as picture:
        assert picture.size == (7 * 64, 64)
