"""The embedded head: a sound mesh, anatomy, action units that move what they should, a face to detect."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from deca.flame import FLAME
from deca.landmarks import LandmarkDetector
from deca.renderer import yaw_rotations
from synthetic.head import ACTION_UNITS, SHAPE_NAMES, sample_head
from synthetic.textured import render_head, vertex_normals

# fmt: off
MIRROR = np.array([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), *range(45, 41, -1), 47, 46,
    *range(39, 35, -1), 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65])
# fmt: on
CAMERA = torch.tensor([[8.0, 0.0, 0.0]])


@pytest.fixture(scope="module")
def head():
    return sample_head()


@pytest.fixture(scope="module")
def flame(head):
    return FLAME(head)


def _twins(head):
    """Each vertex's mirror image and how far from it that lies, m."""
    distance, twin = cKDTree(head.template).query(head.template * (-1, 1, 1))
    return twin, distance


def _posed(flame, exp=None, jaw=0.0):
    pose = torch.zeros(1, 6)
    pose[0, 3] = jaw
    exp = torch.zeros(1, len(ACTION_UNITS)) if exp is None else exp
    return flame(torch.zeros(1, 1), exp, pose)


def _moved(flame, name):
    """Landmark displacement (68, 3) of a full action unit, mm; rows are right, up, towards the viewer."""
    exp = torch.zeros(1, len(ACTION_UNITS))
    exp[0, ACTION_UNITS.index(name)] = 1
    return ((_posed(flame, exp).landmarks3d - _posed(flame).landmarks3d)[0] * 1000).numpy()


def test_arrays_have_flame_format(head):
    vertices, triangles = len(head.template), len(head.faces)
    assert 4500 <= vertices <= 5600 and 9000 <= triangles <= 11000
    assert head.template.shape == (vertices, 3) and head.faces.shape == head.uv_faces.shape == (triangles, 3)
    assert head.shape_basis.shape == (vertices, 3, len(SHAPE_NAMES)) and len(SHAPE_NAMES) >= 40
    assert head.expression_basis.shape == (vertices, 3, 14) and head.expression_names == ACTION_UNITS
    assert head.pose_basis.shape == (36, vertices * 3) and head.joint_regressor.shape == (5, vertices)
    assert head.skinning.shape == (vertices, 5) and tuple(head.parents) == (-1, 0, 1, 1, 1)
    assert head.landmark_faces.shape == (68,) and head.landmark_bary.shape == (68, 3)
    assert head.displacement.shape == head.uv_face_mask.shape == (256, 256)
    for name in (
        "template",
        "shape_basis",
        "expression_basis",
        "joint_regressor",
        "skinning",
        "uv",
        "displacement",
        "uv_face_mask",
        "texture",
        "landmark_bary",
    ):
        array = getattr(head, name)
        assert array.dtype == np.float32 and np.isfinite(array).all(), name
    for name in ("uv", "uv_face_mask", "texture"):
        assert getattr(head, name).min() >= 0 and getattr(head, name).max() <= 1, name


def test_mesh_is_an_oriented_manifold_without_loose_vertices(head):
    faces = head.faces
    edges = Counter(
        map(tuple, np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist())
    )
    assert max(edges.values()) == 1  # each directed edge once: consistent orientation
    assert set(np.unique(faces)) == set(range(len(head.template)))
    rims = sum((b, a) not in edges for a, b in edges)
    assert 0 < rims < 400  # only the neck, the lids and the eyeballs end
    corner = head.template[faces].astype(float)
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1) / 2
    assert area.min() > 1e-8


def test_uv_triangles_do_not_fold(head):
    corner = head.uv[head.uv_faces].astype(float)
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    assert (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).min() > 0


def test_normals_point_outwards(head):
    vertices = torch.from_numpy(head.template)[None]
    normals = vertex_normals(vertices, torch.from_numpy(head.faces))[0].numpy()
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    outward = head.template - (0, 0.02, -0.035)
    skull = head.template[:, 1] > 0.03
    assert ((normals * outward).sum(1)[skull] > 0).mean() > 0.99
    nose = head.template[:, 2].argmax()
    assert normals[nose, 2] > 0.5


