"""The embedded procedural head, made by code alone in FLAME's own format (SPEC section 4, "Sample head").

`sample_head()` puts together the surface (`surface`), its triangles (`mesh`), how people differ
(`basis`), how faces move (`actions`), fine detail (`detail`), paint (`texture`).
"""

from functools import lru_cache

import numpy as np

from deca.head import HeadModel
from synthetic import basis as basis
from synthetic import surface as surf
from synthetic.actions import ACTION_UNITS, expression_basis
from synthetic.basis import SHAPE_NAMES
from synthetic.detail import face_mask, relief
from synthetic.mesh import build_mesh
from synthetic.texture import paint

__all__ = ["ACTION_UNITS", "SHAPE_NAMES", "sample_head"]

MM = 1e-3
# chart azimuth and level of the jaw's landmarks 0..8 (the person's right half; 9..16 mirror them)
# fmt: off
JAW_CHART = ((1.16, 11), (1.23, -10), (1.30, -35), (1.32, -62), (1.24, -88), (1.00, -104), (0.64, -106),
             (0.32, -107), (0.0, -107.5))
# fmt: on
BROW_POINTS = ((53, 20), (44.5, 26.3), (33.5, 28.6), (22, 26.5), (11.2, 21.5))  # 17..21, x mirrored
NOSE_POINTS = (
    *((0, y) for y in (5.5, -7, -19.5, -32)),
    *((-12.4, -42.2), (-6.3, -44), (0, -45.2), (6.3, -44), (12.4, -42.2)),
)


def _eye_points(side):
    """Six lid points (x, y): 36..41 for side -1, 42..47 for side +1."""
    inner, outer = surf.EYE_INNER, surf.EYE_OUTER
    up = [(x, float(surf.lid_curves(x)[0])) for x in (36.0, 25.8)]
    down = [(x, float(surf.lid_curves(x)[1])) for x in (25.8, 36.0)]
    ring = [outer, *up, inner, *down] if side < 0 else [inner, *up[::-1], outer, *down[::-1]]
    return [(side * x, y) for x, y in ring]


def _mouth_points():
    """Twenty lip points in the chart, 48..67: x and the (open) chart height."""

    def border(x, side):
        upper, lower = surf.lip_heights(x)
        height = surf.mouth_line(x) + (upper if side > 0 else -lower)
        return float(surf.open_mouth(x, height, side))

    def edge(x, side):
        return float(surf.mouth_line(x) + side * surf.mouth_gap(x))

    outer = [(x, border(x, 1)) for x in (-16.0, -5.5, 0.0, 5.5, 16.0)]
    under = [(x, border(x, -1)) for x in (16.0, 8.0, 0.0, -8.0, -16.0)]
    corner = (surf.MOUTH_HALF, float(surf.mouth_line(surf.MOUTH_HALF)))
    inner = [
        (-21.5, edge(-21.5, 1)),
        *[(x, edge(x, 1)) for x in (-7.2, 0.0, 7.2)],
        (21.5, edge(21.5, 1)),
        *[(x, edge(x, -1)) for x in (7.2, 0.0, -7.2)],
    ]
    return [(-corner[0], corner[1]), *outer, corner, *under, *inner]


def _landmark_chart():
    """Chart coordinates (theta, level) of the 68 landmarks, each (68,)."""
    jaw = [(-theta, level) for theta, level in JAW_CHART] + list(JAW_CHART[-2::-1])
    brows = [(-x, y) for x, y in BROW_POINTS] + [(x, y) for x, y in BROW_POINTS[::-1]]
    points = np.array([*brows, *NOSE_POINTS, *_eye_points(-1), *_eye_points(1), *_mouth_points()])
    theta, level = surf.chart_of(points[:, 0], points[:, 1])
    return np.append(np.array(jaw)[:, 0], theta), np.append(np.array(jaw)[:, 1], level)


@lru_cache(maxsize=1)
def sample_head():
    """The embedded head, a `HeadModel` in metres, the same at every call; it takes about a second to build.

    Its shape directions are named in `SHAPE_NAMES`, its expression directions in `ACTION_UNITS`. Lips and
    lids move by these directions alone and the jaw by its joint, so the pose basis is zero: the creases
    that FLAME's corrects do not arise, because the skinning is smooth everywhere but at the mouth's own
    slit.
    """
    mesh = build_mesh()
    landmark_faces, landmark_bary = mesh.locate(*_landmark_chart())
    count, mask = len(mesh.points), face_mask(256)
    skinning = basis.skinning_weights(mesh)
    return HeadModel(
        name="sample",
        template=_single(mesh.points * MM),
        faces=mesh.faces.astype(np.int64),
        shape_basis=_single(basis.shape_basis(mesh) * MM),
        expression_basis=_single(expression_basis(mesh) * MM),
        pose_basis=np.zeros((36, count * 3), np.float32),
        joint_regressor=_single(basis.joint_regressor(mesh)),
        skinning=_single(skinning),
        parents=np.array(basis.PARENTS, np.int64),
        landmark_faces=landmark_faces.astype(np.int64),
        landmark_bary=_single(landmark_bary),
        uv=_single(mesh.uv),
        uv_faces=mesh.uv_faces.astype(np.int64),
        displacement=_single(relief(mesh, mask) * MM),
        uv_face_mask=mask,
        texture=paint(),
        expression_names=ACTION_UNITS,
    )


def _single(array):
    return np.ascontiguousarray(array, dtype=np.float32)
