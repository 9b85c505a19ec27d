"""Glasses as real obstacles: frames and reflecting lenses in three dimensions, fitted to a head."""

from dataclasses import dataclass

import numpy as np

RIM_POINTS, TUBE_POINTS = 48, 6         # round a lens, round the frame's own section
LENS_RINGS = 6
CLEARANCE = 1.5                         # millimetres between the skin and the frame
COLOURS = ((0.012, 0.012, 0.014), (0.05, 0.022, 0.012), (0.02, 0.025, 0.06), (0.16, 0.16, 0.17))
EYE_LANDMARKS = {-1: slice(36, 42), 1: slice(42, 48)}     # by the sign of x: iBUG's right eye lies at x < 0


@dataclass(frozen=True)
class Glasses:
    """Geometry at rest, metres, axes as `HeadModel`, and how it looks."""

    frame: np.ndarray           # (Vf, 3) rims, bridge and temples
    frame_faces: np.ndarray     # (Ff, 3)
    lens: np.ndarray            # (Vl, 3)
    lens_faces: np.ndarray      # (Fl, 3)
    lens_normals: np.ndarray    # (Vl, 3) unit
    colour: np.ndarray          # (3,) linear albedo of the frame
    tint: np.ndarray            # (3,) share of light that passes a lens, in [0, 1]
    reflection: float           # strength of the mirror image of the room


def make_glasses(vertices, landmarks, rng):
    """A pair of glasses that fits one head.

    vertices (V, 3), landmarks (68, 3): the head at rest, metres. `rng`: numpy Generator; style, size, colour
    and coating are drawn from it.
    """
    head, points = vertices * 1000, landmarks * 1000                        # millimetres
    eyes = np.stack([points[EYE_LANDMARKS[side]].mean(0) for side in (-1, 1)])
    spread = (eyes[1, 0] - eyes[0, 0]) / 2
    half = np.array([rng.uniform(0.72, 0.84) * spread, rng.uniform(0.52, 0.64) * spread])
    shape = rng.uniform(2.2, 3.6)                                           # exponent: 2 an ellipse, 4 a box
    tube = rng.uniform(1.0, 2.0)
    centre = np.array([eyes[:, 0].mean(), eyes[:, 1].mean() - rng.uniform(0.02, 0.12) * spread])
    middle = half[0] + max(0.95 * spread - half[0], 7.0)                    # leaves room for the nose
    bow = rng.uniform(120, 180)                                             # radius of the lens, millimetres
    outlines = [_outline(centre + np.array([side * middle, 0]), half, shape) for side in (-1, 1)]
    depth = _depth(head, np.concatenate(outlines), centre[0], bow, tube)
    parts = [_tube(_on_bow(outline, centre[0], depth, bow), tube, closed=True) for outline in outlines]
    parts += [_tube(_bridge(centre, middle - half[0], half[1], depth, bow), tube, closed=False)]
    parts += [_tube(_temple(head, points, side, outlines, centre[0], depth, bow), 1.3 * tube, closed=False)
              for side in (0, 1)]
    frame, frame_faces = _joined(parts)
    lens, lens_faces = _joined([_lens(outline, centre[0], depth, bow) for outline in outlines])
    colour = np.array(COLOURS[rng.integers(len(COLOURS))]) * rng.uniform(0.7, 1.3)
    tint = 1 - rng.uniform(0.04, 0.22) * rng.uniform(0.8, 1.0, 3)
    return Glasses(frame / 1000, frame_faces, lens / 1000, lens_faces, _lens_normals(lens, outlines, bow),
                   colour, tint, rng.uniform(0.5, 1.0))


def _outline(centre, half, exponent):
    """A superellipse (RIM_POINTS, 2), millimetres; the lower half a little narrower, as lenses are."""
    turn = np.arange(RIM_POINTS) * 2 * np.pi / RIM_POINTS
    cos, sin = np.cos(turn), np.sin(turn)
    power = 2 / exponent
    unit = np.stack([np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power], 1)
    unit[:, 0] *= 1 - 0.1 * np.clip(-unit[:, 1], 0, 1)
    return centre + unit * half


def _sag(xy, middle, bow):
    """How far a curved front falls back at `xy` (N, 2), millimetres: one curve across the whole face."""
    return (xy[:, 0] - middle) ** 2 / (2 * 2.2 * bow)


def _on_bow(xy, middle, depth, bow):
    """(N, 2) → (N, 3) on the glasses' front."""
    return np.concatenate([xy, (depth - _sag(xy, middle, bow))[:, None]], 1)


