"""The embedded head as triangles: the skin that a camera before it can see, two eyeballs behind its lids.

One half is laid out in the chart of `synthetic.surface` (points along lids, lips and nose, lattices between
them, Delaunay) and mirrored, so the head is symmetric to the last bit.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.path import Path
from scipy.spatial import Delaunay, cKDTree

from synthetic import surface as surf

A_SIDE = 2.45 * surf.ARC                # the sheet ends behind the ears
# lattices between the drawn points: step; a from, to; b from, to, millimetres in the chart plane
LATTICES = ((2.6, 0, 82, -114, 78), (2.4, 82, A_SIDE, -56, 36),
            (6.0, 0, A_SIDE, surf.B_BOTTOM, surf.B_TOP))
EYE_ISLAND, EYE_ISLAND_RADIUS = (0.058, 0.055), 0.050   # left disc of the UV map; the right one mirrors it
CAP_RINGS, CAP_SECTORS, CAP_ANGLE = 11, 24, np.deg2rad(78)
UV_ANGLES = ((0, 1.0, np.pi / 2, np.pi), (0, 0.34, 0.43, 0.5))      # |azimuth| to |u - 1/2|
UV_LEVELS = ((-195, -122, 72, 175), (0.115, 0.165, 0.90, 0.996))    # level to v
# iBUG landmarks in the chart plane: number on the person's right, on the left, x of the right one, y, mm
LANDMARKS = np.array([
    (0, 16, -82, 10.8), (1, 15, -86.8, -10.1), (2, 14, -91.6, -35.1), (3, 13, -93, -64.5),
    (4, 12, -87, -85.4), (5, 11, -70.2, -105), (6, 10, -44.2, -105), (7, 9, -22.1, -107.2),
    (8, 8, 0, -107.2), (17, 26, -55.9, 24), (18, 25, -44.2, 30.8), (19, 24, -31.2, 30.8),
    (20, 23, -20.8, 26.2), (21, 22, -10.4, 21.7), (27, 27, 0, 5.9), (28, 28, 0, -7.7), (29, 29, 0, -19),
    (30, 30, 0, -32.6), (31, 35, -13, -41.6), (32, 34, -6.8, -43.7), (33, 33, 0, -46.1),
    (36, 45, -47.9, 4.3), (37, 44, -37.2, 8.4), (38, 43, -25, 7.2), (39, 42, -16.2, 0.2),
    (40, 47, -25.3, -1.5), (41, 46, -37.7, -1.2), (48, 54, -29.4, -67.3), (49, 53, -17.7, -58.5),
    (50, 52, -6.2, -54.6), (51, 51, 0, -56.9), (57, 57, 0, -75.7), (58, 56, -9.7, -73.9),
    (59, 55, -18.4, -73.5), (60, 64, -24.6, -64.7), (61, 63, -9.3, -60.6), (62, 62, 0, -61.6),
    (66, 66, 0, -68), (67, 65, -9.5, -66.7)], dtype=float)


@dataclass(frozen=True)
class Head:
    """The mean head at rest, millimetres; x to the viewer's right, y up, z out of the face."""

    points: np.ndarray          # (V, 3)
    faces: np.ndarray           # (F, 3) counter-clockwise from outside
    uv: np.ndarray              # (V, 2) u right, v up
    theta: np.ndarray           # (V,) chart azimuth; 0 on the eyeballs
    level: np.ndarray           # (V,) chart level; 0 on the eyeballs
    inside: np.ndarray          # (V,) depth inside the mouth, 0..1
    upper: np.ndarray           # (V,) bool: above the mouth line
    eye: np.ndarray             # (V,) 0 skin, -1 eyeball at x < 0, +1 eyeball at x > 0
    rim: np.ndarray             # (V,) the lid-edge vertex that a rim vertex hangs on, -1 elsewhere
    landmarks: np.ndarray       # (68,) vertices nearest to the iBUG landmarks


def chart_uv(theta, level):
    """Chart coordinates → UV (N, 2): the face fills the middle of the map."""
    u = 0.5 + np.sign(theta) * np.interp(np.abs(theta), *UV_ANGLES)
    return np.stack([u, np.interp(level, *UV_LEVELS)], 1)


