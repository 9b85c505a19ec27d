"""The embedded head's paint: an albedo map in its UV space.

Everything is painted at chart coordinates, in the same millimetres as the surface, so lips, lids and brows
lie where the geometry has them. Colours are display colours (sRGB), as the renderer multiplies them with
the light.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from synthetic import surface as surf
from synthetic.mesh import CAP_ANGLE, EYE_ISLAND, EYE_ISLAND_RADIUS, uv_chart
from synthetic.surface import bump, smoothstep

SKIN, BLUSH, SHADE = (0.83, 0.635, 0.535), (0.80, 0.50, 0.43), (0.55, 0.38, 0.32)
LIP, HAIR, LASH = (0.70, 0.40, 0.37), (0.17, 0.115, 0.08), (0.10, 0.07, 0.06)
MOUTH_INSIDE, NOSTRIL = (0.10, 0.035, 0.035), (0.16, 0.08, 0.07)
SCLERA, IRIS, PUPIL = (0.90, 0.87, 0.84), (0.33, 0.21, 0.12), (0.03, 0.025, 0.025)
BROW = np.array(
    [(9.5, 19.2, 3.4), (17, 22.2, 3.9), (26, 24.8, 3.6), (35, 26.4, 2.9), (44, 24.8, 2.2), (53, 19.8, 1.0)]
)  # x, y, half thickness along a brow


def texel_chart(size):
    """Chart coordinates and UV of the texel centres, each (size, size); row 0 is the top, v near 1."""
    centre = (np.arange(size) + 0.5) / size
    u, v = np.meshgrid(centre, 1 - centre)
    theta, level = uv_chart(u, v)
    return u, v, theta, level


def _noise(rng, size, sigma):
    """Smooth noise with deviation 1; `sigma` in texels, a number or one per axis."""
    field = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return field / field.std()


def _blend(image, colour, alpha):
    """Lay `colour` over `image` (..., 3) with `alpha` (...)."""
    alpha = np.clip(alpha, 0, 1)[..., None]
    return image * (1 - alpha) + np.asarray(colour) * alpha


def paint(size=512, seed=7):
    """The albedo map, (size, size, 3) float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    u, v, theta, level = texel_chart(size)
    loft = surf.loft(theta.ravel(), level.ravel())
    x, chart_y = loft[:, 0].reshape(u.shape), loft[:, 1].reshape(u.shape)
    y, inside = surf.close_mouth(x, chart_y)
    front = 1 - smoothstep(1.05, 1.35, np.abs(theta))
    y, inside = chart_y + (y - chart_y) * front, inside * (front > 0.5)
    image = _skin(rng, size, x, y, front)
    image = _ears(image, loft, theta)
    image = _face_shadows(image, x, y, front)
    image = _mouth(image, rng, x, y, inside, front, size)
    image = _lids(image, x, y, front)
    image = _brows(image, rng, x, y, front, size)
    image = _hair(image, rng, theta, level, size)
    image = _eyeballs(image, u, v)
    return np.clip(image, 0, 1).astype(np.float32)


def _skin(rng, size, x, y, front):
    image = np.ones((size, size, 3)) * SKIN
    ax = np.abs(x)
    blush = (
        0.55 * bump(ax, y, (40, -25), (15, 13))
        + 0.40 * bump(x, y, (0, -34), (11, 8))
        + 0.30 * bump(x, y, (0, -92), (15, 9))
        + 0.12 * bump(x, y, (0, 45), (40, 20))
    )
    image = _blend(image, BLUSH, blush * front)
    image = _blend(
        image,
        (0.70, 0.53, 0.46),
        0.22 * front * smoothstep(-46, -62, y) * (1 - bump(x, y, (0, -62), (14, 8))),
    )
    rough = (0.35 + 0.65 * front)[..., None]  # the map is coarse off the face
    for strength, sigma in ((0.022, size / 42), (0.012, size / 160), (0.016, 0.9)):
        image *= 1 + rough * strength * _noise(rng, size, sigma)[..., None]
    tint = rough * 0.012 * _noise(rng, size, size / 70)[..., None] * np.array([1.0, -0.6, -0.8])
    return image + tint


