"""The model as the browser loads it: the same numbers as PyTorch's, listed with their hashes; a sentence where it cannot be made."""

import hashlib
import json

import numpy as np
import pytest
import torch

from companion.base.paths import ROOT
from companion.book.live import export, menu, widgets
from companion.weights.pipelines import load_pipeline
from smoothlib import decode_latents

NEEDS = "the extra live is not installed: pip install -c constraints.txt -e '.[live]'"
SCALES = (0.0, 0.5, 1.0, 1.5)


def test_without_the_extra_a_sentence_stands_in_the_widgets_place():
    assert widgets.walk(None, "_static") == f'<p class="live-without">{export.WITHOUT}</p>'


def test_the_menu_names_each_caption_once_and_as_the_scenes_do():
    files = [one.file for one in menu.subjects()]
    assert len(set(files)) == len(files)
    every = [caption for one in menu.subjects() for caption in menu.captions(one)]
    assert len(set(every)) == len(every) == len(files) * len(menu.places())
    assert "a photo of a red sofa on a wooden floor in an apartment" in every and "a photo of a dog on grass in a sunny park" in every


def test_the_schedule_is_that_of_the_pipelines_scheduler():
    pipe = load_pipeline("mini")
    steps = export.schedule(pipe, 20)
    assert [t for t, _, _ in steps] == list(range(951, 0, -50))
    assert [end for *_, end in steps[:-1]] == [alpha for _, alpha, _ in steps[1:]] and steps[-1][2] == float(
        pipe.scheduler.final_alpha_cumprod
    )
    x, e = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    t, alpha, end = steps[3]
    ours = (end / alpha) ** 0.5 * x + end**0.5 * ((1 / end - 1) ** 0.5 - (1 / alpha - 1) ** 0.5) * e
    assert torch.allclose(ours, pipe.scheduler.step(e, int(t), x).prev_sample, atol=1e-5)


@pytest.fixture(scope="module")
def pipe():
    pytest.importorskip("onnx", reason=NEEDS)
    return load_pipeline(export.MODEL, adapter=export.ADAPTER)


def answers(content, **inputs):
    runtime = pytest.importorskip("onnxruntime", reason=NEEDS)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def rescale(unet, scale):
    for layer in unet.modules():
        if hasattr(layer, "lora_A"):
            for name in layer.lora_A:
                layer.set_scale(name, scale)


@pytest.mark.parametrize(("half", "allowed"), [(True, 1e-3), (False, 1e-5)])
def test_a_hundred_random_inputs_give_what_pytorch_gives(pipe, half, allowed):
    """The root of the mean squared difference, in units of the answer's own; one call mixes four strengths of the LoRA."""
    files, draw = export.network_bytes(pipe, half=half), torch.Generator().manual_seed(0)
    x, xi = torch.randn(100, 4, 16, 16, generator=draw), torch.randn(100, 24, 192, generator=draw)
    t, s = torch.randint(1, 1000, (100,), generator=draw).float(), torch.tensor(SCALES).repeat(25)
    got = answers(files["unet.onnx"], latents=x, timesteps=t, embeddings=xi, scales=s)
    try:
        for scale in SCALES:
            rescale(pipe.unet, scale)
            rows = s == scale
            with torch.no_grad():
                expected = pipe.unet(x[rows], t[rows], xi[rows]).sample
            assert ((got[rows] - expected).square().mean() / expected.square().mean()).sqrt() <= allowed
    finally:
        rescale(pipe.unet, 1.0)
    expected = decode_latents(pipe, x)
    assert ((answers(files["decoder.onnx"], latents=x) - expected).square().mean() / expected.square().mean()).sqrt() <= allowed


def test_every_file_is_listed_with_its_hash_and_made_once(pipe, tmp_path):
    made = export.export(tmp_path)
    for name, entry in made["files"].items():
        if name not in export.RUNTIME_FILES:
            content = (tmp_path / name).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert json.loads((tmp_path / "manifest.json").read_text()) == json.loads(json.dumps(made))
    (tmp_path / "unet.onnx").unlink()
    export.export(tmp_path)
    assert (tmp_path / "unet.onnx").is_file()  # a file that is gone is made again
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert "/_build/" in ignored


def test_weights_beyond_half_precision_are_refused():
    onnx = pytest.importorskip("onnx", reason=NEEDS)
    from companion.book.live.onnx_files import halved

    weight = onnx.numpy_helper.from_array(np.full((8, 16), 1e5, np.float32), "big")
    node = onnx.helper.make_node("MatMul", ["x", "big"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width]) for name, width in (("x", 8), ("y", 16)))
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "one", [x], [y], [weight]))
    with pytest.raises(ValueError, match="weight big reaches 1e\\+05, but must be at most 65504"):
        halved(model.SerializeToString())


def test_the_method_page_has_the_widget_or_says_why_not():
    page = ROOT / "_build" / "html" / "book" / "method.html"
    if not page.is_file():
        pytest.skip("the book has not been built: make book")
    text, made = page.read_text(encoding="utf-8"), (page.parents[1] / "_static" / "live" / "model" / "manifest.json").is_file()
    assert ("Load the model" in text) == made and (export.WITHOUT in text or made)
