"""The examples in the docstrings of editing run as they are printed, each alone; the table of methods loads none of them."""

import contextlib
import doctest
import io
import os
import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

from companion.base.paths import ROOT
from smoothlib import editing

MODULES = sorted(found.name for found in iter_modules(editing.__path__))


def examples(name):
    """Of one module; its names are not given to them."""
    module = import_module(f"smoothlib.editing.{name}")
    return [example for example in doctest.DocTestFinder().find(module, globs={}, extraglobs={}) if example.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name):
    for example in examples(name):
        report = io.StringIO()
        with contextlib.redirect_stdout(report):
            failed, tried = doctest.DocTestRunner().run(example, out=report.write)
        assert tried and not failed, report.getvalue()


@pytest.mark.parametrize("name", sorted(set(editing.METHODS) & set(MODULES)))
def test_every_method_has_an_example(name):
    assert f"smoothlib.editing.{name}.edit" in [example.name for example in examples(name)]


def test_the_table_of_methods_does_not_wait_for_pytorch():
    code = "import sys; from smoothlib import editing; print(list(editing.METHODS)[0], 'edict' in editing.METHODS, 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["prompt_switch", "True", "False"]
