"""What publishes the book and what runs the tests elsewhere: workflows, public addresses, the list of references."""

import re
import runpy
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
import yaml

from companion.base.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EXTENSIONS = ROOT / "book" / "_ext"
ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
PUBLIC = "https://example.org/owner/name"


def lint(*files):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True)


def test_workflows_are_what_github_reads(tmp_path):
    found = lint(*WORKFLOWS)
    assert found.returncode == 0 and len(WORKFLOWS) == 2, found.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[0].read_text(encoding="utf-8").replace("runs-on:", "run-on:"), encoding="utf-8")
    assert lint(wrong).returncode == 1  # it can tell


def test_the_tests_run_on_every_python_that_is_allowed():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    low, high = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups())
    assert jobs["test"]["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(low, high)]
    assert "make test" in [step.get("run") for step in jobs["test"]["steps"]]


def settled(monkeypatch, address, **variables):
    """The configuration of a repository with this address after the extension has seen these environment variables."""
    for name in ("BOOK_URL", "BOOK_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    options = {"repository_url": address, "launch_buttons": {"colab_url": "https://colab.research.google.com"}}
    config = SimpleNamespace(html_baseurl="", html_theme_options=options)
    runpy.run_path(str(EXTENSIONS / "public_address.py"))["settle"](None, config)
    return config


def test_a_launch_button_needs_an_address_that_is_public(monkeypatch):
    assert settled(monkeypatch, "").html_theme_options["launch_buttons"] == {}
    assert settled(monkeypatch, "", BOOK_REPOSITORY=PUBLIC).html_theme_options["launch_buttons"] == {}
    assert settled(monkeypatch, PUBLIC, BOOK_REPOSITORY="https://example.org/somebody/fork").html_theme_options["launch_buttons"] == {}
    assert settled(monkeypatch, PUBLIC).html_theme_options["launch_buttons"]
    public = settled(monkeypatch, PUBLIC, BOOK_REPOSITORY=f"{PUBLIC}/", BOOK_URL="https://example.org/book")
    assert public.html_theme_options["launch_buttons"] and public.html_baseurl == "https://example.org/book"


def test_pages_name_the_address_or_say_that_there_is_none(monkeypatch):
    pages = runpy.run_path(str(EXTENSIONS / "book_pages.py"))
    app, written = SimpleNamespace(env=SimpleNamespace(doc2path=lambda name: f"{name}.md")), "git clone REPOSITORY\ncd here\n"
    for address, start in ((PUBLIC, f"git clone {PUBLIC}\n"), ("", "# in your copy of the repository")):
        monkeypatch.setitem(pages["add_notice"].__globals__, "repository", lambda address=address: address)
        source = [written]
        pages["add_notice"](app, "book/intro", source)
        assert source[0].startswith(start) and "REPOSITORY" not in source[0]


def test_the_workflow_tells_the_build_its_addresses():
    text = (ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8")
    names = re.findall(r'environ\.get\("(\w+)"', (EXTENSIONS / "public_address.py").read_text(encoding="utf-8"))
    assert set(names) == {"BOOK_URL", "BOOK_REPOSITORY"} and all(f"{name}: ${{{{ " in text for name in names)


def tracked_with(*pattern):
    """The tracked files that hold the pattern; skipped where this is no checkout."""
    listed = subprocess.run(["git", "-C", str(ROOT), "grep", "-l", *pattern], capture_output=True, text=True)
    if listed.returncode > 1:
        pytest.skip("no checkout")
    return set(listed.stdout.split())


def test_the_address_stands_in_one_place_besides_the_notebooks_first_cells():
    if ADDRESS:
        assert {name for name in tracked_with("-F", ADDRESS) if not name.startswith("notebooks/")} == {"_config.yml"}


def test_nothing_is_cloned_or_installed_from_an_address_that_is_not_the_projects():
    """What another could register must not be what our readers run."""
    fetched = r"git +clone [^{]*(https?://|git@)|pip install [^|]*(git\+|https?://)"
    assert re.search(fetched, "git clone -q https://example.org/a") and re.search(fetched, "pip install git+https://example.org/a")
    assert "Makefile" in tracked_with("-E", "pip install --quiet")  # it finds what there is
    found = {name for name in tracked_with("-E", fetched) if not name.startswith("tests/")}
    assert not found


# References -----------------------------------------------------------------------------------------------------------------------


def entries():
    from pybtex.database import parse_file

    return parse_file(str(ROOT / "book" / "references.bib")).entries


def test_every_reference_has_a_venue_and_leads_somewhere():
    for key, entry in entries().items():
        assert {"booktitle", "journal"} & set(entry.fields) and entry.fields["year"].isdigit(), key
        doi, url = entry.fields.get("doi", ""), entry.fields.get("url", "")
        assert re.fullmatch(r"10\.\d{4,}/\S+", doi) or url.startswith("https://"), key


def test_references_are_listed_as_they_are_cited():
    labels = runpy.run_path(str(EXTENSIONS / "author_year.py"))["AuthorYearLabels"]()
    found = dict(zip(entries(), labels.format_labels(list(entries().values())), strict=True))
    assert found["guo2023smooth"] == "Guo et al., 2024" and found["dhariwal2021diffusion"] == "Dhariwal and Nichol, 2021"
    assert found["efron1987better"] == "Efron, 1987" and len(set(found.values())) == len(found)


def test_two_entries_of_one_name_and_year_are_told_apart():
    labels = runpy.run_path(str(EXTENSIONS / "author_year.py"))["AuthorYearLabels"]()
    same = entries()["efron1987better"]
    assert list(labels.format_labels([same, same])) == ["Efron, 1987a", "Efron, 1987b"]


def test_contributing_fits_a_page_and_names_what_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(text.split()) < 650 and all(f"## Add a {what}" in text for what in ("notebook", "method", "claim"))
    named = [name for name in re.findall(r"`([\w./]+/[\w./]+)`", text) if "NAME" not in name]
    assert named and not [name for name in named if not (ROOT / name).exists()]
