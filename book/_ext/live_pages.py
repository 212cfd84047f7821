"""The directive `live`, in whose place readers can let the model run in their browser, and the files that this needs.

The model is exported when the book is built, where the extra `live` is installed; without it a sentence says that it is missing.
"""

import shutil
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

from companion.book.live import export, widgets

HOME = export.ROOT / "_build" / "live"
WIDGETS = {"walk": widgets.walk}


def manifest() -> dict | None:
    return export.export(HOME) if export.can_export() else None


class Live(Directive):
    """```{live} walk```: one of WIDGETS."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in WIDGETS:
            raise self.error(f"live is {name!r}, but must be one of {', '.join(WIDGETS)}")
        docname = self.state.document.settings.env.docname
        static = "../" * docname.count("/") + "_static"
        return [nodes.raw("", WIDGETS[name](manifest(), static), format="html")]


def copy_files(app, exception: Exception | None) -> None:
    """Put the exported files beside the pages."""
    if exception is None and app.builder.format == "html" and export.can_export():
        target = Path(app.outdir) / "_static" / "live" / "model"
        shutil.rmtree(target, ignore_errors=True)
        manifest()
        shutil.copytree(HOME, target)


def setup(app) -> dict[str, bool]:
    app.add_directive("live", Live)
    app.connect("build-finished", copy_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
