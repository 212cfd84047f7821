"""The directive `live`, in whose place readers can let the model run in their browser, and the files that this needs.

The model is exported when the book is built, where the extra `live` is installed; without it a sentence says that it is missing.
"""

import shutil
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.util import logging

from companion.book.live import export, widgets


def manifest() -> dict | None:
    return export.export() if export.can_export() else None


class Live(Directive):
    """```{live} walk```: one of `widgets.WIDGETS`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        env = self.state.document.settings.env
        env.note_reread()  # what is installed may change between builds
        docname = env.docname
        static = "./" + "../" * docname.count("/") + "_static"  # a module's address begins with a dot
        try:
            html = widgets.launcher(self.arguments[0], manifest(), static)
        except ValueError as error:
            raise self.error(str(error)) from None
        return [nodes.raw("", html, format="html")]


def copy_files(app, exception: Exception | None) -> None:
    """Put the exported files beside the pages; files of an earlier build must not outlive the extra."""
    if exception is not None or app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "live" / "model"
    shutil.rmtree(target, ignore_errors=True)
    if export.can_export():
        manifest()
        shutil.copytree(export.HOME, target)
    else:
        logging.getLogger(__name__).info("the book is built without the live model: the extra live is not installed")


def setup(app) -> dict[str, bool]:
    app.add_directive("live", Live)
    app.connect("build-finished", copy_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
