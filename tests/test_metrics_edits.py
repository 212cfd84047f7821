"""Measures of edits: closed forms, parity with the whole-picture metrics, and that a region's value depends on the region alone."""

import math

import pytest
import torch
from skimage import data
from tiny import assert_one_sentence
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from companion.judges.networks import lpips_network
from smoothlib.metrics import LearnedPerceptualImagePatchSimilarity, MeanSquaredError, PeakSignalNoiseRatio, StructuralSimilarity, edits


def difference_map(preds: Tensor, target: Tensor) -> Tensor:
    """A stand-in for LPIPS whose averages are known: the absolute difference at each pixel."""
    return (preds - target).abs().mean(dim=1, keepdim=True)


def difference(preds: Tensor, target: Tensor) -> Tensor:
    return difference_map(preds, target).mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def network():
    return lpips_network()


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """Photographs (4, 3, 64, 64) in [-1, 1], and copies with noise of four strengths."""
    crops = [torch.from_numpy(image[a : a + 64, a : a + 64].copy()) for image in (data.astronaut(), data.chelsea()) for a in (40, 110)]
    source = torch.stack(crops).permute(0, 3, 1, 2) / 127.5 - 1
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    return source, (source + torch.tensor([0.02, 0.1, 0.3, 0.5]).view(-1, 1, 1, 1) * noise).clamp(-1, 1)


@pytest.fixture
def mask() -> Tensor:
    """A square of 16 x 24 pixels in each of four pictures, (4, 1, 64, 64) bool."""
    square = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    square[..., 20:36, 20:44] = True
    return square


def test_a_region_of_known_differences_has_known_values():
    source = torch.zeros(1, 3, 40, 50)
    edited, region = source.clone(), torch.zeros(1, 1, 40, 50, dtype=torch.bool)
    edited[..., :25] = 0.2  # the left half
    region[..., 20:30] = True  # half of it differs, by .2
    found = edits.region_measures(edited, source, region, lpips_map=difference_map)
    assert found["mse"].item() == pytest.approx(0.02)
    assert found["psnr"].item() == pytest.approx(10 * math.log10(4 / 0.02))
    assert found["lpips"].item() == pytest.approx(0.1)
    luminance = (2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4)
    everywhere = edits.region_measures(torch.full_like(source, 0.2), source, torch.ones_like(region), lpips_map=difference_map)
    assert everywhere["ssim"].item() == pytest.approx(luminance)  # flat pictures differ in their means alone


def test_over_the_whole_picture_a_region_has_the_metrics_own_values(pictures):
    source, edited = pictures
    whole = torch.ones(4, 1, 64, 64, dtype=torch.bool)
    found = edits.region_measures(edited, source, whole, lpips_map=difference_map)
    for name, metric in {"mse": MeanSquaredError, "psnr": PeakSignalNoiseRatio, "ssim": StructuralSimilarity}.items():
        torch.testing.assert_close(found[name], metric().per_image(edited, source), rtol=1e-5, atol=1e-7)


def test_the_whole_pictures_values_are_those_of_the_reconstruction_metrics(pictures, mask, network):
    source, edited = pictures
    found = edits.to_truth(edited, source, None, lpips=network, lpips_map=edits.spatial_lpips(network))
    metrics = {"lpips": LearnedPerceptualImagePatchSimilarity(network), "psnr": PeakSignalNoiseRatio(), "ssim": StructuralSimilarity()}
    assert found.keys() == metrics.keys()
    for name, metric in metrics.items():
        torch.testing.assert_close(found[name], metric.per_image(edited, source), rtol=1e-5, atol=1e-7)
    names = edits.to_truth(edited, source, mask, lpips=difference, lpips_map=difference_map).keys()
    outside = edits.preservation(edited, source, mask, cell=4, lpips_map=difference_map).keys()
    assert {*names, *outside, "directional_alignment"} == edits.CONVENTIONS.keys()


