"""Where has a point of the picture gone? Its feature is looked for near the place where it was (DragDiffusion, after DragGAN's tracking).

Points are (x, y). In pixels the picture spans [0, W] x [0, H], so that the centre of the first pixel is (0.5, 0.5). In cells of a feature
grid, whole numbers are the centres: the first cell's is (0, 0).
"""

import torch
from torch import Tensor, nn


def to_cells(points: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Points (..., 2) in pixels of a picture of (height, width) `size` -> cells of a grid of (height, width) `grid`.

    Example:
        >>> import torch
        >>> from smoothlib.editing.point_tracking import to_cells
        >>> to_cells(torch.tensor([1.0, 63.0]), size=(64, 64), grid=(32, 32))
        tensor([ 0., 31.])
    """
    return points * _ratio(points, size, grid) - 0.5


def to_pixels(cells: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The inverse of `to_cells`."""
    return (cells + 0.5) / _ratio(cells, size, grid)


def _ratio(points: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    return points.new_tensor([grid[1] / size[1], grid[0] / size[0]])


def resized(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features (B, C, h, w) on another grid, bilinearly."""
    return nn.functional.interpolate(features, size=grid, mode="bilinear", align_corners=False)


def at_cells(features: Tensor, cells: Tensor) -> Tensor:
    """Features (B, C, h, w) at cells (B, ..., 2), bilinearly: (B, C, ...). Outside the grid the nearest edge counts. Differentiable."""
    height, width = features.shape[2:]
    where = (cells + 0.5) * 2 / cells.new_tensor([width, height]) - 1  # grid_sample's range
    found = nn.functional.grid_sample(features, where.flatten(1, -2)[:, None], padding_mode="border", align_corners=False)
    return found[:, :, 0].unflatten(2, cells.shape[1:-1])


def inside(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which cells (..., 2) lie on the grid: bool (...)."""
    return ((cells >= -0.5) & (cells <= cells.new_tensor([grid[1], grid[0]]) - 0.5)).all(dim=-1)


def neighbourhood(radius: int, like: Tensor) -> Tensor:
    """The ((2 radius + 1)^2, 2) steps to the cells of a square around one, the shortest first: what ties for a minimum stays nearest."""
    axis = torch.arange(-radius, radius + 1)
    steps = torch.cartesian_prod(axis, axis)
    return steps[steps.square().sum(1).argsort(stable=True)].to(like)


def track(features: Tensor, wanted: Tensor, cells: Tensor, radius: int) -> Tensor:
    """The new places of points: of the cells in a square around each, the one whose feature is nearest to the point's own.

    Distances are mean absolute differences over channels. A point that does not lie in the middle of a cell keeps its offset.

    Args:
        features: of the changed picture, (B, C, h, w).
        wanted: the points' features in the picture before, (B, C, N).
        cells: where the points were last, (B, N, 2).
        radius: of the square, in cells.

    Returns:
        (B, N, 2).
    """
    around = cells[:, :, None] + neighbourhood(radius, cells)  # (B, N, K, 2)
    distances = (at_cells(features, around) - wanted[..., None]).abs().mean(dim=1)  # (B, N, K)
    distances = distances.masked_fill(~inside(around, features.shape[2:]), torch.inf)
    nearest = distances.argmin(dim=2)[..., None, None].expand(-1, -1, 1, 2)
    return around.gather(2, nearest)[:, :, 0]
