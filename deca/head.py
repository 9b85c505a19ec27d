"""The head model that everything in this package works on: FLAME's own format, whatever it was made from."""

from dataclasses import dataclass

import numpy as np


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
