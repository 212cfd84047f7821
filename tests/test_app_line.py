"""The local app's line of work: who waits, who has left, what a page gets; progress, cancelling, and what is kept for how long."""

import io
import json
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from asking import DRAG, EDIT, GREY, RECONSTRUCT, WALK, tiny_models
from PIL import Image
from tiny import IMAGE_SIZE

import companion.app.line as line_module
from companion.app.line import MAX_WAITING, Full, Job, Line
from companion.app.requests import prepared
from companion.app.session import MAX_PICTURES, Session
from companion.app.work import Cancelled, Work


@pytest.fixture(scope="module")
def models():
    return tiny_models()


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


def test_progress_rises_and_cancelling_ends_at_the_next_call(models):
    told, stop, unet = [], threading.Event(), models.sides[0].pipe.unet
    work = Work(lambda share, text: told.append((share, text)), stop)
    hooks = len(unet._forward_pre_hooks)
    for _ in range(2):
        with work.side("Side", unet, total=2):
            for i in work.stages(1)(range(4)):
                assert i in range(4)
    assert told[0][0] == 0 and told == sorted(told) and told[-1][0] >= 0.5
    assert len(unet._forward_pre_hooks) == hooks


TABS = [WALK, WALK | {"between": "pictures", "first": "p", "second": "q"}, RECONSTRUCT, EDIT, EDIT | {"method": "plug_and_play"}, DRAG]
NAMES = ["prompts", "pictures", "reconstruct", "edit", "edit with hooks", "drag"]


@pytest.mark.parametrize("request_", TABS, ids=NAMES)
def test_what_is_cancelled_in_the_middle_leaves_the_network_as_it_was(models, request_):
    pipe = models.sides[0].pipe

    def hooks():
        return [(name, len(module._forward_pre_hooks), len(module._forward_hooks)) for name, module in pipe.unet.named_modules()]

    before, processors = hooks(), dict(pipe.unet.attn_processors)
    stop, texts = threading.Event(), []

    def tell(share, text):
        texts.append(text)
        if share > 0:
            stop.set()

    with pytest.raises(Cancelled):
        line_module.compute(prepared(request_, {"p": GREY, "q": 255 - GREY}, models), models, Work(tell, stop))
    assert hooks() == before and dict(pipe.unet.attn_processors) == processors


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


@pytest.mark.parametrize("request_", TABS, ids=NAMES)
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