def _ears(image, loft, theta):
    t, s, q = (value.reshape(theta.shape) for value in surf.ear_frame(loft[:, 1], loft[:, 2]))
    side = smoothstep(1.0, 1.2, np.abs(theta)) * (1 - smoothstep(2.2, 2.4, np.abs(theta)))
    image = _blend(image, (0.80, 0.52, 0.45), 0.5 * side * (1 - smoothstep(0.9, 1.1, q)))
    image = _blend(image, SHADE, 0.75 * side * bump(s, t, (-0.2, -0.12), (0.26, 0.24)))
    image = _blend(
        image, SHADE, 0.45 * side * np.exp(-(((q - 0.70) / 0.07) ** 2)) * smoothstep(-0.5, 0.1, s + t)
    )
    return _blend(image, SHADE, 0.6 * side * np.exp(-(((q - 1.1) / 0.06) ** 2)))


def _face_shadows(image, x, y, front):
    """Soft shade where light seldom reaches: eye sockets, beside and under the nose, under lip and chin."""
    ax = np.abs(x)
    shade = (
        0.42 * bump(ax, y, (19, 8.5), (7, 4.5))
        + 0.22 * bump(ax, y, (33, 12), (14, 3.5))
        + 0.24 * bump(ax, y, (27, -8), (11, 3.2))
        + 0.20 * bump(ax, y, (14, -4), (3.6, 9))
        + 0.30 * bump(ax, y, (18.4, -38), (1.8, 6))
        + 0.34 * bump(x, y, (0, -46), (13, 2.2))
        + 0.20 * bump(ax, y, (23, -47), (2.6, 8))
        + 0.15 * bump(x, y, (0, -52), (2.0, 5))
        + 0.34 * bump(x, y, (0, -77.5), (15, 2.6))
        + 0.20 * bump(ax, y, (29, -65), (2.5, 4))
    )
    image = _blend(image, SHADE, shade * front)
    image = _blend(image, SHADE, 0.45 * front * smoothstep(-107, -113, y))
    nostril = bump(ax, y, (6.7, -42.2), (2.9, 1.25))
    return _blend(image, NOSTRIL, front * np.clip(1.9 * nostril - 0.25, 0, 0.95))


def _mouth(image, rng, x, y, inside, front, size):
    rise = y - surf.mouth_line(x)
    upper, lower = surf.lip_heights(x)
    share = np.where(rise >= 0, rise / upper, -rise / lower)
    near = 1 - smoothstep(0.94, 1.02, np.abs(x) / surf.MOUTH_HALF)
    red = (1 - smoothstep(0.86, 1.10, share)) * near * front
    fold = 1 + 0.05 * _noise(rng, size, (4, 0.9))
    colour = np.where((rise >= 0)[..., None], np.array(LIP) * 0.93, np.array(LIP) * 1.05) * fold[..., None]
    image = _blend(image, colour, 0.88 * red)
    image = _blend(
        image, np.array(LIP) * 1.3, 0.30 * front * bump(x, -rise, (0, 4.6), (9, 1.6)) * (inside == 0)
    )
    seam = (
        np.exp(-((np.maximum(np.abs(rise) - 0.2, 0) / 0.8) ** 2))
        * (1 - smoothstep(0.96, 1.06, np.abs(x) / 26))
        * front
    )
    image = _blend(image, (0.30, 0.12, 0.11), 0.85 * seam)
    return _blend(image, MOUTH_INSIDE, smoothstep(0.02, 0.25, inside))


def _lids(image, x, y, front):
    ax = np.abs(x)
    upper, lower = surf.lid_curves(x)
    t = (ax - surf.EYE_INNER[0]) / (surf.EYE_OUTER[0] - surf.EYE_INNER[0])
    span = smoothstep(-0.10, 0.06, t) * (1 - smoothstep(0.97, 1.10, t)) * front
    middle = (upper + lower) / 2
    above, below = y - upper, lower - y
    fold = (
        np.exp(-(((above - 3.3) / 0.75) ** 2))
        * smoothstep(0.0, 0.25, t)
        * (1 - smoothstep(0.95, 1.12, t))
        * front
    )
    image = _blend(image, (0.42, 0.27, 0.23), 0.62 * fold)
    image = _blend(
        image, (0.70, 0.48, 0.42), 0.40 * span * (y > middle) * np.exp(-((np.maximum(above, 0) / 2.8) ** 2))
    )
    thick = 0.75 + 0.55 * np.clip(t, 0, 1)
    lash = np.where(y > middle, np.exp(-((np.maximum(above, 0) / thick) ** 2)), 0) * span
    image = _blend(image, LASH, 0.95 * lash)
    under = np.where(y <= middle, np.exp(-((np.maximum(below - 0.2, 0) / 0.55) ** 2)), 0) * span
    image = _blend(image, (0.33, 0.20, 0.17), 0.70 * under * smoothstep(0.05, 0.5, t))
    return _blend(
        image,
        (0.78, 0.45, 0.42),
        0.7 * bump(ax, y, (surf.EYE_INNER[0] + 0.6, surf.EYE_INNER[1]), (1.0, 0.9)) * front,
    )


