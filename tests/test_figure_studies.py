"""What the notebooks of Figures 3, 4, 7 and 9 share: images by seed, adapters by name, rows, record and pictures on the shipped model."""

import pytest

from companion.base import paths
from companion.base.config import ConfigurationError, configuration
from companion.data import load as datasets
from companion.evidence import records as results
from companion.studies.interpolation import walks as pair_walks
from companion.studies.interpolation.study import COLUMNS, PARAMETERS, PairStudy
from companion.studies.reconstruction.study import PARAMETERS as RECONSTRUCTION_PARAMETERS
from companion.studies.reconstruction.study import ReconstructionStudy
from companion.studies.rows import Row
from companion.weights import pipelines as models

SHARED = dict(model="mini", adapters=[], dataset="scenes", guidance_scale=None, num_inner_steps=1, seed=0, device="cpu")
PAIRS = SHARED | dict(
    splits=["compositional"], num_pairs=2, skip=0, prompt=None, num_inference_steps=2, frames=3, batch_size=6, num_shown=1
)
IMAGES = SHARED | dict(split="compositional", num_images=2, skip=0, num_inference_steps=2, null_text_lr=0.1, batch_size=2)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)


def pair_study(**changes):
    return PairStudy(configuration(PAIRS | changes, **PARAMETERS))


def reconstruction_study(**changes):
    return ReconstructionStudy(configuration(IMAGES | changes, **RECONSTRUCTION_PARAMETERS))


def smooth_is_there(monkeypatch):
    monkeypatch.setattr(models, "list_adapters", lambda: ["plain", "smooth"])
    monkeypatch.setattr(models, "check_adapter", lambda modules, name: None)


def test_rows_of_pairs_become_a_record_and_a_picture(monkeypatch):
    study = pair_study()
    methods = [
        Row("VAE interpolation", settings=pair_walks.PairMethod("vae", frames=3)),
        *pair_walks.walk_methods(num_inference_steps=2, frames=3),
    ]
    measured = study.measure(methods[::-1])
    assert list(measured) == ["Base walk", "VAE interpolation"] and study.weights == {("mini", None): models.fingerprint("mini")}
    record = study.record("test", measured, methods)
    assert record["items"] == [pair.id for pair in study.pairs] and record["comparisons"] == [] and record["table"] is None
    assert (
        record["provenance"]["models"] == {"base": models.fingerprint("mini")}
        and "companion.studies.interpolation.walks" in record["provenance"]["modules"]
    )
    fields = record["row_fields"]["Base walk"]
    assert (fields["method"], fields["kind"], fields["frames"], fields["guidance_scale"]) == ("walk", "base", 3, study.guidance_scale)
    assert record["model"] == "mini, 64 x 64" and set(record["rows"]["Base walk"]["metrics"]) == set(COLUMNS)
    assert results.measured_table(record).shape == (2, 6)
    steps = measured["Base walk"][0]["lpips_distances"]
    found = [record["rows"]["Base walk"]["metrics"][metric]["values"][0] for metric in ("lpips_ppl", "lpips_pdv")]
    assert found == pytest.approx([steps.sum(), steps.var()]) and set(record["conventions"]) >= set(COLUMNS)
    assert record["rows"]["VAE interpolation"]["metrics"]["end_psnr"]["mean"] > 20  # its ends are the autoencoder's reconstructions

    axes = study.figure(measured, [1]).axes
    assert len(axes) == 3 * 3 and [len(cell.images) for cell in axes] == [1, 0, 1] + [1] * 6
    assert len(study.figure(measured, [0, 1]).axes) == 2 * 9
    assert len(study.figure(measured, [0], frames=5).axes) == 5  # no row has so many
    first, second = study.pairs[1].first.caption, study.pairs[1].second.caption
    assert study.captions(1) == f"2. A: {first}; B: {second}"


def test_pairs_of_each_split_and_one_prompt(monkeypatch):
    study = pair_study(splits=["test", "compositional"], prompt="a photo of a {cls}", skip=1)
    assert [pair.id.split("-")[0] for pair in study.pairs] == ["test"] * 2 + [study.pairs[2].id.split("-")[0]] * 2
    assert len({pair.id for pair in study.pairs}) == 4 and study.captions(0) == f"1. {study.pairs[0].first.caption}"
    assert all(pair.first.caption == pair.second.caption for pair in study.pairs)
    assert pair_study(splits=["test"], num_pairs=3).pairs[1].id == study.pairs[0].id


def test_figures_show_smooth_where_it_has_been_trained(monkeypatch):
    monkeypatch.setattr(models, "list_adapters", lambda: ["plain"])
    assert pair_study(adapters=None).adapters == () and {m.adapter for m in reconstruction_study(adapters=None).rows} == {None}
    smooth_is_there(monkeypatch)
    assert pair_study(adapters=None).adapters == ("smooth",)
    assert {m.adapter for m in reconstruction_study(adapters=None).rows} == {None, "smooth"}
    assert pair_study(adapters=["plain"]).adapters == ("plain",)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(num_pairs=400), "limit and skip must not exceed"),
        (dict(prompt="a {class}"), "prompt must be a text in which braces name fields"),
        (dict(splits=["validation"]), "split must be one of train, test, compositional"),
        (dict(adapters=["nowhere"]), "there is no adapter 'nowhere'"),
        (dict(num_pairs=1), "Parameter num_pairs is 1"),
    ],
)
def test_what_a_study_of_pairs_cannot_have_is_named_at_once(changes, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        pair_study(**changes)


def test_reconstructions_are_those_of_table_2(monkeypatch):
    study = reconstruction_study()
    measured = study.measure(study.rows[:2])
    assert list(measured) == ["VAE reconstruction", "Base + DDIM, guidance 1"]
    assert {folder.name for folder in (paths.RUNS / "reconstruction").iterdir()} == {"vae", "ddim"}
    figure = study.figure(measured)
    assert len(figure.axes) == 3 * 2
    labels = [text.get_text() for cell in figure.axes[2:4] for text in cell.texts]
    assert f"{measured['VAE reconstruction'][0]['psnr']:.1f} dB, {measured['VAE reconstruction'][0]['lpips']:.2f}" in labels
    assert len(study.figure(measured, range(1, 2)).axes) == 3
    assert study.slider(measured).html.count("<option>") == len(study.items) * len(measured)


def test_images_of_one_figure_are_not_those_of_the_next_and_both_are_table_2s():
    first, second = reconstruction_study(num_images=6).items, reconstruction_study(num_images=12, skip=6).items
    table = {item.id for item in datasets.load_items(split="compositional", limit=64)}
    shown = [item.id for item in first + second]
    assert len(set(shown)) == 18 and set(shown) <= table
    with pytest.raises(ConfigurationError, match="limit must lie in"):
        reconstruction_study(skip=499)
