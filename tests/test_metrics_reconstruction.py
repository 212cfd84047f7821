"""MSE, PSNR, SSIM and LPIPS: parity with scikit-image, torchmetrics and lpips, independence of batching, merging, faults."""

import math
import shutil
from pathlib import Path

import lpips
import pytest
import torch
import torchmetrics.image
import torchvision
from skimage import data, metrics
from torch import Tensor

from companion.base import paths
from companion.judges.networks import load_network_weights, lpips_network
from smoothlib.metrics import LearnedPerceptualImagePatchSimilarity, MeanSquaredError, PeakSignalNoiseRatio, StructuralSimilarity

PIXEL_METRICS = [MeanSquaredError, PeakSignalNoiseRatio, StructuralSimilarity]


def perceptual(**options) -> LearnedPerceptualImagePatchSimilarity:
    """LPIPS by the shipped network."""
    return LearnedPerceptualImagePatchSimilarity(lpips_network(), **options)


ALL_METRICS = [*PIXEL_METRICS, perceptual]


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    """Photographs (6, 3, 64, 64) in [-1, 1] and degraded copies: noise of three strengths, blur, a flat grey, a shift."""
    crops = [torch.from_numpy(image[a : a + 64, a : a + 64].copy()) for image in (data.astronaut(), data.chelsea()) for a in (40, 110, 180)]
    target = torch.stack(crops).permute(0, 3, 1, 2) / 127.5 - 1
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    preds = target + torch.tensor([0.02, 0.1, 0.5, 0, 0, 0]).view(-1, 1, 1, 1) * noise
    preds[3] = torch.nn.functional.avg_pool2d(target[3:4], 5, stride=1, padding=2)[0]
    preds[4] = 0.1
    preds[5] = target[5].roll(3, dims=-1)
    return preds.clamp(-1, 1), target


def expected_by_skimage(metric: type, pred: Tensor, target: Tensor) -> float:
    """The reference value in float64; arrays (3, H, W)."""
    a, b = target.double().numpy(), pred.double().numpy()
    if metric is MeanSquaredError:
        return metrics.mean_squared_error(a, b)
    if metric is PeakSignalNoiseRatio:
        return metrics.peak_signal_noise_ratio(a, b, data_range=2)
    window = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return metrics.structural_similarity((a + 1) / 2, (b + 1) / 2, channel_axis=0, data_range=1, **window)


