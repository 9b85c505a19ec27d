"""Skin, brows, hair, eyes and the creases of an expression: what is painted on a head, in its UV space.

Everything is painted at chart coordinates, in the same millimetres as the surface, so lips, lids and brows
lie where the geometry has them. Colours are display colours (sRGB); the finished map is linear light.
"""

from functools import lru_cache
from types import SimpleNamespace

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from synthetic import surface as surf
from synthetic.mesh import CAP_ANGLE, EYE_ISLAND, EYE_ISLAND_RADIUS, uv_chart
from synthetic.surface import bump, smoothstep

SIZE, GAMMA = 512, 2.2
SKIN, BLUSH, SHADE = (0.83, 0.635, 0.535), (0.80, 0.50, 0.43), (0.55, 0.38, 0.32)
LIP, LASH = (0.70, 0.40, 0.37), (0.10, 0.07, 0.06)
# What differs between people: skin runs from fair to dark; hair and iris from fair to black.
SKINS = ((0.92, 0.78, 0.70), (0.88, 0.72, 0.62), (0.86, 0.69, 0.56), (0.74, 0.55, 0.43), (0.60, 0.42, 0.33))
HAIRS = ((0.07, 0.055, 0.05), (0.16, 0.105, 0.075), (0.27, 0.17, 0.10), (0.34, 0.29, 0.25))
IRISES = ((0.20, 0.12, 0.08), (0.33, 0.21, 0.12), (0.36, 0.34, 0.20), (0.30, 0.40, 0.48))
BROW = np.array([(9.5, 19.2, 3.4), (17, 22.2, 3.9), (26, 24.8, 3.6), (35, 26.4, 2.9), (44, 24.8, 2.2),
                 (53, 19.8, 1.0)])                                  # x, y, half thickness along a brow
# Soft shade where light seldom reaches: strength, centre (|x|, y), width.
SHADOWS = ((0.42, (19, 8.5), (7, 4.5)), (0.22, (33, 12), (14, 3.5)), (0.24, (27, -8), (11, 3.2)),
           (0.20, (14, -4), (3.6, 9)), (0.30, (18.4, -38), (1.8, 6)), (0.34, (0, -46), (13, 2.2)),
           (0.20, (23, -47), (2.6, 8)), (0.15, (0, -52), (2.0, 5)), (0.34, (0, -77.5), (15, 2.6)),
           (0.20, (29, -65), (2.5, 4)))
BLUSHES = ((0.55, (40, -25), (15, 13)), (0.40, (0, -34), (11, 8)), (0.30, (0, -92), (15, 9)))
# Lines that an action unit folds into the skin of both sides: the share of light that they take when deepest,
# half width in millimetres, and polylines; x, y are millimetres on the front of the mean head.
CREASES = {
    "AU1": (0.52, 1.5, (((0, 42), (14, 43), (27, 43)), ((0, 52), (15, 53), (30, 52)),
                        ((2, 34), (12, 36), (22, 36)))),
    "AU2": (0.44, 1.5, (((27, 43), (38, 42), (47, 38)), ((30, 52), (40, 50), (48, 46)))),
    "AU4": (0.72, 1.2, (((5.0, 14), (5.2, 22), (6.5, 33)), ((9.5, 20), (10.5, 27), (11.5, 33)))),
    "AU6": (0.58, 1.0, (((50, 5), (55, 8), (60, 12)), ((50, 1), (56, 1), (62, 1)),
                        ((49, -4), (54, -7), (59, -11)), ((20, -9), (30, -12), (41, -8)))),
    "AU7": (0.39, 0.9, (((20, -7), (31, -9.5), (42, -6)),)),
    "AU9": (0.68, 1.0, (((3, 9), (9, 4), (12, -2)), ((3, 5), (8, 0), (10, -6)),
                        ((16, -33), (20, -38), (23, -45)))),
    "AU12": (0.68, 1.6, (((18, -36), (24, -45), (32, -57), (35, -66)),)),
    "AU15": (0.65, 1.3, (((27, -66), (31, -72), (32, -79)), ((10, -82), (18, -81), (25, -83)))),
}