def _depth(head, rims, middle, bow, tube):
    """z of the front's middle, so that no rim point touches the skin."""
    front = head[head[:, 2] > 0]
    gap = np.linalg.norm(front[:, None, :2] - rims[None], axis=2)           # (front vertices, rim points)
    skin = np.where(gap < 4.0, front[:, 2:], -np.inf).max(0)
    return float((skin + _sag(rims, middle, bow)).max() + tube + CLEARANCE)


def _tube(path, radius, closed):
    """A tube of `radius` round the points (N, 3): (vertices, faces)."""
    ahead, behind = np.roll(path, -1, 0), np.roll(path, 1, 0)
    if not closed:
        ahead[-1], behind[0] = path[-1], path[0]
    along = ahead - behind
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    reference = np.where(np.abs(along[:, 2:]) > 0.8, [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]])
    side = np.cross(along, reference)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, along)
    turn = np.arange(TUBE_POINTS) * 2 * np.pi / TUBE_POINTS
    ring = np.cos(turn)[None, :, None] * side[:, None] + np.sin(turn)[None, :, None] * up[:, None]
    vertices = (path[:, None] + radius * ring).reshape(-1, 3)               # (N, TUBE_POINTS, 3) → (.., 3)
    count = len(path) if closed else len(path) - 1
    here = np.arange(count)[:, None] * TUBE_POINTS + np.arange(TUBE_POINTS)
    beside = np.arange(count)[:, None] * TUBE_POINTS + (np.arange(TUBE_POINTS) + 1) % TUBE_POINTS
    total = len(path) * TUBE_POINTS
    here_next, beside_next = (here + TUBE_POINTS) % total, (beside + TUBE_POINTS) % total
    faces = np.stack([here, beside, here_next, beside, beside_next, here_next], -1)
    return vertices, faces.reshape(-1, 3)                                 # (count, TUBE_POINTS, 6) → (..., 3)


def _bridge(centre, gap, height, depth, bow):
    """The bar between the lenses, a flat arch (9, 3)."""
    x = np.linspace(-gap, gap, 9)
    xy = np.stack([centre[0] + x, centre[1] + height * 0.45 + 2.5 * (1 - (x / gap) ** 2)], 1)
    return _on_bow(xy, centre[0], depth, bow)


def _temple(head, points, side, outlines, middle, depth, bow):
    """The arm from a lens's outer edge to above the ear, along the side of the head (12, 3)."""
    sign = (-1, 1)[side]
    outline = outlines[side]
    outer = outline[:, 0].max() if sign > 0 else outline[:, 0].min()
    y = outline[:, 1].mean() + 0.45 * np.ptp(outline[:, 1]) / 2
    start = _on_bow(np.array([[outer, y]]), middle, depth, bow)[0]
    z = np.linspace(start[2], points[0 if sign < 0 else 16, 2] - 12, 12)      # before the ear
    near = (np.abs(head[:, 1] - y) < 8) & (head[:, 0] * sign > 0)
    skin = [np.abs(head[near & (np.abs(head[:, 2] - level) < 8), 0]).max(initial=0) for level in z]
    x = np.maximum(np.maximum.accumulate(skin) + 1.5, np.abs(start[0]) + 1.0)
    return np.stack([sign * x, np.full(12, y), z], 1)


def _lens(outline, middle, depth, bow):
    """A disc of rings inside the outline: (vertices, faces)."""
    centre = outline.mean(0)
    shares = np.linspace(0, 1, LENS_RINGS + 1)[1:]
    xy = np.concatenate([centre[None], *(centre + (outline - centre) * share for share in shares)])
    n = len(outline)
    around = np.arange(n)
    faces = [np.stack([np.zeros(n, int), 1 + around, 1 + (around + 1) % n], 1)]
    for ring in range(LENS_RINGS - 1):
        a, b = 1 + ring * n + around, 1 + ring * n + (around + 1) % n
        faces += [np.stack([a, a + n, b], 1), np.stack([b, a + n, b + n], 1)]
    return _on_bow(xy, middle, depth, bow), np.concatenate(faces)


def _lens_normals(lens, outlines, bow):
    """Unit normals (Vl, 3): each lens is a part of a ball of radius `bow`."""
    parts = []
    for vertices, outline in zip(np.split(lens, 2), outlines, strict=True):
        away = (vertices[:, :2] - outline.mean(0)) / bow
        parts.append(np.concatenate([away, np.sqrt(1 - (away ** 2).sum(1, keepdims=True))], 1))
    return np.concatenate(parts)


def _joined(parts):
    """Several (vertices, faces) as one."""
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in parts])[:-1]
    faces = [faces + start for (_, faces), start in zip(parts, starts, strict=True)]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces).astype(np.int64)
