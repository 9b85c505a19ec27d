"""The embedded head: a sound mesh, anatomy, action units that move what they should."""

from collections import Counter

import numpy as np
import pytest
from scipy.spatial import cKDTree

from synthetic.basis import ACTIONS, EVEN, LOCAL_SHAPES, UNEVEN_SHAPES, action_basis, shape_basis
from synthetic.mesh import build_head, chart_uv, uv_chart
from synthetic.paint import crease_maps, paint

MIRROR = np.array([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), *range(45, 41, -1), 47, 46,
    *range(39, 35, -1), 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65])
FACIAL = [name for name in ACTIONS if name.startswith("AU")]


def moved(name):
    """Landmark displacement (68, 3) of a full action unit, mm; rows are right, up, towards the viewer."""
    return action_basis()[build_head().landmarks, :, list(ACTIONS).index(name)]


def test_mesh_is_an_oriented_manifold_without_loose_vertices():
    head = build_head()
    edges = Counter(map(tuple, np.concatenate([head.faces[:, [k, (k + 1) % 3]] for k in range(3)]).tolist()))
    assert max(edges.values()) == 1                                 # each directed edge once
    assert set(np.unique(head.faces)) == set(range(len(head.points)))
    a, b, c = (head.points[head.faces[:, k]] for k in range(3))
    front = (np.abs(head.theta) < 0.8) & (head.eye == 0) & (head.rim < 0) & (head.inside == 0)
    normals = np.cross(b - a, c - a)[front[head.faces].all(1)]
    assert (normals[:, 2] > 0).mean() > 0.97                        # the face looks at the viewer


def test_points_and_landmarks_are_symmetric_and_anatomical():
    head = build_head()
    assert cKDTree(head.points).query(head.points * (-1, 1, 1))[0].max() < 1e-6
    points = head.points[head.landmarks]
    assert np.abs(points - points[MIRROR] * (-1, 1, 1)).max() < 3
    assert points[:, 2].argmax() == 30 and points[:, 1].argmin() in (7, 8, 9)      # the nose's tip, the chin
    parts = slice(17, 27), slice(36, 48), slice(31, 36), slice(48, 60)
    rows = [points[part, 1].mean() for part in parts]
    assert rows == sorted(rows, reverse=True)                       # brows, eyes, nose, mouth
    assert 58 < points[42:48, 0].mean() - points[36:42, 0].mean() < 68              # pupils are 63 mm apart


def test_uv_is_the_inverse_of_the_chart():
    theta, level = np.array([-1.4, 0.3, 2.0]), np.array([-150.0, 3.0, 120.0])
    assert np.allclose(uv_chart(*chart_uv(theta, level).T), (theta, level))


def test_action_units_move_the_right_landmarks():
    """Full strength, mm. Landmarks of the person's right side are left in the picture (x < 0)."""
    assert moved("AU1")[21, 1] > 4 > 3 * abs(moved("AU1")[17, 1])
    assert moved("AU2")[18, 1] > 4 > 3 * abs(moved("AU2")[21, 1])
    assert moved("AU4")[21, 1] < -3 and moved("AU4")[21, 0] > 2 and moved("AU4")[22, 0] < -2
    assert moved("AU5")[37, 1] > 2.5 and abs(moved("AU5")[41, 1]) < 0.5
    assert moved("AU7")[41, 1] > 1.5 and moved("AU7")[37, 1] < -1
    assert moved("AU9")[31, 1] > 3 and moved("AU9")[21, 1] < -2
    assert moved("AU12")[48, 0] < -4 and moved("AU12")[48, 1] > 4 and moved("AU12")[54, 0] > 4
    assert moved("AU15")[48, 1] < -4 and moved("AU17")[57, 1] > 2.5
    assert moved("AU25")[66, 1] < -3 and moved("AU26")[8, 1] < -5
    assert (moved("AU45")[[37, 38, 43, 44], 1] < -6).all()
    assert not moved("look up").any() and action_basis()[build_head().eye != 0, :, -1].any()


@pytest.mark.parametrize("name", FACIAL)
def test_action_units_are_strong_and_symmetric(name):
    assert 2.5 < np.linalg.norm(moved(name), axis=1).max() < 15
    assert np.abs(moved(name) - moved(name)[MIRROR] * (-1, 1, 1)).max() < 1.5


def test_what_is_even_comes_last():
    assert tuple(ACTIONS)[-EVEN:] == ("AU26", "AU45", "look across", "look up")


def test_shapes_are_millimetres():
    assert shape_basis().shape[2] == len(LOCAL_SHAPES) + len(UNEVEN_SHAPES) + 1
    largest = np.linalg.norm(shape_basis(), axis=1).max(0)
    assert (largest > 0.4).all() and (largest < 6).all()


def test_paint_is_linear_light_and_creases_stay_off_the_mouth():
    first, other = (paint(np.random.default_rng(seed)) for seed in (0, 1))
    assert first.shape == (512, 512, 3) and first.min() >= 0 and first.max() <= 1
    assert np.abs(first - other).max() > 0.1
    for crease in crease_maps().values():
        assert 0.1 < crease.max() < 0.8 and crease[300:330, 240:270].max() < 0.02
