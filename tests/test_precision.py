"""Half precision by the environment: the UNet multiplies in it where no gradient is taken, and results say so and lie apart."""

import sys

import pytest
import torch
import yaml

from companion.base import paths
from companion.base.config import ConfigurationError, configuration
from companion.runs import runs
from companion.runs.precision import SETTING, half_precision
from companion.studies.editing.figure import PARAMETERS as EDITS
from companion.studies.interpolation.study import ANID_PARAMETERS
from companion.studies.interpolation.study import PARAMETERS as PAIRS
from companion.studies.reconstruction.study import TABLE_PARAMETERS
from companion.weights.pipelines import load_pipeline

sys.path.insert(0, str(paths.ROOT / "tools"))
from rehearsing import folders, pages, pipeline

COLAB = paths.CONFIGS / "colab_t4"
DOORS = {"table2_recon": TABLE_PARAMETERS, "fig03_interpolation": {**PAIRS, **ANID_PARAMETERS}, "fig05_text_edit": EDITS}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colab")
    pipeline.write_pipeline(folder / "sd15", "slim", words=folders.words())
    folders.write_coco(folder / "coco")
    folders.write_edits(folder / "edits")
    return folder


@pytest.fixture(scope="module")
def pipe(built):
    return load_pipeline(str(built / "sd15"))


@pytest.fixture
def call(pipe):
    """The UNet's answer to one latent, and the type in which its convolutions and its products multiplied."""
    latents, texts = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 77, 16)
    used = []
    layers = pipe.unet.conv_in, pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    hooks = [layer.register_forward_hook(lambda module, given, found: used.append(found.dtype)) for layer in layers]

    def answer(**options):
        used.clear()
        found = pipe.unet(latents, 500, texts, **options)
        return (found[0] if isinstance(found, tuple) else found.sample), set(used)

    yield answer
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("dtype", "resolution"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("options", [{}, {"return_dict": False}])
def test_products_are_in_half_precision_and_the_answer_in_float32(call, dtype, resolution, options):
    with torch.no_grad():
        exact, used = call(**options)
        assert used == {torch.float32}
        with half_precision(dtype):
            found, used = call(**options)
        assert used == {dtype} and found.dtype == torch.float32
        assert 0 < (found - exact).norm() / exact.norm() < 8 * resolution
        again, used = call(**options)
    assert used == {torch.float32} and torch.equal(again, exact), "the block leaves nothing behind"


def test_what_is_differentiated_stays_in_float32(call):
    exact, _ = call()
    with half_precision(torch.float16):
        found, used = call()
        assert used == {torch.float32} and torch.equal(found, exact) and found.requires_grad
        with torch.no_grad():
            assert call()[1] == {torch.float16}


def test_a_call_that_fails_leaves_no_context(pipe, call):
    with half_precision(torch.bfloat16), torch.no_grad(), pytest.raises(RuntimeError):
        pipe.unet(torch.zeros(1, 3, 16, 16), 0, torch.zeros(1, 77, 16))
    assert not torch.is_autocast_enabled("cpu") and call()[1] == {torch.float32}


def test_results_in_half_precision_lie_apart_and_say_what_they_are(tmp_path, monkeypatch):
    def results():
        return runs.run_items(range(2), lambda items: [{"value": item} for item in items], name="half", config={"a": 1}, root=tmp_path)

    exact = results()
    monkeypatch.setenv(SETTING, "float16")
    found = results()
    assert len(list((tmp_path / "half").iterdir())) == 2 and found == exact
    (here,), (there,) = runs.origins(exact), runs.origins(found)
    assert there.name == f"{here.name}, float16 products" and "companion.runs.precision" not in here.modules
    assert there.modules.keys() - here.modules.keys() == {"companion.runs.precision"}, "it stands behind these results alone"


def test_a_precision_that_is_none_is_refused_before_anything_is_computed(monkeypatch, tmp_path):
    monkeypatch.setenv(SETTING, "fp8")
    with pytest.raises(ConfigurationError, match=r"^SMOOTHLIB_PRECISION is 'fp8', but must be empty, float16 or bfloat16\.$"):
        runs.run_items([0], pytest.fail, name="half", config={}, root=tmp_path)


def test_the_profile_is_of_the_pages_that_colab_is_for():
    assert {file.stem for file in COLAB.glob("*.yaml")} == set(DOORS)


@pytest.mark.parametrize("name", DOORS)
def test_the_profile_passes_the_pages_door_and_is_small(name):
    (known,) = [pages.namespace(source) for source, tags in pages.code_cells(name) if "parameters" in tags]
    asked, full = (yaml.safe_load((paths.CONFIGS / preset / f"{name}.yaml").read_text(encoding="utf-8")) for preset in ("colab_t4", "sd15"))
    cfg = configuration({**known, **asked}, **DOORS[name])
    assert cfg.batch_size <= 4 and cfg.batch_size <= full["batch_size"]
    smaller = {"batch_size", "num_images", "num_pairs"}
    assert {key: asked[key] for key in asked if key not in smaller} == {key: full[key] for key in full if key not in smaller}


@pytest.mark.parametrize("name", DOORS)
def test_the_profile_runs_in_float16(name, built, monkeypatch):
    """Two steps on the architecture with few channels and random weights."""
    for place in ("RUNS", "OUT"):
        monkeypatch.setattr(paths, place, built / place.lower())
    monkeypatch.setenv(SETTING, "float16")
    data = built / ("edits" if name == "fig05_text_edit" else "coco")
    places = {"model": str(built / "sd15"), "dataset": str(data)}
    pages.run_page(name, pages.small_parameters(name, COLAB / f"{name}.yaml", places))
    found = [file.read_text(encoding="utf-8") for file in (built / "out").glob(f"{name}.json")]
    assert all("float16 products" in text for text in found) and bool(found) == (name != "fig05_text_edit")
