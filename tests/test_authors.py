"""The authors' LoRA is recognised by what can be known of it, its rows get the paper's names, and look-alikes are told apart."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from lora_files import kohya_key, projections, released_key
from safetensors.torch import load_file, save, save_file
from tiny import assert_one_sentence

from companion.studies.reconstruction.reconstruct import table2_methods
from companion.weights.adapters import check_adapter
from companion.weights.authors import FILE, install, main, recognise
from companion.weights.export import export


@pytest.fixture(scope="module")
def unet():
    """Stable Diffusion 1.5's, without storage."""
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768, sample_size=64)


def factors(unet, key=released_key, rank=8):
    found = {}
    for name in projections(unet):
        out, inputs = unet.get_submodule(name).weight.shape
        found |= {key(name, "A"): torch.full((rank, inputs), 0.5).half(), key(name, "B"): torch.full((out, rank), 0.25).half()}
    return found


@pytest.fixture(scope="module")
def released(unet, tmp_path_factory):
    file = tmp_path_factory.mktemp("released") / "file.safetensors"
    save_file(factors(unet), file)
    return file


def test_the_release_is_recognised_and_its_rows_have_the_papers_names(released, unet, tmp_path, capsys):
    found = recognise(released.read_bytes())
    assert not found.problem
    folder = tmp_path / "authors" / "smooth"
    assert main([str(released), str(folder)]) == 0
    assert capsys.readouterr().out.strip() == f'{folder} is an adapter now: -y "adapters: [{folder}]"'
    card = json.loads((folder / "card.json").read_text())
    assert card["sha256"] == found.sha256 == card["files"][FILE] and "not at hand" in card["recognised"] and card["recipe"] == "smooth"
    rows = {row.label: row.paper_row for row in table2_methods(7.5, [str(folder)])}
    assert rows["Smooth + NTI, guidance 7.5"] == "Smooth Diff. + NTI" and rows["Smooth + DDIM, guidance 7.5"] == "Smooth Diff. + DDIM"
    check_adapter({"unet": unet}, folder)
    diffusers_file, kohya_file = export(folder, tmp_path / "out", {"unet": unet})
    original = load_file(released)
    for name in projections(unet)[::40]:
        down, up = (original[released_key(name, part)] for part in "AB")
        there = load_file(kohya_file)
        assert torch.equal(there[kohya_key(name, "A")], down) and torch.equal(there[kohya_key(name, "B")], up)
        assert float(there[kohya_key(name, "alpha")]) == 8
        assert torch.equal(load_file(diffusers_file)[f"unet.{name}.lora_B.weight"], up)


def test_a_hash_that_was_given_is_compared_first(released, tmp_path):
    digest = recognise(released.read_bytes()).sha256
    with pytest.raises(ValueError, match=f"has the sha256 {digest}, but must have {'0' * 64}") as raised:
        install(released, tmp_path / "smooth", "0" * 64)
    assert_one_sentence(raised)
    assert not (tmp_path / "smooth").exists()
    install(released, tmp_path / "smooth", digest.upper())
    assert json.loads((tmp_path / "smooth" / "card.json").read_text())["recognised"] == "by the sha256 that was given"


def test_look_alikes_are_told_apart(unet):
    weights = factors(unet)
    first = min(weights)
    for other, problem in (
        (factors(unet, kohya_key), "256 of its 256 entries have other keys, e.g. lora_unet_"),
        ({key: value for key, value in weights.items() if key != first}, "it has 255 entries, but must have 256"),
        (factors(unet, rank=4), "has not rank 8"),
        (weights | {first: torch.ones(8, 3)}, "numbers, but must have 1,594,368"),
        (weights | {"text_encoder.layer.weight": torch.ones(1)}, "1 of its 257 entries have other keys"),
    ):
        assert problem in recognise(save(other)).problem
    assert "it is damaged" in recognise(b"\x08" + bytes(20)).problem


def test_bad_input_is_refused_in_one_sentence(released, tmp_path):
    for error, match, arguments in (
        (ValueError, "but must be called smooth: rows get", (released, tmp_path / "theirs")),
        (FileExistsError, "smooth, but must not be there yet", (released, tmp_path / "there" / "smooth")),
        (FileNotFoundError, "file is .*nothing, but must be a file that is there", (tmp_path / "nothing", tmp_path / "smooth")),
    ):
        (tmp_path / "there" / "smooth").mkdir(parents=True, exist_ok=True)
        with pytest.raises(error, match=match) as raised:
            install(*arguments)
        assert_one_sentence(raised)
