"""The app's server: the page and its files, a socket per open page, uploads and results. It answers this machine alone."""

import json
import urllib.parse
from pathlib import Path
from typing import Any

import tornado.httpserver
import tornado.ioloop
import tornado.netutil
import tornado.web
import tornado.websocket

from ..data.pictures import PictureError
from ..studies.editing.methods import INVERSION_TITLES, PLANS
from .examples import Example, load_examples
from .line import Line, one_sentence
from .models import Models
from .pictures import MAX_BYTES, png, read_upload, too_large
from .requests import published_strength
from .session import Session

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("page")
MAX_MESSAGE = 4_000_000  # bytes of a request: a painted mask of a large picture is most of it
# Nothing but this server is asked for anything, whatever a page should contain.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; connect-src 'self' ws://127.0.0.1:* ws://localhost:*; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Here:
    """For handlers: headers, and no answer to a page of another site that had its name lead to this machine."""

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        host = urllib.parse.urlsplit(f"//{self.request.host}").hostname
        origin = self.request.headers.get("Origin")
        if host not in (HOST, "localhost") or (origin is not None and urllib.parse.urlsplit(origin).netloc != self.request.host):
            raise tornado.web.HTTPError(403, reason="Only pages of this app are answered")

    @property
    def app(self) -> "App":
        return self.application.settings["app"]


class _File(_Here, tornado.web.StaticFileHandler):
    pass


class _Result(_Here, tornado.web.RequestHandler):
    """A file of a page's latest result, or a picture that it has."""

    def get(self, token: str, name: str) -> None:
        session = self.app.session(token)
        if name in session.pictures:
            content = png(session.pictures[name])
        elif name in session.files:
            content = session.files[name]
        else:
            raise tornado.web.HTTPError(404)
        kind = {"zip": "application/zip", "json": "application/json"}.get(name.rpartition(".")[2], "image/png")
        self.set_header("Content-Type", kind)
        if kind == "application/zip":
            self.set_header("Content-Disposition", 'attachment; filename="smooth-diffusion.zip"')
        self.finish(content)


@tornado.web.stream_request_body
class _Upload(_Here, tornado.web.RequestHandler):
    """A picture as the body of a request; its name in the header X-Name. The answer is its id, or one sentence."""

    def prepare(self) -> None:
        super().prepare()
        self.body, self.refused = bytearray(), False
        self.name = urllib.parse.unquote(self.request.headers.get("X-Name", ""))
        announced = self.request.headers.get("Content-Length", "0")
        if announced.isdigit() and int(announced) > MAX_BYTES:
            self._refuse(int(announced))

    def data_received(self, chunk: bytes) -> None:
        if self.refused:
            return
        self.body += chunk
        if len(self.body) > MAX_BYTES:  # of a body that did not announce its size
            self._refuse(len(self.body))

    def _refuse(self, size: int) -> None:
        self.refused = True
        self.set_status(413)
        self.finish({"sentence": too_large(self.name, size) + "."})

    async def post(self, token: str) -> None:
        if self.refused:
            return
        session, size = self.app.session(token), self.app.models.size
        loop = tornado.ioloop.IOLoop.current()
        try:
            pixels = await loop.run_in_executor(None, read_upload, bytes(self.body), self.name, size)
        except PictureError as error:
            self.finish({"sentence": one_sentence(error)})  # an answer, not a failure: the browser's console stays empty
        else:
            self.finish({"picture": session.keep_picture(pixels)})


class _Socket(_Here, tornado.websocket.WebSocketHandler):
    """The life of an open page: when the socket closes, its work is cancelled and what it brought is gone."""

    session: Session | None = None

    def open(self, *args: str) -> None:
        loop = tornado.ioloop.IOLoop.current()
        self.session = Session(self.app.models, self.app.line, lambda message: loop.add_callback(self._send, message))
        self.app.sessions[self.session.token] = self.session
        self._send({"type": "hello", "session": self.session.token, **self.app.description})

    def on_message(self, message: str | bytes) -> None:
        try:
            request = json.loads(message)
            action = request.pop("action", None) if isinstance(request, dict) else None
            if action == "ask":
                self.session.ask(request)
            elif action == "cancel":
                self.session.cancel()
            elif action == "example":
                self._example(request)
            else:
                raise ValueError(f"action is {action!r}, but must be ask, cancel or example")
        except (ValueError, TypeError, KeyError, IndexError) as error:
            self._send({"type": "refused", "sentence": one_sentence(error)})

    def _example(self, request: dict[str, Any]) -> None:
        example = self.app.examples[request["tab"]][int(request["number"])]
        pictures = {name: self.session.keep_picture(pixels) for name, pixels in example.pictures.items()}
        self._send({"type": "example", "tab": request["tab"], "fields": dict(example.fields), "pictures": pictures})

    def on_close(self) -> None:
        if self.session is not None:
            self.app.sessions.pop(self.session.token, None)
            self.session.close()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.write_message(json.dumps(message))
        except tornado.websocket.WebSocketClosedError:
            pass


class App:
    """The server, its line of work and the open pages."""

    def __init__(self, models: Models, examples: dict[str, list[Example]] | None = None) -> None:
        self.models, self.line = models, Line(models)
        self.sessions: dict[str, Session] = {}
        self.examples = load_examples(models.size) if examples is None else examples
        self.description = {
            "model": models.name,
            "adapter": models.adapter,
            "size": models.size,
            "guidance_scale": models.guidance_scale,
            "sides": [{"key": side.key, "title": side.title} for side in models.sides],
            "max_bytes": MAX_BYTES,
            "examples": {tab: [example.title for example in some] for tab, some in self.examples.items()},
            "methods": [
                {"name": name, "title": plan.title, "own": plan.own, "fixed": not plan.fields, "strength": published_strength(name)}
                | {"rises": plan.strengths[-1] >= plan.strengths[0]}
                for name, plan in PLANS.items()
            ],
            "inversions": INVERSION_TITLES,
        }
        handlers = [
            (r"/work", _Socket),
            (r"/upload/([\w-]+)", _Upload),
            (r"/result/([\w-]+)/([\w.-]+)", _Result),
            (r"/(.*)", _File, {"path": str(PAGE), "default_filename": "index.html"}),
        ]
        limits = dict(websocket_max_message_size=MAX_MESSAGE, websocket_ping_interval=20)
        self.application = tornado.web.Application(handlers, app=self, log_function=lambda handler: None, **limits)
        self.server: tornado.httpserver.HTTPServer | None = None

    def session(self, token: str) -> Session:
        """The session of an open page; 404 where there is none."""
        if token not in self.sessions:
            raise tornado.web.HTTPError(404)
        return self.sessions[token]

    def listen(self, port: int) -> str:
        """Serve on this machine alone; port 0: any that is free. Returns the address.

        Raises:
            OSError: the port is taken.
        """
        sockets = tornado.netutil.bind_sockets(port, HOST)
        # a larger body is refused by the upload's own sentence
        self.server = tornado.httpserver.HTTPServer(self.application, max_body_size=2**40, max_buffer_size=2 * MAX_BYTES)
        self.server.add_sockets(sockets)
        return f"http://{HOST}:{sockets[0].getsockname()[1]}/"

    def close(self) -> None:
        """End all work and drop what the pages brought."""
        if self.server is not None:
            self.server.stop()
        for session in list(self.sessions.values()):
            session.close()
        self.line.close()
