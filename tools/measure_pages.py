"""How soon a reader of the built book sees something: words before the first picture of each page and pixels to it, at 1280 pixels.

    python tools/measure_pages.py [FOLDER]      # default: _build/html; `--screenshots OUT` keeps a picture of each page's top

Pixels and words are those of the article, without the navigation. Also counted: tables that hide columns behind a scroll.
"""

import sys
from pathlib import Path
from typing import Any

from companion.base.config import OneSentenceParser
from companion.base.paths import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from browsing import DESKTOP, Site, headless

PLACES = ("book", "notebooks")
MEASURE = """() => {
  const article = document.querySelector('.bd-article') || document.body, top = article.getBoundingClientRect().top + scrollY;
  const seen = e => e.checkVisibility() && e.getClientRects().length && !e.closest('.admonition-title, mjx-container');
  const pictures = [...article.querySelectorAll('img, svg[role], .smooth-widget, .smooth-explore, .smooth-toy')].filter(seen);
  const first = pictures.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)[0];
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  let words = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (first && (first.contains(node) || !(first.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_PRECEDING))) break;
    if (!parent.closest('script, style, .headerlink, svg') && parent.checkVisibility()) words += (node.data.match(/[^\\s]+/g) || []).length;
  }
  const answer = article.querySelector('aside.verdicts, .admonition.conclusion');
  const tables = [...article.querySelectorAll('table')].filter(seen);
  const cut = tables.filter(t => { for (let e = t; e !== article; e = e.parentElement) if (e.scrollWidth > e.clientWidth + 1 &&
    ['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX)) return true; return false; });
  return {words, pixels: first ? Math.round(first.getBoundingClientRect().top + scrollY - top) : null,
    answer: answer ? Math.round(answer.getBoundingClientRect().top + scrollY - top) : null, cut: cut.length, tables: tables.length,
    height: Math.round(article.getBoundingClientRect().height)};
}"""


def measure(browser: Any, folder: Path, screenshots: Path | None = None) -> dict[str, dict[str, int | None]]:
    """Page -> words and pixels before its first picture, pixels to the answer, tables that are cut, height."""
    found, site = {}, Site(browser, folder)
    for file in sorted(file for place in PLACES for file in (folder / place).glob("*.html")):
        page = site.open(site.page(DESKTOP), f"{file.parent.name}/{file.name}")
        page.wait_for_timeout(200)
        found[file.stem] = page.evaluate(MEASURE)
        if screenshots:
            page.screenshot(path=screenshots / f"{file.stem}.png")
        page.close()
    site.close()
    return found


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "_build" / "html", help="a built book")
    parser.add_argument("--screenshots", type=Path, help="an existing folder for a picture of each page's top")
    options = parser.parse_args()
    if not any((options.folder / place).glob("*.html") for place in PLACES):
        parser.error(f"folder is {options.folder}, but must be a built book, with pages in {' and '.join(PLACES)}")
    if options.screenshots and not options.screenshots.is_dir():
        parser.error(f"--screenshots is {options.screenshots}, but must be a folder that is there")
    print("| page | words before the first picture | pixels to it | pixels to the answer | tables cut | page height |\n|" + "---|" * 6)
    with headless() as browser:
        found = measure(browser, options.folder, options.screenshots)
    for name, values in found.items():
        cells = [values[key] for key in ("words", "pixels", "answer")] + [f"{values['cut']} of {values['tables']}", values["height"]]
        print(f"| {name} | " + " | ".join("none" if cell is None else str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    main()
