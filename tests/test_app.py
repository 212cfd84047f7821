"""The local app without a browser: what it refuses, in one sentence each; the line; what it keeps and for how long."""

import io
import json
import threading
import urllib.error
import urllib.request
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from serving import Served
from tiny import IMAGE_SIZE, tiny_pipeline

import companion.app.line as line_module
from companion.app.examples import runs_of_mask
from companion.app.line import MAX_WAITING, Full, Job, Line, one_sentence
from companion.app.models import Models, Side
from companion.app.pictures import MAX_BYTES, MAX_PIXELS, read_upload, shown_name
from companion.app.requests import mask_of_runs, prepared
from companion.app.server import HOST, App
from companion.app.session import MAX_PICTURES, Session
from companion.app.work import Cancelled, Work
from companion.data.pictures import PictureError

GREY = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 128, np.uint8)
WALK = dict(kind="walk", between="prompts", first_prompt="a dog", second_prompt="a cat", first=None, second=None, frames=3)
WALK |= dict(num_inference_steps=2, guidance_scale=3, first_seed=0, second_seed=1, num_inner_steps=1)
RECONSTRUCT = dict(
    kind="reconstruct", picture="p", prompt="a dog", inversion="ddim", num_inner_steps=1, num_inference_steps=2, guidance_scale=3
)
EDIT = dict(kind="edit", picture="p", source_prompt="a dog", target_prompt="a cat", method="sdedit", inversion="ddim", strength=0.8, seed=0)
EDIT |= dict(num_inference_steps=2, guidance_scale=3)
DRAG = dict(
    kind="drag", picture="p", prompt="a dog", num_inference_steps=4, strength=0.5, iterations=2, lr=0.01, lora_steps=1, reach=1, seed=0
)
DRAG |= dict(handles=[[4, 4]], targets=[[8, 8]], mask=None)


@pytest.fixture(scope="module")
def models():
    base, smooth = tiny_pipeline(), tiny_pipeline()
    sides = (Side("base", "Base model", base), Side("smooth", "Smooth Diffusion", smooth))
    return Models("tiny", "none", IMAGE_SIZE, 3.0, "cpu", sides)


def file_of(width=8, height=8, kind="png"):
    content = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(content, format=kind)
    return content.getvalue()


# Requests -------------------------------------------------------------------------------------------------------------------------

REFUSED = [
    (WALK | {"kind": "dance"}, "kind is 'dance'"),
    (WALK | {"frames": 2}, "frames is 2, but must be"),
    (WALK | {"frames": "many"}, "frames is 'many', but must be"),
    (WALK | {"first_prompt": " "}, "first_prompt is ' ', but must be a text"),
    (WALK | {"first_prompt": "dog " * 200}, "first_prompt has .* tokens"),
    (WALK | {"guidance_scale": float("nan")}, "guidance_scale is nan"),
    (WALK | {"speed": 3}, "speed is unknown"),
    (WALK | {"between": "pictures"}, "first is empty, but must be a picture"),
    (WALK | {"between": "pictures", "guidance_scale": 1}, "guidance_scale must differ from 1"),
    (RECONSTRUCT | {"picture": None}, "picture is empty, but must be a picture"),
    (RECONSTRUCT | {"picture": "another"}, "picture is empty, but must be a picture"),
    (RECONSTRUCT | {"inversion": "null_text", "guidance_scale": 1}, "guidance_scale must differ from 1"),
    (EDIT | {"method": "magic"}, "method is 'magic', but must be"),
    (EDIT | {"strength": 3}, "strength is 3"),
    (EDIT | {"target_prompt": ""}, "target_prompt is ''"),
    (DRAG | {"handles": [], "targets": []}, "handles is empty"),
    (DRAG | {"targets": []}, "targets of image 0 has shape"),
    (DRAG | {"handles": [[4, 999]]}, "must lie in the picture"),
    (DRAG | {"handles": [[4, 4], [4, 4]], "targets": [[8, 8], [9, 9]]}, "one place twice"),
    (DRAG | {"handles": [["x", 4]]}, "handles is .*, but must be a list of at most 32 points"),
    (DRAG | {"handles": [[i, 1] for i in range(33)]}, "but must be a list of at most 32 points"),
    (DRAG | {"mask": [-1, 7]}, "mask is .*, but must be the lengths of a mask's runs"),
    (DRAG | {"mask": [3]}, "mask has 3 pixels, but must have"),
    (DRAG | {"mask": [IMAGE_SIZE**2]}, "masks is empty"),
    (DRAG | {"mask": [0, 1, IMAGE_SIZE**2 - 1]}, "must lie in the mask"),
    (DRAG | {"strength": 0}, "strength is 0"),
    (DRAG | {"iterations": 100_000}, "iterations is 100000"),
]


