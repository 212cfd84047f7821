"""What Sphinx adds to the pages of this book.

- A page whose recorded result is older than the code that made it says so at its top. Notebooks keep the outputs of the run that was
  recorded, so this is looked up whenever the book is built. The summary and the status page say it of every record.
- Preview for links to a page (Open Graph): title, first sentences and, once `html_baseurl` is set, a picture. Only text in the page's head.
"""

import json
import re
from html import escape
from pathlib import Path

from companion.base.staleness import staleness_note

ROOT = Path(__file__).resolve().parents[2]
OVERVIEWS = ("notebooks/summary", "notebooks/status")
PICTURE = "_static/figures/contact_sheet.png"


def _record(name: str) -> dict | None:
    file = ROOT / "data" / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def stale_sentences(docname: str) -> list[str]:
    """One sentence for each record that the page shows and that is older than the code."""
    folder, _, name = docname.rpartition("/")
    if folder != "notebooks":
        return []
    if docname in OVERVIEWS:
        names = sorted(file.stem for file in (ROOT / "data" / "results").glob("*.json"))
        return [f"**{name}**: {note}" for name in names if (note := _note(_record(name)))]
    return [note] if (note := _note(_record(name))) else []


def _note(record: dict | None) -> str:
    """The sentence about a record, module names as code (some would pass for web addresses)."""
    return re.sub(r"(companion|smoothlib)\.[\w.]+", r"`\g<0>`", staleness_note(record)) if record else ""


def add_notice(app, docname: str, source: list[str]) -> None:
    """Put the sentences below the title of a notebook, before it is read."""
    sentences = stale_sentences(docname)
    if not sentences or not app.env.doc2path(docname).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    text = "\n".join([":::{admonition} Older than the code", ":class: warning", *(f"- {sentence}" for sentence in sentences), ":::"])
    notebook["cells"].insert(1, {"cell_type": "markdown", "id": "older-than-the-code", "metadata": {}, "source": text})
    source[0] = json.dumps(notebook)


def always_read(app, env, added, changed, removed) -> list[str]:
    """Pages to read again although their own files are as they were: the code may have changed."""
    recorded = {f"notebooks/{file.stem}" for file in (ROOT / "data" / "results").glob("*.json")}
    return sorted((recorded | set(OVERVIEWS)) & env.found_docs)


def add_preview(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Open Graph tags of a page."""
    if doctree is None:
        return
    site = app.config.html_title
    paragraphs = [re.sub(r"\s+", " ", node.astext()).strip() for node in doctree.findall() if node.tagname == "paragraph"]
    description = next((text for text in paragraphs if len(text) > 60), site)
    tags = {"og:type": "article", "og:site_name": site, "og:title": context.get("title", site)}
    tags["og:description"] = description if len(description) <= 200 else description[:197].rsplit(" ", 1)[0] + " ..."
    if app.config.html_baseurl:
        base = app.config.html_baseurl.rstrip("/")
        tags |= {"og:url": f"{base}/{pagename}.html", "og:image": f"{base}/{PICTURE}"}
    title = re.sub(r"<[^>]+>", "", tags["og:title"])  # a title may hold markup
    lines = [f'<meta property="{name}" content="{escape(value)}">' for name, value in (tags | {"og:title": title}).items()]
    context["metatags"] = context.get("metatags", "") + "\n".join(lines) + "\n"


def setup(app) -> dict[str, bool]:
    app.connect("source-read", add_notice)
    app.connect("env-get-outdated", always_read)
    app.connect("html-page-context", add_preview)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
