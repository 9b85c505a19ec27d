"""Triangles of the embedded head: points along lids, lips, nose and ears, graded filling, Delaunay.

One half is meshed and mirrored, so the head is symmetric to the last bit. The eyeballs are caps of their own.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.spatial import Delaunay, cKDTree

from synthetic import surface as surf

A_BACK = np.pi * surf.ARC  # chart abscissa of the seam at the nape
EYE_ISLAND, EYE_ISLAND_RADIUS = (0.058, 0.055), 0.050  # left disc of the UV map; the right one mirrors it
CAP_RINGS, CAP_SECTORS, CAP_ANGLE = 11, 24, np.deg2rad(78)
_U = PchipInterpolator((0, 1.0, np.pi / 2, np.pi), (0, 0.34, 0.43, 0.5))
_V = PchipInterpolator((surf.B_BOTTOM, -122, 72, surf.B_TOP), (0.115, 0.165, 0.90, 0.996))


@dataclass(frozen=True)
class Mesh:
    """Vertices in millimetres with what the bases and the skinning need to know of them."""

    points: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, 3)
    theta: np.ndarray  # (V,) chart azimuth; NaN on the eyeballs
    level: np.ndarray  # (V,) chart level b; NaN on the eyeballs
    inside: np.ndarray  # (V,) depth inside the mouth, 0..1
    upper: np.ndarray  # (V,) bool: above the mouth line
    eye: np.ndarray  # (V,) 0 skin, -1 eyeball at x < 0, +1 eyeball at x > 0
    rim: np.ndarray  # (V,) the lid-edge vertex a rim vertex hangs on, -1 elsewhere
    uv: np.ndarray  # (T, 2)
    uv_faces: np.ndarray  # (F, 3)

    def locate(self, theta, level):
        """Triangle and barycentrics of chart points (each (N,)): (faces (N,), weights (N, 3))."""
        target = chart_uv(np.asarray(theta, float), np.asarray(level, float))
        corners = self.uv[self.uv_faces]  # (F, 3, 2)
        skin = self.eye[self.faces[:, 0]] == 0
        found, weights = [], []
        for point in target:
            bary = _barycentrics(corners, point)
            face = int(np.argmax(np.where(skin, bary.min(1), -np.inf)))
            clipped = np.clip(bary[face], 0, None)
            found.append(face)
            weights.append(clipped / clipped.sum())
        return np.array(found), np.array(weights)


def _barycentrics(corners, point):
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    v0, v1, v2 = b - a, c - a, point - a
    det = v0[:, 0] * v1[:, 1] - v0[:, 1] * v1[:, 0]
    det = np.where(np.abs(det) < 1e-15, np.inf, det)
    w1 = (v2[:, 0] * v1[:, 1] - v2[:, 1] * v1[:, 0]) / det
    w2 = (v0[:, 0] * v2[:, 1] - v0[:, 1] * v2[:, 0]) / det
    bary = np.stack([1 - w1 - w2, w1, w2], 1)
    return np.where(np.isinf(det)[:, None], -np.inf, bary)


def chart_uv(theta, level):
    """Chart coordinates → UV (N, 2): the face fills the middle of the map."""
    return np.stack([0.5 + np.sign(theta) * _U(np.abs(theta)), _V(level)], 1)


def uv_chart(u, v):
    """UV → chart coordinates, the inverse of `chart_uv` (clamped at the map's rim)."""
    angles, levels = np.linspace(0, np.pi, 2000), np.linspace(surf.B_BOTTOM, surf.B_TOP, 4000)
    side = u - 0.5
    return np.sign(side) * np.interp(np.abs(side), _U(angles), angles), np.interp(v, _V(levels), levels)


def _plane(x, y):
    """Front points (x, y) → chart plane (a, b), both in mm."""
    theta, b = surf.chart_of(x, y)
    return np.stack([theta * surf.ARC, b], 1)


def _eye_rings():
    """Lid edge, its rim inside and rings around it, in the chart plane; the first two belong together."""
    turn = np.arange(40) * 2 * np.pi / 40
    x0, x1 = surf.EYE_INNER[0], surf.EYE_OUTER[0]
    saw = 1 - np.abs(turn / np.pi - 1) * 2  # denser at the corners, but not too much
    x = (x0 + x1) / 2 - (x1 - x0) / 2 * (0.6 * np.cos(turn) - 0.4 * saw)
    upper, lower = surf.lid_curves(x)
    y = np.where(turn <= np.pi, upper, lower)
    edge = np.stack([x, y], 1)
    tangent = np.roll(edge, -1, 0) - np.roll(edge, 1, 0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    centre_y = (surf.EYE_INNER[1] + surf.EYE_OUTER[1]) / 2 + 1.0
    rim = np.stack([(x - 31.6) * 0.93 + 31.6, (y - centre_y) * 0.72 + centre_y], 1)
    rings = [edge, rim] + [(edge + normal * d)[:: 1 if d < 4 else 2][:None] for d in (1.3, 2.7, 4.3, 6.3)]
    return [_plane(ring[:, 0], ring[:, 1]) for ring in rings]


def _mouth_points():
    """Points along the lips: the inner edges (open in the chart), the red and its border, and inside."""
    half = surf.MOUTH_HALF
    x = half * np.sin(np.linspace(0, np.pi / 2, 15))
    line, gap = surf.mouth_line(x), surf.mouth_gap(x)
    upper, lower = surf.lip_heights(x)
    points = []
    for side, height in ((1, upper), (-1, lower)):
        for share in (0, 0.18, 0.42, 0.7, 1.0, 1.25):
            keep = (
                slice(None) if share in (0, 1.0) else slice(0, {0.18: 13, 0.42: 12, 0.7: 12, 1.25: 14}[share])
            )
            y = surf.open_mouth(x, line + side * share * height, side)
            points.append(np.stack([x, y], 1)[keep])
        points += [np.stack([x, line + side * gap * share], 1)[:12] for share in (0.75, 0.4)]
    points.append(np.stack([x, line], 1)[:13])
    flat = np.concatenate(points)
    return _plane(flat[:, 0], flat[:, 1])


def _nose_points():
    turn = np.linspace(-2.2, 1.5, 12)
    wing = np.stack([11.3 + 6.6 * np.cos(turn), -37.2 + 6.4 * np.sin(turn)], 1)
    outer = np.stack([11.3 + 8.2 * np.cos(turn), -37.2 + 8.0 * np.sin(turn)], 1)
    turn = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    nostril = np.stack([6.9 + 3.2 * np.cos(turn), -41.4 + 1.5 * np.sin(turn)], 1)
    under = np.stack([np.linspace(1.6, 14, 8), np.full(8, -44.2)], 1)
    flat = np.concatenate([wing, outer, nostril, under, [(6.9, -41.4)]])
    return _plane(flat[:, 0], flat[:, 1])


def _ear_points():
    """Rings at the ear's outline, where its height jumps; found in the loft's side coordinates."""
    turn = np.linspace(0, 2 * np.pi, 721)
    c, d = np.cos(turn), np.sin(turn)
    outline = np.stack([d, c], 1) / ((np.abs(d) ** 2.3 + np.abs(c) ** 2.3) ** (1 / 2.3))[:, None]
    steps = np.linalg.norm(np.diff(outline, axis=0) * surf.EAR_HALF, axis=1)
    length = np.append(0, np.cumsum(steps))
    rings = []
    for q, count in ((0.42, 12), (0.64, 22), (0.80, 34), (0.95, 54), (1.13, 54), (1.32, 32)):
        at = (np.arange(count) + 0.5 * (q in (0.95, 0.64, 1.32))) * length[-1] / count
        rings.append(q * np.stack([np.interp(at, length, outline[:, k]) for k in (0, 1)], 1))
    target = np.concatenate(rings)  # rows (t, s)
    theta, b = np.full(len(target), 1.7), np.full(len(target), -10.0)
    for _ in range(40):  # fixed point: t moves b, s moves theta
        point = surf.loft(theta, b)
        t, s, _ = surf.ear_frame(point[:, 1], point[:, 2])
        b = b + (target[:, 0] - t) * surf.EAR_HALF[0] * 0.7
        theta = theta + (target[:, 1] - s) * 0.12
    return np.stack([theta * surf.ARC, b], 1)


def _spacing(points):
    """Wanted distance between vertices at points of the chart plane, mm."""
    theta, b = points[:, 0] / surf.ARC, points[:, 1]
    loft = surf.loft(theta, b)
    x, y = loft[:, 0], loft[:, 1]
    face = np.abs(theta) < 1.4
    eye = np.maximum(surf.lid_distance(x, y), 0)
    mouth = np.hypot(np.maximum(np.abs(x) - 24, 0), np.maximum(np.abs(y - surf.MOUTH_Y) - 9, 0))
    nose = np.hypot(np.maximum(np.abs(x) - 14, 0), np.maximum(np.abs(y + 36) - 9, 0))
    dorsum = np.hypot(np.maximum(np.abs(x) - 9, 0), np.maximum(np.abs(y + 8) - 22, 0))
    middle = np.hypot(np.maximum(np.abs(x) - 45, 0), np.maximum(np.abs(y + 30) - 75, 0))
    _, _, q = surf.ear_frame(y, loft[:, 2])
    ear = np.where((np.abs(theta) > 1.0) & (np.abs(theta) < 2.4), np.maximum(q - 1.1, 0) * 22, 99)
    wanted = np.full(len(points), 9.0)
    for base, slope, distance, where in (
        (1.7, 0.2, eye, face),
        (2.0, 0.2, mouth, face),
        (1.8, 0.22, nose, face),
        (2.4, 0.2, dorsum, face),
        (3.8, 0.13, middle, face),
        (3.3, 0.25, ear, np.abs(theta) > 0),
    ):
        wanted = np.minimum(wanted, np.where(where, base + slope * distance, 9.0))
    return wanted


def _borders():
    """Points on the half chart's rim: midline, bottom, back seam, and the rows of the dome that thin out
    upwards.
    """
    middle, b = [], surf.B_BOTTOM
    while b < 100:
        middle.append((0.0, b))
        b += float(_spacing(np.array([(0.0, b)]))[0])
    exact = [(0, y) for y in (surf.MOUTH_Y - 0.9,)]
    middle = [p for p in middle if all(abs(p[1] - q[1]) > 1.2 for q in exact)]
    bottom = [(a, surf.B_BOTTOM) for a in np.linspace(0, A_BACK, 25)[1:]]
    back = [(A_BACK, b) for b in np.linspace(surf.B_BOTTOM, 100, 34)[1:-1]]
    dome = []
    for b in np.linspace(104, 166, 8):
        ring = surf.loft(np.linspace(0, np.pi, 60), np.full(60, b))
        length = np.linalg.norm(np.diff(ring, axis=0), axis=1).sum()
        dome += [(a, b) for a in np.linspace(0, A_BACK, max(4, round(length / 9)))]
    top = [(a, surf.B_TOP) for a in np.linspace(0, A_BACK, 5)]
    return np.array(middle + bottom + back), np.array(dome), np.array(top)


def _fill(fixed, spacing):
    """Dart throwing: lattice points that keep their wanted distance from all points taken before."""
    rows = []
    for step, low, high, bottom, top in ((1.45, 0, 78, -112, 75), (3.1, 0, A_BACK, surf.B_BOTTOM, 100)):
        for k, b in enumerate(np.arange(bottom, top, step * 0.87)):
            a = np.arange(low + (k % 2) * step / 2, high, step)
            rows.append(np.stack([a, np.full_like(a, b)], 1))
    lattice = np.concatenate(rows)
    wanted = spacing(lattice)
    border = np.minimum(np.minimum(lattice[:, 0], A_BACK - lattice[:, 0]), lattice[:, 1] - surf.B_BOTTOM)
    order = np.argsort(np.round(wanted, 1), kind="stable")
    order = order[border[order] >= 0.45 * wanted[order]]
    taken = fixed
    for part in np.array_split(order, 48):  # a tree for what was there before
        far = cKDTree(taken).query(lattice[part])[0] > 0.86 * wanted[part]
        new = np.empty((0, 2))
        for point, near in zip(lattice[part][far], wanted[part][far], strict=True):
            if not len(new) or ((new - point) ** 2).sum(1).min() > (0.86 * near) ** 2:
                new = np.append(new, point[None], 0)
        taken = np.concatenate([taken, new])
    return taken[len(fixed) :]


def _half():
    """The right half: chart plane points, triangles, and each rim point's lid edge (-1: none)."""
    rings = _eye_rings()
    borders, dome, top = _borders()
    fixed = np.concatenate([*rings, _mouth_points(), _nose_points(), _ear_points()])
    fixed[np.abs(fixed[:, 0]) < 0.3, 0] = 0
    fixed = _without_near_twins(np.concatenate([fixed, dome, top, borders]), len(rings[0]) * 2)
    free = _fill(fixed, _spacing)
    points = np.concatenate([fixed, free])
    moving = np.arange(len(fixed), len(points))
    for _ in range(4):
        triangles = _triangles(points)
        points = _relax(points, triangles, moving)
    triangles = _triangles(points)
    count = len(rings[0])
    centre = points[triangles].mean(1)  # (F, 2)
    hole = _in_polygon(centre, points[count : 2 * count])
    used, renamed = np.unique(triangles[~hole], return_inverse=True)  # the hole's own points go
    rim = np.full(len(used), -1)
    rim[count : 2 * count] = np.arange(count)  # rings come first, all in use
    return points[used], renamed.reshape(-1, 3), rim


def _without_near_twins(points, keep):
    """Drop points (never the first `keep`) that lie on top of an earlier one."""
    kept = list(range(keep))
    for index in range(keep, len(points)):
        gap = np.linalg.norm(points[kept] - points[index], axis=1).min()
        if gap > 0.75:
            kept.append(index)
    return points[kept]


def _triangles(points):
    """Delaunay triangles, counter-clockwise, slivers on the rim left out."""
    triangles = Delaunay(points).simplices
    a, b, c = (points[triangles[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    triangles = np.where((area < 0)[:, None], triangles[:, [0, 2, 1]], triangles)
    return triangles[np.abs(area) > 1e-6]


def _relax(points, triangles, moving):
    """Move free points to the mean of their neighbours."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    total, count = np.zeros_like(points), np.zeros(len(points))
    for start, end in ((edges[:, 0], edges[:, 1]), (edges[:, 1], edges[:, 0])):
        np.add.at(total, start, points[end])
        np.add.at(count, start, 1)
    relaxed = points.copy()
    relaxed[moving] = 0.5 * points[moving] + 0.5 * (total[moving] / count[moving, None])
    return relaxed


def _in_polygon(points, polygon):
    """Which points (N, 2) lie inside the closed polygon (M, 2)."""
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        crosses = (y0 > points[:, 1]) != (y1 > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = (x1 - x0) * (points[:, 1] - y0) / (y1 - y0) + x0
        inside ^= crosses & (points[:, 0] < at)
    return inside


def _eyeball():
    """One eyeball's cap about the origin: unit directions (N, 3) along +z, UV disc (N, 2), triangles."""
    angle = CAP_ANGLE * (np.arange(1, CAP_RINGS + 1) / CAP_RINGS)
    turn = np.arange(CAP_SECTORS) * 2 * np.pi / CAP_SECTORS
    polar, around = np.meshgrid(angle, turn, indexing="ij")
    polar, around = np.append(0, polar.ravel()), np.append(0, around.ravel())
    unit = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], 1)
    disc = (polar / CAP_ANGLE)[:, None] * np.stack([np.cos(around), np.sin(around)], 1)
    faces = [(0, 1 + k, 1 + (k + 1) % CAP_SECTORS) for k in range(CAP_SECTORS)]
    for ring in range(CAP_RINGS - 1):
        for k in range(CAP_SECTORS):
            a, b = 1 + ring * CAP_SECTORS + k, 1 + ring * CAP_SECTORS + (k + 1) % CAP_SECTORS
            faces += [(a, a + CAP_SECTORS, b), (b, a + CAP_SECTORS, b + CAP_SECTORS)]
    return unit, disc, np.array(faces)


def _mirrored(points, triangles, rim):
    """Join the half chart with its mirror image: chart, vertex of each UV point, UV faces, rims."""
    middle = points[:, 0] == 0
    other = np.flatnonzero(~middle)
    twin = np.arange(len(points))
    twin[other] = len(points) + np.arange(len(other))
    chart = np.concatenate([points, points[other] * (-1, 1)])
    uv_faces = np.concatenate([triangles, twin[triangles][:, [0, 2, 1]]])
    all_rim = np.concatenate([rim, np.where(rim[other] >= 0, twin[rim[other]], -1)])
    vertex = np.arange(len(chart))
    seam = np.flatnonzero(np.abs(points[:, 0] - A_BACK) < 1e-9)
    vertex[twin[seam]] = seam  # the two sides of the back seam
    top = np.flatnonzero(np.abs(chart[:, 1] - surf.B_TOP) < 1e-9)
    vertex[top] = top[0]  # the crown is one point
    return chart, vertex, uv_faces, all_rim


def build_mesh():
    """The whole head at rest → `Mesh`."""
    chart, vertex, uv_faces, rim = _mirrored(*_half())
    used, compact = np.unique(vertex, return_inverse=True)
    faces = compact[uv_faces]
    solid = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces, uv_faces = faces[solid], uv_faces[solid]
    theta, level = chart[used, 0] / surf.ARC, chart[used, 1]
    points = surf.surface(theta, level)
    hangs = np.where(rim[used] >= 0, compact[rim[used]], -1)
    inner = hangs >= 0
    points[inner] = points[hangs[inner]]
    ball = surf.eyeball_depth(points[inner, 0], points[inner, 1], 0.0)
    points[inner, 2] = np.minimum(points[inner, 2] - 1.0, ball - 0.8)
    x, chart_y, _ = surf.loft(theta, level).T
    depth = np.where(np.abs(theta) < 1.2, surf.close_mouth(x, chart_y)[1], 0)
    upper = chart_y >= surf.mouth_line(x) - 1e-6
    return _with_eyes(
        points,
        faces,
        theta,
        level,
        depth,
        upper,
        hangs,
        chart_uv(chart[:, 0] / surf.ARC, chart[:, 1]),
        uv_faces,
    )


def _with_eyes(points, faces, theta, level, depth, upper, hangs, uv, uv_faces):
    unit, disc, cap = _eyeball()
    eye = np.zeros(len(points), int)
    for side in (-1, 1):
        centre = surf.EYE * (side, 1, 1)
        ball = centre + unit * surf.EYE_RADII
        ball[:, 2] += 0.4 * np.exp(-((ball[:, 0] - centre[0]) ** 2 + (ball[:, 1] - centre[1]) ** 2) / 40)
        island = np.array([EYE_ISLAND[0] if side < 0 else 1 - EYE_ISLAND[0], EYE_ISLAND[1]])
        faces = np.concatenate([faces, cap + len(points)])
        uv_faces = np.concatenate([uv_faces, cap + len(uv)])
        uv = np.concatenate([uv, island + disc * EYE_ISLAND_RADIUS])
        points = np.concatenate([points, ball])
        eye = np.append(eye, np.full(len(ball), side))
    extra = len(points) - len(theta)
    pad = np.full(extra, np.nan)
    return Mesh(
        points,
        faces,
        np.append(theta, pad),
        np.append(level, pad),
        np.append(depth, np.zeros(extra)),
        np.append(upper, np.ones(extra, bool)),
        eye,
        np.append(hangs, np.full(extra, -1)),
        uv,
        uv_faces,
    )
