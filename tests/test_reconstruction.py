"""Table 2's rows: which there are, what each computes, and that the procedures behave on the shipped model."""

import dataclasses

import numpy as np
import pytest
import torch

from companion.base import paths
from companion.data import load as datasets
from companion.evidence.paper import load_paper_table
from companion.runs import runs
from companion.studies.interpolation.walks import walk_methods
from companion.studies.reconstruction import reconstruct as reconstruction
from companion.studies.reconstruction.reconstruct import Method, Reconstruction, compared_pairs, reconstruct, run_methods, table2_methods
from companion.weights import pipelines as models
from smoothlib.inversion import ddim_invert
from smoothlib.sampling import decode_latents, encode_images, encode_prompts, sample

STEPS = dict(num_inference_steps=4, num_inner_steps=3)


@pytest.fixture(scope="module")
def pipe():
    return models.load_pipeline("mini")


@pytest.fixture(scope="module")
def items():
    return datasets.load_items(limit=3)


def batch(items):
    return torch.stack([item.image for item in items]), [item.caption for item in items]


def test_rows_answer_to_the_papers_rows():
    methods = table2_methods(3.0, ("smooth", "control"))
    printed = set(load_paper_table("table2").rows)
    assert {m.paper_row for m in methods} - {None} == printed
    assert [m.label for m in methods if m.adapter == "control"] == [
        "Control + DDIM, guidance 1",
        "Control + DDIM, guidance 3",
        "Control + NTI, guidance 3",
    ]
    assert all(m.paper_row is None for m in methods if m.adapter == "control")
    assert [m.settings.kind for m in table2_methods(1.0)] == ["vae", "ddim"]  # at guidance 1 there is nothing for NTI to do


def test_the_papers_claims_are_among_the_compared_pairs():
    pairs = compared_pairs(table2_methods(3.0, ("smooth",)))
    assert ("Smooth + NTI, guidance 3", "Base + NTI, guidance 3") in pairs
    assert ("Smooth + DDIM, guidance 1", "Base + DDIM, guidance 1") in pairs
    assert ("Base + NTI, guidance 3", "Base + DDIM, guidance 3") in pairs
    assert len(pairs) == len(set(pairs)) and all(a != b for a, b in pairs)


def test_adapters_may_be_folders_and_are_called_by_the_folders_name():
    methods = table2_methods(3.0, ("../trained/MyRun-2", "somewhere/smooth"))
    assert [m.label.partition(" +")[0] for m in methods if m.settings.kind == "nti"] == ["Base", "MyRun-2", "Smooth"]
    assert methods[-1].adapter == "somewhere/smooth" and methods[-1].paper_row == "Smooth Diff. + NTI"


@pytest.mark.parametrize("adapters", [("a/smooth", "b/smooth"), ("a/smooth", "b/Smooth"), ("a/base",), ("Base",)])
def test_rows_of_one_label_are_refused(adapters):
    for rows in (lambda: table2_methods(3.0, adapters), lambda: walk_methods(adapters)):
        with pytest.raises(
            ValueError, match=rf"adapters is {', '.join(adapters)}, but must have different folder names, none of them 'base'"
        ):
            rows()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(kind="edict"), "kind must be one of vae, ddim, nti"),
        (dict(kind="nti"), "guidance_scale must differ from 1"),
        (dict(kind="ddim", guidance_scale=float("nan")), "guidance_scale is nan, but must be a finite number"),
    ],
)
def test_bad_methods_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Method(**options)


def test_each_kind_is_the_composition_that_it_names(pipe, items):
    images, captions = batch(items)
    z0, embeds = encode_images(pipe, images), encode_prompts(pipe, captions)
    vae, facts = reconstruct(pipe, images, captions, Method("vae"), **STEPS)
    assert torch.equal(vae, decode_latents(pipe, z0)) and facts == {}
    noise = ddim_invert(pipe, z0, embeds, num_inference_steps=4)[-1]
    wanted = decode_latents(pipe, sample(pipe, noise, embeds, guidance_scale=3.0, num_inference_steps=4))
    assert torch.equal(reconstruct(pipe, images, captions, Method("ddim", 3.0), **STEPS)[0], wanted)