@lru_cache(maxsize=1)
def _places():
    """Where each texel lies, (SIZE, SIZE) each: u, v, chart, front x and closed-mouth y, mm, `front` 0..1."""
    centre = (np.arange(SIZE) + 0.5) / SIZE
    u, v = np.meshgrid(centre, 1 - centre)
    theta, level = uv_chart(u, v)
    loft = surf.loft(theta, level)                                  # (S, S, 3)
    x, chart_y, front = loft[..., 0], loft[..., 1], 1 - smoothstep(1.05, 1.35, np.abs(theta))
    closed, inside = surf.close_mouth(x, chart_y)
    y, inside = chart_y + (closed - chart_y) * front, inside * (front > 0.5)
    return SimpleNamespace(u=u, v=v, theta=theta, level=level, loft=loft, x=x, ax=np.abs(x), y=y,
                           inside=inside, front=front)


def _noise(rng, sigma):
    """Smooth noise (SIZE, SIZE) with deviation 1; `sigma` in texels, down and across."""
    down, across = np.broadcast_to(sigma, 2)
    field = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)), (0, 0), across, sigmaY=down,
                             borderType=cv2.BORDER_REFLECT)
    return field / field.std()


def _blend(image, colour, alpha):
    """Lay `colour` over `image` (..., 3) with `alpha` (...)."""
    alpha = np.clip(alpha, 0, 1)[..., None]
    return image * (1 - alpha) + np.asarray(colour) * alpha


def _between(colours, rng):
    """A colour at a random place along the list."""
    place = rng.uniform(0, len(colours) - 1)
    return np.array([np.interp(place, np.arange(len(colours)), channel) for channel in np.transpose(colours)])


def paint(rng):
    """One person's albedo, (SIZE, SIZE, 3) float32, linear light. `rng`: numpy Generator."""
    at = _places()
    skin, hair, iris = (_between(colours, rng) for colours in (SKINS, HAIRS, IRISES))
    hair = hair * min(1.0, 0.32 * skin.mean() / hair.mean())        # hair is darker than the skin round it
    image = _mouth(_shadows(_skin(rng, at), at), rng, at)
    image = _lids(image, at) * skin / SKIN                          # hair and eyes are not in the skin's tone
    image = _eyes(_hair(_brows(image, rng, at, hair), rng, at, hair), at, iris)
    return (np.clip(image, 0, 1) ** GAMMA).astype(np.float32)


def _skin(rng, at):
    image = np.ones((SIZE, SIZE, 3)) * SKIN
    blush = sum(strength * bump(at.ax, at.y, *where) for strength, *where in BLUSHES)
    image = _blend(image, BLUSH, blush * at.front)
    beard = smoothstep(-46, -62, at.y) * (1 - bump(at.x, at.y, (0, -62), (14, 8)))
    image = _blend(image, (0.70, 0.53, 0.46), 0.22 * at.front * beard)
    rough = (0.35 + 0.65 * at.front)[..., None]                     # the map is coarse off the face
    for strength, sigma in ((0.022, 12), (0.012, 3.2), (rng.uniform(0.015, 0.03), 1.0)):
        image *= 1 + rough * strength * _noise(rng, sigma)[..., None]
    image += rough * 0.012 * _noise(rng, 7.3)[..., None] * np.array([1.0, -0.6, -0.8])
    if rng.uniform() < 0.3:                                         # a shaved beard
        jaw = smoothstep(-66, -86, at.y) + smoothstep(38, 60, at.ax) * smoothstep(-35, -70, at.y)
        cover = np.clip(np.maximum(jaw, bump(at.ax, at.y, (10, -53), (11, 4))), 0, 1) * at.front
        cover = cover * smoothstep(-125, -105, at.y) * rng.uniform(0.2, 0.7) * (1 + 0.15 * _noise(rng, 0.7))
        image *= 1 - cover[..., None] * (0.28, 0.23, 0.18)
    for _ in range(rng.integers(0, 5)):                             # moles
        centre, size = rng.uniform((-55, -95), (55, 60)), np.full(2, rng.uniform(0.5, 1.0))
        image *= 1 - rng.uniform(0.3, 0.6) * (bump(at.x, at.y, centre, size) * at.front)[..., None]
    return image


