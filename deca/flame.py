"""FLAME's head, and the head as a layer: coefficients and pose → vertices and 68 landmarks (SPEC section 4).

Linear blend skinning as in Loper et al., "SMPL", SIGGRAPH Asia 2015, on the head of Li et al., "Learning a
model of facial shape and expression from 4D scans" (FLAME), SIGGRAPH Asia 2017.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class HeadModel:
    """A linear-blend-skinned head in FLAME's format; numpy arrays, float32 and int64.

    Axes as FLAME's: metres, y up, z out of the face towards the viewer, x to the viewer's right. The
    face lies round the origin, so that scale 8 maps it into the image square [-1, 1].
    V vertices, F triangles, T UV coordinates, J = 5 joints (root, neck, jaw, left eye, right eye).
    """

    template: np.ndarray           # (V, 3) mean head, metres
    faces: np.ndarray              # (F, 3) vertex indices
    shape_basis: np.ndarray        # (V, 3, n_shape) metres per unit coefficient
    expression_basis: np.ndarray   # (V, 3, n_exp)
    pose_basis: np.ndarray         # (36, V*3) corrective offsets for the entries of R - I of joints 1..4
    joint_regressor: np.ndarray    # (J, V)
    skinning: np.ndarray           # (V, J) rows sum to 1
    parents: np.ndarray            # (J,) parent joint, -1 for the root
    landmark_corners: np.ndarray   # (68, 3) vertex indices: the triangle of each iBUG landmark
    landmark_bary: np.ndarray      # (68, 3) its barycentric coordinates
    uv: np.ndarray                 # (T, 2) u right, v up, in [0, 1]
    uv_faces: np.ndarray           # (F, 3) UV indices of each triangle
    displacement: np.ndarray       # (256, 256) fixed displacement along the normal, metres
    uv_face_mask: np.ndarray       # (256, 256) in [0, 1]: where detail applies (face and eyes)


class Posed(NamedTuple):
    """A batch of posed heads; metres, axes as `HeadModel`."""

    verts: torch.Tensor          # (B, V, 3)
    landmarks3d: torch.Tensor    # (B, 68, 3)
    root: torch.Tensor           # (B, 3) the root joint, the point that the global rotation turns about
    displacement: torch.Tensor | None = None    # (B, 1, 256, 256) DECA's detail along the normal, UV layout


def rotation_matrices(axis_angle):
    """Axis-angle vectors (..., 3), radians → rotation matrices (..., 3, 3), by the matrix exponential, whose
    value and gradient are finite at zero too; in float64, as float32's errs by 3e-6."""
    x, y, z = axis_angle.double().unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))     # (..., 3, 3)
    return torch.linalg.matrix_exp(cross).to(axis_angle.dtype)


class FLAME(nn.Module):
    """Linear blend skinning of one head model. Holds buffers only; `.to(device)` and `.double()` work."""

    def __init__(self, head):
        """head: `HeadModel`, from the official files."""
        super().__init__()
        for name in ("template", "shape_basis", "expression_basis", "pose_basis", "joint_regressor",
                     "skinning", "landmark_bary"):
            values = torch.tensor(getattr(head, name), dtype=torch.float32)
            self.register_buffer(name, values, persistent=False)
        corners = torch.tensor(head.landmark_corners, dtype=torch.int64)
        self.register_buffer("landmark_corners", corners, persistent=False)
        self.parents = tuple(int(parent) for parent in head.parents)

    def forward(self, shape, exp, pose):
        """Pose a batch of heads.

        shape (B, n), exp (B, m): coefficients; a vector shorter than the basis counts as 0 beyond its end.
        pose (B, 6): axis-angle of the head (3) and the jaw (3), radians. Neck and eyes stay at rest.
        Returns: `Posed`. Raises: ValueError when a vector is longer than its basis or pose is not (B, 6).
        """
        if pose.ndim != 2 or pose.shape[1] != 6:
            raise ValueError(f"pose: expected (B, 6), found {tuple(pose.shape)}")
        shaped = (self.template + self._offsets("shape", self.shape_basis, shape)
                  + self._offsets("exp", self.expression_basis, exp))                  # (B, V, 3)
        joints = torch.einsum("jv,bvc->bjc", self.joint_regressor, shaped)             # (B, J, 3)
        still = torch.zeros_like(pose[:, :3])
        turns = torch.stack((pose[:, :3], still, pose[:, 3:], still, still), dim=1)    # (B, J, 3)
        turns = rotation_matrices(turns)                                               # (B, J, 3, 3)
        away = turns[:, 1:] - torch.eye(3, dtype=turns.dtype, device=turns.device)     # R − I of joints 1..4
        corrections = away.flatten(1) @ self.pose_basis                                # (B, 36) → (B, V*3)
        rest = shaped + corrections.unflatten(1, (-1, 3))                              # (B, V*3) → (B, V, 3)
        verts = self._skin(rest, joints, turns)
        corners = verts[:, self.landmark_corners]                                      # (B, 68, 3 corners, 3)
        landmarks = torch.einsum("blkc,lk->blc", corners, self.landmark_bary)
        return Posed(verts, landmarks, joints[:, 0])

    def _offsets(self, name, basis, coefficients):
        """(B, n) coefficients on the first n directions of `basis` (V, 3, N) → offsets (B, V, 3)."""
        if coefficients.ndim != 2 or coefficients.shape[1] > basis.shape[2]:
            raise ValueError(f"{name}: expected (B, <= {basis.shape[2]}), found {tuple(coefficients.shape)}")
        return torch.einsum("bn,vcn->bvc", coefficients, basis[:, :, :coefficients.shape[1]])

    def _skin(self, rest, joints, turns):
        """Rest vertices (B, V, 3) moved with joints (B, J, 3) that turn by (B, J, 3, 3), blended."""
        world_turns, world_joints = [turns[:, 0]], [joints[:, 0]]
        for joint, parent in enumerate(self.parents[1:], start=1):
            bone = (joints[:, joint] - joints[:, parent])[..., None]                   # (B, 3, 1)
            world_joints.append(world_joints[parent] + (world_turns[parent] @ bone)[..., 0])
            world_turns.append(world_turns[parent] @ turns[:, joint])
        turn = torch.stack(world_turns, dim=1)                                         # (B, J, 3, 3)
        shift = torch.stack(world_joints, dim=1) - torch.einsum("bjrc,bjc->bjr", turn, joints)
        turn = torch.einsum("vj,bjrc->bvrc", self.skinning, turn)                      # (B, V, 3, 3)
        return torch.einsum("bvrc,bvc->bvr", turn, rest) + torch.einsum("vj,bjr->bvr", self.skinning, shift)