def test_null_text_inversion_reproduces_better_than_ddim_at_the_same_guidance(pipe, items):
    images, captions = batch(items)
    error = {}
    for kind in ("vae", "ddim", "nti"):
        made, facts = reconstruct(pipe, images, captions, Method(kind, 1.0 if kind == "vae" else 4.0), **STEPS)
        error[kind] = (made - images).square().mean(dim=(1, 2, 3))
    assert (error["nti"] < error["ddim"]).all() and error["vae"].mean() < error["nti"].mean()
    assert facts["inner_steps"].shape == (3,) and (facts["inner_steps"] >= 4).all()


def test_stored_results_are_the_same_whatever_the_batch(pipe, items, tmp_path):
    procedure = Reconstruction(pipe, Method("ddim", 3.0), **STEPS)
    together = runs.run_items(items, procedure, name="a", config={}, batch_size=3, root=tmp_path)
    alone = runs.run_items(items, procedure, name="b", config={}, batch_size=1, root=tmp_path)
    for one, other in zip(together, alone, strict=True):
        assert one["image"].shape == (3, 64, 64) and one["image"].dtype == np.uint8
        for metric in ("mse", "lpips", "ssim", "psnr"):
            assert one[metric] == pytest.approx(other[metric], rel=1e-3)


def test_the_rows_of_a_model_share_one_inversion_of_each_image(pipe, items, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    inverted, invert = [], reconstruction.invert

    def counted(pipe, images, prompts, **steps):
        inverted.extend(prompts)
        return invert(pipe, images, prompts, **steps)

    monkeypatch.setattr(reconstruction, "invert", counted)
    methods = table2_methods(3.0)
    arguments = dict(weights="w", batch_size=2, null_text_lr=0.1, **STEPS)
    together = run_methods(pipe, items, methods, **arguments)
    assert list(together) == [m.label for m in methods] and sorted(inverted) == sorted(item.caption for item in items)
    images, captions = batch(items)
    for method in methods[1:]:
        alone, _ = reconstruct(pipe, images, captions, method.settings, null_text_lr=0.1, **STEPS)
        error = (alone - images).square().mean(dim=(1, 2, 3))
        assert [found["mse"] for found in together[method.label]] == pytest.approx(error.tolist(), rel=1e-3)

    inverted.clear()
    run_methods(pipe, items, methods, **arguments | dict(null_text_lr=0.01))  # another setting of the third row alone
    settings = [len(list((tmp_path / "reconstruction" / kind).iterdir())) for kind in ("vae", "ddim", "nti")]
    assert len(inverted) == 3 and settings == [1, 2, 2]


def test_a_batch_that_lost_a_result_gives_it_again_to_the_last_bit(pipe, items, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    arguments = dict(weights="w", batch_size=3, null_text_lr=0.1, **STEPS)
    first = run_methods(pipe, items, table2_methods(3.0), **arguments)
    for folder in {file.parent for file in tmp_path.rglob("*.npz")}:
        sorted(folder.glob("*.npz"))[1].unlink()
    again = run_methods(pipe, items, table2_methods(3.0), **arguments)
    for label, found in first.items():
        for one, other in zip(found, again[label], strict=True):
            np.testing.assert_array_equal(one["image"], other["image"])
            assert all(one[name] == other[name] for name in one if name not in ("image", "seconds"))


def test_two_images_of_one_id_have_their_own_inversions(pipe, items):
    twins = [dataclasses.replace(item, id="same") for item in items]
    pivots = {}
    procedure = Reconstruction(pipe, Method("ddim", 1.0), pivots=pivots, **STEPS)
    alone = [procedure([item])[0]["psnr"] for item in items]
    assert [procedure([twin])[0]["psnr"] for twin in twins] == alone and len(set(alone)) == 3
