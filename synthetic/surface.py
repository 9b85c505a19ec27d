"""The skin of the embedded head as a function: chart coordinates in, a point in millimetres out.

The chart is (theta, b): theta is the azimuth round the head (0 the face, +-pi the nape), b the level, equal
to the height y along the middle of the face. A loft of rings gives the skull, a smooth interpolation of
depths the face, and small analytic shapes the nose, lips, lids, ears and hair. Sizes are near adult means
(Farkas, "Anthropometry of the Head and Face", 1994). Axes as FLAME's: x to the viewer's right, y up, z out
of the face.
"""

from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline, RBFInterpolator

B_TOP, B_BOTTOM = 175.0, -195.0  # crown (one point) and the lower edge of the neck
ARC = 70.0  # chart millimetres per radian of theta
CROWN = 55.0  # above this level the dome begins

# level b; front y z; side y x z; back y z
RINGS = np.array([
    (55, 55, 57.5, 43, 76.5, -40, 30, -129),
    (40, 40, 60.5, 28, 76, -40, 18, -129),
    (20, 20, 60, 12, 74, -38, 2, -124),
    (0, 0, 54, -4, 72, -34, -15, -113),
    (-20, -20, 52, -19, 70, -30, -30, -102),
    (-40, -40, 53, -33, 67.5, -27, -45, -93),
    (-64, -64, 55, -48, 64, -24, -60, -89),
    (-80, -80, 53, -58, 61, -22, -71, -88),
    (-95, -95, 53, -66, 58, -22, -82, -88),
    (-108, -107, 45, -74, 54, -26, -92, -88),
    (-120, -111.5, 27, -84, 50, -33, -102, -88),
    (-135, -117.5, 9, -101, 48.5, -39, -115, -89),
    (-155, -134, 4, -127, 49, -42, -134, -92),
    (-175, -157, 6, -154, 56, -44, -158, -96),
    (-195, -182, 12, -182, 72, -47, -182, -103)], dtype=float)

# x, y, z of the face without nose, lips and lids; x >= 0, the other side is its mirror
DEPTHS = np.array([
    (0, 30, 61.5), (0, 20, 61), (0, 8, 54), (0, -10, 52), (0, -30, 51), (0, -43, 52.5), (0, -50, 54.5),
    (0, -57, 56), (0, -64, 55.5), (0, -73, 53), (0, -79, 51), (0, -86, 53.5), (0, -94, 55.2), (0, -101, 53),
    (8, 20, 60.5), (8, 8, 51), (9, -5, 48), (8, -50, 54.5), (10, -57, 55.2), (10, -64, 54.8), (10, -73, 52),
    (10, -79, 50), (10, -94, 54.5), (12, -102, 49), (15, 20, 60), (16, 10, 50), (16, 1, 43.5), (15, -12, 46),
    (15, -25, 48.5), (17, -36, 48.5), (18, -45, 49.5), (18, -57, 51.8), (19, -66, 50.5), (20, -80, 46.5),
    (20, -95, 46.5), (23, 23, 59.5), (24, 12, 47), (24, -11, 44.5), (24, -22, 48), (24, -35, 47.5),
    (26, -50, 46.5), (27, -64, 44.5), (28, -78, 41.5), (29, -92, 37), (31, 26, 57.5), (32, 14, 46.5),
    (32, -11, 44), (33, -22, 46.8), (34, -35, 44.5), (35, -50, 41), (36, -64, 37.5), (38, -78, 31),
    (37, -90, 26), (40, 25, 53.5), (41, 13, 43), (41, -9, 40.8), (42, -19, 43), (43, -32, 40),
    (44, -48, 34), (46, -64, 26.5), (48, -76, 15), (47, 21, 47.5), (47, 12, 40), (47.5, 2, 36.5),
    (49, -8, 38), (50, -17, 38.5), (51, -30, 34), (52, -48, 24), (54, 20, 37), (54, 8, 31.5),
    (56, -5, 29), (57, -15, 27.5), (58, -30, 20), (58, -48, 9.5), (61, 20, 22), (62, 5, 17), (63, -8, 14.5),
    (64, -20, 9), (0, 45, 61), (15, 45, 59.5), (15, 32, 61), (30, 47, 54), (30, 36, 56.5), (44, 42, 45.5),
    (55, 38, 31), (63, 38, 14), (14, 60, 55), (34, 62, 46.5)], dtype=float)

EYE = np.array([31.5, 1.8, 28.5])  # centre of the eyeball
EYE_RADII = np.array([18.0, 14.5, 17.0])
LID = 1.4  # thickness of a lid
EYE_INNER, EYE_OUTER = (16.5, 0.0), (45.8, 2.4)
MOUTH_Y, MOUTH_HALF = -64.0, 26.0  # the mouth line and half its width
MOUTH_OPEN, MOUTH_REACH = 3.2, 11.0  # the chart holds the mouth open, so that its inside has room


