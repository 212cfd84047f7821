"""The model as the browser loads it: the same numbers as PyTorch's, listed with their hashes; a sentence where it cannot be made."""

import hashlib
import json
import os
import re

import numpy as np
import pytest
import torch

from companion.base.paths import ROOT
from companion.book.live import export, menu, widgets
from companion.weights.pipelines import load_pipeline
from companion.world.vocabulary import CLASSES, COLOURS, GROUNDS, SETTINGS
from smoothlib import decode_latents, encode_images, encode_prompts

NEEDS = "the extra live is not installed: pip install -c constraints.txt -e '.[live]'"
SCALES = (0.0, 0.5, 1.0, 1.5)
INPUTS = int(os.environ.get("LIVE_INPUTS", "12"))  # LIVE_INPUTS=100 takes 40 seconds


def test_without_the_extra_a_sentence_stands_in_the_widgets_place(monkeypatch):
    for name in widgets.WIDGETS:
        assert widgets.launcher(name, None, "_static") == f'<p class="live-without">{export.WITHOUT}</p>'
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert not export.can_export()
    with pytest.raises(ValueError, match="live is 'fly', but must be one of walk"):
        widgets.launcher("fly", None, "_static")


@pytest.mark.parametrize("name", widgets.WIDGETS)
def test_a_page_carries_a_sentence_and_a_button_until_it_is_asked(name):
    """No style, no script, no file; under a kilobyte and a half a widget."""
    files = {file: {"bytes": 10**6} for file in (*export.RUNTIME_FILES, *(f"{part}.onnx" for part in export.PARTS))}
    html = widgets.launcher(name, {"files": files}, "../_static")
    assert f"Load the model, {3 + len(widgets.WIDGETS[name].parts)} MB" in html and "Nothing is sent." in html
    assert len(html.encode()) < 1500 and not re.search("<(script|style|link|img)|src=", html)


@pytest.mark.parametrize("page", ["intro", "method"])
def test_the_pages_have_the_walk_or_say_why_not(page):
    built = ROOT / "_build" / "html" / "book" / f"{page}.html"
    if not built.is_file():
        pytest.skip("the book has not been built: make book")
    text, made = built.read_text(encoding="utf-8"), (built.parents[1] / "_static" / "live" / "model" / export.MANIFEST).is_file()
    assert ('data-live="walk"' in text) == made and (export.WITHOUT in text) != made
    assert "_static/live/live.css" not in text and "vendor/ort" not in text


@pytest.fixture(scope="module")
def mini():
    return load_pipeline(export.MODEL)


def test_the_menu_names_each_caption_once_and_as_the_scenes_do():
    captions = {f"{subject['begins']} {place['ends']}" for subject in menu.subjects() for place in menu.places()}
    assert len(captions) == len(menu.subjects()) * len(menu.places())
    assert {"a photo of a red sofa on a wooden floor in an apartment", "a photo of a dog on grass in a sunny park"} <= captions
    assert {subject["word"] for subject in menu.subjects()} == set(CLASSES)
    assert {subject["colour"] for subject in menu.subjects()} == {None, *COLOURS}
    assert {place["setting"] for place in menu.places()} == set(SETTINGS) and {place["ground"] for place in menu.places()} == set(GROUNDS)


def test_captions_have_the_tokens_of_the_models_tokenizer(mini):
    known = menu.words(mini.tokenizer)
    for caption in [f"{subject['begins']} {place['ends']}" for subject in menu.subjects() for place in menu.places()[::7]] + [""]:
        ours = [known["start"], *(known["ids"][word] for word in caption.split())]
        ours += [known["end"]] * (known["length"] - len(ours))
        assert ours == mini.tokenizer(caption, padding="max_length", max_length=known["length"]).input_ids


