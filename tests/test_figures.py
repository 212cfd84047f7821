"""Figures: the pixels of the images are in the picture, failures are shown as well as successes, files stay small."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from companion.book import COLOURS, image_grid, reconstruction_figure, save_figure, training_curves
from smoothlib.pixels import to_uint8


def random_images(n, size=64, seed=0):
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=size, mode="nearest")


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure._repr_mimebundle_()["image/png"])))


def contains(picture, patch):
    """Whether `patch` (h, w, 3) stands somewhere in `picture`, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, patch.shape[:2], axis=(0, 1))[::1, ::1]  # (Y, X, 3, h, w)
    corner = np.argwhere((windows[..., 0, 0] == patch[0, 0]).all(-1))
    return any((windows[y, x].transpose(1, 2, 0) == patch).all() for y, x in corner)


def enlarged(image, factor=2):
    array = np.rint((np.asarray(image).transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    return array.repeat(factor, 0).repeat(factor, 1)


def test_small_images_are_enlarged_by_whole_pixels():
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = pixels(image_grid([[image]], row_labels=["row"], column_labels=["column"], title="title"))
    assert contains(picture[..., :3], enlarged(image)[1:-1, 1:-1])  # the rim may share its pixels with the ground


def test_ground_is_opaque_white_and_empty_cells_stay_empty():
    picture = pixels(image_grid([[torch.zeros(3, 64, 64), None]]))
    assert picture.shape[-1] == 3 or (picture[..., 3] == 255).all()
    assert (picture[0] == 255).all() and (picture[:130, -120:] == 255).all()  # how images were scaled stands below
    assert (picture[..., :3] == 128).all(-1).sum() >= 126**2  # zero is mid-grey


def test_numpy_images_and_bytes_equal_tensors():
    image = random_images(1)[0]
    for same in (image.numpy().astype(np.float64), to_uint8(image), to_uint8(image).numpy()):
        np.testing.assert_array_equal(pixels(image_grid([[image]])), pixels(image_grid([[same]])))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rows": []}, r"rows have \[\] images, but must all have the same number"),
        ({"rows": [[None], [None, None]]}, r"rows have \[1, 2\] images"),
        ({"rows": [[None]], "row_labels": ["a", "b"]}, "row_labels has 2 entries, but must have 1"),
        ({"rows": [[None]], "cell_labels": [["a", "b"]]}, "cell_labels must have 1 entries in every row"),
        ({"rows": [[torch.zeros(64, 64, 3)]]}, r"An image has the shape \(64, 64, 3\), but must be \(3, H, W\)"),
        ({"rows": [[torch.full((3, 8, 8), 1.5)]]}, r"An image has values from 1.5 to 1.5, but must lie in \[-1, 1\]"),
        ({"rows": [[torch.full((3, 8, 8), float("nan"))]]}, "An image has values from nan to nan"),
    ],
)
def test_bad_grids_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        image_grid(**arguments)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in [axes.title, *axes.texts] if text.get_text()]


@pytest.mark.parametrize(("higher_is_better", "order"), [(True, [3, 0, 4, 1, 2]), (False, [2, 1, 4, 0, 3])])
def test_reconstruction_figure_shows_worst_median_and_best(higher_is_better, order):
    source = random_images(5)
    other = random_images(5, seed=1)
    scores = {"DDIM": [11.0, 14.0, 15.0, 10.0, 12.0], "NTI": [20.0, 21.0, 22.0, 23.0, 24.0]}
    figure = reconstruction_figure(source, {"DDIM": other, "NTI": source * 0.5}, scores, rank_by="DDIM", higher_is_better=higher_is_better)
    worst, median, best = order[0], order[2], order[4]
    expected = ["worst", "Source", "median", "best", "DDIM"]
    expected += [f"{scores['DDIM'][i]:.1f}" for i in (worst, median, best)] + ["NTI"]
    expected += [f"{scores['NTI'][i]:.1f}" for i in (worst, median, best)]
    assert sorted(texts(figure)) == sorted(expected)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    for column, i in enumerate((worst, median, best)):
        np.testing.assert_array_equal(shown[column], enlarged(source[i], 1))
        np.testing.assert_array_equal(shown[3 + column], enlarged(other[i], 1))


class Counted(list):
    """Images that remember which of them were read."""

    def __getitem__(self, index):
        self.read = [*getattr(self, "read", []), index]
        return super().__getitem__(index)

    def __iter__(self):
        raise AssertionError("all images are read")