def smoothstep(low, high, value):
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x, y, centre, sigma):
    """A Gaussian bump of height 1 at `centre` with deviations `sigma` = (sx, sy)."""
    return np.exp(-0.5 * (((x - centre[0]) / sigma[0]) ** 2 + ((y - centre[1]) / sigma[1]) ** 2))


def smooth_max(a, b, width):
    """A maximum of `a` and `b` whose corner is rounded over `width`."""
    return 0.5 * (a + b + np.sqrt((a - b) ** 2 + width**2))


@lru_cache(maxsize=1)
def _rings():
    """The loft's rings at any level, the dome included."""
    steps = np.linspace(0.1, 1, 10)
    angle = steps * np.pi / 2
    rise, shrink = np.sin(angle), np.cos(angle)
    dome = np.stack([CROWN + steps * (B_TOP - CROWN), 55 + 60 * rise, -36 + 93.5 * shrink, 43 + 72 * rise,
                     76.5 * shrink, -36 - 4 * shrink, 30 + 85 * rise, -36 - 93 * shrink], 1)
    table = np.concatenate([RINGS[::-1], dome])
    return CubicSpline(table[:, 0], table[:, 1:])


def loft(theta, b):
    """The bare skull and neck: chart coordinates (...) → points (..., 3), mm."""
    front_y, front_z, side_y, side_x, side_z, back_y, back_z = np.moveaxis(_rings()(b), -1, 0)
    front, across = np.abs(theta) < np.pi / 2, np.sin(theta) ** 2
    end_y = np.where(front, front_y, back_y)
    depth = np.where(front, front_z - side_z, side_z - back_z)
    return np.stack([np.maximum(side_x, 0) * np.sin(theta), end_y + (side_y - end_y) * across,
                     side_z + depth * np.cos(theta)], -1)


def chart_of(x, y):
    """Chart coordinates of the loft's front point with this x and y (each (N,), mm)."""
    b = y
    for _ in range(30):
        theta = np.arcsin(np.clip(x / _rings()(b)[:, 3], -1, 1))
        b = b + (y - loft(theta, b)[:, 1])
    return theta, b


@lru_cache(maxsize=1)
def _face_depth():
    """Interpolates the face's depth over the loft in the chart (thin-plate spline)."""
    points = np.concatenate([DEPTHS, DEPTHS[DEPTHS[:, 0] > 0] * (-1, 1, 1)])
    theta, b = chart_of(points[:, 0], points[:, 1])
    offset = points[:, 2] - loft(theta, b)[:, 2]
    levels = np.linspace(-118, 85, 15)
    rest = [(side * angle * ARC, level) for level in levels for angle in (1.5, 1.75) for side in (-1, 1)]
    rest += [(a, level) for level in (76, 92, -112, -125) for a in np.linspace(-75, 75, 9)]
    where = np.concatenate([np.stack([theta * ARC, b], 1), rest])
    return RBFInterpolator(where, np.append(offset, np.zeros(len(rest))), smoothing=1.0)


def mouth_line(x):
    """Height of the closed mouth line at x."""
    t = np.abs(x) / MOUTH_HALF
    return MOUTH_Y - 0.9 * np.exp(-((t / 0.12) ** 2)) + 0.7 * np.exp(-(((t - 0.35) / 0.25) ** 2)) - 0.8 * t**3


def mouth_gap(x):
    """Half the height by which the chart holds the mouth open at x."""
    return MOUTH_OPEN * np.sqrt(np.clip(1 - (x / MOUTH_HALF) ** 2, 0, None))


def close_mouth(x, y):
    """Chart height → (height on the closed face, depth into the mouth in [0, 1])."""
    line, gap = mouth_line(x), mouth_gap(x)
    away = np.abs(y - line)
    side = np.where(y >= line, 1.0, -1.0)
    closed = away - gap * np.exp(-np.maximum(away - gap, 0) / MOUTH_REACH)
    inside = np.where(away < gap, 1 - away / np.maximum(gap, 1e-9), 0)
    return line + side * np.maximum(closed, 0), inside


def open_mouth(x, y, side):
    """Inverse of `close_mouth` outside the mouth: face height → chart height; side +1 upper, -1 lower."""
    line, gap = mouth_line(x), mouth_gap(x)
    away = closed = np.abs(y - line)
    for _ in range(20):
        away = closed + gap * np.exp(-(away - gap) / MOUTH_REACH)
    return line + side * away