@pytest.mark.parametrize("steps", [1, 8, 20, 50])
def test_the_schedule_is_that_of_the_pipelines_scheduler(mini, steps):
    known = export.schedule(mini)
    alphas, stride = known["alphas"], 1000 // steps
    times = [known["offset"] + i * stride for i in reversed(range(steps))]
    mini.scheduler.set_timesteps(steps)
    assert mini.scheduler.timesteps.tolist() == times
    x, e = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).unbind()
    for i in {0, steps // 2, steps - 1}:
        alpha, end = alphas[times[i]], alphas[times[i + 1]] if i + 1 < steps else known["final"]
        ours = (end / alpha) ** 0.5 * x + end**0.5 * ((1 / end - 1) ** 0.5 - (1 / alpha - 1) ** 0.5) * e
        assert torch.allclose(ours, mini.scheduler.step(e, times[i], x).prev_sample, atol=1e-5)


@pytest.fixture(scope="module")
def pipe():
    pytest.importorskip("onnx", reason=NEEDS)
    return load_pipeline(export.MODEL, adapter=export.ADAPTER)


def answers(content, **inputs):
    """What ONNX's own reference implementation computes, in NumPy: slow, and without a runtime that reports to its maker."""
    evaluator = pytest.importorskip("onnx.reference", reason=NEEDS).ReferenceEvaluator(content)
    return torch.from_numpy(evaluator.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def rescale(unet, scale):
    for layer in unet.modules():
        if hasattr(layer, "lora_A"):
            for name in layer.lora_A:
                layer.set_scale(name, scale)


def error(got, expected):
    """The root of the mean squared difference, in units of the answer's own."""
    assert got.shape == expected.shape
    return float(((got - expected).square().mean() / expected.square().mean()).sqrt())


def shipped():
    """The files that the book has."""
    return {name: (export.HOME / name).read_bytes() for name in export.export()["files"] if name.endswith(".onnx")}


@pytest.mark.parametrize(("half", "allowed"), [(True, 1e-3), (False, 1e-5)], ids=["half", "single"])
@torch.no_grad()
def test_random_inputs_give_what_pytorch_gives(pipe, half, allowed):
    """One call mixes four strengths of the LoRA: 0, the base model, to 1.5."""
    draw = torch.Generator().manual_seed(0)
    files = shipped() if half else export.network_bytes(pipe, half=False)
    captions = [f"{subject['begins']} {place['ends']}" for subject in menu.subjects() for place in menu.places()][:: 1140 // INPUTS][
        :INPUTS
    ]
    x, t = torch.randn(INPUTS, 4, 16, 16, generator=draw), torch.randint(1, 1000, (INPUTS,), generator=draw).float()
    s, images = torch.tensor(SCALES).repeat(INPUTS // len(SCALES)), torch.rand(INPUTS, 3, 64, 64, generator=draw) * 2 - 1
    xi, ids = encode_prompts(pipe, captions), pipe.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids.int()
    found = {"text": error(answers(files["text.onnx"], ids=ids), xi)}
    got, expected = answers(files["unet.onnx"], latents=x, timesteps=t, embeddings=xi, scales=s), torch.empty_like(x)
    try:
        for scale in SCALES:
            rescale(pipe.unet, scale)
            rows = s == scale
            expected[rows] = pipe.unet(x[rows], t[rows], xi[rows]).sample
            found[f"unet, scale {scale}"] = error(got[rows], expected[rows])
    finally:
        rescale(pipe.unet, 1.0)
    assert error(expected[s == 0], load_pipeline(export.MODEL).unet(x[s == 0], t[s == 0], xi[s == 0]).sample) < 1e-6  # 0 is the base model
    found["decoder"] = error(answers(files["decoder.onnx"], latents=x), decode_latents(pipe, x))
    found["encoder"] = error(answers(files["encoder.onnx"], images=images), encode_images(pipe, images))
    print({name: f"{value:.2g}" for name, value in found.items()}, {name: len(content) for name, content in files.items()})
    assert max(found.values()) <= allowed


def test_every_file_is_listed_with_its_hash_and_a_changed_one_is_made_again(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "network_bytes", lambda pipe, half: {f"{part}.onnx": part.encode() for part in export.PARTS})
    made = export.export(tmp_path)
    for name, entry in made["files"].items():
        if name not in export.RUNTIME_FILES:
            content = (tmp_path / name).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert json.loads((tmp_path / "manifest.json").read_text()) == json.loads(json.dumps(made))
    whole = (tmp_path / "decoder.onnx").read_bytes()
    (tmp_path / "decoder.onnx").write_bytes(whole[:-1])
    export.export(tmp_path)
    assert (tmp_path / "decoder.onnx").read_bytes() == whole
    assert "/_build/" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


def test_weights_beyond_half_precision_are_refused():
    onnx = pytest.importorskip("onnx", reason=NEEDS)
    from companion.book.live.onnx_files import halved

    weight = onnx.numpy_helper.from_array(np.full((8, 16), 1e5, np.float32), "big")
    node = onnx.helper.make_node("MatMul", ["x", "big"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width]) for name, width in (("x", 8), ("y", 16)))
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "one", [x], [y], [weight]))
    with pytest.raises(ValueError, match="weight big reaches 1e\\+05, but must be at most 65504"):
        halved(model.SerializeToString())


def test_a_pipeline_without_a_lora_or_with_other_steps_is_refused(mini):
    from companion.book.live.networks import ScaledUNet

    with pytest.raises(ValueError, match="pipe carries no adapter"):
        ScaledUNet(mini)
    other = type("Pipe", (), {"scheduler": type(mini.scheduler).from_config(mini.scheduler.config, timestep_spacing="trailing")})
    with pytest.raises(ValueError, match="timestep_spacing 'trailing'"):
        export.schedule(other)
