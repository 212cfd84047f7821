"""Training the decoder alone: the latents stay as they were bit for bit, and the adversarial term is the hinge loss."""

import pytest
import torch

from companion.base import paths
from companion.training.loop import Trainer
from companion.training.objectives import AutoencoderObjective
from companion.training.objectives.autoencoder import encoder_hash
from companion.training.objectives.discriminator import PatchDiscriminator, adversarial_losses
from companion.training.settings import TrainingConfig
from companion.weights import pipelines as models
from companion.weights.pipelines import fingerprint, load_pipeline, load_vae

# What the UNet and every shipped adapter were trained on. Other latents would need all of them trained again.
SHIPPED_ENCODER = "2c5550943ebc524cba89a112aa45790e00cac8096424057a87560a4cf0c7279c"
SETTINGS = dict(name="decoder", objective="autoencoder", export_to="decoder", steps=3, batch_size=2, learning_rate=1e-2, warmup_steps=0)


@pytest.fixture(scope="module")
def objective(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        torch.manual_seed(0)
        yield AutoencoderObjective(train="decoder", start_from="mini", split="compositional", adversarial_weight=0.1, adversarial_from=1)


def images(count=2, seed=0):
    return 2 * torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) - 1


def test_the_shipped_latents_are_those_that_unet_and_adapters_were_trained_on():
    assert encoder_hash(load_vae("mini")) == SHIPPED_ENCODER


def test_training_the_decoder_leaves_every_latent_as_it_was(objective, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    shipped, x = load_vae("mini"), images()
    with torch.no_grad():
        before = shipped.encode(x).latent_dist.parameters
    trainer = Trainer(objective, TrainingConfig(**SETTINGS))
    trainer.run()
    objective.export(tmp_path)
    trained = type(shipped).from_pretrained(tmp_path / "vae")
    with torch.no_grad():
        assert torch.equal(trained.encode(x).latent_dist.parameters, before)
        z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        assert (trained.decode(z).sample - shipped.decode(z).sample).abs().max() > 1e-2
    assert encoder_hash(trained) == encoder_hash(shipped) and trained.config.scaling_factor == shipped.config.scaling_factor
    pipe, other = load_pipeline("mini"), load_pipeline("mini")
    other.vae = trained
    assert fingerprint(pipe) != fingerprint(other) and fingerprint(pipe, decoder=False) == fingerprint(other, decoder=False)
    assert all(name.startswith(models.DECODER) for name, p in objective.vae.named_parameters() if p.requires_grad)


def test_the_loss_is_the_sum_of_its_terms_and_the_discriminator_joins_at_its_step(objective):
    draws = objective.draw(2, torch.Generator().manual_seed(0))
    for step, joined in ((0, False), (1, True)):
        objective.step = step
        loss, numbers = objective(torch.arange(2), draws)
        expected = numbers["l1"] + 0.3 * numbers["lpips"]
        if joined:
            expected = expected + 0.1 * numbers["generator"] + numbers["discriminator"]
        torch.testing.assert_close(loss, expected)
        assert ("discriminator" in numbers) == joined and "kl" not in numbers


def test_a_mirrored_example_is_decoded_from_the_mirror_images_latent(objective):
    """A mirrored latent is not the latent of the mirrored image; the example must be as well reconstructed as the other."""
    draws = objective.draw(8, torch.Generator().manual_seed(0))
    objective.step = 0
    psnr = []
    for mirrored in (False, True):
        with torch.no_grad():
            _, numbers = objective(torch.arange(8), draws | {"mirrored": torch.full((8,), mirrored)})
        psnr.append(numbers["psnr"].item())
    assert abs(psnr[0] - psnr[1]) < 1.5, psnr


def test_adversarial_losses_are_the_hinge_losses_and_each_reaches_its_own_side_alone():
    torch.manual_seed(0)
    discriminator, real = PatchDiscriminator(), images(seed=1)
    made = images(seed=2).requires_grad_()
    losses = adversarial_losses(discriminator, real, made)
    scores_real, scores_made = discriminator(real), discriminator(made)
    assert scores_real.shape == (2, 1, 8, 8)
    torch.testing.assert_close(losses.generator, -scores_made.mean())
    torch.testing.assert_close(losses.discriminator, ((1 - scores_real).relu().mean() + (1 + scores_made).relu().mean()) / 2)
    of_generator = torch.autograd.grad(losses.generator, [made, *discriminator.parameters()], allow_unused=True)
    assert of_generator[0].abs().max() > 0 and all(gradient is None for gradient in of_generator[1:])
    of_discriminator = torch.autograd.grad(losses.discriminator, [made, *discriminator.parameters()], allow_unused=True)
    assert of_discriminator[0] is None and all(gradient.abs().max() > 0 for gradient in of_discriminator[1:-1])  # the last bias cancels


def test_a_score_sees_a_patch_of_38_pixels():
    discriminator, x = PatchDiscriminator(), images(1).requires_grad_()
    convolutions = torch.nn.Sequential(*(layer for layer in discriminator.layers if not isinstance(layer, torch.nn.GroupNorm)))
    convolutions(x)[0, 0, 4, 4].backward()  # group normalisation sees the whole image, convolutions do not
    seen = x.grad[0].abs().sum(0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [38, 38]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(train="encoder"), "train must be all or decoder, got 'encoder'"),
        (dict(train="decoder"), "needs start_from"),
        (dict(train="decoder", start_from="mini", crop=32), "whole images"),
        (dict(lpips_weight=-1), "lpips_weight must be a finite number of at least 0, got -1"),
        (dict(adversarial_weight=float("nan")), "adversarial_weight must be"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(options, message, monkeypatch):
    monkeypatch.setattr("companion.training.objectives.autoencoder.load_scenes", lambda split: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=message):
        AutoencoderObjective(**options)