def lip_heights(x):
    """Thickness of the upper and the lower lip's red at x, mm."""
    t = np.clip(np.abs(x) / MOUTH_HALF, 0, 1)
    body = 1 - t**2
    upper = 7.0 * body**0.85 - 1.3 * np.exp(-((x / 2.6) ** 2)) + 0.5 * bump(np.abs(x), 0 * x, (5, 0), (3, 1))
    return np.maximum(upper, 0.3), np.maximum(9.3 * body**0.65, 0.3)


def _lips(x, y):
    """Depth of the lips over the face, with the philtrum and the dimple under the lower lip; y closed."""
    rise = y - mouth_line(x)
    upper, lower = lip_heights(x)
    t = np.abs(x) / MOUTH_HALF
    share = np.where(rise >= 0, rise / np.maximum(upper, 2.5), -rise / np.maximum(lower, 3.0))
    full = np.where(rise >= 0, 3.6, 4.2) * np.clip(1 - t**2.2, 0, None)
    depth = full * (1 - np.exp(-share / 0.22)) * (1 - smoothstep(0.55, 1.25, share))
    depth -= 2.4 * np.exp(-share / 0.2) * (1 - smoothstep(0.72, 1.08, t))
    corner = bump(np.abs(x), y, (MOUTH_HALF + 1.5, MOUTH_Y - 0.5), (3.0, 3.4))
    groove = bump(x, y, (0, -51), (2.2, 5.0)) * 1.3 - bump(np.abs(x), y, (4.6, -52), (1.8, 5.0)) * 0.8
    return depth - 1.8 * corner - groove


def _ball(x, y, centre, radii):
    """Front surface of an ellipsoid; outside its outline a steep skirt."""
    q = np.sqrt(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2)
    cap = np.sqrt(1 - np.minimum(q, 0.96) ** 2)
    return centre[2] + radii[2] * (cap - np.maximum(q - 0.96, 0) * 2.4)


def _nose(x, y, z):
    """The face's depth with the nose on it."""
    ax = np.abs(x)
    along = np.clip((14 - y) / 46, 0, 1)
    dorsum_z = 55.5 + 18.5 * smoothstep(-0.12, 1.05, along) ** 1.05
    half = 6.2 + 3.0 * smoothstep(0.1, 0.8, along) - 1.4 * np.exp(-(((along - 0.12) / 0.14) ** 2))
    end = smoothstep(-43, -31, y) * (1 - smoothstep(0, 25, y))
    ridge = z - 11 + (dorsum_z - z + 11) * np.exp(-(np.abs(ax / half) ** 1.8) * 0.42) * end
    wing = 11.2 + np.where(ax < 11.2, 0.5, 1.0) * (ax - 11.2)       # drawn out towards the tip
    z = smooth_max(z, ridge, 5.0)
    z = smooth_max(z, _ball(x, y, (0, -33.2, 60.0), (9.2, 8.0, 14.5)), 3.5)
    z = smooth_max(z, _ball(wing, y, (11.2, -37.0, 51.5), (6.3, 6.2, 10.5)), 2.8)
    z = smooth_max(z, _ball(x, y, (0, -38.8, 57.5), (3.8, 5.2, 10.0)), 3.0)
    return z - 3.6 * bump(ax, y, (6.9, -41.6), (2.7, 1.35))


def lid_curves(x):
    """Heights of the upper and the lower lid's edge at |x|, mm (equal at the corners)."""
    t = np.clip((np.abs(x) - EYE_INNER[0]) / (EYE_OUTER[0] - EYE_INNER[0]), 0, 1)
    line = EYE_INNER[1] + (EYE_OUTER[1] - EYE_INNER[1]) * t
    return (line + 21.0 * t**0.78 * (1 - t) ** 0.85 * (1 - 0.12 * t),
            line - 14.5 * t**1.02 * (1 - t) ** 0.82 * (0.72 + 0.42 * t))


def eyeball_depth(x, y, thickness):
    """Front of the eyeball grown by `thickness`; falls away smoothly outside its outline."""
    radii = EYE_RADII + thickness
    q = ((np.abs(x) - EYE[0]) / radii[0]) ** 2 + ((y - EYE[1]) / radii[1]) ** 2
    cap = np.sqrt(1 - np.minimum(q, 0.94))
    return EYE[2] + radii[2] * (cap - np.maximum(q - 0.94, 0) * 2.0)


def _lids(x, y, z):
    """The face's depth with lids laid over the eyeballs."""
    ax = np.abs(x)
    near = 1 - smoothstep(16, 26, np.hypot((ax - EYE[0]) * 0.9, (y - EYE[1]) * 1.2))
    z = z + near * (smooth_max(z, eyeball_depth(x, y, LID), 2.0) - z)
    upper, lower = lid_curves(x)
    span = smoothstep(EYE_INNER[0] - 2, EYE_INNER[0] + 7, ax)
    span = span * (1 - smoothstep(EYE_OUTER[0] - 4, EYE_OUTER[0] + 5, ax))
    fold = y - (upper + 3.2)
    z = z - span * 1.5 * np.exp(-((fold / 1.15) ** 2)) + span * 1.5 * bump(fold, 0 * y, (3.4, 0), (1.9, 1))
    z = z - span * 0.8 * np.exp(-(((y - (lower - 6.5)) / 2.2) ** 2))              # the bag under the eye
    return z - 1.2 * bump(ax, y, (EYE_INNER[0] - 1.0, EYE_INNER[1]), (2.4, 2.4))


