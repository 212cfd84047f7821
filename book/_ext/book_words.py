"""The glossary's abbreviations on every page: expanded where a page uses one first, with the same words under the pointer after that.

`book/glossary.md` holds the one list. An entry whose text begins with *words in italics* is an abbreviation of these words.
"""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from docutils import nodes

GLOSSARY = Path(__file__).resolve().parents[1] / "glossary.md"
ENTRY = re.compile(r"^([A-Za-z][\w-]*)\n  \*([^*]+)\*", re.MULTILINE)
LEFT_ALONE = (  # what is not prose, or has words of its own
    nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.title, nodes.abbreviation, nodes.raw, nodes.term, nodes.comment,
)  # fmt: skip
QUIET = {"script", "style", "svg", "select", "abbr", "title", "code", "pre", "textarea"}  # elements of outputs that keep their text
TAG = re.compile(r"(<[^>]*>)")


def abbreviations(text: str | None = None) -> dict[str, str]:
    """Abbreviation -> what it stands for, from the glossary's source."""
    return dict(ENTRY.findall(GLOSSARY.read_text(encoding="utf-8") if text is None else text))


def pattern(words: Mapping[str, str]) -> re.Pattern[str]:
    """Any of the abbreviations as a word of its own, in the singular or plural; not within a longer name ("Smooth-LoRA" is one word)."""
    return re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})(?=s?(?![\w-]))")


def with_hovers(text: str, words: Mapping[str, str], *, expand: set[str], around: str = "") -> list[nodes.Node]:
    """A text as nodes, its abbreviations marked. Those in `expand` get their words in brackets at the first place, and leave the set.

    `around`: the text of the whole paragraph; where it has the words already they are not repeated.
    """
    found: list[nodes.Node] = []
    end = 0
    for match in pattern(words).finditer(text):
        name = match[1]
        found += [nodes.Text(text[end : match.start()]), nodes.abbreviation(name, name, explanation=words[name])]
        end = match.end()
        if name in expand:
            expand.discard(name)
            plural = "s" if text[end : end + 1] == "s" else ""
            in_brackets = text[: match.start()].rstrip().endswith("(")
            if not in_brackets and words[name].casefold() not in around.casefold():
                found.append(nodes.Text(f"{plural} ({words[name]})"))
                end += len(plural)
    found.append(nodes.Text(text[end:]))
    return [node for node in found if node.astext()]


def mark_text(doctree: nodes.document, words: Mapping[str, str]) -> None:
    """Mark the abbreviations of a page's prose."""
    expand = set(words)
    for node in list(doctree.findall(nodes.Text)):
        parents = []
        parent = node.parent
        while parent is not None:
            parents.append(parent)
            parent = parent.parent
        if any(isinstance(one, LEFT_ALONE) for one in parents) or not pattern(words).search(node):
            continue
        paragraph = next((one for one in parents if isinstance(one, nodes.paragraph)), None)
        in_prose = paragraph is not None and not any(isinstance(one, nodes.entry | nodes.reference) for one in parents)
        around = paragraph.astext() if paragraph is not None else ""
        node.parent.replace(node, with_hovers(str(node), words, expand=expand if in_prose else set(), around=around))


def mark_html(html: str, words: Mapping[str, str]) -> str:
    """Mark the first use of each abbreviation in a cell's HTML, and every one in the headings of its tables."""
    open_words, inside, seen, parts = pattern(words), [], set(), []

    def marked(match: re.Match[str]) -> str:
        if match[1] in seen and "th" not in inside:
            return match[0]
        seen.add(match[1])
        return f'<abbr title="{escape(words[match[1]])}">{match[1]}</abbr>'

    for part in TAG.split(html):
        if part.startswith("<"):
            name = re.match(r"</?([a-zA-Z0-9]*)", part)[1].lower()
            if name in QUIET or name == "th":
                if part.startswith("</"):
                    if name in inside:
                        inside.remove(name)
                elif not part.endswith("/>"):
                    inside.append(name)
            parts.append(part)
        else:
            parts.append(part if QUIET & set(inside) else open_words.sub(marked, part))
    return "".join(parts)


def add_hovers(app, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html" or docname == "book/glossary":
        return
    words = abbreviations()
    mark_text(doctree, words)
    for node in doctree.findall(nodes.raw):
        if node.get("format") == "html":
            html = mark_html(node.astext(), words)
            node.children = [nodes.Text(html)]
            node.rawsource = html


def setup(app) -> dict[str, bool]:
    app.connect("doctree-resolved", add_hovers, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
