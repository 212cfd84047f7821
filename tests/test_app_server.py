"""The local app's server: it answers this machine alone, gives nothing away, and refuses what is too large."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
from asking import tiny_models
from serving import Served

from companion.app.pictures import MAX_BYTES
from companion.app.server import HOST, App


@pytest.fixture(scope="module")
def served():
    served = Served(lambda: App(tiny_models(), examples={}))
    yield served
    served.close()


def answer(served, path, **more):
    try:
        with urllib.request.urlopen(urllib.request.Request(served.address + path, **more), timeout=30) as found:
            return found.status, found.headers, found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_it_serves_this_machine_alone_and_asks_nobody(served):
    assert served.address.startswith(f"http://{HOST}:") and HOST == "127.0.0.1"
    status, headers, page = answer(served, "")
    assert status == 200 and b"Smooth Diffusion by hand" in page and b"//" not in page.replace(b"<!doctype", b"")
    assert "default-src 'self'" in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
    for more in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert answer(served, "", headers=more)[0] == 403
        assert answer(served, "work", headers=more)[0] == 403


@pytest.mark.parametrize("path", ["../server.py", "%2e%2e/server.py", "result/unknown/base.png", "upload/unknown", "nothing.html"])
def test_nothing_else_can_be_read(served, path):
    assert answer(served, path)[0] in (403, 404, 405)


def test_an_upload_that_is_too_large_is_refused_by_its_announced_size(served):
    headers = {"Content-Length": str(MAX_BYTES + 1), "X-Name": "big.png"}
    status, _, body = answer(served, "upload/unknown", method="POST", data=b"", headers=headers)
    assert status == 413 and json.loads(body)["sentence"] == "big.png has 10.0 MB, but must have at most 10 MB."


def test_an_upload_that_announces_no_size_is_refused_when_it_has_become_too_large(served):
    host = urllib.parse.urlsplit(served.address).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    chunks = (bytes(1_000_000) for _ in range(MAX_BYTES // 1_000_000 + 1))
    connection.request("POST", "/upload/unknown", body=chunks, headers={"X-Name": "big.png"}, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413 and "but must have at most 10 MB" in json.loads(answer.read())["sentence"]
    connection.close()
