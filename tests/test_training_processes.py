"""Two processes (gloo): both end with equal parameters, those of one process with twice the batch, also with the frozen weights divided."""

import os
import socket
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.training.dividing import check_divisible, check_whole

SCRIPT = textwrap.dedent(
    """
    import pathlib, sys
    import safetensors.torch, torch
    sys.path[:0] = [sys.argv[2], sys.argv[3]]
    from companion.base import paths
    folder, batch_size, steps = pathlib.Path(sys.argv[1]), int(sys.argv[4]), int(sys.argv[5])
    difference = "auto" if steps > 1 else 0.001
    from companion.training.objectives import DenoisingObjective
    from companion.training.loop import Trainer, TrainingConfig
    paths.RUNS = folder
    torch.manual_seed(0)
    options = dict(split="compositional", trainable="lora", rank=2, regularization=1.0)
    options |= dict(regularizer={"gradient": "one_sided", "difference": difference, "difference_every": 3})
    objective = DenoisingObjective(**options)
    for name, p in objective.named_parameters():
        if "lora_B" in name:  # at zero, A would have no gradient
            p.data.normal_(0, 0.02)
    settings = dict(name="two", objective="denoising", export_to="x", steps=steps)
    settings |= dict(batch_size=batch_size, gradient_accumulation_steps=2, learning_rate=1e-2, warmup_steps=0)
    trainer = Trainer(objective, TrainingConfig(**settings))
    trainer.run()
    result = {"parameters": torch.cat([p.detach().flatten() for p in trainer.parameters]), "mean": objective.regularizer.running_mean}
    result["step"] = objective.regularizer.step_choice.rung, objective.regularizer.step_choice.error
    moments = trainer.optimizer.state_dict()["state"]  # Adam's first moment: after one step a tenth of the clipped gradient
    frozen = [p for p in objective.unet.parameters() if not p.requires_grad]
    result["held"] = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in frozen) / sum(p.numel() for p in frozen)
    result["gradient"] = torch.cat([moments[i]["exp_avg"].flatten() for i in sorted(moments)])
    exported = folder / f"exported{trainer.accelerator.process_index}"
    objective.export(exported)
    weights = [w.flatten() for file in exported.glob("*.safetensors") for w in safetensors.torch.load_file(file).values()]
    result["exported"] = torch.cat(weights).sort().values
    torch.save(result, folder / f"rank{trainer.accelerator.process_index}.pt")
    """
)


def run(folder, processes, batch_size, steps, latents):
    """The ranks' results; their environment is what `accelerate launch` gives."""
    folder.mkdir()
    (folder / "latents").symlink_to(latents)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-c", SCRIPT, str(folder), str(paths.ROOT), str(paths.ROOT / "tests"), str(batch_size), str(steps)]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    ranks = []
    for rank in range(processes):
        world = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)} if processes > 1 else {}
        ranks.append(subprocess.Popen(arguments, env={**common, **world}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    for process in ranks:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(processes)]


def launch(folder, batch_size, steps, latents, kind="--multi_gpu"):
    """The two ranks' results by the book's command; each kind starts processes whether there are GPUs or not."""
    folder.mkdir()
    (folder / "latents").symlink_to(latents)
    (folder / "script.py").write_text(SCRIPT)
    options = f"{kind} --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0".split()
    arguments = [str(folder), str(paths.ROOT), str(paths.ROOT / "tests"), str(batch_size), str(steps)]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, str(folder / "script.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch was built without gloo")
def test_two_processes_take_the_steps_of_one_with_twice_the_batch(tmp_path):
    latents = tmp_path / "latents"
    latents.mkdir()
    (alone,) = run(tmp_path / "one", 1, 4, 1, latents)
    first, second = run(tmp_path / "two", 2, 2, 1, latents)
    divided, other = launch(tmp_path / "divided", 2, 1, latents, "--use_fsdp --fsdp_version 2")
    assert first["held"] == second["held"] == 1 and divided["held"] + other["held"] == pytest.approx(1, abs=0.01), (
        "half of the frozen weights"
    )
    for here, there in ((first, second), (divided, other)):
        assert torch.equal(here["parameters"], there["parameters"])
        assert torch.equal(here["mean"], there["mean"])
        assert torch.equal(here["exported"], here["parameters"].half().sort().values)
        torch.testing.assert_close(here["mean"], alone["mean"], rtol=1e-5, atol=1e-7)
        scale = alone["gradient"].abs().max()
        torch.testing.assert_close(here["gradient"], alone["gradient"], rtol=1e-3, atol=1e-4 * scale.item())
        # Adam's first step is the sign of the gradient, whatever its size: where that is more than rounding, both went the same way
        sure = alone["gradient"].abs() > 1e-3 * scale
        assert sure.float().mean() > 0.5
        torch.testing.assert_close(here["parameters"][sure], alone["parameters"][sure], rtol=0, atol=1e-5)

    first, second = launch(tmp_path / "three steps", 2, 3, latents)
    assert torch.equal(first["parameters"], second["parameters"])
    assert first["step"] == second["step"] and first["step"][0] >= 0, "both take the step that they measured together"


def test_a_model_that_is_divided_between_processes_is_refused():
    for kind in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        check_whole(kind)
    with pytest.raises(ConfigurationError, match=r"^distributed_type is FSDP, but must be MULTI_GPU \(DDP\), MULTI_CPU or NO: "):
        check_whole(DistributedType.FSDP)


def test_what_is_trained_is_not_divided_nor_what_needs_second_derivatives():
    check_divisible(SimpleNamespace(trainable="lora", regularizer=None))
    check_divisible(SimpleNamespace(trainable="lora", regularizer=SimpleNamespace(gradient="central")))
    with pytest.raises(ConfigurationError, match=r"^trainable is 'all', but must be 'lora' with --use_fsdp"):
        check_divisible(SimpleNamespace(trainable="all", regularizer=None))
    with pytest.raises(ConfigurationError, match=r"^gradient is 'double_backward', but must be central or one_sided with --use_fsdp"):
        check_divisible(SimpleNamespace(trainable="lora", regularizer=SimpleNamespace(gradient="double_backward")))
