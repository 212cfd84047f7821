"""The built book (`make book`; skipped where it has not been built): complete pages that need nothing from outside."""

import os
import re
import runpy
import subprocess
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import yaml

from companion.base.paths import ROOT

HTML = ROOT / "_build" / "html"
LOADED = {  # attributes through which a browser loads something by itself
    "script": ["src"], "img": ["src", "srcset"], "iframe": ["src"], "source": ["src", "srcset"], "video": ["src", "poster"],
    "audio": ["src"], "embed": ["src"], "object": ["data"], "input": ["src"],
}  # fmt: skip
OUTSIDE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)

pytestmark = pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="the book has not been built: make book")


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loads, self.links, self.images, self.ids, self.text, self.styles = [], [], [], set(), [], []
        self._in = None

    def handle_starttag(self, tag, attributes):
        attributes = {name: value or "" for name, value in attributes}
        self._in = tag
        self.ids |= {attributes[name] for name in ("id", "name") if name in attributes}
        self.loads += [attributes[name] for name in LOADED.get(tag, []) if name in attributes]
        if tag == "link" and not {"canonical", "search", "next", "prev", "index"} & set(attributes.get("rel", "").split()):
            self.loads.append(attributes["href"])
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        self.styles.append(attributes.get("style", ""))

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        (self.styles if self._in == "style" else self.text if self._in != "script" else []).append(data)


@cache
def page(file):
    parsed = Page()
    parsed.feed(file.read_text(encoding="utf-8"))
    return parsed


def pages():
    return sorted(file for file in HTML.rglob("*.html") if "_static" not in file.parts)


def chapters():
    contents = str(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    return re.findall(r"'(?:file|root)': '([^']+)'", contents)


def test_every_chapter_is_built():
    assert not [chapter for chapter in chapters() if not (HTML / f"{chapter}.html").is_file()]


def test_pages_load_nothing_from_outside():
    outside = {str(file.relative_to(HTML)): found for file in pages() if (found := [url for url in page(file).loads if OUTSIDE.match(url)])}
    assert not outside
    css = [style for file in pages() for style in page(file).styles]
    css += [file.read_text(encoding="utf-8") for file in HTML.rglob("*.css")]
    assert not [found for style in css for found in re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']+", style)]


def test_what_pages_load_and_link_to_exists():
    missing = []
    for file in pages():
        for url in [*page(file).loads, *page(file).links]:
            path, _, fragment = url.partition("#")
            if re.match(r"[a-z]+:|//", url, re.IGNORECASE) or url in ("", "#"):
                continue
            target = (file.parent / unquote(path.partition("?")[0])).resolve() if path else file
            if not target.exists():
                missing.append(f"{file.relative_to(HTML)}: {url}")
            elif fragment and target.suffix == ".html" and unquote(fragment) not in page(target).ids:
                missing.append(f"{file.relative_to(HTML)}: no {url}")
    assert not missing


def test_the_launch_button_of_a_page_opens_its_own_tracked_notebook():
    """Without a public address no page has a button; see book/_ext/public_address.py."""
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    start = f"https://colab.research.google.com/github/{address['url'].removeprefix('https://github.com/')}/blob/{address['branch']}/"
    tracked = set(subprocess.run(["git", "ls-files", "notebooks"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    opened = {}
    for file in pages():
        for link in page(file).links:
            if "colab.research.google.com" in link:
                assert link.startswith(start), link
                opened[file.relative_to(HTML).with_suffix(".ipynb").as_posix()] = unquote(link.removeprefix(start))
    public = address["url"] and os.environ.get("BOOK_REPOSITORY", address["url"]) == address["url"]
    assert set(opened) == ({name for name in tracked if name.endswith(".ipynb")} if public else set())
    assert all(name == target for name, target in opened.items())


def test_mathematics_is_set_by_the_vendored_mathjax():
    vendored = HTML / "_static" / "vendor" / "mathjax" / "tex-svg-full.js"
    assert vendored.stat().st_size > 2_000_000 and (vendored.parent / "LICENSE").is_file()
    with_math = [file for file in pages() if 'class="math' in file.read_text(encoding="utf-8")]
    assert with_math and all(any("mathjax/tex-svg-full.js" in url for url in page(file).loads) for file in with_math)


def test_figures_are_described_and_not_dimmed_in_dark_mode():
    figures = [(file, image) for file in pages() for image in page(file).images]
    # Without an alt text Sphinx repeats the file's name.
    poor = [f"{file.relative_to(HTML)}: {image['src']}" for file, image in figures if image.get("alt", "").strip() in ("", image["src"])]
    assert not poor
    outputs = [image for _, image in figures if "_images" in image["src"]]
    assert all("dark-light" in image.get("class", "") for image in outputs)


def test_no_markup_is_left_unrendered():
    """Roles, directives and glued values that Sphinx did not understand, or that no run has provided."""
    for chapter in chapters():
        text = "".join(page(HTML / f"{chapter}.html").text)
        assert not re.findall(r"\{(?:glue|numref|cite|eq|doc|ref)[^}]*\}`|```\{|No description has been provided", text)


def test_equations_of_the_method_have_the_papers_numbers():
    text = (HTML / "book" / "method.html").read_text(encoding="utf-8")
    numbers = re.findall(r'id="equation-eq-(\d+)".{0,300}?class="eqno">\((\d+)\)', text, flags=re.DOTALL)
    assert numbers == [(str(number), str(number)) for number in range(1, 21)]


def companion():
    """book/_ext/book_pages.py, switched on in _config.yml as a local extension."""
    sphinx = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]
    if "book_pages" not in sphinx["config"]["extensions"]:
        pytest.skip("_config.yml does not list the extension book_pages")
    return runpy.run_path(str(ROOT / "book" / "_ext" / "book_pages.py"))


def test_pages_with_results_older_than_the_code_say_so():
    """As of the build: after a change of the code, `make book` first."""
    stale_sentences = companion()["stale_sentences"]
    for chapter in chapters():
        text = "".join(page(HTML / f"{chapter}.html").text)
        sentences = stale_sentences(chapter)
        assert ("Older than the code" in text) == bool(sentences), chapter
        assert not [sentence for sentence in sentences if sentence.rpartition("**: ")[2].replace("`", "") not in text]


def test_pages_have_a_preview_for_links():
    companion()
    for chapter in chapters():
        text = (HTML / f"{chapter}.html").read_text(encoding="utf-8")
        tags = dict(re.findall(r'<meta property="(og:\w+)" content="([^"]*)"', text))
        assert tags["og:title"] and len(tags["og:description"]) > 20, chapter
