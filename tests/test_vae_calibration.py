"""The page that looks for the paper's way of measuring finds it where it is planted, and its ways are the libraries' own."""

import json
from dataclasses import replace

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.metrics import structural_similarity
from tiny import assert_one_sentence, noise, tiny_pipeline

from companion.base.config import ConfigurationError
from companion.evidence.paper import load_paper_table
from companion.studies.reconstruction import calibration
from companion.studies.reconstruction.calibration import AS_STORED, PREPARATIONS, closest, measure, pictures, printed_consistency, ways
from smoothlib import MeanSquaredError, PeakSignalNoiseRatio, StructuralSimilarity, decode_latents, encode_images

SIZE, COUNT = 16, 5


class Difference(torch.nn.Module):
    def forward(self, a, b):
        return (a - b).abs().mean(dim=(1, 2, 3)).reshape(-1, 1, 1, 1)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Photographs of another shape than a square."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    (folder / "val").mkdir()
    generator = np.random.default_rng(0)
    for i in range(COUNT):
        small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((64, 40 + 4 * i)).save(folder / "val" / f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(COUNT)]
    captions = [{"id": i, "image_id": i, "caption": "a photo"} for i in range(COUNT)]
    (folder / "annotations" / "captions_val.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return folder


@pytest.fixture(scope="module")
def measured(coco):
    prepared = pictures(str(coco), "val", COUNT, 0, SIZE, "mini")
    return measure(tiny_pipeline(), prepared, ways({"alex": Difference()}), batch_size=2)


def by_name(values):
    return {(way.metric, way.name): way.summary(found) for way, found in values.items()}


def test_the_ways_of_this_book_are_its_metrics_and_all_ways_differ(coco, measured):
    assert list(measured) == [(name, precision) for name in PREPARATIONS for precision in ("float", "8 bits")]
    images = torch.stack(pictures(str(coco), "val", COUNT, 0, SIZE, "mini")["centred square, Lanczos"])
    pipe = tiny_pipeline()
    reconstructions = decode_latents(pipe, encode_images(pipe, images))
    values = measured["centred square, Lanczos", "float"]
    own = {"mse": MeanSquaredError(), "psnr": PeakSignalNoiseRatio(), "ssim": StructuralSimilarity()}
    for metric, reference in own.items():
        (here,) = [way for way in values if way.metric == metric and way.here]
        torch.testing.assert_close(values[here], reference.per_image(reconstructions, images).double(), rtol=1e-4, atol=1e-6)
    uniform = by_name(values)["ssim", "uniform window 7 x 7, [0, 1]"]
    pairs = zip(((images + 1) / 2).double().numpy(), ((reconstructions + 1) / 2).double().numpy(), strict=True)
    assert np.isclose(uniform, np.mean([structural_similarity(x, y, data_range=1.0, channel_axis=0) for x, y in pairs]), atol=1e-4)
    numbers = [round(number, 7) for number in by_name(values).values()]
    assert len(set(numbers)) == len(numbers)
    columns = [tuple(by_name(found).values()) for found in measured.values()]
    assert len(set(columns)) == len(columns)


def test_pooled_decibels_are_below_their_mean(measured):
    for values in measured.values():
        found = by_name(values)
        for r in (1, 2):
            mean, pooled = (found["psnr", f"range {r} on [-1, 1], {end}"] for end in ("mean over pictures", "of the mean error"))
            assert pooled < mean
        mse = found["mse", "on [-1, 1]"]
        assert np.isclose(found["psnr", "range 2 on [-1, 1], of the mean error"], 10 * np.log10(4 / mse))
        assert np.isclose(4 * found["mse", "on [0, 1]"], mse)


def test_a_planted_way_is_found(measured):
    planted = {"mse": "on [-1, 1]", "psnr": "range 1 on [-1, 1], mean over pictures", "ssim": "uniform window 7 x 7, [0, 1]"}
    place, paper = ("squashed, Lanczos", "8 bits"), load_paper_table("table2")
    printed = {metric: repr(by_name(measured[place])[metric, name]) for metric, name in planted.items()}
    planted_paper = replace(paper, rows={calibration.ROW: {**paper.rows[calibration.ROW], **printed}})
    rows = closest(measured, planted_paper).loc["squashed, Lanczos, 8 bits"]
    for metric, name in planted.items():
        way, missed = rows.loc[paper.metrics[metric].label]
        assert way == name and missed.startswith("+0.00 ± ") and missed.endswith("dB" if metric == "psnr" else "%")


def test_the_table_has_the_papers_digits_and_marks_this_books_ways(measured):
    paper = load_paper_table("table2")
    table = calibration.table(measured, paper)
    assert set(table["Paper"]) == set(paper.rows[calibration.ROW].values())
    assert sum("(here)" in way for _, way in table.index) == 4 and table.shape[1] == 1 + 2 * len(PREPARATIONS)


def test_the_printed_numbers_alone_exclude_range_1():
    found = printed_consistency(load_paper_table("table2").rows).astype(float)
    assert (found["range 2"] > -0.1).all() and np.allclose(found["range 1"] - found["range 2"], 20 * np.log10(2), atol=0.01)
    planted = printed_consistency({"row": {"mse": "0.04", "psnr": "20"}}).astype(float)
    assert np.allclose(planted.loc["row"], [0, 6.02])


def test_preparations_are_what_they_are_called(coco):
    image = Image.fromarray(np.zeros((40, 64, 3), dtype=np.uint8))
    marked = image.copy()
    marked.paste((255, 255, 255), (0, 0, 4, 40))  # at the side that a centred square leaves out
    for name, prepare in PREPARATIONS.items():
        assert prepare(marked, SIZE).shape == (SIZE, SIZE, 3)
        assert prepare(marked, SIZE).any() == name.startswith("squashed")


def test_scenes_are_taken_as_they_are():
    assert set(pictures("scenes", "test", 2, 0, 64, "mini")) == {AS_STORED}


def test_another_network_of_lpips_is_read_or_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"lpips_folder is .*, but must be a folder with lpips_vgg.safetensors or") as raised:
        calibration.lpips_networks(str(tmp_path))
    assert_one_sentence(raised)
    network = lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False)
    save_file(
        {key: value for key, value in network.state_dict().items() if not key.startswith("lins")}, tmp_path / "lpips_squeeze.safetensors"
    )
    found = calibration.lpips_networks(str(tmp_path))
    assert list(found) == ["alex", "squeeze"]
    x, y = noise(1, 3, 32, 32).clamp(-1, 1), noise(1, 3, 32, 32, seed=1).clamp(-1, 1)
    assert torch.equal(found["squeeze"](x, y), network.eval()(x, y))
    save_file({"lin0.model.1.weight": torch.ones(1)}, tmp_path / "lpips_squeeze.safetensors")
    with pytest.raises(ConfigurationError, match=r"lpips_folder has lpips_squeeze.safetensors, but it is not LPIPS's state") as raised:
        calibration.lpips_networks(str(tmp_path))
    assert_one_sentence(raised)


def test_too_many_pictures_are_refused_by_their_number(coco):
    with pytest.raises(ConfigurationError, match=f"num_images is 9, but must be at most {COUNT}, as many as val of") as raised:
        pictures(str(coco), "val", 9, 0, SIZE, "mini")
    assert_one_sentence(raised)