def test_reconstruction_figure_reads_only_the_bytes_that_it_shows():
    """As stored results come: lists of uint8 arrays, hundreds of megabytes at 512x512."""
    stored = to_uint8(random_images(7)).numpy()
    source, made = Counted(stored), Counted(255 - stored)
    figure = reconstruction_figure(source, {"VAE": made}, {"VAE": [4.0, 1.0, 3.0, 0.0, 6.0, 5.0, 2.0]}, rank_by="VAE")
    assert source.read == made.read == [3, 2, 4]  # worst, median, best
    shown = [axes.images[0].get_array() for axes in figure.axes]
    for column, i in enumerate([3, 2, 4]):
        np.testing.assert_array_equal(shown[column], stored[i].transpose(1, 2, 0))
        np.testing.assert_array_equal(shown[3 + column], 255 - stored[i].transpose(1, 2, 0))


def test_reconstruction_figure_shows_several_of_each():
    source = random_images(6)
    figure = reconstruction_figure(source, {"VAE": source}, {"VAE": list(range(6))}, rank_by="VAE", num_each=2)
    shown = [text for text in texts(figure) if text.endswith(".0")]
    assert shown == ["0.0", "1.0", "2.0", "3.0", "4.0", "5.0"]
    with pytest.raises(ValueError, match="num_each is 7, but must be from 1 to the number of images, 6"):
        reconstruction_figure(source, {"VAE": source}, {"VAE": list(range(6))}, rank_by="VAE", num_each=7)
    with pytest.raises(ValueError, match="rank_by is 'NTI'"):
        reconstruction_figure(source, {"VAE": source}, {"VAE": list(range(6))}, rank_by="NTI")


def test_saved_figures_are_small_and_described(tmp_path):
    noise = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figure = image_grid([list(noise[:6]), list(noise[6:])])
    full = Image.open(save_figure(figure, tmp_path / "full.png", alt="noise", max_kb=1000))
    assert full.info["Description"] == "noise" and full.info["dpi"][0] == pytest.approx(100, abs=0.1)
    small = save_figure(figure, tmp_path / "small.png", alt="noise", max_kb=195)
    assert small.stat().st_size <= 195_000 and Image.open(small).width < full.width
    assert len(figure._repr_mimebundle_()["image/png"]) <= 300_000
    large = image_grid([list(noise)] * 4)._repr_mimebundle_()  # too large as PNG
    assert list(large) == ["image/jpeg"] and len(large["image/jpeg"]) <= 300_000
    with pytest.raises(ValueError, match=r"max_kb is 20, but the figure has \d+ kB even at 60 dpi"):
        save_figure(figure, tmp_path / "tiny.png", alt="noise", max_kb=20)
    assert not (tmp_path / "tiny.png").exists()
    with pytest.raises(ValueError, match="alt is empty"):
        save_figure(figure, tmp_path / "x.png", alt=" ")
    with pytest.raises(ValueError, match=r"file is 'x\.jpg', but its suffix must be \.png"):
        save_figure(figure, tmp_path / "x.jpg", alt="noise")


def test_training_curves_plot_the_log(tmp_path):
    log = tmp_path / "training.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 1 / step, "seconds": 60.0 * step}) + "\n" for step in (1, 2, 4)))
    figure = training_curves({"VAE": log, "UNet": log})
    assert [axes.get_title() for axes in figure.axes] == ["VAE, 4 minutes", "UNet, 4 minutes"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 1.0], [2, 0.5], [4, 0.25]]
    with pytest.raises(ValueError, match=r"metric is 'psnr', but training\.jsonl logs step, loss, seconds"):
        training_curves({"VAE": log}, metric="psnr")


def test_colours_stay_apart_in_grey_and_for_red_green_blindness():
    """Every pair of the first five line colours differs visibly in luminance or, seen without the red-green axis, in blue-yellow."""
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in COLOURS[:5]])
    # Linear RGB -> LMS cone responses (Hunt-Pointer-Estevez); a deuteranope lacks M, seen here as L.
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = np.array([[0.3139, 0.6395, 0.0465], [0.1554, 0.7579, 0.0867], [0.0178, 0.1094, 0.8726]])
    lms = linear @ to_lms.T
    seen = np.stack([lms[:, 0], lms[:, 2]], 1) ** (1 / 2.4)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(5, 1)]
    assert distances.min() > 0.08