def ear_frame(skull):
    """Loft points (..., 3) → ear coordinates: t up, s to the back (-1..1 in the ear), q 1 at its outline."""
    lean, dy, dz = np.deg2rad(14), skull[..., 1] + 10.0, -(skull[..., 2] + 43.0)     # from the ear's middle
    t = (dy * np.cos(lean) + dz * np.sin(lean)) / 30.0
    s = (-dy * np.sin(lean) + dz * np.cos(lean)) / (16.5 * (0.80 + 0.24 * np.clip(t, -1, 1)))
    return t, s, (np.abs(t) ** 2.3 + np.abs(s) ** 2.3) ** (1 / 2.3)


def _ear(theta, skull):
    """Offset (N, 3) that raises the ears from the loft's points (N, 3) at azimuth theta (N,)."""
    t, s, q = ear_frame(skull)
    side = smoothstep(0.9, 1.15, np.abs(theta)) * (1 - smoothstep(2.3, 2.6, np.abs(theta)))
    inside = 1 - smoothstep(0.86, 1.2, q)
    plate = 2.0 + 12.5 * smoothstep(-1.0, 1.0, s) * (0.75 + 0.25 * smoothstep(-0.9, 0.2, t))
    rim = np.exp(-(((q - 0.9) / 0.1) ** 2)) * smoothstep(-0.8, -0.3, t)
    rim = rim * smoothstep(-0.75, -0.1, s + 0.5 * np.maximum(t, 0))
    fold = np.exp(-(((np.hypot(s * 1.1 + 0.1, (t - 0.05) * 0.8) - 0.46) / 0.1) ** 2))
    fold = fold * smoothstep(-0.3, 0.2, s)
    shell, tragus = bump(s, t, (-0.15, -0.12), (0.30, 0.26)), bump(s, t, (-0.80, -0.16), (0.16, 0.13))
    height = inside * (plate + 2.4 * rim - 7.0 * shell + 1.6 * fold + 3.0 * tragus) * side
    back = inside * side * 5.0 * smoothstep(0.1, 1.0, s)
    return np.stack([np.sign(theta) * height, 0 * height, -back], 1)


def hair_cover(theta, b, skull, softness):
    """How much hair grows at chart points, 0..1; skull: those of the loft; softness: half its border, mm."""
    angle = np.abs(theta)
    front = 73 - 2 * np.exp(-((angle / 0.3) ** 2)) + 5 * np.exp(-(((angle - 0.62) / 0.2) ** 2))
    edge = front + (34 - front) * smoothstep(0.74, 1.06, angle)
    edge = edge - 42 * smoothstep(1.06, 1.24, angle) - 48 * smoothstep(1.7, 2.3, angle)
    bare = np.where((angle > 1.0) & (angle < 2.4), smoothstep(1.08, 1.45, ear_frame(skull)[2]), 1)
    return smoothstep(-softness, softness, b - edge) * bare


def surface(theta, b):
    """Chart coordinates (N,) → the skin, mouth closed, eyes holes: points (N, 3), mm; (N,) how deep in the
    mouth each lies, 0..1; (N,) bool: above the mouth line."""
    skull = loft(theta, b)
    x, chart_y, z = skull.T
    face = 1 - smoothstep(1.05, 1.4, np.abs(theta))
    y, inside = close_mouth(x, chart_y)
    y = chart_y + (y - chart_y) * face
    z = z + _face_depth()(np.stack([theta * ARC, b], 1)) * (1 - smoothstep(1.5, 1.8, np.abs(theta)))
    front = (np.abs(theta) < 1.4) & (np.abs(b) < 118)
    skin = _lids(x, y, _nose(x, y, z + _lips(x, y)))
    z = np.where(front, z + (skin - z) * face, z)
    depth, rise = np.where(front, inside, 0), chart_y - mouth_line(x)
    z = z - 15 * depth**0.8
    y = y + np.where(rise >= 0, 1, -1) * 2.2 * depth * (1 - depth)
    point = np.stack([x, y, z], 1)
    out = (point - (0, 20, -38)) / np.linalg.norm(point - (0, 20, -38), axis=1, keepdims=True)
    hair = 5.0 * hair_cover(theta, b, skull, 13.0)[:, None]
    return point + _ear(theta, skull) + out * hair, depth, rise >= -1e-6