def _shadows(image, at):
    """Ears, eye sockets, beside and under the nose, under lip and chin, nostrils."""
    t, s, q = surf.ear_frame(at.loft)
    side = smoothstep(1.0, 1.2, np.abs(at.theta)) * (1 - smoothstep(2.2, 2.4, np.abs(at.theta)))
    image = _blend(image, (0.80, 0.52, 0.45), 0.5 * side * (1 - smoothstep(0.9, 1.1, q)))
    image = _blend(image, SHADE, 0.75 * side * bump(s, t, (-0.2, -0.12), (0.26, 0.24)))
    image = _blend(image, SHADE, 0.6 * side * np.exp(-(((q - 1.1) / 0.06) ** 2)))
    image = _blend(image, SHADE, at.front * sum(k * bump(at.ax, at.y, *where) for k, *where in SHADOWS))
    image = _blend(image, SHADE, 0.45 * at.front * smoothstep(-107, -113, at.y))
    nostril = np.clip(1.9 * bump(at.ax, at.y, (6.7, -42.2), (2.9, 1.25)) - 0.25, 0, 0.95)
    return _blend(image, (0.16, 0.08, 0.07), at.front * nostril)


def _mouth(image, rng, at):
    rise = at.y - surf.mouth_line(at.x)
    upper, lower = surf.lip_heights(at.x)
    share = np.where(rise >= 0, rise / upper, -rise / lower)
    red = (1 - smoothstep(0.86, 1.10, share)) * (1 - smoothstep(24.4, 26.5, at.ax)) * at.front
    tone = np.where(rise >= 0, 0.93, 1.05) * (1 + 0.05 * _noise(rng, (4, 0.9)))
    image = _blend(image, np.array(LIP) * tone[..., None], rng.uniform(0.6, 0.95) * red)
    gleam = bump(at.x, -rise, (0, 4.6), (9, 1.6)) * (at.inside == 0)
    image = _blend(image, np.array(LIP) * 1.3, 0.30 * at.front * gleam)
    seam = np.exp(-((np.maximum(np.abs(rise) - 0.2, 0) / 0.8) ** 2)) * (1 - smoothstep(25, 27.5, at.ax))
    image = _blend(image, (0.30, 0.12, 0.11), 0.85 * seam * at.front)
    return _blend(image, (0.10, 0.035, 0.035), smoothstep(0.02, 0.25, at.inside))


def _lids(image, at):
    upper, lower = surf.lid_curves(at.x)
    t = (at.ax - surf.EYE_INNER[0]) / (surf.EYE_OUTER[0] - surf.EYE_INNER[0])
    span = smoothstep(-0.10, 0.06, t) * (1 - smoothstep(0.97, 1.10, t)) * at.front
    over, above, below = at.y > (upper + lower) / 2, at.y - upper, lower - at.y
    fold = np.exp(-(((above - 3.3) / 0.75) ** 2)) * smoothstep(0.0, 0.25, t) * (1 - smoothstep(0.95, 1.12, t))
    image = _blend(image, (0.42, 0.27, 0.23), 0.62 * fold * at.front)
    shade = np.exp(-((np.maximum(above, 0) / 2.8) ** 2))
    image = _blend(image, (0.70, 0.48, 0.42), 0.40 * span * over * shade)
    lash = np.exp(-((np.maximum(above, 0) / (0.75 + 0.55 * np.clip(t, 0, 1))) ** 2))
    image = _blend(image, LASH, 0.95 * lash * over * span)
    under = np.exp(-((np.maximum(below - 0.2, 0) / 0.55) ** 2)) * ~over * smoothstep(0.05, 0.5, t)
    image = _blend(image, (0.33, 0.20, 0.17), 0.70 * under * span)
    corner = bump(at.ax, at.y, (surf.EYE_INNER[0] + 0.6, surf.EYE_INNER[1]), (1.0, 0.9))
    return _blend(image, (0.78, 0.45, 0.42), 0.7 * corner * at.front)


def _strands(rng, sigma, row, column):
    """Smooth noise as `_noise`, periodic, read at other texels (row, column)."""
    return map_coordinates(_noise(rng, sigma), [row, column], order=1, mode="grid-wrap")


def _brows(image, rng, at, hair):
    """Hairs as streaks of noise along a slanted direction, the same on both sides; thick or thin."""
    centre, half = (np.interp(at.ax, BROW[:, 0], BROW[:, k]) for k in (1, 2))
    ends = smoothstep(8, 13, at.ax) * (1 - smoothstep(48, 54, at.ax))
    cover = ends * (1 - smoothstep(0.55, 1.25, np.abs(at.y - centre) / (half * rng.uniform(0.75, 1.2))))
    streaks = _strands(rng, (0.55, 2.4), 4.5 * (at.y - 0.55 * at.ax), 4.5 * at.ax)
    cover = at.front * np.clip(cover * (0.84 + 0.16 * streaks), 0, 0.92) * rng.uniform(0.75, 1.0)
    return _blend(image, hair * 1.05, cover)