def brow_cover(x, y):
    """How much brow there is at a face point, 0..1, without single hairs."""
    ax = np.abs(x)
    centre, half = np.interp(ax, BROW[:, 0], BROW[:, 1]), np.interp(ax, BROW[:, 0], BROW[:, 2])
    ends = smoothstep(BROW[0, 0] - 1.5, BROW[0, 0] + 3.5, ax) * (
        1 - smoothstep(BROW[-1, 0] - 5, BROW[-1, 0] + 1, ax)
    )
    return ends * (1 - smoothstep(0.55, 1.25, np.abs(y - centre) / half))


def _brows(image, rng, x, y, front, size):
    """Hairs as streaks of noise along a slanted direction, the same on both sides."""
    streaks = _sampled(_noise(rng, size, (0.55, 2.4)), 4.5 * (y - 0.55 * np.abs(x)), 4.5 * np.abs(x))
    cover = brow_cover(x, y)
    return _blend(image, np.array(HAIR) * 1.05, front * np.clip(cover * (0.84 + 0.16 * streaks), 0, 0.92))


def _sampled(field, row, column):
    """`field` (S, S), periodic, at other coordinates (in its pixels)."""
    return map_coordinates(field, np.stack([row, column]), order=1, mode="grid-wrap")


def _hair(image, rng, theta, level, size):
    """Strands follow the chart's meridians; the border is soft at the sides and tufted over the forehead."""
    softness = 7.0 + 4.0 * smoothstep(0.8, 1.2, np.abs(theta))
    cover = surf.hair_cover(theta.ravel(), level.ravel(), softness.ravel()).reshape(theta.shape)
    across, down = theta * size / (2 * np.pi), level * size / 400
    fine = _sampled(_noise(rng, size, (9.0, 0.55)), down, across * 2 + 0.15 * down)
    tufts = _sampled(_noise(rng, size, (14.0, 2.2)), down, across + 0.2 * down)
    uneven = (0.16 * fine + 0.22 * tufts) * (1 - 0.75 * smoothstep(0.5, 0.75, np.abs(theta)))
    ragged = cover + uneven * (cover > 0.01) * (cover < 0.99)
    sheen = 0.32 * np.exp(-(((level - 118) / 26) ** 2)) + 0.10
    colour = np.array(HAIR) * (1 + sheen + 0.20 * fine + 0.14 * tufts)[..., None]
    return _blend(image, colour, smoothstep(0.22, 0.72, ragged) * 0.97)


def _eyeballs(image, u, v):
    for mirror in (False, True):
        centre = 1 - EYE_ISLAND[0] if mirror else EYE_ISLAND[0]
        p, q = (u - centre) / EYE_ISLAND_RADIUS, (v - EYE_ISLAND[1]) / EYE_ISLAND_RADIUS
        radius = np.hypot(p, q)
        here = radius < 1.12
        sine = np.sin(np.minimum(radius, 1) * CAP_ANGLE) / np.maximum(radius, 1e-9)
        x, y = surf.EYE_RADII[0] * sine * p, surf.EYE_RADII[1] * sine * q
        image = np.where(here[..., None], _eye_colour(x, y), image)
    return image


def _eye_colour(x, y):
    """Colours of an eyeball seen from the front at (x, y) mm from its pole."""
    r, around = np.hypot(x, y), np.arctan2(y, x)
    colour = np.ones((*x.shape, 3)) * SCLERA
    colour = _blend(colour, (0.80, 0.58, 0.52), 0.65 * smoothstep(8.5, 14.5, np.abs(x)))
    fibres = 1 + 0.16 * np.sin(23 * around) * np.sin(9 * around + 1) - 0.25 * smoothstep(3.0, 1.8, r)
    colour = _blend(
        colour,
        np.array(IRIS) * (fibres + 0.25 * smoothstep(-1, -5, y))[..., None],
        1 - smoothstep(5.5, 6.1, r),
    )
    colour = _blend(colour, (0.10, 0.07, 0.05), 0.75 * np.exp(-(((r - 5.6) / 0.5) ** 2)))
    colour = _blend(colour, PUPIL, 1 - smoothstep(2.1, 2.6, r))
    colour = colour * (1 - 0.42 * smoothstep(1.5, 5.5, y))[..., None]
    return _blend(colour, (1.0, 1.0, 1.0), 0.9 * (1 - smoothstep(0.5, 1.1, np.hypot(x - 1.7, y - 1.9))))
