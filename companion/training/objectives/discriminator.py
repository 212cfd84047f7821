"""The autoencoder's opponent: a patch discriminator and the hinge losses of both (Isola et al. 2017, Lim and Ye 2017)."""

import itertools
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> one score for each patch of 38 x 38 pixels, (B, 1, H / 8, W / 8); above 0 means real.

    Three strided convolutions and a last one. Group normalisation, because a batch's statistics would couple real and generated images.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class AdversarialLosses(NamedTuple):
    """Two scalars: what the generator minimises, with a gradient for the images alone, and what the discriminator minimises."""

    generator: Tensor
    discriminator: Tensor


def adversarial_losses(discriminator: nn.Module, real: Tensor, generated: Tensor) -> AdversarialLosses:
    """L_G = -E s(y) and L_D = (E max(0, 1 - s(x)) + E max(0, 1 + s(y))) / 2, with s the scores, x real and y generated images (B, 3, H, W).

    Their sum can be minimised by one optimiser: L_G passes no gradient to the discriminator, L_D none to the generated images.
    """
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    generator = -functional_call(discriminator, frozen, (generated,)).float().mean()
    scores_real, scores_generated = discriminator(real).float(), discriminator(generated.detach()).float()
    return AdversarialLosses(generator, ((1 - scores_real).relu().mean() + (1 + scores_generated).relu().mean()) / 2)