def test_what_happens_inside_the_mask_is_no_damage_outside(pictures, mask, network):
    """Windows and receptive fields reach over the border; the values do not."""
    source, other = pictures
    edited = torch.where(mask, -source, source)
    found = edits.preservation(edited, source, mask, cell=4, lpips_map=edits.spatial_lpips(network))
    for name, value in {"mse": 0.0, "lpips": 0.0, "psnr": 100.0, "ssim": 1.0}.items():
        torch.testing.assert_close(found[f"{name}_outside"], torch.full((4,), value))
    damaged = edits.preservation(torch.where(mask, -source, other), other.flip(0), mask, cell=4, lpips_map=edits.spatial_lpips(network))
    assert (damaged["lpips_outside"] > 0.1).all() and (damaged["ssim_outside"] < 0.9).all()


def test_inside_the_mask_the_rest_of_the_picture_does_not_count(pictures, mask, network):
    truth, _ = pictures
    found = edits.to_truth(torch.where(mask, truth, -truth), truth, mask, lpips=network, lpips_map=edits.spatial_lpips(network))
    assert (found["lpips_inside"] == 0).all() and (found["ssim_inside"] > 1 - 1e-6).all() and (found["psnr_inside"] > 99.99).all()
    assert (found["lpips"] > 0.1).all() and (found["psnr"] < 20).all()


def test_a_change_within_one_cell_of_the_mask_is_allowed_and_beyond_it_is_not(mask):
    source = torch.zeros(4, 3, 64, 64)
    for distance, expected in ((4, 0.0), (5, 0.25 / (64 * 64 - 24 * 32))):
        edited = source.clone()
        edited[..., 20 - distance, 30] = 0.5
        found = edits.preservation(edited, source, mask, cell=4, lpips_map=difference_map)["mse_outside"]
        torch.testing.assert_close(found, torch.full((4,), expected))


def test_a_grown_pixel_is_a_square_cut_at_the_border():
    mask = torch.zeros(2, 1, 20, 30, dtype=torch.bool)
    mask[0, 0, 10, 10] = mask[1, 0, 0, 29] = True
    assert edits.grown(mask, 3).sum(dim=(1, 2, 3)).tolist() == [49, 16]
    assert torch.equal(edits.grown(mask, 0), mask)


def test_what_has_no_outside_or_no_inside_has_no_value(pictures, mask):
    source, edited = pictures
    mask[0], mask[1] = True, False
    found = edits.preservation(edited, source, mask, cell=4, lpips_map=difference_map, has_outside=torch.tensor([True, True, False, True]))
    assert all(value.isnan().tolist() == [True, False, True, False] for value in found.values())
    inside = edits.to_truth(edited, source, mask, lpips=difference, lpips_map=difference_map)
    for name, value in inside.items():
        assert value.isnan().tolist() == [False, name.endswith("_inside"), False, False]


def test_pie_benchs_own_numbers_follow_from_the_share(pictures, mask):
    """Its evaluation multiplies both pictures, on [0, 1], by the region and averages over all pixels."""
    source, edited = pictures
    outside = ~edits.grown(mask, 4)
    share = outside.float().mean(dim=(1, 2, 3))
    theirs = ((edited - source) / 2 * outside).square().mean(dim=(1, 2, 3))
    ours = edits.preservation(edited, source, mask, cell=4, lpips_map=difference_map)
    torch.testing.assert_close(ours["mse_outside"] * share / 4, theirs)
    torch.testing.assert_close(ours["psnr_outside"] - 10 * share.log10(), -10 * theirs.log10())


def test_values_do_not_depend_on_the_batch(pictures, mask, network):
    source, edited = pictures
    mask[2, :, :40] = True
    settings = {"cell": 4, "lpips_map": edits.spatial_lpips(network)}
    together = edits.preservation(edited, source, mask, **settings)
    for i in range(4):
        alone = edits.preservation(edited[i : i + 1], source[i : i + 1], mask[i : i + 1], **settings)
        for name, value in alone.items():
            torch.testing.assert_close(value, together[name][i : i + 1], rtol=1e-5, atol=1e-7)


