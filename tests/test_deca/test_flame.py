"""The FLAME layer against an independent float64 computation and by its own symmetries."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from deca.assets import load_flame
from deca.flame import FLAME, rotation_matrices


@pytest.fixture(scope="module")
def head(official):
    return load_flame(official.folder)


def random_codes(n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape, exp = torch.randn(n, 100, generator=generator), torch.randn(n, 50, generator=generator)
    return shape, exp, 0.4 * torch.randn(n, 6, generator=generator)


def skinned(head, shape, exp, pose):
    """One head by the definition of linear blend skinning, with 4x4 matrices in float64: vertices, joints."""
    rest = head.template + head.shape_basis.astype(float) @ shape + head.expression_basis.astype(float) @ exp
    joints = head.joint_regressor.astype(float) @ rest
    turns = Rotation.from_rotvec([pose[:3], [0, 0, 0], pose[3:], [0, 0, 0], [0, 0, 0]]).as_matrix()
    away = (turns[1:] - np.eye(3)).reshape(-1)                                  # (4, 3, 3) → (36,)
    rest = rest + (away @ head.pose_basis.astype(float)).reshape(-1, 3)         # (V*3,) → (V, 3)
    world = []
    for joint, parent in enumerate(head.parents):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    moved = np.zeros_like(rest)
    for joint, matrix in enumerate(world):
        of_joint = (rest - joints[joint]) @ matrix[:3, :3].T + matrix[:3, 3]
        moved += head.skinning[:, joint, None].astype(float) * of_joint
    return moved, joints


def test_equals_the_definition(head):
    shape, exp, pose = random_codes()
    posed = FLAME(head)(shape, exp, pose)
    for row in range(3):
        verts, joints = skinned(head, *(x[row].double().numpy() for x in (shape, exp, pose)))
        np.testing.assert_allclose(posed.verts[row], verts, rtol=0, atol=2e-7)      # 0.2 micrometres
        np.testing.assert_allclose(posed.root[row], joints[0], rtol=0, atol=2e-7)
        corners = verts[head.landmark_corners]
        landmarks = np.einsum("lkc,lk->lc", corners, head.landmark_bary)
        np.testing.assert_allclose(posed.landmarks3d[row], landmarks, rtol=0, atol=2e-7)


def test_at_rest_with_zero_codes_it_is_the_template(head):
    zeros = torch.zeros(1, 6)
    posed = FLAME(head)(zeros[:, :0], zeros[:, :0], zeros)
    np.testing.assert_allclose(posed.verts[0], head.template, atol=1e-7)


def test_short_vectors_count_as_zero_beyond_their_end(head):
    shape, exp, pose = random_codes()
    layer = FLAME(head)
    long_shape, long_exp = shape.clone(), exp.clone()
    long_shape[:, 10:], long_exp[:, 5:] = 0, 0
    padded = layer(long_shape, long_exp, pose)
    torch.testing.assert_close(layer(shape[:, :10], exp[:, :5], pose).verts, padded.verts, rtol=0, atol=1e-7)


def test_global_rotation_turns_the_head_about_the_root_joint(head):
    """So the thirteen views may turn the vertices in place of posing the head thirteen times."""
    shape, exp, pose = random_codes()
    layer = FLAME(head)
    pose[:, :3] = 0
    straight = layer(shape, exp, pose)
    turned_pose = pose.clone()
    turned_pose[:, 1] = np.deg2rad(25)
    turned = layer(shape, exp, turned_pose)
    matrix = torch.tensor(Rotation.from_euler("y", 25, degrees=True).as_matrix(), dtype=torch.float32)
    by_hand = (straight.verts - straight.root[:, None]) @ matrix.T + straight.root[:, None]
    torch.testing.assert_close(turned.verts, by_hand, rtol=0, atol=2e-7)
    torch.testing.assert_close(turned.root, straight.root, rtol=0, atol=0)


def test_inputs_are_unchanged(head):
    codes = random_codes()
    before = [x.clone() for x in codes]
    FLAME(head)(*codes)
    for value, copy in zip(codes, before, strict=True):
        assert torch.equal(value, copy)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 1e-3, 0.0999, 0.1001, 1.0, 3.1, 6.5])
def test_rotations_equal_scipys(angle):
    axis = np.array([0.6, -0.64, 0.48])
    found = rotation_matrices(torch.tensor(angle * axis))
    np.testing.assert_allclose(found, Rotation.from_rotvec(angle * axis).as_matrix(), rtol=0, atol=1e-12)
    found = rotation_matrices(torch.tensor(angle * axis, dtype=torch.float32))
    np.testing.assert_allclose(found, Rotation.from_rotvec(angle * axis).as_matrix(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 0.0999, 0.1001, 2.0])
def test_rotation_gradients_are_right_also_at_zero(angle):
    vector = (angle * torch.tensor([[0.6, -0.64, 0.48]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rotation_matrices, vector)


def test_gradients_reach_all_codes_at_zero(head):
    codes = [torch.zeros(1, width, requires_grad=True) for width in (100, 50, 6)]
    FLAME(head)(*codes).landmarks3d.square().sum().backward()
    for code in codes:
        assert torch.isfinite(code.grad).all()
        assert (code.grad != 0).any()


@pytest.mark.parametrize(("widths", "message"), [
    ((101, 50, 6), "shape: expected"), ((100, 51, 6), "exp: expected"), ((100, 50, 5), "pose: expected")])
def test_codes_too_wide_are_named(head, widths, message):
    with pytest.raises(ValueError, match=message):
        FLAME(head)(*(torch.zeros(1, width) for width in widths))


def test_holds_no_trained_weights_and_moves_to_double(head):
    layer = FLAME(head).double()
    assert not list(layer.parameters()) and not layer.state_dict()
    assert layer(*(x.double() for x in random_codes(1))).verts.dtype == torch.float64