def _hair(image, rng, at, hair):
    """Strands follow the chart's meridians; the border is soft at the sides and tufted over the forehead."""
    softness = 7.0 + 4.0 * smoothstep(0.8, 1.2, np.abs(at.theta))
    cover = surf.hair_cover(at.theta, at.level, at.loft, softness)
    across, down = at.theta * SIZE / (2 * np.pi), at.level * SIZE / 400
    fine = _strands(rng, (9.0, 0.55), down, across * 2 + 0.15 * down)
    tufts = _strands(rng, (14.0, 2.2), down, across + 0.2 * down)
    uneven = (0.16 * fine + 0.22 * tufts) * (1 - 0.75 * smoothstep(0.5, 0.75, np.abs(at.theta)))
    ragged = cover + uneven * (cover > 0.01) * (cover < 0.99)
    sheen = 0.32 * np.exp(-(((at.level - 118) / 26) ** 2)) + 0.10
    return _blend(image, hair * (1 + sheen + 0.20 * fine + 0.14 * tufts)[..., None],
                  0.97 * smoothstep(0.22, 0.72, ragged))


def _eyes(image, at, iris):
    """The two islands of the map that lie on the eyeballs: white, veins, iris, pupil, a glint."""
    p = np.where(at.u < 0.5, at.u - EYE_ISLAND[0], at.u - 1 + EYE_ISLAND[0]) / EYE_ISLAND_RADIUS
    q = (at.v - EYE_ISLAND[1]) / EYE_ISLAND_RADIUS
    radius = np.hypot(p, q)
    sine = np.sin(np.minimum(radius, 1) * CAP_ANGLE) / np.maximum(radius, 1e-9)
    x, y = surf.EYE_RADII[0] * sine * p, surf.EYE_RADII[1] * sine * q      # mm from the eye's pole
    r, around = np.hypot(x, y), np.arctan2(y, x)
    colour = _blend(np.ones((SIZE, SIZE, 3)) * (0.90, 0.87, 0.84), (0.80, 0.58, 0.52),
                    0.65 * smoothstep(8.5, 14.5, np.abs(x)))
    fibres = 1 + 0.16 * np.sin(23 * around) * np.sin(9 * around + 1) - 0.25 * smoothstep(3.0, 1.8, r)
    fibres = (fibres + 0.25 * smoothstep(-1, -5, y))[..., None]
    colour = _blend(colour, iris * fibres, 1 - smoothstep(5.5, 6.1, r))
    colour = _blend(colour, (0.10, 0.07, 0.05), 0.75 * np.exp(-(((r - 5.6) / 0.5) ** 2)))
    colour = _blend(colour, (0.03, 0.025, 0.025), 1 - smoothstep(2.1, 2.6, r))
    colour = colour * (1 - 0.42 * smoothstep(1.5, 5.5, y))[..., None]      # the upper lid's shade
    colour = _blend(colour, (1.0, 1.0, 1.0), 0.9 * (1 - smoothstep(0.5, 1.1, np.hypot(x - 1.7, y - 1.9))))
    return np.where((radius < 1.12)[..., None], colour, image)


@lru_cache(maxsize=1)
def crease_maps():
    """{action unit: (SIZE, SIZE) float32, share of light that its creases take at full strength}."""
    at, maps = _places(), {}
    x = np.where(at.front > 0.5, at.ax, 1e3)
    for name, (darkness, half_width, lines) in CREASES.items():
        cover = [_stroke(x, at.y, np.array(line, float), half_width) for line in lines]
        maps[name] = (darkness * np.max(cover, 0)).astype(np.float32)
    return maps


def _stroke(x, y, line, half_width):
    """A soft line through the points (N, 2), thin at both ends: cover in [0, 1] at x, y."""
    best, ways = np.zeros_like(x), np.diff(line, axis=0)
    lengths = np.linalg.norm(ways, axis=1)
    starts, total = np.concatenate([[0], np.cumsum(lengths)]), lengths.sum()
    for a, way, start, length in zip(line[:-1], ways, starts[:-1], lengths, strict=True):
        share = np.clip(((x - a[0]) * way[0] + (y - a[1]) * way[1]) / length**2, 0, 1)
        away = np.hypot(x - a[0] - share * way[0], y - a[1] - share * way[1])
        along = (start + share * length) / total
        best = np.maximum(best, np.exp(-((away / half_width) ** 2)) * np.sin(np.pi * (0.12 + 0.76 * along)))
    return best
