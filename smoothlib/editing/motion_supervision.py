"""What pulls the handles: the features one step ahead of each should become those at the handle (DragDiffusion, after DragGAN)."""

from torch import Tensor

from .point_tracking import at_cells, inside, neighbourhood


def motion_loss(features: Tensor, cells: Tensor, targets: Tensor, moves: Tensor, radius: int = 1) -> Tensor:
    """Sum over handles p and over the cells o of a square around each of the mean over channels of |F(p + o + d) - sg F(p + o)|.

    d = (q - p) / ||q - p|| points from the handle to its target q with the length of one cell; sg stops the gradient, so that the feature
    ahead is changed and not the one at the handle. Cells outside the grid do not count.

    Args:
        features: F, (B, C, h, w).
        cells, targets: p and q in cells of the grid, (B, N, 2).
        moves: which of the handles are pulled, bool (B, N): those that there are and that have not arrived.
        radius: of the square; published: 1.

    Returns:
        (B,), zero where nothing moves.
    """
    way = targets - cells
    direction = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-6)  # (B, N, 2)
    patch = cells[:, :, None] + neighbourhood(radius, cells)  # (B, N, K, 2)
    here, ahead = at_cells(features, patch).detach(), at_cells(features, patch + direction[:, :, None])
    counts = inside(patch, features.shape[2:]) & moves[..., None]
    return ((ahead - here).abs().mean(dim=1) * counts).sum(dim=(1, 2))