@pytest.mark.parametrize("metric", PIXEL_METRICS)
def test_per_image_equals_skimage(metric: type, pairs: tuple[Tensor, Tensor]) -> None:
    expected = torch.tensor([expected_by_skimage(metric, *pair) for pair in zip(*pairs, strict=True)], dtype=torch.float64)
    in_float64 = metric().per_image(*(images.double() for images in pairs))
    torch.testing.assert_close(in_float64, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(metric().per_image(*pairs).double(), expected, rtol=2e-6, atol=0)


def test_pixel_metrics_in_closed_form() -> None:
    target = torch.zeros(2, 3, 16, 16)
    preds = torch.stack([torch.full((3, 16, 16), 0.2), torch.full((3, 16, 16), -0.02)])
    torch.testing.assert_close(MeanSquaredError().per_image(preds, target), torch.tensor([0.04, 0.0004]))
    torch.testing.assert_close(PeakSignalNoiseRatio().per_image(preds, target), torch.tensor([20.0, 40.0]))
    # Constant images: the structure term is 1, and the luminance term compares their means in [0, 1] with C1 = 0.01^2.
    luminance = [(2 * 0.5 * mean + 1e-4) / (0.5**2 + mean**2 + 1e-4) for mean in (0.6, 0.49)]
    torch.testing.assert_close(StructuralSimilarity().per_image(preds, target), torch.tensor(luminance))


def test_psnr_averages_decibels_and_does_not_pool(pairs: tuple[Tensor, Tensor]) -> None:
    preds, target = pairs
    ours, pooled = PeakSignalNoiseRatio(), torchmetrics.image.PeakSignalNoiseRatio(data_range=2.0)
    per_image = torchmetrics.image.PeakSignalNoiseRatio(data_range=2.0, dim=(1, 2, 3), reduction="none")
    for metric in (ours, pooled, per_image):
        metric.update(preds, target)
    torch.testing.assert_close(ours.compute(), per_image.compute().double().mean(), rtol=1e-6, atol=0)
    assert ours.compute() > pooled.compute() + 1


def test_psnr_of_equal_images_is_cut_at_max_decibels(pairs: tuple[Tensor, Tensor]) -> None:
    preds, target = pairs[0][1:2], pairs[1][1:2]
    assert PeakSignalNoiseRatio().per_image(target, target).item() == pytest.approx(100)
    assert PeakSignalNoiseRatio(max_decibels=math.inf).per_image(target, target).item() == math.inf
    both = PeakSignalNoiseRatio(max_decibels=60)
    both.update(torch.cat([preds, target]), torch.cat([target, target]))
    assert both.compute().item() == pytest.approx((PeakSignalNoiseRatio().per_image(preds, target).item() + 60) / 2)


@pytest.mark.parametrize("metric", PIXEL_METRICS)
@pytest.mark.parametrize("value_range", [(0, 1), (0, 255), (-0.5, 0.5)])
def test_a_picture_has_one_value_whatever_range_it_comes_in(metric: type, value_range: tuple, pairs: tuple[Tensor, Tensor]) -> None:
    low, high = value_range
    same = ((images.double() + 1) / 2 * (high - low) + low for images in pairs)
    scale = (2 / (high - low)) ** 2 if metric is MeanSquaredError else 1
    expected = metric().per_image(*(images.double() for images in pairs))
    torch.testing.assert_close(scale * metric(value_range=value_range).per_image(*same), expected, rtol=1e-9, atol=0)


def test_ssim_is_that_of_the_bytes_and_of_torchmetrics_map(pairs: tuple[Tensor, Tensor]) -> None:
    """What CONVENTIONS tells another tool to be set to, and scikit-image on 8 bits."""
    found = StructuralSimilarity().per_image(*pairs)
    unit = [(images.double() + 1) / 2 for images in pairs]
    _, whole = torchmetrics.functional.image.structural_similarity_index_measure(*unit, data_range=1.0, return_full_image=True)
    torch.testing.assert_close(found.double(), whole[..., 5:-5, 5:-5].mean(dim=(1, 2, 3)), rtol=1e-6, atol=0)
    window = dict(channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    bytes_ = [(255 * images).round().byte().numpy() for images in unit]
    rounded = torch.tensor([metrics.structural_similarity(target, pred, **window) for pred, target in zip(*bytes_, strict=True)])
    torch.testing.assert_close(found.double(), rounded.double(), rtol=0, atol=2e-3)


def reference_lpips() -> torch.nn.Module:
    """The `lpips` package's own module and heads, with the shipped AlexNet put into torchvision's model by its layer numbers."""
    shipped = load_network_weights("lpips_alex.safetensors")
    with torch.random.fork_rng(), pytest.warns(UserWarning):
        network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, pretrained=True, verbose=False)
    for i, layer in enumerate((0, 3, 6, 8, 10), start=1):
        name = f"net.slice{i}.{layer}"
        network.get_submodule(name).load_state_dict({kind: shipped[f"{name}.{kind}"] for kind in ("weight", "bias")})
    return network.eval()


def test_lpips_equals_the_lpips_package_exactly(pairs: tuple[Tensor, Tensor]) -> None:
    ours = perceptual()
    with torch.no_grad():
        expected = reference_lpips()(*pairs).flatten()
    assert torch.equal(ours.per_image(*pairs), expected)
    assert expected.min() > 1e-4 and expected.max() > 0.2


def test_lpips_equals_its_definition(pairs: tuple[Tensor, Tensor]) -> None:
    """Zhang et al., Eq. 1, on torchvision's AlexNet: squared differences of unit channel vectors, weighted, averaged, summed."""
    weights = load_network_weights("lpips_alex.safetensors")
    with torch.device("meta"):
        alexnet = torchvision.models.alexnet(weights=None).features
    named = {name.split(".", 2)[2]: tensor for name, tensor in weights.items() if name.startswith("net.")}
    alexnet.load_state_dict(named, assign=True)

    def features(images: Tensor) -> list[Tensor]:
        x = (images + torch.tensor([0.030, 0.088, 0.188]).view(3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
        after_relu = []
        for layer in alexnet:
            x = layer(x)
            if isinstance(layer, torch.nn.ReLU):
                after_relu.append(x / x.norm(dim=1, keepdim=True).clamp_min(1e-10))
        return after_relu

    with torch.no_grad():
        layers = enumerate(zip(features(pairs[0]), features(pairs[1]), strict=True))
        expected = sum(((a - b) ** 2 * weights[f"lin{i}.model.1.weight"][0]).sum(1).mean((1, 2)) for i, (a, b) in layers)
    torch.testing.assert_close(perceptual().per_image(*pairs), expected, rtol=1e-5, atol=1e-7)


def test_lpips_weights_are_the_published_ones() -> None:
    shipped = load_network_weights("lpips_alex.safetensors")
    published = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
    assert len(published) == 5
    for name, tensor in published.items():
        assert torch.equal(shipped[name], tensor), name
    # The first row of torchvision's AlexNet (alexnet-owt-7be5be79), as print() shows it.
    row = shipped["net.slice1.0.weight"][0, 0, 0, [0, 1, 2, -3, -2, -1]]
    assert [f"{value:.4e}" for value in row.tolist()] == [
        "1.1864e-01",
        "9.4069e-02",
        "9.5435e-02",
        "5.5822e-02",
        "2.1575e-02",
        "4.9963e-02",
    ]
    assert (
        sum(tensor.numel() for name, tensor in shipped.items() if name.startswith("net.")) == 2_469_696
    )  # torchvision's alexnet().features


def test_lpips_maps_other_ranges_and_stays_in_evaluation_mode(pairs: tuple[Tensor, Tensor]) -> None:
    state = torch.get_rng_state()
    metric, unit = perceptual(), perceptual(value_range=(0, 1))
    assert torch.equal(torch.get_rng_state(), state)  # building it consumes no random numbers
    expected = metric.per_image(*pairs)
    assert torch.equal(metric.train().per_image(*pairs), expected)
    torch.testing.assert_close(unit.per_image((pairs[0] + 1) / 2, (pairs[1] + 1) / 2), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(metric.per_image(pairs[1], pairs[1]), torch.zeros(6))


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_batches_single_images_and_merged_parts_agree(metric: type, pairs: tuple[Tensor, Tensor]) -> None:
    preds, target = pairs
    at_once, one_by_one, part = metric(), metric(), metric()
    at_once.update(preds, target)
    for pair in zip(preds.split(1), target.split(1), strict=True):
        one_by_one.update(*pair)
    part.update(preds[:2], target[:2])
    rest = metric()
    rest.update(preds[2:], target[2:])
    part.merge_state(rest)
    values = metric().per_image(preds, target)
    assert values.shape == (6,)
    for result in (at_once, one_by_one, part):
        torch.testing.assert_close(result.compute(), values.double().mean(), rtol=1e-6, atol=0)
    at_once.reset()
    at_once.update(preds[:1], target[:1])
    torch.testing.assert_close(at_once.compute(), values[0].double(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_synchronisation_weighs_processes_by_their_images(metric: type, pairs: tuple[Tensor, Tensor]) -> None:
    preds, target = pairs
    other = metric()
    other.update(preds[1:], target[1:])
    others_state = {state.dtype: state for state in other.metric_state.values()}
    here = metric(dist_sync_fn=lambda state, group=None: [state, others_state[state.dtype]], distributed_available_fn=lambda: True)
    here.update(preds[:1], target[:1])
    torch.testing.assert_close(here.compute(), metric().per_image(preds, target).double().mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_gradient_reaches_the_images_but_not_the_state(metric: type, pairs: tuple[Tensor, Tensor]) -> None:
    preds = pairs[0][:2].clone().requires_grad_()
    instance = metric()
    assert instance.is_differentiable
    instance(preds, pairs[1][:2]).backward()
    assert preds.grad.isfinite().all() and preds.grad.abs().sum() > 0
    assert not any(state.requires_grad for state in instance.metric_state.values())
    assert not any(parameter.requires_grad for parameter in instance.parameters())


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_direction(metric: type, pairs: tuple[Tensor, Tensor]) -> None:
    worse, better = pairs[0][2:3], pairs[0][0:1]
    target = pairs[1]
    difference = metric().per_image(better, target[0:1]) - metric().per_image(worse, target[2:3])
    assert (difference > 0).item() == metric().higher_is_better


def faulty(pairs: tuple[Tensor, Tensor]) -> dict[str, tuple[object, object, str]]:
    """Faulty (preds, target) and what the message must say."""
    preds, target = (images[:2] for images in pairs)
    nan, infinite = preds.clone(), target.clone()
    nan[1, 2, 3, 4], infinite[0, 0, 0, 0] = math.nan, -math.inf
    return {
        "nan": (nan, target, "preds contains NaN or infinity"),
        "infinity": (preds, infinite, "target contains NaN or infinity"),
        "bytes range": (preds, (target + 1) * 127.5, r"target has values from .* must lie in \[-1, 1\]"),
        "just outside": (preds.clamp(-0.5, 0.5) * 2 * 1.0015, target, "preds has values from"),
        "other sizes": (preds, target[..., :32, :32], r"preds has shape \(2, 3, 64, 64\) and target \(2, 3, 32, 32\)"),
        "no batch": (preds[0], target[0], r"preds has shape \(3, 64, 64\), it must be \(B, 3, H, W\)"),
        "empty": (preds[:0], target[:0], "B >= 1"),
        "channels last": (preds.movedim(1, -1), target.movedim(1, -1), r"it must be \(B, 3, H, W\)"),
        "uint8": (preds.byte(), target, "preds is a tensor of torch.uint8"),
        "array": (preds.numpy(), target, "preds is a ndarray"),
    }


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_faulty_images_raise_one_sentence_and_leave_the_state(metric: type, pairs: tuple[Tensor, Tensor]) -> None:
    instance = metric()
    instance.update(*pairs)
    before = instance.compute()
    for preds, target, message in faulty(pairs).values():
        for call in (instance.per_image, instance.update):
            with pytest.raises(ValueError, match=message) as error:
                call(preds, target)
            assert str(error.value).count("\n") == 0
    instance._computed = None
    assert instance.compute() == before


def test_rounding_outside_the_range_passes(pairs: tuple[Tensor, Tensor]) -> None:
    MeanSquaredError().update(pairs[0] * 1.0009, pairs[1])


@pytest.mark.parametrize(("metric", "size"), [(StructuralSimilarity, 11), (perceptual, 31)])
def test_smallest_image(metric: type, size: int, pairs: tuple[Tensor, Tensor]) -> None:
    assert metric().per_image(*(images[..., :size, :size] for images in pairs)).isfinite().all()
    with pytest.raises(ValueError, match=f"H, W >= {size}"):
        metric().per_image(*(images[..., : size - 1, :size] for images in pairs))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_compute_before_update_and_bad_arguments_raise() -> None:
    for metric in PIXEL_METRICS:
        with pytest.raises(ValueError, match="has seen 0 images"):
            metric().compute()
        for value_range in ((1, -1), (0, math.inf), 2.0, (0, 1, 2), "ab"):
            with pytest.raises(ValueError, match="value_range"):
                metric(value_range=value_range)
    with pytest.raises(ValueError, match="max_decibels"):
        PeakSignalNoiseRatio(max_decibels=0)


def test_damaged_or_missing_weights_raise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"card\.json is missing"):
        lpips_network(tmp_path)
    for name in ("card.json", "lpips_alex.safetensors"):
        shutil.copy(paths.METRIC_NETWORKS / name, tmp_path / name)
    weights = tmp_path / "lpips_alex.safetensors"
    assert isinstance(lpips_network(tmp_path), torch.nn.Module)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # one bit of one weight: it would still load
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"lpips_alex\.safetensors is damaged .* sha256 must be [0-9a-f]{64}\.$"):
        lpips_network(tmp_path)
    weights.write_bytes(content[:1000])  # an interrupted copy
    with pytest.raises(ValueError, match="is damaged"):
        lpips_network(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"lpips_alex\.safetensors is missing"):
        lpips_network(tmp_path)
