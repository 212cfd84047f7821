"""Eq. 14 and its options: a share of the batch, every k-th step, guidance; resuming with the running mean."""

import json

import pytest
import torch
from small_objectives import LORA, denoising, generator, loss_of

from companion.base import paths
from companion.training.loop import Trainer
from companion.training.settings import TrainingConfig
from smoothlib.predictions import predict_x0
from smoothlib.regularizer.length import step_variation
from smoothlib.regularizer.step_choice import LADDER
from smoothlib.regularizer.variation import unit_directions
from smoothlib.sampling import predict_noise


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


def test_the_regularized_loss_is_eq_14_and_its_base_that_of_the_plain_fine_tune(runs):
    plain, regularized = denoising(runs, **LORA), denoising(runs, **LORA, regularization=3.0)
    base, _ = loss_of(plain)
    loss, numbers = loss_of(regularized)
    torch.testing.assert_close(numbers["base"], base)
    torch.testing.assert_close(loss, base + 3.0 * numbers["reg"])
    assert numbers["difference"] in LADDER and 0 < numbers["difference_error"] < 0.01
    assert numbers["reg"] > 0 and torch.equal(numbers["running_mean"], regularized.regularizer.running_mean[0])
    with regularized.kernels():
        loss.backward()


def test_training_resumes_with_running_mean_and_measured_step_and_from_its_own_base_alone(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ADAPTERS", tmp_path)
    settings = dict(objective="denoising", export_to="x", steps=3, batch_size=2, learning_rate=1e-3, warmup_steps=0)

    def trainer(name, **options):
        regularizer = {"gradient": "one_sided", "difference_every": 2}
        objective = denoising(runs, **LORA, regularization=3.0, regularizer=regularizer, **options)
        return Trainer(objective, TrainingConfig(name=name, log_every=1, **settings))

    whole, first = trainer("whole"), trainer("parts")
    whole.run()
    first.run(stop_after=1)
    second = trainer("parts")
    assert second.step == 1 and torch.equal(second.objective.regularizer.running_mean, first.objective.regularizer.running_mean)
    second.run()
    for key, value in whole.objective.regularizer.state_dict().items():
        assert torch.equal(second.objective.regularizer.state_dict()[key], value), key
    for run in (whole, second):
        logged = [json.loads(line) for line in run.log.read_text().splitlines()]
        errors = [line["difference_error"] for line in logged]
        assert errors[0] == errors[1] != errors[2] and all(line["difference"] in LADDER for line in logged)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))

    earlier = {name: value for name, value in second.objective.state().items() if not name.startswith("step_choice")}
    with pytest.raises(ValueError, match=r"the checkpoint's regularizer lacks step_choice\.batches, .*: it is of an earlier version"):
        second.objective.load_state(earlier)

    monkeypatch.setattr("companion.training.objectives.denoising.fingerprint", lambda pipe, **_: "another model")
    with pytest.raises(ValueError, match="trained on other data or from other weights"):
        trainer("parts")


def test_a_share_of_the_batch_and_every_kth_step_leave_the_base_loss_alone(runs):
    whole = denoising(runs, **LORA, regularization=3.0)
    share = denoising(runs, **LORA, regularization=3.0, regularized_share=0.5)
    _, numbers = loss_of(share)
    torch.testing.assert_close(numbers["base"], loss_of(whole)[1]["base"])
    half = denoising(runs, **LORA, regularization=3.0)
    draws = half.draw(4, generator())
    _, first_half = half(torch.arange(2), {name: values[:2] for name, values in draws.items()})
    torch.testing.assert_close(numbers["reg"], first_half["reg"])

    lazy = denoising(runs, **LORA, regularization=3.0, regularize_every=4)
    loss, numbers = loss_of(lazy)
    torch.testing.assert_close(loss, numbers["base"] + 3.0 * 4 * numbers["reg"])
    lazy.step = 5
    loss, numbers = loss_of(lazy)
    torch.testing.assert_close(loss, numbers["mse"])


def test_guidance_enters_the_regularizer_and_not_the_base_loss(runs):
    """r of the guided prediction is that of w e - (w - 1) e_null, formed here from the sampler's own guidance."""
    plain, guided = (denoising(runs, **LORA, regularization=3.0, regularized_guidance=w) for w in (1.0, 3.0))
    _, numbers = loss_of(plain)
    loss, with_guidance = loss_of(guided)
    torch.testing.assert_close(with_guidance["base"], numbers["base"])
    torch.testing.assert_close(loss, with_guidance["base"] + 3.0 * with_guidance["reg"])

    draws = guided.draw(4, generator())
    mean, std = guided.examples.posterior(torch.arange(4), draws["mirrored"])
    z0 = (mean + std * draws["posterior_noise"]) * guided.scaling_factor
    alpha_bar, t = guided.scheduler.alphas_cumprod[draws["timesteps"]], draws["timesteps"]
    cond, null = (guided.text_encoder(tokens)[0] for tokens in (guided.tokens[:4], guided.empty.expand(4, -1)))

    def sampled(eps):
        x_t = guided.scheduler.add_noise(z0, eps, t)
        output = predict_noise(guided.unet, x_t, t, cond, null, 3.0)
        return predict_x0(output, x_t, alpha_bar), output

    r, _ = step_variation(sampled, draws["eps"], unit_directions(draws["direction_noise"]), (1 - alpha_bar).sqrt())
    torch.testing.assert_close(with_guidance["r"], r.mean().detach(), rtol=1e-4, atol=0)
    assert with_guidance["r"] > 1.2 * numbers["r"]  # guidance amplifies


def test_forward_mode_does_not_go_with_gradient_checkpointing(runs):
    with pytest.raises(
        ValueError, match="gradient must be central, one_sided or double_backward with gradient_checkpointing, got 'forward_"
    ):
        denoising(runs, **LORA, regularization=1.0, regularizer={"gradient": "forward_mode"}, gradient_checkpointing=True)


def test_the_step_is_measured_where_the_text_encoder_is_trained_too(runs):
    """Its graph must outlive the measurement."""
    everything = denoising(runs, regularization=3.0)
    loss, numbers = loss_of(everything, 2)
    with everything.kernels():
        loss.backward()
    assert numbers["difference"] in LADDER and numbers["difference_error"] < 0.01
    assert all(p.grad is not None for p in everything.text_encoder.parameters() if p.requires_grad)
