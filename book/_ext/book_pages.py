"""What Sphinx adds to the pages of this book.

- A page whose recorded result is older than the code that made it says so at its top. Notebooks keep the outputs of the run that was
  recorded, so this is looked up whenever the book is built. The summary and the status page say it of every record.
- Title, description and preview for links to a page (Open Graph): first sentences and, once `html_baseurl` is set, the picture of the first
  page. Only text in the page's head.
- The repository's address, which stands in _config.yml alone, where a page writes "git clone REPOSITORY"; without one, what to do instead.
"""

import base64
import json
import re
from html import escape
from pathlib import Path

import yaml

from companion.base.staleness import staleness_note

ROOT = Path(__file__).resolve().parents[2]
OVERVIEWS = ("notebooks/summary", "notebooks/claims", "notebooks/status")
SHEET, GLUED = "_static/figures/contact_sheet.png", "first-look-preview"
CLONE, NO_CLONE = "git clone REPOSITORY", "# in your copy of the repository, which has no public address to clone yet"
KINDS = {"image/png": "_static/preview.png", "image/jpeg": "_static/preview.jpg"}


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
    source[0] = source[0].replace(CLONE, f"git clone {repository()}" if repository() else NO_CLONE)
    sentences = stale_sentences(docname)
    if not sentences or not app.env.doc2path(docname).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    folded = ", dropdown" if len(sentences) > 2 else ""
    text = "\n".join(
        [":::{admonition} Older than the code", f":class: warning{folded}", *(f"- {sentence}" for sentence in sentences), ":::"]
    )
    notebook["cells"].insert(1, {"cell_type": "markdown", "id": "older-than-the-code", "metadata": {}, "source": text})
    source[0] = json.dumps(notebook)


def always_read(app, env, added, changed, removed) -> list[str]:
    """Pages to read again although their own files are as they were: the code may have changed."""
    recorded = {f"notebooks/{file.stem}" for file in (ROOT / "data" / "results").glob("*.json")}
    return sorted((recorded | set(OVERVIEWS)) & env.found_docs)


def repository() -> str:
    """The repository's address, from _config.yml; empty until it is public."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"] or ""


def preview_picture() -> tuple[str, bytes | None]:
    """Path and content of the picture that notebooks/first_look.ipynb left; the contact sheet's path where it has not run."""
    file = ROOT / "notebooks" / "first_look.ipynb"
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.is_file() else []
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    for output in outputs:
        if output.get("metadata", {}).get("scrapbook", {}).get("name") == GLUED:
            for kind, path in KINDS.items():
                if kind in output["data"]:
                    return path, base64.b64decode("".join(output["data"][kind]))
    return SHEET, None


def write_picture(app, exception: Exception | None) -> None:
    """Put the picture beside the pages."""
    path, content = preview_picture()
    if exception is None and app.builder.format == "html" and content:
        (Path(app.outdir) / path).write_bytes(content)


def add_preview(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Title, description and Open Graph tags of a page."""
    if doctree is None:
        return
    site = app.config.html_title
    paragraphs = [re.sub(r"\s+", " ", node.astext()).strip() for node in doctree.findall() if node.tagname == "paragraph"]
    description = next((text for text in paragraphs if len(text) > 60), site)
    tags = {"og:type": "article", "og:site_name": site, "og:title": context.get("title", site)}
    tags["og:description"] = description if len(description) <= 200 else description[:197].rsplit(" ", 1)[0] + " ..."
    if app.config.html_baseurl:
        base = app.config.html_baseurl.rstrip("/")
        tags |= {"og:url": f"{base}/{pagename}.html", "og:image": f"{base}/{preview_picture()[0]}"}
        tags["twitter:card"] = "summary_large_image"
    title = re.sub(r"<[^>]+>", "", tags["og:title"])  # a title may hold markup
    if title == context.get("docstitle"):
        context["docstitle"] = ""  # the first page's title is the book's: once is enough in the tab
        context["theme_logo"] = {**(context.get("theme_logo") or {}), "text": title}  # the link at the top of the sidebar keeps its name
    lines = [f'<meta name="description" content="{escape(tags["og:description"])}">']
    lines += [f'<meta property="{name}" content="{escape(value)}">' for name, value in (tags | {"og:title": title}).items()]
    context["metatags"] = context.get("metatags", "") + "\n".join(lines) + "\n"


def setup(app) -> dict[str, bool]:
    app.connect("source-read", add_notice)
    app.connect("env-get-outdated", always_read)
    app.connect("html-page-context", add_preview)
    app.connect("build-finished", write_picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
