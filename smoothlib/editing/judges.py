"""Judges that an edit is optimised against: functions of the caller's, which hold the networks, and one that is made from two encoders."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Alignment = Callable[[Tensor, Sequence[str], Sequence[str], Tensor], Tensor]
Perceptual = Callable[[Tensor, Tensor], Tensor]


def directional_alignment(embed_images: Callable[[Tensor], Tensor], embed_prompts: Callable[[Sequence[str]], Tensor]) -> Alignment:
    """The directional loss (Gal et al. 2022) as a judge: 1 - cos(E(image) - E(reconstruction), E(target) - E(source)), from 0 to 2.

    The two functions embed images (B, 3, H, W) in [-1, 1] and B prompts into one space, (B, D); the first with gradients.

    Example:
        >>> import torch
        >>> from smoothlib.editing.judges import directional_alignment
        >>> judge = directional_alignment(lambda images: images.mean(dim=(2, 3)), lambda prompts: torch.eye(3)[[len(p) for p in prompts]])
        >>> reconstruction, red = torch.zeros(1, 3, 8, 8), torch.eye(3)[:1, :, None, None].expand(1, 3, 8, 8)
        >>> judge(red, ["a"], [""], reconstruction)  # from the second axis to the first
        tensor([0.2929])
    """

    def alignment(images: Tensor, source_prompts: Sequence[str], target_prompts: Sequence[str], reconstructions: Tensor) -> Tensor:
        with torch.no_grad():
            before, words = embed_images(reconstructions), embed_prompts(target_prompts) - embed_prompts(source_prompts)
        return 1 - F.cosine_similarity(embed_images(images) - before, words.to(before), dim=-1)

    return alignment


@torch.no_grad()
def check_judges(
    images: Tensor,
    source_prompts: Sequence[str],
    target_prompts: Sequence[str],
    alignment: Alignment,
    perceptual: Perceptual,
) -> None:
    """ValueError unless each judge can be called and gives one loss per image, tried on the images themselves."""
    for name, judge, arguments in (
        ("alignment", alignment, (images, source_prompts, target_prompts, images)),
        ("perceptual", perceptual, (images, images)),
    ):
        if not callable(judge):
            raise ValueError(f"{name} is a {type(judge).__name__}, but must be a function that gives a loss per image")
        given = judge(*arguments)
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        if shape != (len(images),):
            raise ValueError(f"{name} gives {shape}, but must give a tensor of shape ({len(images)},), a loss per image")