def uv_chart(u, v):
    """UV → chart coordinates, the inverse of `chart_uv`."""
    return np.sign(u - 0.5) * np.interp(np.abs(u - 0.5), *UV_ANGLES[::-1]), np.interp(v, *UV_LEVELS[::-1])


def _eye_rings():
    """The lid's edge, its rim inside (40 points each, a pair for a pair) and rings around it, x and y."""
    turn = np.arange(40) * 2 * np.pi / 40
    x0, x1 = surf.EYE_INNER[0], surf.EYE_OUTER[0]
    saw = 1 - np.abs(turn / np.pi - 1) * 2                          # denser at the corners, but not too much
    x = (x0 + x1) / 2 - (x1 - x0) / 2 * (0.6 * np.cos(turn) - 0.4 * saw)
    upper, lower = surf.lid_curves(x)
    edge = np.stack([x, np.where(turn <= np.pi, upper, lower)], 1)
    tangent = np.roll(edge, -1, 0) - np.roll(edge, 1, 0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    centre = np.array([31.6, (surf.EYE_INNER[1] + surf.EYE_OUTER[1]) / 2 + 1.0])
    rings = [edge, (edge - centre) * (0.93, 0.72) + centre]
    rings += [edge + normal * distance for distance in (1.3, 2.7, 4.3, 6.3)]
    return np.concatenate(rings)


def _mouth_points():
    """Points along the lips: the inner edges (open in the chart), the red and its border, and inside."""
    x = surf.MOUTH_HALF * np.sin(np.linspace(0, np.pi / 2, 15))
    line, gap, points = surf.mouth_line(x), surf.mouth_gap(x), []
    for side, height in zip((1, -1), surf.lip_heights(x), strict=True):
        for share, count in ((0, 15), (0.18, 13), (0.42, 12), (0.7, 12), (1.0, 15), (1.25, 14)):
            points.append(np.stack([x, surf.open_mouth(x, line + side * share * height, side)], 1)[:count])
        points += [np.stack([x, line + side * gap * share], 1)[:12] for share in (0.75, 0.4)]
    points.append(np.stack([x, line], 1)[:13])
    return np.concatenate(points)


def _nose_points():
    """Two outlines of the wing, the nostril and a row under the nose."""
    turn, whole = np.linspace(-2.2, 1.5, 12), np.linspace(0, 2 * np.pi, 10, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    wing = [ring * (6.6, 6.4) + (11.3, -37.2), ring * (8.2, 8.0) + (11.3, -37.2)]
    nostril = np.stack([6.9 + 3.2 * np.cos(whole), -41.4 + 1.5 * np.sin(whole)], 1)
    under = np.stack([np.linspace(1.6, 14, 8), np.full(8, -44.2)], 1)
    return np.concatenate([*wing, nostril, under, [(6.9, -41.4)]])


def _lattice(taken):
    """Lattice points (N, 2) between the points `taken` (M, 2), never nearer to them than 0.7 of the step."""
    kept = []
    for index, (step, left, right, bottom, top) in enumerate(LATTICES):
        a, b = np.meshgrid(np.arange(left, right, step), np.arange(bottom, top, step * 0.87))
        a[1::2] += step / 2
        points = np.stack([a.ravel(), b.ravel()], 1)
        for _, *box in LATTICES[:index]:                            # a finer one is there already
            points = points[~((points >= box[::2]) & (points < box[1::2])).all(1)]
        kept.append(points[cKDTree(taken).query(points)[0] > 0.7 * step])
    crown = np.stack([np.linspace(0, A_SIDE, 20), np.full(20, surf.B_TOP)], 1)
    return np.concatenate([*kept, crown])


def _half():
    """The half at x >= 0: chart plane points (N, 2), triangles, and each rim point's lid edge (-1: none)."""
    theta, b = surf.chart_of(*np.concatenate([_eye_rings(), _mouth_points(), _nose_points()]).T)
    fixed = np.stack([theta * surf.ARC, b], 1)
    fixed[np.abs(fixed[:, 0]) < 0.3, 0] = 0
    near = cKDTree(fixed).query_pairs(0.75)                         # (i, j) with i < j
    fixed = np.delete(fixed, [j for _, j in near if j >= 80], 0)
    lattice, hole = _lattice(fixed), Path(fixed[40:80])
    points = np.concatenate([fixed, lattice[~hole.contains_points(lattice)]])
    triangles = Delaunay(points).simplices                          # counter-clockwise
    corners = points[triangles]                                     # (F, 3, 2)
    flat = np.linalg.det(corners[:, 1:] - corners[:, :1]) < 1e-6
    rim = np.full(len(points), -1)
    rim[40:80] = np.arange(40)
    return points, triangles[~hole.contains_points(corners.mean(1)) & ~flat], rim


def _eyeball():
    """One eyeball's cap about the origin: unit directions (N, 3) along +z, UV disc (N, 2), triangles."""
    turn = np.arange(CAP_SECTORS) * 2 * np.pi / CAP_SECTORS
    angle = CAP_ANGLE * np.arange(1, CAP_RINGS + 1) / CAP_RINGS
    polar, around = np.append(0, np.repeat(angle, CAP_SECTORS)), np.append(0, np.tile(turn, CAP_RINGS))
    disc = np.stack([np.cos(around), np.sin(around)], 1)
    unit = np.concatenate([np.sin(polar)[:, None] * disc, np.cos(polar)[:, None]], 1)
    k = np.arange(CAP_SECTORS)
    faces = [np.stack([0 * k, 1 + k, 1 + (k + 1) % CAP_SECTORS], 1)]
    for ring in range(CAP_RINGS - 1):
        a, b = 1 + ring * CAP_SECTORS + k, 1 + ring * CAP_SECTORS + (k + 1) % CAP_SECTORS
        faces += [np.stack([a, a + CAP_SECTORS, b], 1), np.stack([b, a + CAP_SECTORS, b + CAP_SECTORS], 1)]
    return unit, (polar / CAP_ANGLE)[:, None] * disc, np.concatenate(faces)


@lru_cache(maxsize=1)
def build_head():
    """The mean head → `Head`; made once per process, in about a second."""
    half, triangles, rim = _half()
    other = half[:, 0] > 0                                          # those with a twin at x < 0
    twin = np.where(other, len(half) - 1 + np.cumsum(other), np.arange(len(half)))
    plane = np.concatenate([half, half[other] * (-1, 1)])
    faces = np.concatenate([triangles, twin[triangles][:, [0, 2, 1]]])
    rim = np.append(rim, np.where(rim[other] >= 0, twin[rim[other]], -1))
    theta, level = plane[:, 0] / surf.ARC, plane[:, 1]
    points, inside, upper = surf.surface(theta, level)
    hangs = rim >= 0
    points[hangs] = points[rim[hangs]]                              # the lid's thickness, into the socket
    ball = surf.eyeball_depth(points[hangs, 0], points[hangs, 1], 0.0)
    points[hangs, 2] = np.minimum(points[hangs, 2] - 1.0, ball - 0.8)
    uv, eye, marks = chart_uv(theta, level), np.zeros(len(points), int), np.zeros((68, 2))
    for column, side in ((0, 1), (1, -1)):
        marks[LANDMARKS[:, column].astype(int)] = LANDMARKS[:, 2:] * (side, 1)
    landmarks = cKDTree(plane).query(marks)[1]
    unit, disc, cap = _eyeball()
    for side in (-1, 1):
        centre = surf.EYE * (side, 1, 1)
        ball = centre + unit * surf.EYE_RADII
        ball[:, 2] += 0.4 * np.exp(-((ball[:, :2] - centre[:2]) ** 2).sum(1) / 40)          # the cornea
        faces = np.concatenate([faces, cap + len(points)])
        island = np.array([EYE_ISLAND[0] if side < 0 else 1 - EYE_ISLAND[0], EYE_ISLAND[1]])
        uv = np.concatenate([uv, island + disc * EYE_ISLAND_RADIUS])
        points, eye = np.concatenate([points, ball]), np.append(eye, np.full(len(ball), side))
    balls = (0, len(points) - len(plane))                           # which the chart does not know
    return Head(points, faces, uv, np.pad(theta, balls), np.pad(level, balls), np.pad(inside, balls),
                np.pad(upper, balls, constant_values=True), eye, np.pad(rim, balls, constant_values=-1),
                landmarks)
