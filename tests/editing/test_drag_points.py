"""Points of a drag: what is refused, tracking of known translations, and the loss that pulls, in closed form."""

import math

import pytest
import torch
from tiny import assert_one_sentence, noise

from smoothlib.editing.drag_points import drag_points
from smoothlib.editing.motion_supervision import motion_loss
from smoothlib.editing.point_tracking import at_cells, resized, to_cells, to_pixels, track

SIZE = (16, 16)
MASK = torch.zeros(1, 16, 16).index_fill_(2, torch.arange(8), 1)  # the left half
NAN = float("nan")


@pytest.mark.parametrize(
    ("handles", "targets", "masks", "sentence"),
    [
        ([[(16, 3)]], [[(1, 3)]], None, r"handles of image 0 has the point \(16, 3\), but must lie in the picture, 16 x 16"),
        ([[(2, 3)]], [[(1, -1)]], None, r"targets of image 0 has the point \(1, -1\), but must lie in the picture"),
        ([[(2, NAN)]], [[(1, 3)]], None, r"handles of image 0 has the point \(2, nan\), but must lie in the picture"),
        ([[(2, 3), (2, 3)]], [[(1, 3), (1, 4)]], None, "handles of image 0 has one place twice, but must have different points"),
        ([[(2, 3), (2, 4)]], [[(1, 3), (1, 3)]], None, "targets of image 0 has one place twice"),
        ([[(2, 3)]], [[(1, 3), (1, 4)]], None, "image 0 has 1 handles and 2 targets, but must have one target for each handle"),
        ([[(2, 3)], [(2, 3)]], [[(1, 3)]], None, "targets has points for 1 images, but must have them for 2"),
        ([[]], [[]], None, r"handles of image 0 has shape \(0,\), but must be \(N, 2\) with at least one point"),
        ([["left"]], [[(1, 3)]], None, r"handles of image 0 is \['left'\], but must be a list of points"),
        ([], [], None, "handles is empty"),
        ([[(9, 3)]], [[(1, 3)]], MASK, r"handles of image 0 has the point \(9, 3\), but must lie in the mask"),
        ([[(1, 3)]], [[(8, 3)]], MASK, r"targets of image 0 has the point \(8, 3\), but must lie in the mask"),
        ([[(2, 3)]], [[(1, 3)]], MASK * 0, r"masks is empty for image 0, but must be True somewhere"),
        ([[(2, 3)]], [[(1, 3)]], MASK * NAN, "masks has values other than 0 and 1"),
        ([[(2, 3)]], [[(1, 3)]], MASK[:, :8], r"masks has shape \(1, 1, 8, 16\), but must be \(1, 16, 16\)"),
    ],
)
def test_wrong_points_are_refused_in_one_sentence(handles, targets, masks, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        drag_points(handles, targets, masks, size=SIZE)
    assert_one_sentence(raised)


def test_images_may_have_different_numbers_of_points():
    points = drag_points([[(3, 4)], [(3, 4), (5, 6)]], [[(3, 9)], [(9, 4), (5, 6)]], size=SIZE)
    assert points.given.tolist() == [[True, False], [True, True]]
    assert points.mean_distance(points.handles).tolist() == [5, 3]  # (6 + 0) / 2: padding does not count


def test_a_cell_is_outside_where_none_of_its_pixels_may_change():
    mask = torch.zeros(1, 16, 16)
    mask[0, 5, 9] = 1
    outside = drag_points([[(9.5, 5.5)]], [[(9.2, 5.2)]], mask, size=SIZE).outside((4, 4))
    assert outside.sum() == 15 and outside[0, 0, 1, 2] == 0


def test_pixels_and_cells():
    points = torch.tensor([[0.5, 15.5], [3.0, 7.25]])
    assert to_cells(points, (16, 16), (16, 16)).tolist() == [[0, 15], [2.5, 6.75]]  # the centres of pixels
    assert torch.allclose(to_pixels(to_cells(points, (16, 32), (8, 4)), (16, 32), (8, 4)), points)


def test_features_at_the_centres_of_cells_are_the_cells_own():
    features = noise(1, 3, 5, 7)
    assert torch.allclose(at_cells(features, torch.tensor([[[4.0, 2.0], [6.0, 0.0]]])), features[:, :, [2, 0], [4, 6]], atol=1e-5)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.0, -1.0), (2.4, -1.3), (-2.7, 2.6)])
def test_tracking_recovers_translations_to_half_a_cell(shift):
    """Features that are a fine picture, moved by a known way: what was at p is at p + shift."""
    fine = resized(noise(1, 16, 12, 12), (320, 320))  # smooth over three cells of the grid of 32
    cells = torch.tensor([[[9.3, 14.8], [16.0, 16.0], [21.6, 12.1]]])
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="xy"), -1).reshape(1, -1, 2)

    def moved(by):
        return at_cells(fine, (grid - torch.tensor(by)) * 10 + 4.5).reshape(1, 16, 32, 32)

    found = track(moved(shift), at_cells(moved((0.0, 0.0)), cells), cells, radius=3)
    assert ((found - cells - torch.tensor(shift)).abs() <= 0.5).all()


def test_tracking_stays_on_the_grid():
    features = torch.zeros(1, 2, 8, 8)
    features[..., 0] = 1
    found = track(features, torch.full((1, 2, 1), 5.0), torch.tensor([[[0.0, 7.0]]]), radius=3)
    assert found.tolist() == [[[0, 7]]]  # beyond the edge, where the same feature would be read, is no place


def test_motion_loss_of_a_ramp():
    """F_c(x, y) = s_c x: a step of one cell in the direction d changes it by s_c d_x, at each of nine cells."""
    slopes = torch.tensor([1.0, -2.0, 0.5])
    features = (slopes[:, None, None] * torch.arange(12.0)).expand(3, 12, 12)[None]
    cells, targets = torch.tensor([[[5.0, 5.0]]]), torch.tensor([[[8.0, 9.0]]])  # d = (.6, .8)
    loss = motion_loss(features, cells, targets, torch.tensor([[True]]))
    assert loss.item() == pytest.approx(9 * (3.5 / 3) * 0.6, rel=1e-5)
    assert motion_loss(features, cells, targets, torch.tensor([[False]])).item() == 0
    corner = motion_loss(features, torch.tensor([[[0.0, 0.0]]]), targets, torch.tensor([[True]]))
    assert corner.item() == pytest.approx(4 * (3.5 / 3) * 8 / math.hypot(8, 9), rel=1e-5)  # five of the nine cells are none


def test_gradients_are_finite_also_at_the_target_and_at_the_edge():
    features = noise(1, 4, 8, 8).requires_grad_()
    cells = torch.tensor([[[3.0, 3.0], [-0.5, 7.5], [7.0, 0.0]]])
    targets = torch.tensor([[[3.0, 3.0], [4.0, 4.0], [0.0, 0.0]]])
    (gradient,) = torch.autograd.grad(motion_loss(features, cells, targets, torch.tensor([[True, True, True]])).sum(), features)
    assert gradient.isfinite().all() and gradient.any()


def test_the_feature_at_the_handle_is_not_pulled_back():
    """Only what lies ahead has a gradient: descending moves the picture forward, not the target backward."""
    features = noise(1, 4, 12, 12).requires_grad_()
    cells, targets = torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[9.0, 5.0]]])
    loss = motion_loss(features, cells, targets, torch.tensor([[True]]), radius=0)
    (gradient,) = torch.autograd.grad(loss.sum(), features)
    assert gradient[0, :, 5, 4].all() and not gradient[0, :, 5, 3].any()
