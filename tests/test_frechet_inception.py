"""The floor of the Fréchet distance, and FID: the same numbers as torchmetrics', and one sentence for whatever is missing."""

import sys

import pytest
import torch

from companion.judges import inception as frechet_inception
from companion.judges.inception import FrechetInceptionDistance, InceptionFeatures
from smoothlib.metrics.frechet import frechet_distance, frechet_distance_from_features, frechet_floor


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_one_sentence(raised):
    message = str(raised.value)
    assert "\n" not in message and len(message) < 450, message


# --- floor


def test_the_way_without_covariances_equals_the_one_with_them():
    for n, m in ((30, 20), (20, 40), (2, 3)):
        a = torch.randn(n, 40, generator=generator(n), dtype=torch.float64)
        b = 0.7 * torch.randn(m, 40, generator=generator(100 + m), dtype=torch.float64) + 0.2
        expected = frechet_distance(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
        torch.testing.assert_close(frechet_distance_from_features(a, b), expected, rtol=1e-7, atol=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        frechet_distance_from_features(a * torch.nan, a)
    with pytest.raises(ValueError, match="must be"):
        frechet_distance_from_features(a, a[:, :30])


def test_the_floor_is_the_distance_of_disjoint_halves():
    features = torch.randn(60, 12, generator=generator())
    floor = frechet_floor(features, 30, num_splits=4, generator=generator(5))
    replay, expected = generator(5), []
    for _ in range(4):
        order = torch.randperm(60, generator=replay)
        assert not set(order[:30].tolist()) & set(order[30:].tolist())
        expected.append(frechet_distance_from_features(features[order[:30]], features[order[30:]]).item())
    assert floor.values == pytest.approx(expected)
    assert (floor.mean, floor.low, floor.high) == pytest.approx((sum(expected) / 4, min(expected), max(expected)))
    assert 0 < floor.low < floor.high and floor.n == 30
    assert frechet_floor(features, 30, num_splits=4) == frechet_floor(features, 30, num_splits=4)


def test_the_floor_falls_with_the_number_of_images_and_is_zero_only_for_equal_ones():
    features = torch.randn(800, 6, generator=generator())
    few, many = frechet_floor(features, 20), frechet_floor(features, 400)
    assert few.low > 5 * many.high > 0
    assert frechet_floor(torch.ones(10, 3), 5).high == 0


def test_bad_floors_are_named():
    features = torch.zeros(10, 3)
    for arguments in ((features, 6), (features, 1), (features[0], 2)):
        with pytest.raises(ValueError, match="N >= 2 n and n >= 2"):
            frechet_floor(*arguments)
    with pytest.raises(ValueError, match="num_splits is 0"):
        frechet_floor(features, 2, num_splits=0)


# --- FID


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModuleNotFoundError, match="FID needs the package torch-fidelity: install it with") as raised:
        FrechetInceptionDistance()
    assert_one_sentence(raised)


def test_a_failed_download_says_what_to_get_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(frechet_inception, "WEIGHTS_URL", "http://127.0.0.1:9/weights.pth")  # nothing listens there
    with pytest.raises(FileNotFoundError, match=rf"get http://127.* and put it in {tmp_path}/checkpoints, or pass its path") as raised:
        frechet_inception._weights_file(None)
    assert_one_sentence(raised)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_other_weights_are_refused_before_they_are_unpickled(tmp_path):
    file = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match=r"weights\.pth does not exist: get it from https://"):
        frechet_inception._weights_file(file)
    torch.save({"conv.weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="is not InceptionV3's published weights: its sha256 must be 6726825d") as raised:
        frechet_inception._weights_file(file)
    assert_one_sentence(raised)


def test_equals_torchmetrics_and_torch_fidelity(tmp_path, monkeypatch):
    """With random weights in the place of the published ones: the computation, not the number, is compared."""
    pytest.importorskip("torch_fidelity", reason="the extra `fid` is not installed")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import FrechetInceptionDistance as Reference

    file = tmp_path / "weights.pth"
    with torch.random.fork_rng(devices=[]), monkeypatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        reference = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(file))
        for module in reference.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)  # the default would shrink the signal to nothing over the layers
    torch.save(reference.state_dict(), file)
    monkeypatch.setattr(frechet_inception, "_weights_file", lambda given: given)

    levels = torch.randint(256, (4, 3, 64, 64), generator=generator(), dtype=torch.uint8)
    images = levels.float() / 127.5 - 1
    extractor = InceptionFeatures(weights_file=file)
    original = extractor(images)
    torch.testing.assert_close(original, reference(levels)[0].float(), rtol=1e-4, atol=1e-4 * original.mean().item())
    ours = FrechetInceptionDistance(weights_file=file, antialias=True)
    theirs = Reference(feature_extractor_weights_path=str(file), normalize=False)
    ours.update(images, real=False)
    theirs.update(levels, real=False)
    # the moments are all that the distance depends on, and torchmetrics takes half a minute from here
    torch.testing.assert_close(ours.fake_features_sum / 4, theirs.fake_features_sum / 4, rtol=1e-4, atol=1e-4 * original.mean().item())
    torch.testing.assert_close(ours.fake_features_outer_sum, theirs.fake_features_cov_sum, rtol=1e-3, atol=1e-3)
    assert (ours.fake_features_sum / 4 - original.mean(0)).abs().max() > 0.01 * original.mean() > 1e-4  # the resize matters
