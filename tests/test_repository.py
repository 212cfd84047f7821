"""The repository keeps its own rules: requirements agree, files are small and portable, what the README says exists."""

import json
import re
import runpy
import subprocess
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import smoothlib
from companion.base.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KB, MB = 1000, 1000**2
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@cache
def tracked():
    """What git has, or would have after adding everything it does not ignore; without git, all but the known leftovers."""
    try:
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        files = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        leftovers = {".venv", "out", "runs", "_build", ".git", "__pycache__", ".pytest_cache", ".ruff_cache"}
        files = [file for file in ROOT.rglob("*") if not leftovers & set(file.relative_to(ROOT).parts)]
    return [file for file in files if file.is_file()]


# Requirements ---------------------------------------------------------------------------------------------------------------------


def requirements():
    groups = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    return [Requirement(line) for lines in groups.values() for line in lines]


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines), (
        "constraints.txt holds plain name==version lines"
    )
    pins = {re.sub("[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    return pins


def test_every_requirement_is_pinned_within_its_range():
    pins = constraints()
    for requirement in requirements():
        version = pins[re.sub("[-_.]+", "-", requirement.name).lower()]
        assert requirement.specifier.contains(version), f"{requirement} excludes the tested {version}"


def test_what_is_installed_is_what_is_pinned():
    installed = {re.sub("[-_.]+", "-", package.name).lower(): package.version for package in metadata.distributions()}
    pinned = {name: pin for name, pin in constraints().items() if name in installed}
    # a build of the same version, such as torch 2.14.1+cpu, is the pinned one
    different = {name: (pin, installed[name]) for name, pin in pinned.items() if installed[name].partition("+")[0] != pin}
    assert not different, "name: (constraints.txt, installed)"


def test_every_direct_dependency_of_the_installed_environment_is_pinned():
    """Nothing that `make env` installs floats: what a pinned package requires is pinned too (torch's own CUDA parts pin themselves)."""
    pins = constraints()
    free = {"pip", "triton"}
    missing = set()
    for package in pins:
        try:
            needed = metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        for line in needed:
            requirement = Requirement(line)
            name = re.sub("[-_.]+", "-", requirement.name).lower()
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if name not in pins and name not in free and not name.startswith(("nvidia-", "cuda-")):
                missing.add(f"{package} needs {name}")
    assert not missing


def test_what_make_env_installs_is_known_by_its_hashes():
    """All pins but those whose files differ between builds of a version, and the renderer's, which `make env` leaves out."""
    tool = runpy.run_path(str(ROOT / "tools" / "hash_pins.py"))
    lines = tool["HASHES"].read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    found = [re.fullmatch(r"(\S+==\S+)(\s+--hash=sha256:[0-9a-f]{64})+\s*", line)[1] for line in lines if line[0] != "#"]
    assert sorted(map(tool["canonical"], found)) == sorted(map(tool["canonical"], tool["hashed_pins"]())), "run tools/hash_pins.py"
    assert "--no-deps --require-hashes --requirement hashes.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_environment_yml_matches_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (python,) = [entry for entry in conda if entry.startswith("python ")]
    assert SpecifierSet(python.removeprefix("python ")) == SpecifierSet(PROJECT["requires-python"])
    assert set(conda) == {python, "pip"} and environment["channels"] == ["conda-forge"]
    constrained, install = pip
    assert constrained == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.+)\]", install).group(1).split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert f"--constraint constraints.txt --editable '.[{','.join(extras)}]'" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_python_range_is_the_same_everywhere():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= v < (3, 14)" in (ROOT / "Makefile").read_text(encoding="utf-8")


# Files ----------------------------------------------------------------------------------------------------------------------------


def test_files_are_small():
    """Data and weights may be large; everything else is read by people and kept by git for ever."""
    large = []
    for file in tracked():
        path, size = file.relative_to(ROOT), file.stat().st_size
        # 4 MB: the runtime that lets the model run in the reader's browser has 3.7 MB, packed
        limit = 50 * MB if path.parts[0] == "data" else 4 * MB if "vendor" in path.parts else 300 * KB
        if path.suffix == ".ipynb":
            limit = 2 * MB  # its images are limited one by one, below
        if size > limit:
            large.append(f"{path} has {size // KB} kB, at most {limit // KB} are allowed")
    assert not large


def test_no_absolute_paths_and_no_index_options():
    folders = "|".join(["home", "root", "work", "Users"])
    pattern = re.compile(rf"(^|[^A-Za-z0-9_.])/({folders})/|--(extra-)?index-url|--find-links|[A-Za-z]:\\\\Users", re.MULTILINE)
    found = []
    for file in tracked():
        path = file.relative_to(ROOT)
        if file == Path(__file__).resolve() or "vendor" in path.parts or file.stat().st_size > 2 * MB:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path}: {match.group()}" for match in pattern.finditer(text)]
    assert not found