@pytest.mark.parametrize(("request_", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_cannot_be_done_is_refused_before_it_joins_the_line(models, request_, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        prepared(request_, {"p": GREY}, models)
    assert "\n" not in one_sentence(refused.value) and one_sentence(refused.value).endswith((".", "?"))


def test_a_request_must_be_an_object(models):
    with pytest.raises(ValueError, match="request is a list"):
        prepared([1], {}, models)


def test_masks_travel_as_runs():
    mask = np.random.default_rng(0).random((7, 5)) < 0.5
    for one in (mask, ~mask, np.ones_like(mask), np.zeros_like(mask)):
        assert np.array_equal(mask_of_runs(tuple(runs_of_mask(one)), one.shape).numpy(), one)


# Pictures -------------------------------------------------------------------------------------------------------------------------


def test_pictures_become_the_square_that_the_model_sees():
    assert read_upload(file_of(40, 20), "a.png", 16).shape == (16, 16, 3)
    assert np.ptp(read_upload(file_of(kind="webp"), "a.webp", 16)) >= 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "a.png cannot be read, but must be a picture in PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.png cannot be read"),
        (file_of(300, 300)[:200], "a.png cannot be read"),
        (file_of(MAX_PIXELS // 1000, 1001), "a.png has 25000 x 1001 pixels, but must have at most 25,000,000"),
        (bytes(MAX_BYTES + 1), "a.png has 10.0 MB, but must have at most 10 MB"),
    ],
    ids=["empty", "postscript", "cut off", "pixels", "bytes"],
)
def test_what_is_no_picture_is_refused_and_leaves_no_file(content, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(PictureError, match=sentence):
        read_upload(content, "folder/a.png", 16)
    assert not list(tmp_path.iterdir())


def test_names_are_shown_without_folders_and_control_signs():
    assert shown_name("C:\\x\\a\nb.png") == "ab.png" and shown_name("") == "the file" and len(shown_name("x" * 999)) == 80


# Work and the line ------------------------------------------------------------------------------------------------------------------


def test_progress_rises_and_cancelling_ends_at_the_next_call(models):
    told, stop, unet = [], threading.Event(), models.sides[0].pipe.unet
    work = Work(lambda share, text: told.append((share, text)), stop)
    hooks = len(unet._forward_pre_hooks)
    for _ in range(2):
        with work.side("Side", unet, total=2):
            for i in work.stages(1)(range(4)):
                assert i in range(4)
    assert told[0][0] == 0 and told == sorted(told) and told[-1][0] >= 0.5
    stop.set()
    ask = prepared(WALK, {}, models)
    with pytest.raises(Cancelled):
        line_module.compute(ask, models, Work(lambda share, text: None, stop))
    assert len(unet._forward_pre_hooks) == hooks


@pytest.fixture
def slow(monkeypatch, models):
    """A line whose work is done when it is told."""
    order, gate = [], threading.Semaphore(0)

    def compute(ask, models, work):
        order.append(ask)
        assert gate.acquire(timeout=30)
        work.check()
        return ask

    monkeypatch.setattr(line_module, "compute", compute)
    line = Line(models)
    yield SimpleNamespace(line=line, order=order, gate=gate)
    for _ in range(20):
        gate.release()
    line.close()


class Told(list):
    def __init__(self):
        super().__init__()
        self.changed = threading.Condition()

    def __call__(self, message):
        with self.changed:
            self.append(message["type"] if isinstance(message, dict) else message)
            self.changed.notify_all()

    def wait(self, kind):
        with self.changed:
            assert self.changed.wait_for(lambda: kind in self, 30), (kind, list(self))


def test_two_people_wait_in_a_line(slow):
    first, second, third = Told(), Told(), Told()
    jobs = [Job(name, told, lambda result, told=told: told("finished")) for name, told in zip("abc", (first, second, third), strict=True)]
    for job in jobs:
        slow.line.join(job)
    first.wait("started")
    assert "started" not in second
    slow.line.leave(jobs[1])  # who waits leaves at once, although the first is still computed
    second.wait("cancelled")
    slow.gate.release()
    first.wait("finished")
    third.wait("started")
    slow.line.leave(jobs[2])
    slow.gate.release()
    third.wait("cancelled")
    assert slow.order == ["a", "c"] and "finished" not in third


def test_the_line_has_an_end(slow):
    told = Told()
    for name in range(MAX_WAITING):
        slow.line.join(Job(name, told, told))
    with pytest.raises(Full, match=f"{MAX_WAITING} pieces of work wait already"):
        slow.line.join(Job("late", told, told))


def test_a_fault_is_one_sentence_and_the_line_goes_on(models, monkeypatch, capsys):
    def compute(ask, models, work):
        if ask == "bad":
            raise ValueError("x is 1, but must be 2")
        if ask == "worse":
            raise KeyError("inside")
        return ask

    monkeypatch.setattr(line_module, "compute", compute)
    line, said, told = Line(models), [], Told()
    for ask in ("bad", "worse", "good"):
        line.join(Job(ask, lambda message: said.append(message.get("sentence")), told))
    told.wait("good")
    line.close()
    assert [one for one in said if one] == ["x is 1, but must be 2.", "This failed inside the program (KeyError); its terminal says where."]
    assert "KeyError" in capsys.readouterr().err


# Sessions -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [WALK, WALK | {"between": "pictures", "first": "p", "second": "q"}, RECONSTRUCT, EDIT, DRAG])
def test_every_tab_computes_both_sides(models, request_):
    line, messages, done = Line(models), [], threading.Event()

    def send(message):
        messages.append(message)
        if message["type"] in ("done", "refused"):
            done.set()

    session = Session(models, line, send)
    session.pictures = {"p": GREY, "q": 255 - GREY}
    session.ask(request_)
    assert done.wait(120)
    line.close()
    assert messages[-1]["type"] == "done", messages[-1]
    count = 3 if request_["kind"] == "walk" else 1
    assert {key: len(side["files"]) for key, side in messages[-1]["sides"].items()} == {"base": count, "smooth": count}
    with zipfile.ZipFile(io.BytesIO(session.files["result.zip"])) as archive:
        assert len(archive.namelist()) == 2 * count + 1
        assert json.loads(archive.read("settings.json"))["kind"] == request_["kind"]
        pictures = [np.asarray(Image.open(archive.open(name))) for name in archive.namelist() if name.endswith(".png")]
    assert all(one.shape == (IMAGE_SIZE, IMAGE_SIZE, 3) for one in pictures)
    assert np.array_equal(pictures[0], pictures[count])  # the two sides of this test are one model, and their noise is the same
    assert ("<svg" in messages[-1]["curve"]["drawing"]) == (request_["kind"] == "walk")
    session.close()
    assert not session.files and not session.pictures


def test_a_page_has_one_piece_of_work_and_a_bounded_number_of_pictures(models, slow):
    session = Session(models, slow.line, lambda message: None)
    names = [session.keep_picture(GREY) for _ in range(MAX_PICTURES + 3)]
    assert list(session.pictures) == names[3:]
    session.ask(WALK)
    with pytest.raises(ValueError, match="has a piece of work already"):
        session.ask(WALK)
    session.close()
    assert session.job is None or session.job.stop.is_set()


# Server ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(models):
    served = Served(lambda: App(models, examples={}))
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


def test_noise_is_that_of_the_seed(models):
    from companion.app.compute import noise

    pipe = models.sides[0].pipe
    assert torch.equal(noise(pipe, IMAGE_SIZE, 3), noise(pipe, IMAGE_SIZE, 3))
    assert not torch.equal(noise(pipe, IMAGE_SIZE, 3), noise(pipe, IMAGE_SIZE, 4))