def test_the_map_shares_the_networks_weights_and_leaves_the_network_alone(pictures, network):
    source, edited = pictures
    before = network(edited, source)
    spatial = edits.spatial_lpips(network)
    assert spatial(edited, source).shape == (4, 1, 64, 64)
    assert network(edited, source).shape == (4, 1, 1, 1) and torch.equal(network(edited, source), before)
    assert {id(p) for p in spatial.parameters()} == {id(p) for p in network.parameters()}
    # resizing the layers' maps weighs pixels at the border a little differently, no more
    torch.testing.assert_close(spatial(edited, source).mean(dim=(1, 2, 3)), before.reshape(-1), rtol=0.05, atol=0)


def test_directional_alignment_in_closed_form():
    zero, embeddings = torch.zeros(1, 2), {"a cat": [0.0, 1.0], "a dog": [2.0, 1.0]}
    source, edited = torch.zeros(3, 3, 32, 32), torch.zeros(3, 3, 32, 32)
    edited[0, 0], edited[0, 1], edited[1, 0] = 0.3, 0.4, -0.5  # moves (.3, .4) and (-.5, 0); the third stays
    found = edits.directional_alignment(
        edited,
        source,
        ["a dog"] * 3,
        ["a cat"] * 3,
        embed_images=lambda images: images[:, :2].mean(dim=(2, 3)),
        embed_captions=lambda captions: torch.tensor([embeddings[caption] for caption in captions]),
    )
    torch.testing.assert_close(found, torch.tensor([0.6, -1.0, 0.0]))
    one = torch.tensor([[1.0, 0.0]])
    assert edits.embedding_alignment(one, zero, one, one).isnan().item()  # nothing was asked
    assert edits.embedding_alignment(one + 1e-7, one, one, zero).item() == 0  # rounding is no move


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mask": torch.zeros(2, 1, 32, 32)}, r"mask is torch\.float32 of shape \(2, 1, 32, 32\), but must be bool of shape"),
        ({"mask": torch.zeros(2, 32, 32, dtype=torch.bool)}, r"mask is torch\.bool of shape \(2, 32, 32\), but must be bool"),
        ({"mask": torch.zeros(2, 1, 16, 16, dtype=torch.bool)}, r"must be bool of shape \(2, 1, 32, 32\)"),
        ({"mask": None}, "mask is a NoneType, but must be bool"),
        ({"cell": 0}, "cell is 0, but must be a whole number of pixels of at least 1"),
        ({"has_outside": torch.ones(3, dtype=torch.bool)}, r"has_outside is torch\.bool of shape \(3,\), but must be bool of shape \(2,\)"),
        ({"edited": torch.zeros(2, 3, 30, 32)}, "it must be"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, sentence):
    images = torch.zeros(2, 3, 32, 32)
    given = {"edited": images, "source": images, "mask": torch.ones(2, 1, 32, 32, dtype=torch.bool), "cell": 4} | change
    with pytest.raises(ValueError, match=sentence) as raised:
        edits.preservation(**given, lpips_map=None)
    assert_one_sentence(raised)


def test_prompts_must_be_one_per_picture():
    images = torch.zeros(2, 3, 32, 32)
    for prompts, given in (("a cat", "one text"), (["a cat"], "1 texts")):
        with pytest.raises(ValueError, match=f"source_prompts is {given}, but must be 2 texts, one per picture"):
            edits.directional_alignment(images, images, ["a dog", "a cat"], prompts, embed_images=None, embed_captions=None)


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 31, 50)])
def test_ssims_map_is_the_one_of_torchmetrics(shape):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    preds = (target + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(-1, 1)
    arguments = dict(sigma=1.5, data_range=1.0, reduction="none", return_full_image=True)
    _, whole = structural_similarity_index_measure((preds + 1) / 2, (target + 1) / 2, **arguments)
    torch.testing.assert_close(edits.ssim_map(preds, target), whole[..., 5:-5, 5:-5].mean(dim=1), rtol=0, atol=1e-12)
