"""Result pages answer first: what Sphinx changes in a notebook before it reads it. The notebooks' files stay as they are.

- Below the title: the verdicts on the claims that the page's record decides; the sentence that the page marks as its conclusion, by a line
  `% conclusion` above a paragraph or list item; and its first picture, again where it is explained.
- Code is folded, one click away, but for the parameters and cells with the tag `show-input`.
- Plots, cells with the tag `plot`, get the class by which dark pages show them in dark colours.
- Lines of progress ("Base: 180 of 180"), a box each, are left out.
- Tables are made from the record (`companion.evidence.page_tables`); interactive figures get the present script and style.
All of it is made whenever the book is built, from whatever records, claims and pages there are.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from companion.book.interactive import renewed
from companion.evidence import claims, page_tables, verdict_box
from companion.evidence.records import recorded

ROOT = Path(__file__).resolve().parents[2]
RESULTS = re.compile(r"notebooks/(table|fig|beyond_|train_|first_look)\w*$")
FOLDED = re.compile(r"notebooks/(?!colab)\w+$")
SHOWN_TAGS = {"parameters", "show-input", "hide-input", "hide-cell", "remove-input", "remove-cell"}
PROGRESS = re.compile(r"\s*\S.*: (\d+) of \1\s*")  # the last state of a bar
PICTURES = ("image/png", "image/jpeg")
FIGURE = re.compile(r'class="smooth-(widget|explore|hero)')
CONCLUSION = re.compile(r"^% conclusion *\n(?:- )?(.+?)(?=\n\s*\n|\n- |\n#|\Z)", re.MULTILINE | re.DOTALL)
Cell = dict[str, Any]


def answer_first(app, docname: str, source: list[str]) -> None:
    """Change the notebook of a page, given as JSON in `source[0]`."""
    if not FOLDED.match(docname) or not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            fold(cell)
            mark_plot(cell)
            cell["outputs"] = [output for output in cell.get("outputs", []) if not is_progress(output)]
            renew(cell, docname)
    if RESULTS.match(docname):
        put_on_top(notebook, docname)
    source[0] = json.dumps(notebook)


def fold(cell: Cell) -> None:
    """Hide what a code cell was, unless a tag says otherwise."""
    tags = cell["metadata"].setdefault("tags", [])
    if not SHOWN_TAGS & set(tags):
        tags.append("hide-input")


def mark_plot(cell: Cell) -> None:
    """A picture of a cell with the tag `plot` has no photograph in it: dark pages show it in dark colours (book.css)."""
    if "plot" in cell["metadata"]["tags"]:
        image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
        image["classes"] = f"{image.get('classes', 'dark-light')} plot"


def is_progress(output: Cell) -> bool:
    """Is an output nothing but how far a bar has come?"""
    data = output.get("data", {})
    return set(data) == {"text/plain"} and PROGRESS.fullmatch("".join(data["text/plain"])) is not None


def renew(cell: Cell, docname: str) -> None:
    """The tables and interactive figures of a cell as they are made today."""
    name = docname.rpartition("/")[2]
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "text/html" in data:
            html = "".join(data["text/html"])
            data["text/html"] = renewed(page_tables.shown(html, _record(name), _tables()))


def put_on_top(notebook: dict[str, Any], docname: str) -> None:
    """Split the first cell after its title and put there what answers the page's question."""
    title = notebook["cells"][0]
    heading, _, rest = "".join(title["source"]).partition("\n")
    answer = [_markdown("what-was-found", text) for text in [top(notebook, docname)] if text]
    picture = lead_picture(notebook)
    if answer or picture:
        title["source"] = heading
        question = [_markdown("what-it-asks", rest.strip())] if rest.strip() else []
        notebook["cells"][1:1] = [*answer, *picture, *question] if answer else [*question, *picture]  # a picture alone says nothing


def top(notebook: dict[str, Any], docname: str) -> str:
    """The box of verdicts and the marked conclusion as MyST; empty where there is neither."""
    text = []
    if found := conclusion(notebook):
        text.append(f":::{{admonition}} In one sentence\n:class: conclusion\n{found}\n:::")
    if box := verdict_box.verdict_box(verdict_box.of_page(_verdicts(), docname.rpartition("/")[2])):
        text.append(f"```{{raw}} html\n{box}\n```")
    return "\n\n".join(text)


def conclusion(notebook: dict[str, Any]) -> str:
    """The sentence below the first line `% conclusion`, glued values and all."""
    texts = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return next((" ".join(found[1].split()) for text in texts if (found := CONCLUSION.search(text))), "")


def lead_picture(notebook: dict[str, Any]) -> list[Cell]:
    """A cell with the first picture of the page, or else its first interactive figure, and a line that says where it comes from."""
    for cell, output in _outputs(notebook):
        if kind := next((kind for kind in PICTURES if kind in output.get("data", {})), None):
            own = {key: value for key, value in cell["metadata"].items() if key == "mystnb"}
            picture = {"output_type": "display_data", "metadata": {}, "data": {kind: output["data"][kind]}}
            below = (
                "*A preview of this page's first picture, of a tall one the upper part. A click shows all of it; its code is further down.*"
            )
            return [_lead(picture, own), _markdown("first-picture-said", below)]
    for cell, output in _outputs(notebook):
        if FIGURE.search("".join(output.get("data", {}).get("text/html", ""))):
            cell["outputs"] = [
                other for other in cell["outputs"] if other is not output
            ]  # moved: it is large, and has keys for pages that quote it
            return [_lead(output, {}), _markdown("first-picture-said", "*This page tells further down how it was made.*")]
    return []


def _outputs(notebook: dict[str, Any]) -> list[tuple[Cell, Cell]]:
    """Cells with each of their outputs that stand on the page, but for the one that shows how the thing is done once."""
    unseen = {"remove-cell", "remove-output", "once"}
    cells = [cell for cell in notebook["cells"] if not unseen & set(cell["metadata"].get("tags", []))]
    return [(cell, output) for cell in cells for output in cell.get("outputs", [])]


def _lead(output: Cell, metadata: Cell) -> Cell:
    # A cell without a source is left out.
    metadata = metadata | {"tags": ["remove-input", "lead-picture"]}
    shown = {"cell_type": "code", "id": "first-picture", "execution_count": None, "source": "# shown again"}
    return shown | {"metadata": metadata, "outputs": [output]}


def _markdown(name: str, text: str) -> Cell:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


@cache
def _verdicts() -> list[claims.Verdict]:
    return claims.evaluate()


@cache
def _record(name: str):
    return recorded(name)


@cache
def _tables() -> dict[str, Any]:
    """The paper's table -> the record that answers to it."""
    files = sorted((ROOT / "data" / "results").glob("table*.json"))
    return {record["table"]: record for file in files if (record := _record(file.stem)) is not None and record["table"]}


def always_read(app, env, added, changed, removed) -> list[str]:
    """Pages to read again although their own files are as they were: claims, records or this code may have changed."""
    return sorted(name for name in env.found_docs if FOLDED.match(name))


def setup(app) -> dict[str, bool]:
    app.connect("source-read", answer_first, priority=600)  # after the notice on older code, so that the answer comes first
    app.connect("env-get-outdated", always_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
