"""What belongs to one open page: the pictures it brought, its piece of work, what came of it. It goes when the page is closed."""

import io
import json
import secrets
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..book.step_curve import sample
from .line import Job, Line
from .models import Models
from .pictures import png
from .requests import prepared

MAX_PICTURES = 16  # that a page may have brought; the oldest goes


class Session:
    """`send` gives a message to the page and may be called from any thread."""

    def __init__(self, models: Models, line: Line, send: Callable[[dict[str, Any]], None]) -> None:
        self.token = secrets.token_urlsafe(16)
        self.models, self.line, self.send = models, line, send
        self.pictures: dict[str, np.ndarray] = {}
        self.files: dict[str, bytes] = {}  # of the latest result, by name
        self.job: Job | None = None
        self._count = 0

    def keep_picture(self, pixels: np.ndarray) -> str:
        """Its id."""
        self._count += 1
        name = f"picture-{self._count}"
        self.pictures[name] = pixels
        while len(self.pictures) > MAX_PICTURES:
            del self.pictures[next(iter(self.pictures))]
        return name

    def ask(self, request: Mapping[str, Any]) -> None:
        """Join the line, if the request can be carried out.

        Raises:
            ValueError: one sentence.
        """
        if self.job is not None:
            raise ValueError("This page has a piece of work already, but may have one at a time: wait for it or cancel it.")
        ask = prepared(request, self.pictures, self.models)
        self.files = {}
        job = Job(ask, self._tell, lambda result: self._finish(dict(request), result))
        self.job = job
        try:
            self.line.join(job)
        except ValueError:
            self.job = None
            raise

    def cancel(self) -> None:
        """End the piece of work, if there is one."""
        if self.job is not None:
            self.line.leave(self.job)

    def close(self) -> None:
        """The page is gone."""
        self.cancel()
        self.pictures, self.files = {}, {}
        self.send = lambda message: None

    def _tell(self, message: dict[str, Any]) -> None:
        if message["type"] in ("cancelled", "refused"):
            self.job = None
        self.send(message)

    def _finish(self, request: dict[str, Any], result: Any) -> None:
        files: dict[str, bytes] = {}
        sides: dict[str, Any] = {}
        for key, outcome in result.sides.items():
            many = len(outcome.pictures) > 1
            names = [f"{key}-{i + 1:02d}.png" if many else f"{key}.png" for i in range(len(outcome.pictures))]
            files |= {name: png(pixels) for name, pixels in zip(names, outcome.pictures, strict=True)}
            sides[key] = {"files": names, "facts": list(outcome.facts)}
        model = {"model": self.models.name, "adapter": self.models.adapter}
        files["settings.json"] = json.dumps(model | request | {"facts": {k: v["facts"] for k, v in sides.items()}}, indent=2).encode()
        files["result.zip"] = zipped(files)
        self.files, self.job = files, None
        lines = [sample(row) for row in range(len(sides))] if result.curve else []
        self.send({"type": "done", "kind": request["kind"], "sides": sides, "curve": {"drawing": result.curve, "lines": lines}})


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The files as one archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()
