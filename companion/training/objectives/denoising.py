"""The second stage: text-to-image diffusion on the latents, from scratch or as a fine-tune, with or without the regularizer."""

import copy
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from peft import LoraConfig
from torch import Tensor

from smoothlib.regularizer.variation import StepwiseVariation
from smoothlib.training_loss import regularized_loss

from ...weights.cards import write_card
from ...weights.fine_tune import FRACTION_BITS, save_difference
from ...weights.pipelines import fingerprint, image_size, load_pipeline, load_vae
from ...world import mini
from .base import Draws, Objective, known_options
from .examples import BUFFER, CHUNK, tokenised
from .execution import Execution
from .held import HeldEmbeddings, HeldLatents
from .latents import SceneLatents, open_data
from .options import LORA_LAYERS, check_options
from .saving import save_lora, save_pipeline


class DenoisingObjective(Objective):
    """L_base + lambda L_reg (Eq. 14) of captioned images, see `smoothlib.training_loss.regularized_loss`.

    Weighting timesteps by min(SNR, gamma) / SNR keeps the nearly noise-free ones from dominating the training of a small model.

    Args:
        pipeline: what is trained: a folder of data/models, or any pipeline that `load_pipeline` knows.
        trainable: `all` trains UNet and text encoder of the embedded architecture, from scratch or from those of the pipeline `start_from`;
            `unet` every weight of the UNet of `pipeline`, and `lora` a LoRA of `rank` on its `lora_layers` (PEFT's, gaussian
            initialisation), both with the text encoder frozen.
        lora_layers: `attention`, the paper's projections, or `all`: the feed-forward layers and convolutions too.
        caption_dropout: share of captions replaced by the empty one, so that guidance works.
        min_snr_gamma: gamma; 0 weights all timesteps alike.
        split: scenes to train on, or the split of COCO, such as train2017; unused with other `data`.
        only, style: which of the scenes, and in which style (see `SceneLatents`).
        data, resolution: images with captions: a folder, COCO (see `FolderLatents`) or tar shards (see `ShardLatents`); their size in
            pixels (None: the size that the model was made for).
        layout: which of these `data` is: `folder`, `coco` or `shards`; None: what it looks like.
        bad_images: `error` or `skip`; None: `error` for folders, which are looked through at the start, and `skip` for shards.
        shuffle_buffer: for shards: the pairs among which the next is drawn (see `shard_stream.stream_order`).
        mirror: show each example mirrored half of the time; for captions that name no side.
        regularization: lambda; 0 is the plain fine-tune.
        regularizer: arguments of `StepwiseVariation`; among them the way to the gradient and its step, which is measured by default.
        regularized_share: share of each batch that L_reg is measured on.
        regularize_every: L_reg enters every k-th step alone, k times as strong (after StyleGAN2's lazy regularization; gradient
            clipping and Adam's moments see the stronger steps as they are).
        regularized_guidance: w of Eq. 5 for the x0_hat that L_reg is measured on, from the captions and the empty one; at 1, as in the
            paper, the captions alone. Other values double the work of L_reg. L_base always has the captions alone: with
            `caption_dropout`, it also holds on to what is predicted without one.
        gradient_checkpointing: recompute the UNet's activations in backward; `forward_mode` does not go with it.
        fraction_bits: see `fine_tune.save_difference`, which writes what `unet` trains.
        execution: arguments of `Execution`: how it is computed.

    Raises ValueError for an option that is out of range.
    """

    def __init__(
        self,
        pipeline: str = "mini",
        trainable: str = "all",
        start_from: str | None = None,
        rank: int = 8,
        lora_layers: str = "attention",
        caption_dropout: float = 0.1,
        min_snr_gamma: float = 5.0,
        split: str = "train",
        only: dict[str, list] | None = None,
        style: str | None = None,
        data: str | None = None,
        resolution: int | None = None,
        layout: str | None = None,
        bad_images: str | None = None,
        shuffle_buffer: int = BUFFER,
        mirror: bool = True,
        regularization: float = 0.0,
        regularizer: dict[str, Any] | None = None,
        regularized_share: float = 1.0,
        regularize_every: int = 1,
        regularized_guidance: float = 1.0,
        gradient_checkpointing: bool = False,
        fraction_bits: int = FRACTION_BITS,
        execution: dict[str, Any] | None = None,
    ):
        super().__init__()
        check_options(
            trainable=trainable, lora_layers=lora_layers, rank=rank, caption_dropout=caption_dropout, min_snr_gamma=min_snr_gamma,
            only=only, style=style, data=data, layout=layout, resolution=resolution, regularization=regularization,
            regularized_share=regularized_share, regularize_every=regularize_every, regularized_guidance=regularized_guidance,
            fraction_bits=fraction_bits,
        )  # fmt: skip
        with_regularizer = StepwiseVariation(**known_options("regularizer", StepwiseVariation, regularizer or {}))
        way = Execution(**known_options("execution", Execution, execution or {}))
        way.check(trainable, lora_layers, data, with_regularizer.gradient if regularization else None, gradient_checkpointing)
        own = open_data(data, split, layout, resolution or 0, bad_images, shuffle_buffer) if data else None  # before a model is loaded
        self.regularizer, self.fused_optimizer = with_regularizer if regularization else None, way.fused_optimizer
        self.regularization, self.regularized_share, self.regularize_every = regularization, regularized_share, regularize_every
        self.regularized_guidance, self.mirror, self.fraction_bits = regularized_guidance, mirror, fraction_bits
        self.pipeline, self.trainable, self.caption_dropout, self.min_snr_gamma = pipeline, trainable, caption_dropout, min_snr_gamma
        if trainable == "all":
            vae = load_vae(pipeline)
            self._build(start_from)
        else:
            vae = self._load_frozen(pipeline, rank, LORA_LAYERS[lora_layers])
        self._vae = [vae]  # in a list: saved with the pipeline, neither trained nor checkpointed
        self.scaling_factor = vae.config.scaling_factor
        if own:
            own.vae, own.resolution = vae, resolution or (mini.IMAGE_SIZE if trainable == "all" else image_size(pipeline))
            own = HeldLatents(own, self.origin) if way.cache_latents else own
        self.examples = own or SceneLatents(vae, split, only, style)
        self.tokens = None if (captions := self.examples.captions) is None else tokenised(self.tokenizer, captions)
        self.empty = tokenised(self.tokenizer, [""])
        self.embeddings = HeldEmbeddings(self.examples, self.origin) if way.cache_embeddings else None
        way.apply(self.unet, gradient_checkpointing)

    def _build(self, start_from: str | None) -> None:
        self.tokenizer, self.scheduler = mini.build_tokenizer(), mini.build_scheduler()
        self.text_encoder, self.unet = mini.build_text_encoder(len(self.tokenizer)), mini.build_unet()
        self.origin = "scratch"
        if start_from:
            earlier = load_pipeline(start_from)
            self.origin = fingerprint(earlier, decoder=False)
            self.tokenizer = earlier.tokenizer
            self.text_encoder.load_state_dict(earlier.text_encoder.state_dict())
            self.unet.load_state_dict(earlier.unet.state_dict())

    def _load_frozen(self, pipeline: str, rank: int, targets: Sequence[str]) -> AutoencoderKL:
        pipe = load_pipeline(pipeline)
        self.origin = fingerprint(pipe, decoder=False)
        self._base = [copy.deepcopy(pipe.unet)] if self.trainable == "unet" else []  # in a list as above
        self.tokenizer, self.scheduler = pipe.tokenizer, pipe.scheduler
        self.text_encoder, self.unet = pipe.text_encoder.requires_grad_(False), pipe.unet
        self.unet.requires_grad_(self.trainable == "unet")
        if self.trainable == "lora":
            self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)))
        return pipe.vae

    def __len__(self) -> int:
        return len(self.examples)

    def order(self, seed: int, epoch: int) -> Tensor:
        return self.examples.order(seed, epoch)

    def take_replaced(self) -> int:
        return self.examples.take_replaced()

    def _tokens_of(self, indices: Tensor) -> Tensor:
        return tokenised(self.tokenizer, self.examples.captions_of(indices)) if self.tokens is None else self.tokens[indices]

    def identity(self) -> str:
        """Hash of the examples, the captions' tokens and the weights that the training starts from."""
        digest = hashlib.sha256(f"{self.examples.identity()} {self.origin}".encode())
        # captions that are read when they are due are in the examples' identity; the tokens of some say which tokenizer it was
        tokens = self._tokens_of(torch.arange(min(CHUNK, len(self)))) if self.tokens is None else self.tokens
        for chunk in tokens.split(CHUNK):
            digest.update(chunk.long().numpy().tobytes())  # int64, as in the checkpoints of earlier versions
        return digest.hexdigest()

    def state(self) -> Draws:
        """The regularizer's running mean and its step of the differences."""
        return dict(self.regularizer.state_dict()) if self.regularizer else {}

    def load_state(self, state: Draws) -> None:
        """Take up what `state` gave; ValueError where an earlier version did."""
        if self.regularizer:
            self.regularizer.take_up(state)

    def kernels(self) -> AbstractContextManager:
        """The attention kernel that the regularizer's gradient needs."""
        return self.regularizer.attention_kernel() if self.regularizer else super().kernels()

    def describe(self, draws: Draws) -> str:
        """The timesteps."""
        return f"timesteps {', '.join(map(str, draws['timesteps'].tolist()))}"

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Mirroring, the posterior's noise, caption dropout, eps, timestep, and the direction that L_reg is measured along."""
        shape = (count, *self.examples.shape)
        draws = {
            "mirrored": torch.rand(count, generator=generator) < (0.5 if self.mirror else 0),
            "posterior_noise": torch.randn(shape, generator=generator),
            "dropped": torch.rand(count, generator=generator) < self.caption_dropout,
            "eps": torch.randn(shape, generator=generator),
            "timesteps": torch.randint(len(self.scheduler.alphas_cumprod), (count,), generator=generator),
        }
        if self.regularizer:
            draws["direction_noise"] = torch.randn(shape, generator=generator)
        return draws

    def _embedded(self, indices: Tensor | None, dropped: Tensor | None = None) -> Tensor:
        tokens = self.empty if indices is None else self._tokens_of(indices)  # of captions (B, L, D), or of the empty one (1, L, D)
        tokens = tokens if dropped is None else torch.where(dropped[:, None], self.empty, tokens)
        return self.text_encoder(tokens.to(self.unet.device))[0].float()  # under autocast too: the regularizer's differences leave it

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.unet.device
        self._vae[0].to(device)  # outside the module tree, hence not moved with it
        indices = self.examples.readable(indices.cpu())
        mean, std = (moment.to(device) for moment in self.examples.posterior(indices, draws["mirrored"].cpu()))
        z0 = (mean + std * draws["posterior_noise"].to(device)) * self.scaling_factor
        dropped, held = draws["dropped"].cpu(), self.embeddings
        context = self._embedded(indices, dropped) if held is None else held.take(indices, dropped, self._embedded, device)
        guided = self.regularizer and self.regularized_guidance != 1
        found = regularized_loss(
            self.unet,
            z0,
            context,
            self.scheduler,
            self.regularizer,
            regularization=self.regularization,
            step=self.step,
            regularize_every=self.regularize_every,
            regularized_share=self.regularized_share,
            regularized_guidance=self.regularized_guidance if guided else 1.0,
            null_embeds=self._embedded(None) if guided else None,
            min_snr_gamma=self.min_snr_gamma,
            draws={name: draws[name] for name in ("eps", "timesteps", "direction_noise") if name in draws},
        )
        if found.variation is None:
            return found.loss, {"mse": found.error}
        numbers = {
            "mse": found.error,
            "base": found.base,
            "reg": found.variation.loss,
            "r": found.variation.r.mean(),
            "running_mean": found.variation.running_mean,
            **self.regularizer.step_choice.numbers(),
        }
        return found.loss, numbers

    def export(self, folder: Path) -> None:
        """Save the whole pipeline for `all`, a LoRA for `lora`, the difference to the base that the card names for `unet`; see `saving`."""
        if self.trainable == "all":
            parts = dict(text_encoder=self.text_encoder, tokenizer=self.tokenizer, scheduler=self.scheduler)
            save_pipeline(folder, vae=self._vae[0], unet=self.unet, **parts)
        elif self.trainable == "lora":
            save_lora(self.unet, folder)
        else:
            save_difference(self.unet, self._base[0], folder, self.fraction_bits)
            write_card(folder, base={"model": self.pipeline, "fingerprint": self.origin})
