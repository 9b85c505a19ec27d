"""Glasses as real obstacles: frames and reflecting lenses in three dimensions, fitted to a head."""

from dataclasses import dataclass

import numpy as np
from trimesh.util import append_faces

RIM_POINTS, TUBE_POINTS = 48, 6         # round a lens, round the frame's own section
CLEARANCE = 1.5                         # millimetres between the skin and the frame
COLOURS = ((0.012, 0.012, 0.014), (0.05, 0.022, 0.012), (0.02, 0.025, 0.06), (0.16, 0.16, 0.17))


@dataclass(frozen=True)
class Glasses:
    """Geometry at rest, millimetres, axes as `mesh.Head`, and how it looks."""

    frame: np.ndarray           # (Vf, 3) rims, bridge and temples
    frame_faces: np.ndarray     # (Ff, 3)
    lens: np.ndarray            # (Vl, 3)
    lens_faces: np.ndarray      # (Fl, 3)
    lens_normals: np.ndarray    # (Vl, 3) unit
    colour: np.ndarray          # (3,) linear albedo of the frame
    tint: np.ndarray            # (3,) share of light that passes a lens, in [0, 1]
    reflection: float           # strength of the mirror image of the room


def make_glasses(head, points, rng):
    """A pair of glasses that fits one head.

    head (V, 3), points (68, 3): vertices and landmarks at rest, mm. `rng`: numpy Generator; style, size,
    colour and coating are drawn from it.
    """
    eyes = np.stack([points[36:42].mean(0), points[42:48].mean(0)])         # x < 0 first
    spread = (eyes[1, 0] - eyes[0, 0]) / 2
    half = np.array([rng.uniform(0.72, 0.84) * spread, rng.uniform(0.52, 0.64) * spread])
    shape = rng.uniform(2.2, 3.6)                                           # exponent: 2 an ellipse, 4 a box
    tube = rng.uniform(1.0, 2.0)
    centre = np.array([eyes[:, 0].mean(), eyes[:, 1].mean() - rng.uniform(0.02, 0.12) * spread])
    middle = half[0] + max(0.95 * spread - half[0], 7.0)                    # leaves room for the nose
    bow = rng.uniform(120, 180)                                             # radius of the lens
    colour = np.array(COLOURS[rng.integers(len(COLOURS))]) * rng.uniform(0.7, 1.3)
    tint = 1 - rng.uniform(0.04, 0.22) * rng.uniform(0.8, 1.0, 3)
    reflection = rng.uniform(0.5, 1.2)
    outlines = [_outline(centre + np.array([side * middle, 0]), half, shape) for side in (-1, 1)]

    def on_bow(xy, depth):
        """(N, 2) → (N, 3): one curve across the whole face."""
        return np.column_stack([xy, depth - (xy[:, 0] - centre[0]) ** 2 / (4.4 * bow)])

    depth = _depth(head, on_bow(np.concatenate(outlines), 0.0)) + tube + CLEARANCE
    rims = [on_bow(outline, depth) for outline in outlines]
    parts = [_tube(rim, tube, closed=True) for rim in rims]
    parts.append(_tube(on_bow(_bridge(centre, middle - half[0], half[1]), depth), tube, closed=False))
    parts += [_tube(_temple(head, points[ear, 2] - 12, side, rim), 1.3 * tube, closed=False)
              for side, ear, rim in zip((-1, 1), (0, 16), rims, strict=True)]
    xy = np.stack([np.concatenate([outline.mean(0)[None], outline]) for outline in outlines])
    away = (xy - xy[:, :1]) / bow                           # a lens is a fan with the normals of a ball
    normals = np.concatenate([away, np.sqrt(1 - (away**2).sum(-1, keepdims=True))], -1)
    turn = np.arange(RIM_POINTS)
    fan = np.stack([0 * turn, 1 + turn, 1 + (turn + 1) % RIM_POINTS], 1)
    return Glasses(*append_faces(*zip(*parts, strict=True)),
                   *append_faces([on_bow(lens, depth) for lens in xy], [fan, fan]),
                   normals.reshape(-1, 3), colour, tint, reflection)


def _outline(centre, half, exponent):
    """A superellipse (RIM_POINTS, 2), millimetres; the lower half a little narrower, as lenses are."""
    turn = np.arange(RIM_POINTS) * 2 * np.pi / RIM_POINTS
    unit = np.stack([np.cos(turn), np.sin(turn)], 1)
    unit = np.sign(unit) * np.abs(unit) ** (2 / exponent)
    unit[:, 0] *= 1 - 0.1 * np.clip(-unit[:, 1], 0, 1)
    return centre + unit * half


def _depth(head, rims):
    """How far the rim points (N, 3) must come forward to reach the skin before them."""
    front = head[head[:, 2] > 0]
    gap = np.linalg.norm(front[:, None, :2] - rims[None, :, :2], axis=2)    # (front vertices, rim points)
    return float((np.where(gap < 4.0, front[:, 2:], -np.inf).max(0) - rims[:, 2]).max())


def _tube(path, radius, closed):
    """A tube of `radius` round the points (N, 3): (vertices, faces)."""
    along = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    reference = np.where(np.abs(along[:, 2:]) > 0.8, [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]])
    side = np.cross(along, reference)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, along)
    turn = np.arange(TUBE_POINTS) * 2 * np.pi / TUBE_POINTS
    ring = np.cos(turn)[None, :, None] * side[:, None] + np.sin(turn)[None, :, None] * up[:, None]
    vertices = (path[:, None] + radius * ring).reshape(-1, 3)               # (N, TUBE_POINTS, 3) → (.., 3)
    here = np.arange(len(vertices)).reshape(-1, TUBE_POINTS)
    beside, ahead = np.roll(here, -1, 1), np.roll(here, -1, 0)
    faces = np.stack([here, beside, ahead, beside, np.roll(ahead, -1, 1), ahead], -1)
    return vertices, faces[:None if closed else -1].reshape(-1, 3)        # (N, TUBE_POINTS, 6) → (.., 3)


def _bridge(centre, gap, height):
    """The bar between the lenses, a flat arch (9, 2)."""
    x = np.linspace(-gap, gap, 9)
    return np.stack([centre[0] + x, centre[1] + height * 0.45 + 2.5 * (1 - (x / gap) ** 2)], 1)


def _temple(head, end, sign, rim):
    """The arm from a rim's outer edge to z = `end`, before the ear, along the side of the head (12, 3)."""
    hinge = rim[(sign * rim[:, 0]).argmax()]
    y = rim[:, 1].mean() + 0.45 * np.ptp(rim[:, 1]) / 2
    z = np.linspace(hinge[2], end, 12)
    near = (np.abs(head[:, 1] - y) < 8) & (head[:, 0] * sign > 0)
    skin = [np.abs(head[near & (np.abs(head[:, 2] - level) < 8), 0]).max(initial=0) for level in z]
    x = np.maximum(np.maximum.accumulate(skin) + 1.5, np.abs(hinge[0]) + 1.0)
    return np.stack([sign * x, np.full(12, y), z], 1)
