"""Time of an ISTD run against its bare UNet and decoder forwards: `python -m benchmarks.istd [--device cuda] [--compile]`.

"run" is everything: text encoding, noises, walk, distances, LPIPS, storage. "bare" is the same number of forward passes at the same sizes,
and nothing else. Both are timed alternately; a third figure takes both from within the run (`seconds` / `forward_seconds` of the items).
"""

import tempfile
import time
from dataclasses import replace

import torch

from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from companion.data import load as datasets
from companion.runs import runs
from companion.studies.smoothness.generation import initial_noise
from companion.studies.smoothness.walks import LatentWalk, walk_prompts_from
from companion.weights import pipelines as models
from smoothlib.execution import compile_blocks
from smoothlib.sampling import Sampling, decode_latents, encode_prompts


def run_seconds(pipe, prompts, sampling: Sampling, frames: int, batch_size: int) -> tuple[float, float]:
    """Seconds of a whole run, and its items' seconds / forward_seconds."""
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        found = runs.run_items(
            prompts, LatentWalk(pipe, sampling, frames=frames), name="istd", config={}, batch_size=batch_size, root=root, progress=False
        )
        seconds = time.perf_counter() - started
    return seconds, sum(item["seconds"] for item in found) / sum(item["forward_seconds"] for item in found)


@torch.no_grad()
def bare_seconds(pipe, prompts, sampling: Sampling, frames: int, batch_size: int) -> float:
    """Seconds of the forward passes that the run needs, on ready inputs."""
    total = 0.0
    for start in range(0, len(prompts), batch_size):
        count = min(batch_size, len(prompts) - start) * frames
        x = initial_noise(pipe, range(count)).to(pipe.unet.device, pipe.unet.dtype)
        embeds = encode_prompts(pipe, [prompts[0].caption]).to(x).expand(count, -1, -1)
        guided = sampling.guidance_scale != 1
        both, both_embeds = (torch.cat([x, x]), torch.cat([embeds, embeds])) if guided else (x, embeds)
        started = time.perf_counter()
        for _ in range(sampling.num_inference_steps):
            pipe.unet(both, 500, encoder_hidden_states=both_embeds, return_dict=False)
        decode_latents(pipe, x).cpu()  # waits for the device
        total += time.perf_counter() - started
    return total


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4, help="prompts in one batch (times the frames)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--frames", type=int, default=11)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="the UNet's blocks, for the run and for the bare forwards")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but PyTorch finds no GPU here")
    pipe = models.load_pipeline(options.model, device=options.device)
    if options.compile:
        compile_blocks(pipe.unet)
    prompts = walk_prompts_from(datasets.load_scenes("test"), options.prompts)
    sampling = Sampling(models.default_guidance_scale(options.model), options.steps)
    host = machine(options.device)
    how = ", compiled" if options.compile else ""
    print(f"{host['name']}, {host['threads']} threads; {options.prompts} prompts x {options.frames} frames, {options.steps} steps{how}")
    few = replace(sampling, num_inference_steps=2)
    bare_seconds(pipe, prompts, few, options.frames, options.batch_size)  # warm up, and compile for every size of a batch
    run_seconds(pipe, prompts, few, options.frames, options.batch_size)
    run, bare = [], []
    for _ in range(options.repeats):
        bare.append(bare_seconds(pipe, prompts, sampling, options.frames, options.batch_size))
        seconds, within = run_seconds(pipe, prompts, sampling, options.frames, options.batch_size)
        run.append(seconds)
        print(f"run {run[-1]:.2f} s, bare {bare[-1]:.2f} s; within the run {within:.3f}x")
    print(f"run / bare forwards: {min(run) / min(bare):.3f}x")


if __name__ == "__main__":
    main()
