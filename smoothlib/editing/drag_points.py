"""What a drag is asked to do: points that are pulled to others, and where the picture may change. Wrong input ends in one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Points = Sequence[Any]  # per image its points, (N, 2): (x, y) in pixels


@dataclass(frozen=True)
class DragPoints:
    """The points of a batch of pictures, padded to the same number, and the masks."""

    handles: Tensor  # (B, N, 2) float32: (x, y) in pixels, the picture spanning [0, W] x [0, H]
    targets: Tensor  # (B, N, 2)
    given: Tensor  # (B, N) bool: which of them are points and not padding
    masks: Tensor | None  # (B, 1, H, W) bool: where the picture may change; None: everywhere
    size: tuple[int, int]  # H, W

    def __len__(self) -> int:
        return len(self.handles)

    def mean_distance(self, points: Tensor) -> Tensor:
        """Mean distance of `points` (B, N, 2) to the targets in pixels, over each image's own points: (B,)."""
        distances = (points - self.targets).norm(dim=-1) * self.given
        return distances.sum(1) / self.given.sum(1)

    def outside(self, grid: tuple[int, int]) -> Tensor | None:
        """Which cells of a coarser grid lie wholly outside the mask: float (B, 1, h, w); None without masks."""
        return None if self.masks is None else 1 - nn.functional.adaptive_max_pool2d(self.masks.float(), grid)

    def to(self, device: torch.device | str) -> "DragPoints":
        """The same on another device."""
        masks = None if self.masks is None else self.masks.to(device)
        return DragPoints(self.handles.to(device), self.targets.to(device), self.given.to(device), masks, self.size)


def drag_points(
    handles: Points, targets: Points, masks: Tensor | None = None, *, size: tuple[int, int], batch_size: int | None = None
) -> DragPoints:
    """Check and pad the points of a batch.

    A handle whose target is its own place holds the picture there; it is a point like others.

    Args:
        handles, targets: for each image its points (N, 2), at least one, as many handles as targets; N may differ between images.
        masks: (B, H, W) or (B, 1, H, W), True (or 1) where the image may change; None: everywhere.
        size: height and width of the images in pixels.
        batch_size: how many images there are; None: as many as `handles` has entries.

    Raises:
        ValueError: one sentence that names the image: other numbers of handles and targets, points that are not finite, lie outside the
            picture or the mask, or share a place; a mask that is empty or of another shape.

    Example:
        >>> from smoothlib.editing.drag_points import drag_points
        >>> drag_points([[(3, 4)], [(3, 4), (5, 6)]], [[(3, 9)], [(9, 4), (9, 9)]], size=(16, 16)).given
        tensor([[ True, False],
                [ True,  True]])
    """
    count = len(handles) if batch_size is None else batch_size
    for name, points in (("handles", handles), ("targets", targets)):
        if len(points) != count:
            raise ValueError(f"{name} has points for {len(points)} images, but must have them for {count}")
    if not count:
        raise ValueError("handles is empty, but must have the points of at least one image")
    masks = _checked_masks(masks, count, size)
    pairs = [_checked_points(i, handles[i], targets[i], size) for i in range(count)]
    for i, pair in enumerate(pairs if masks is not None else ()):
        _check_inside_mask(i, pair, masks[i, 0])
    most = max(pair.shape[1] for pair in pairs)
    padded = torch.zeros(2, count, most, 2)
    given = torch.zeros(count, most, dtype=torch.bool)
    for i, pair in enumerate(pairs):
        padded[:, i, : pair.shape[1]], given[i, : pair.shape[1]] = pair, True
    return DragPoints(padded[0], padded[1], given, masks, size)


def _checked_points(image: int, handles: Any, targets: Any, size: tuple[int, int]) -> Tensor:
    """The handles and targets of one image as a tensor (2, N, 2)."""
    found = []
    for name, points in (("handles", handles), ("targets", targets)):
        try:
            tensor = torch.as_tensor(points, dtype=torch.float32).cpu()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{name} of image {image} is {points!r}, but must be a list of points (x, y)") from None
        if tensor.ndim != 2 or tensor.shape[1] != 2 or not len(tensor):
            raise ValueError(f"{name} of image {image} has shape {tuple(tensor.shape)}, but must be (N, 2) with at least one point (x, y)")
        height, width = size
        for x, y in tensor.tolist():
            if not (0 <= x < width and 0 <= y < height):  # NaN is not
                raise ValueError(f"{name} of image {image} has the point ({x:g}, {y:g}), but must lie in the picture, {width} x {height}")
        if len(torch.unique(tensor, dim=0)) < len(tensor):
            raise ValueError(f"{name} of image {image} has one place twice, but must have different points")
        found.append(tensor)
    if len(found[0]) != len(found[1]):
        raise ValueError(f"image {image} has {len(found[0])} handles and {len(found[1])} targets, but must have one target for each handle")
    return torch.stack(found)


def _checked_masks(masks: Tensor | None, count: int, size: tuple[int, int]) -> Tensor | None:
    """(B, 1, H, W) bool."""
    if masks is None:
        return None
    masks = torch.as_tensor(masks)
    masks = masks[:, None] if masks.ndim == 3 else masks
    if masks.shape != (count, 1, *size):
        raise ValueError(f"masks has shape {tuple(masks.shape)}, but must be {(count, *size)}")
    if not ((masks == 0) | (masks == 1)).all():  # NaN is neither
        raise ValueError("masks has values other than 0 and 1, but must be True or 1 where the image may change")
    if empty := (~masks.bool().flatten(1).any(dim=1)).nonzero().flatten().tolist():
        raise ValueError(f"masks is empty for image {empty[0]}, but must be True somewhere (or None: the whole picture may change)")
    return masks.bool().cpu()


def _check_inside_mask(image: int, pair: Tensor, mask: Tensor) -> None:
    for name, points in zip(("handles", "targets"), pair, strict=True):
        for x, y in points.tolist():
            if not mask[int(y), int(x)]:
                raise ValueError(f"{name} of image {image} has the point ({x:g}, {y:g}), but must lie in the mask")