def test_size_and_axes_are_flames(head):
    low, high = head.template.min(0), head.template.max(0)
    assert -0.095 < low[0] < -0.07 and 0.07 < high[0] < 0.095
    assert 0.10 < high[1] < 0.13 and low[1] < -0.15
    assert 0.07 < high[2] < 0.08


def test_template_is_symmetric(head):
    twin, distance = _twins(head)
    assert distance.max() < 1e-6 and np.array_equal(twin[twin], np.arange(len(twin)))


def test_landmarks_are_symmetric_and_anatomical(head):
    points = (head.template[head.faces[head.landmark_faces]] * head.landmark_bary[..., None]).sum(1) * 1000
    assert np.abs(points - points[MIRROR] * (-1, 1, 1)).max() < 1.0
    assert np.allclose(head.landmark_bary.sum(1), 1, atol=1e-5) and head.landmark_bary.min() >= 0
    assert points[30, 2] == points[:, 2].max()  # the tip of the nose is foremost
    assert points[8, 1] == points[:, 1].min()  # the chin is lowest
    rows = [points[index, 1].mean() for index in (range(17, 27), range(36, 48), range(31, 36), range(48, 60))]
    assert rows == sorted(rows, reverse=True)  # brows, eyes, nose, mouth
    assert 58 < points[42:48, 0].mean() - points[36:42, 0].mean() < 68  # pupils are 63 mm apart


def test_weights_and_joints(head):
    assert np.allclose(head.skinning.sum(1), 1, atol=1e-5) and head.skinning.min() >= 0
    assert np.allclose(head.joint_regressor.sum(1), 1, atol=1e-4)
    joints = head.joint_regressor @ head.template
    low, high = head.template.min(0), head.template.max(0)
    assert (joints > low).all() and (joints < high).all()
    for eye, side in ((3, 1), (4, -1)):
        ball = head.template[head.skinning[:, eye] > 0.99]
        assert np.sign(joints[eye, 0]) == side and np.abs(joints[eye, :2] - ball[:, :2].mean(0)).max() < 1e-3
        assert joints[eye, 2] < ball[:, 2].max()


def test_action_units_move_the_right_landmarks(flame):
    """Full strength, mm. Landmarks of the person's right side are left in the picture (x < 0)."""
    brow_in, brow_out, corner, other = 21, 18, 48, 54
    assert _moved(flame, "AU1")[brow_in, 1] > 4 > 3 * abs(_moved(flame, "AU1")[17, 1])
    assert _moved(flame, "AU2")[brow_out, 1] > 4 > 3 * abs(_moved(flame, "AU2")[brow_in, 1])
    down = _moved(flame, "AU4")
    assert down[brow_in, 1] < -3 and down[brow_in, 0] > 2 and down[22, 0] < -2
    assert _moved(flame, "AU5")[37, 1] > 2.5 and abs(_moved(flame, "AU5")[41, 1]) < 0.5
    assert _moved(flame, "AU6")[41, 1] > 1.5
    assert _moved(flame, "AU7")[41, 1] > 1.5 and _moved(flame, "AU7")[37, 1] < -1
    assert _moved(flame, "AU9")[31, 1] > 3 and _moved(flame, "AU9")[brow_in, 1] < -2
    assert _moved(flame, "AU10")[51, 1] > 4 and abs(_moved(flame, "AU10")[57, 1]) < 0.5
    smile = _moved(flame, "AU12")
    assert smile[corner, 0] < -4 and smile[corner, 1] > 4 and smile[other, 0] > 4 and smile[other, 1] > 4
    assert _moved(flame, "AU15")[corner, 1] < -4
    assert _moved(flame, "AU17")[57, 1] > 2.5 and _moved(flame, "AU17")[8, 1] > 1
    stretch = _moved(flame, "AU20")
    assert stretch[corner, 0] < -5 and stretch[corner, 1] < 0 and stretch[other, 0] > 5
    parted = _moved(flame, "AU25")
    assert parted[62, 1] > 1 and parted[66, 1] < -3
    assert _moved(flame, "AU26")[8, 1] < -5


@pytest.mark.parametrize("name", ACTION_UNITS)
def test_action_units_are_strong_and_symmetric(flame, name):
    moved = _moved(flame, name)
    assert 3 < np.linalg.norm(moved, axis=1).max() < 15
    assert np.abs(moved - moved[MIRROR] * (-1, 1, 1)).max() < 0.6


