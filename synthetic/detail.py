"""Detail of the embedded head finer than its triangles: where it applies, and a fixed displacement map.

The displacement brings rendered normals from flat triangles back to the smooth surface they were taken
from, and adds the brows' relief, so that brows can be seen in the grey views.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from deca.rasterizer import rasterize
from synthetic import surface as surf
from synthetic.surface import smoothstep
from synthetic.texture import brow_cover, texel_chart

LARGEST = 1.2  # mm: larger differences lie at folds, where the map cannot follow
BROW_RELIEF = 0.7  # mm


def face_mask(size=256):
    """Where detail applies, (size, size) float32: 1 on the face, 0 elsewhere and at lids and mouth."""
    _, v, theta, level = texel_chart(size)
    loft = surf.loft(theta.ravel(), level.ravel())
    x, chart_y = loft[:, 0].reshape(v.shape), loft[:, 1].reshape(v.shape)
    _, inside = surf.close_mouth(x, chart_y)
    mask = 1 - smoothstep(0.92, 1.12, np.abs(theta))
    mask *= smoothstep(-112, -102, level) * (1 - smoothstep(52, 62, level))
    mask *= smoothstep(1.6, 4.0, surf.lid_distance(x, chart_y))
    edge = np.abs(chart_y - surf.mouth_line(x)) - surf.mouth_gap(x)
    mask *= np.where(np.abs(x) < surf.MOUTH_HALF + 2, smoothstep(1.2, 2.8, edge), 1) * (inside == 0)
    return mask.astype(np.float32)


def relief(mesh, mask):
    """The fixed displacement along the normal, (S, S) float32, mm; 0 where `mask` (S, S) is 0."""
    size = len(mask)
    points, normals = _interpolated(mesh, size)
    _, _, theta, level = texel_chart(size)
    there = mask > 0.01
    smooth = surf.surface(theta[there], level[there])
    offset = np.zeros((size, size))
    offset[there] = np.clip(((smooth - points[there]) * normals[there]).sum(1), -LARGEST, LARGEST)
    brows = np.zeros((size, size))
    brows[there] = brow_cover(smooth[:, 0], smooth[:, 1])
    return ((offset + BROW_RELIEF * gaussian_filter(brows, 0.8)) * mask).astype(np.float32)


def _interpolated(mesh, size):
    """Positions and unit normals of the mesh at the texels, each (size, size, 3)."""
    flat = np.column_stack([2 * mesh.uv[:, 0] - 1, 1 - 2 * mesh.uv[:, 1], np.ones(len(mesh.uv))])
    flat = torch.tensor(flat[None], dtype=torch.float32)
    seen = rasterize(flat, torch.as_tensor(mesh.uv_faces), size, size)
    corners = mesh.faces[seen.face_index[0].numpy()]  # (size, size, 3)
    weights = seen.bary[0].numpy()[..., None].astype(float)
    p = mesh.points[mesh.faces]
    cross = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    normals = np.zeros_like(mesh.points)
    for k in range(3):
        np.add.at(normals, mesh.faces[:, k], cross)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return (mesh.points[corners] * weights).sum(2), (normals[corners] * weights).sum(2)
