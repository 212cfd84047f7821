"""The local app in a thread of the tests' own, and pages opened from it in a browser, whose complaints are kept."""

import asyncio
import threading
from urllib.parse import urlsplit

from browsing import TIMEOUT


class Served:
    """An app that serves until `close`."""

    def __init__(self, make):
        self.app, self.address, self._end = None, None, None
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(make, ready)), daemon=True)
        self._thread.start()
        assert ready.wait(300), "the app did not start"

    async def _serve(self, make, ready):
        self._end, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.app = make()
        self.address = self.app.listen(0)
        ready.set()
        await self._end.wait()
        self.app.close()

    def close(self):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)


def opened(browser, served, viewport, scheme="light", **more):
    """A page of the app that has met it, and the list of its complaints: requests to another host, failures, messages of the console."""
    settings = dict(viewport=viewport, color_scheme=scheme, reduced_motion="reduce", accept_downloads=True)
    context = browser.new_context(**settings, **more)
    context.set_default_timeout(TIMEOUT)
    page, complaints = context.new_page(), []

    def asked(url):
        if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != urlsplit(served.address).netloc:
            complaints.append(f"outside: {url}")

    page.on("request", lambda request: asked(request.url))
    page.on("websocket", lambda socket: asked(socket.url))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}, {request.failure}"))
    page.on("response", lambda answer: complaints.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    page.on("console", lambda message: complaints.append(f"console: {message.text}") if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
    page.goto(served.address)
    page.wait_for_selector("body[data-ready=yes]")
    return page, complaints