def test_what_papermill_leaves_at_the_root_is_not_added():
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    names = ["out.ipynb", "out2.ipynb", "out/table2_recon.json", "notebooks/out.ipynb"]
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", *names], capture_output=True, text=True).stdout.split()
    assert ignored == names[:3]


def test_licences_and_citation():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:200]
    assert PROJECT["license"] == "Apache-2.0" and set(PROJECT["license-files"]) == {"LICENSE", "NOTICE"}
    assert (ROOT / "NOTICE").read_text(encoding="utf-8").strip()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "version", "license"}
    assert citation["version"] == smoothlib.__version__ == metadata_version() and citation["license"] == PROJECT["license"]
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2312.04410" and len(citation["references"][0]["authors"]) == 9
    assert f"## {smoothlib.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def metadata_version():
    """The installed package's version; its source's where the package runs from the checkout without being installed."""
    try:
        return metadata.version("smoothlib")
    except metadata.PackageNotFoundError:
        return smoothlib.__version__


# Commands -------------------------------------------------------------------------------------------------------------------------


def make_targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z0-9_-]*):", text, flags=re.MULTILINE)) | {notebook.stem for notebook in NOTEBOOKS}


def test_commands_named_in_the_documents_exist():
    named = {}
    for document in [ROOT / "README.md", *(ROOT / "book").glob("*.md"), *NOTEBOOKS]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^\s*|\$ )make ([a-z][a-z0-9_-]*)", text, flags=re.MULTILINE):
            named[target] = document.name
    assert {"reproduce", "test"} <= set(named), "README.md must name both commands"
    assert not {target: document for target, document in named.items() if target not in make_targets()}


TARGETS = (
    "app",
    "keep",
    "results",
    "retrain",
    "help",
    "env",
    "reproduce",
    "test",
    "lint",
    "unit",
    "notebooks",
    "book",
    "strip",
    "record",
    "refresh",
    "torture",
    "sd15-rehearsal",
    "adapters",
    "readme",
    "clean",
)


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_what_to_do(target):
    assert target in make_targets()
    dry = subprocess.run(["make", "--dry-run", "--silent", target], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.strip() or target == "env"


def test_help_lists_every_target_and_setting():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    settings = set(re.findall(r"^([A-Z]+) \?=", text, flags=re.MULTILINE))
    assert settings >= {"PYTHON", "VENV", "PRESET", "ARGS", "NAME", "OPEN"}
    assert set(re.findall(r"^([a-z][a-z0-9_-]*):", text, flags=re.MULTILINE)) == set(TARGETS)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(TARGETS) <= set(re.findall(r"^make ([a-z0-9_-]+) ", shown, flags=re.MULTILINE))
    assert settings == set(re.findall(r"^([A-Z]+)=", shown, flags=re.MULTILINE))


def test_record_without_a_run_says_what_to_do():
    failed = subprocess.run(["make", "record", "NAME=not_run"], cwd=ROOT, capture_output=True, text=True)
    sentence = "There is no out/not_run.ipynb to keep: run 'make not_run' first, or name another notebook with NAME=."
    assert failed.returncode and failed.stderr.splitlines()[0] == sentence


# README's numbers -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readme():
    """tools/update_readme.py as a namespace."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "update_readme.py")))


def test_the_readmes_numbers_are_those_of_the_records(readme):
    text = readme.README.read_text(encoding="utf-8")
    assert readme.updated(text) == text, "run `make readme`"
    record = json.loads((ROOT / "data" / "results" / "table2_recon.json").read_text(encoding="utf-8"))
    for label, row in record["rows"].items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {label} | Recorded |")]
        assert f"{row['metrics']['psnr']['mean']:.2f} [" in line
    changed = re.sub(r"(\| Recorded \| \d\.\d+)\d", r"\g<1>x", text)
    assert changed != text and readme.updated(changed) == text


def test_the_models_figures_are_its_cards(readme):
    assert readme.model_quality({"metrics": None, "guidance_scale": 3.0}) == "These weights are not measured yet."
    card = {"metrics": {"n": 7, "frechet_distance": 12.34, "new": 0.5, "vae_psnr": 30.456}, "guidance_scale": 2.5, "status": "interim"}
    status, _, *lines = readme.model_quality(card).splitlines()
    assert status == "Status of the weights: interim."
    assert lines[0] == "| on 7 test captions, guidance 2.5 | |"
    assert [line.split(" | ")[-1] for line in lines[2:]] == ["12.3 |", "30.46 |", "0.5 |"]


@pytest.mark.parametrize("text", ["", "<!-- a -->", "<!-- /a --><!-- a -->", "<!-- a --><!-- a --><!-- /a -->"])
def test_markers_must_be_a_pair(readme, text):
    with pytest.raises(ValueError, match="must have the markers <!-- a --> and <!-- /a -->"):
        readme.between_markers(text, "a", "new")


def test_links_in_the_readme_lead_to_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text) for link in link if link]
    assert links and not [link for link in links if not re.match("https?:|mailto:", link) and not (ROOT / link).exists()]


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines and lines[-1] == "make test"
    assert script.stat().st_mode & 0o111
