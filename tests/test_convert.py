"""Single files, pickles and half-precision folders become a folder that loads, with the same weights; nothing in a pickle runs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from single_file import single_file
from tiny import assert_one_sentence, generate, tiny_pipeline
from tiny_bases import pipeline

from companion.weights.bases import load_base
from companion.weights.convert import convert, main
from companion.weights.pipelines import load_pipeline


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def to_pickles(folder, variant="", content=lambda weights: weights):
    """Each component's safetensors as the pickle of the library's name."""
    for file in sorted(folder.rglob("*.safetensors")):
        stem = file.stem if file.stem != "model" else "pytorch_model"
        torch.save(content(load_file(file)), file.with_name(f"{stem}{variant}.bin"))
        file.unlink()


def same(pipe, by=1e-6):
    torch.testing.assert_close(generate(pipe), generate(tiny_pipeline()), rtol=0, atol=by)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_becomes_the_pipeline(saved, tmp_path, suffix, capsys):
    weights, file = single_file(tiny_pipeline()), tmp_path / f"whole{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": weights, "global_step": 840000}, file)
    else:
        save_file(weights, file)
    settings = tmp_path / "settings"
    for one in saved.rglob("*.*"):
        if one.suffix != ".safetensors":  # its weights are not needed
            (settings / one.relative_to(saved)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one, settings / one.relative_to(saved))
    assert main([str(file), str(tmp_path / "made"), "--config", str(settings)]) == 0
    assert capsys.readouterr().out.strip().endswith("made is a pipeline now.")
    same(load_pipeline(str(tmp_path / "made")))


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_folder_of_pickles_becomes_one_of_safetensors(copy, tmp_path, variant):
    to_pickles(copy, variant)
    with pytest.raises(OSError, match="safetensors"):
        load_pipeline(str(copy))
    same(load_pipeline(str(convert(copy, tmp_path / "made"))), by=0)


def test_a_folder_of_half_precision_variants_and_shards_becomes_a_plain_one(copy, tmp_path):
    for file in sorted(copy.rglob("*.safetensors")):
        halves = {key: value.half() if value.is_floating_point() else value for key, value in load_file(file).items()}
        names = sorted(halves)
        for i, part in enumerate((names[::2], names[1::2]), 1):
            save_file({name: halves[name] for name in part}, file.with_name(f"{file.stem}.fp16-0000{i}-of-00002.safetensors"))
        file.unlink()
    made = convert(copy, tmp_path / "made")
    assert {tensor.dtype for tensor in load_file(made / "unet" / "diffusion_pytorch_model.safetensors").values()} == {torch.float16}
    same(load_pipeline(str(made)), by=0.02)


def test_plain_weights_come_before_variants(copy, tmp_path):
    for file in sorted(copy.rglob("*.safetensors")):
        save_file({key: 0 * value for key, value in load_file(file).items()}, file.with_name(f"{file.stem}.fp16.safetensors"))
    same(load_pipeline(str(convert(copy, tmp_path / "made"))), by=0)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_other_bases_are_converted_and_loaded(tmp_path, name):
    pipe = pipeline(name)
    pipe.save_pretrained(tmp_path / "saved")
    to_pickles(tmp_path / "saved")
    view = load_base(convert(tmp_path / "saved", tmp_path / "made"), size=16)
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            found, expected = getattr(view.pipe, part).state_dict(), module.state_dict()
            assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


class Trap:
    """What a pickle may hold: a call of anything, made when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (self.file, "w"))


@pytest.mark.parametrize("suffix", [".ckpt", ".bin"])
def test_code_in_a_pickle_is_not_run_and_nothing_is_left(copy, tmp_path, suffix):
    sprung, source = tmp_path / "sprung", tmp_path / "trap.ckpt"
    if suffix == ".bin":
        to_pickles(copy, content=lambda weights: weights | {"trap": Trap(str(sprung))})
        source = copy
    else:
        torch.save({"state_dict": single_file(tiny_pipeline()), "callbacks": Trap(str(sprung))}, source)
    with pytest.raises(ValueError, match="is damaged, or holds other objects than tensors, which are not loaded") as raised:
        convert(source, tmp_path / "made", copy)
    assert_one_sentence(raised)
    assert not sprung.exists() and not (tmp_path / "made").exists() and not list(tmp_path.glob("*unfinished*"))


def test_bad_input_is_refused_in_one_sentence(copy, saved, tmp_path):
    def refused(error, match, *arguments):
        with pytest.raises(error, match=match) as raised:
            convert(*arguments)
        assert_one_sentence(raised)
        assert not (tmp_path / "new").exists()

    new, file = tmp_path / "new", tmp_path / "whole.safetensors"
    save_file({"nothing": torch.ones(1)}, file)
    (tmp_path / "notes.md").write_text("")
    refused(FileExistsError, "folder is .*copy, but must not be there yet", saved, copy)
    refused(FileNotFoundError, "source is nowhere, but must be a file or folder that is there", "nowhere", new)
    refused(ValueError, r"notes.md, but must be a .safetensors or .ckpt file", tmp_path / "notes.md", new)
    refused(FileNotFoundError, "config is None, but must be a folder with a pipeline's model_index.json", file, new)
    refused(ValueError, "whole.safetensors cannot be read as the pipeline whose settings are in", file, new, saved)
    for part in (
        "model.diffusion_model.",
        "first_stage_model.",
        "cond_stage_model.",
    ):  # missing parts are not taken from the settings' folder
        save_file({key: value for key, value in single_file(tiny_pipeline()).items() if not key.startswith(part)}, file)
        refused(ValueError, "whole.safetensors cannot be read as the pipeline whose settings are in", file, new, saved)
    broken = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(broken)
    weights.pop("conv_in.weight")
    save_file(weights, broken)
    refused((ValueError, OSError), "conv_in.weight|cannot be loaded whole", copy, new)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": ["own", "Pipeline"]}))
    refused(ValueError, "holds a pipeline of its own code, but must hold a StableDiffusionPipeline, .* or FluxPipeline", copy, new)


def test_a_base_is_loaded_from_a_folder_alone(copy):
    for name, match in (("owner/model", "folder is 'owner/model', but must be a folder that is here: download the pipeline first"),):
        with pytest.raises(ValueError, match=match) as raised:
            load_base(name)
        assert_one_sentence(raised)
    same(load_base(copy), by=0)
    to_pickles(copy)
    with pytest.raises(FileNotFoundError, match=r"cannot be loaded whole .*`python -m companion.weights.convert` makes") as raised:
        load_base(copy)
    assert_one_sentence(raised)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "nowhere"), str(tmp_path / "made")])
    assert ended.value.code == 2 and "source is" in capsys.readouterr().err