def test_jaw_opens_a_dark_mouth(head, flame):
    shut, agape = _posed(flame), _posed(flame, jaw=0.25)
    gap = (agape.landmarks3d[0, 62] - agape.landmarks3d[0, 66])[1]
    assert gap > 0.015 and abs((shut.landmarks3d[0, 62] - shut.landmarks3d[0, 66])[1]) < 0.001
    assert torch.allclose(agape.landmarks3d[0, 17:48], shut.landmarks3d[0, 17:48], atol=2e-4)
    picture = render_head(head, agape.verts, CAMERA)[0]
    middle = agape.landmarks3d[0, [62, 66]].mean(0) * 8
    column, row = int((middle[0] + 1) * 112), int((1 - middle[1]) * 112)
    assert picture[:, row, column].max() < 0.2
    assert picture[:, 190, 112].max() > 0.35


def test_shapes_are_millimetres_and_named(head):
    largest = np.linalg.norm(head.shape_basis, axis=1).max(0) * 1000
    assert (largest > 0.4).all() and (largest < 9).all()
    twin, _ = _twins(head)
    for name in SHAPE_NAMES:
        field = head.shape_basis[:, :, SHAPE_NAMES.index(name)]
        uneven = np.abs(field - field[twin] * (-1, 1, 1)).max()
        assert uneven > 7e-4 if name.startswith(("uneven", "bent")) else uneven < 5e-5, name
    width = head.shape_basis[:, :, SHAPE_NAMES.index("head width")]
    assert (np.sign(width[:, 0]) == np.sign(head.template[:, 0])).mean() > 0.8


@pytest.mark.parametrize("yaw", [-20.0, 0.0, 20.0])
def test_detector_finds_the_painted_face_where_the_landmarks_are(head, flame, yaw):
    posed = _posed(flame)
    turn = yaw_rotations([yaw])[0]
    verts = (posed.verts - posed.root) @ turn.T + posed.root
    points = ((posed.landmarks3d - posed.root) @ turn.T + posed.root)[0].numpy() * 8
    expected = np.stack([(points[:, 0] + 1) * 112 - 0.5, (1 - points[:, 1]) * 112 - 0.5], 1)
    picture = (render_head(head, verts, CAMERA)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    found = LandmarkDetector().detect(picture)
    assert found is not None
    distance = np.linalg.norm(found.points - expected, axis=1)
    assert distance.mean() < (2.5 if yaw == 0 else 4) and distance[17:].max() < (5 if yaw == 0 else 8)


def test_same_head_each_time(head):
    sample_head.cache_clear()
    again = sample_head()
    assert again is not head and again is sample_head()
    for name in (
        "template",
        "faces",
        "shape_basis",
        "expression_basis",
        "skinning",
        "uv",
        "displacement",
        "texture",
        "landmark_faces",
        "landmark_bary",
    ):
        assert np.array_equal(getattr(head, name), getattr(again, name)), name


def test_render_head_lights_backgrounds_and_sizes(head, flame):
    verts = _posed(flame).verts.expand(2, -1, -1)
    camera = CAMERA.expand(2, -1)
    grey = np.full((4, 4, 3), 0.5, np.float32)
    left, right = render_head(
        head,
        verts,
        camera,
        albedo=grey,
        light=[[-1.0, 0, 0.3], [1.0, 0, 0.3]],
        ambient=0.2,
        size=(64, 96),
        background=(1.0, 0.0, 0.0),
    )
    assert left.shape == (3, 64, 96)
    assert torch.equal(left[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert left[0, 36, 36] > left[0, 36, 60] and torch.allclose(left, right.flip(2), atol=0.12)
    backdrop = torch.rand(3, 64, 64)
    over = render_head(head, verts[:1], CAMERA, size=64, background=backdrop)[0]
    assert torch.equal(over[:, 0, 0], backdrop[:, 0, 0]) and not torch.allclose(
        over[:, 32, 32], backdrop[:, 32, 32]
    )
    assert over.min() >= 0 and over.max() <= 1


def test_render_head_without_a_texture(head, flame):
    with pytest.raises(ValueError, match="no texture"):
        render_head(replace(head, texture=None), _posed(flame).verts, CAMERA)
