"""Skin, hair and the creases of an expression: the albedo maps of the synthetic subjects."""

from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

from synthetic import surface as surf
from synthetic.mesh import EYE_ISLAND, EYE_ISLAND_RADIUS
from synthetic.texture import HAIR, IRIS, SKIN, texel_chart

# Display colours. Skin runs from fair to dark; hair and iris from fair to black.
SKINS = ((0.92, 0.78, 0.70), (0.88, 0.72, 0.62), (0.86, 0.69, 0.56), (0.74, 0.55, 0.43),
         (0.60, 0.42, 0.33))
HAIRS = ((0.07, 0.055, 0.05), (0.16, 0.105, 0.075), (0.27, 0.17, 0.10), (0.34, 0.29, 0.25))
IRISES = ((0.20, 0.12, 0.08), (0.33, 0.21, 0.12), (0.36, 0.34, 0.20), (0.30, 0.40, 0.48))

# Lines that an action unit folds into the skin: darkness at 8 pixels of movement, half width in millimetres,
# and polylines; x, y are millimetres on the front of the mean head. Both sides get them.
CREASES = {
    "AU1": (0.26, 1.5, (((0, 42), (14, 43), (27, 43)), ((0, 52), (15, 53), (30, 52)),
                        ((2, 34), (12, 36), (22, 36)))),
    "AU2": (0.22, 1.5, (((27, 43), (38, 42), (47, 38)), ((30, 52), (40, 50), (48, 46)))),
    "AU4": (0.38, 1.2, (((5.0, 14), (5.2, 22), (6.5, 33)), ((9.5, 20), (10.5, 27), (11.5, 33)))),
    "AU6": (0.28, 1.0, (((50, 5), (55, 8), (60, 12)), ((50, 1), (56, 1), (62, 1)),
                        ((49, -4), (54, -7), (59, -11)), ((20, -9), (30, -12), (41, -8)))),
    "AU7": (0.20, 0.9, (((20, -7), (31, -9.5), (42, -6)),)),
    "AU9": (0.36, 1.0, (((3, 9), (9, 4), (12, -2)), ((3, 5), (8, 0), (10, -6)),
                        ((16, -33), (20, -38), (23, -45)))),
    "AU12": (0.36, 1.6, (((18, -36), (24, -45), (32, -57), (35, -66)),)),
    "AU15": (0.34, 1.3, (((27, -66), (31, -72), (32, -79)), ((10, -82), (18, -81), (25, -83)))),
}


@lru_cache(maxsize=2)
def _maps(size):
    """Where things lie in UV space, each (size, size): front x and y, mm; may be hair; iris; eyeball."""
    u, v, theta, level = texel_chart(size)
    loft = surf.loft(theta.ravel(), level.ravel())
    x, chart_y = loft[:, 0].reshape(u.shape), loft[:, 1].reshape(u.shape)
    face = 1 - surf.smoothstep(1.05, 1.35, np.abs(theta))
    y = chart_y + (surf.close_mouth(x, chart_y)[0] - chart_y) * face
    radius = np.hypot(np.minimum(u, 1 - u) - EYE_ISLAND[0], v - EYE_ISLAND[1]) / EYE_ISLAND_RADIUS
    on_eye = radius < 1.12
    may_be_hair = ((np.abs(theta) > 0.95) | (y > 11)) & ~on_eye             # not lashes, nostrils and mouth
    iris = np.where(on_eye, 1 - surf.smoothstep(0.24, 0.30, radius), 0)
    return np.where(face > 0.5, x, 1e3), y, may_be_hair, iris, on_eye


def subject_texture(texture, rng):
    """One person's albedo, (S, S, 3) float32, linear light: the sample head's paint in other colours.

    texture (S, S, 3): the sample head's, display colours. `rng`: numpy Generator.
    """
    size = len(texture)
    x, y, hairy, iris, on_eye = _maps(size)
    skin, hair = _between(SKINS, rng) * rng.uniform(0.97, 1.03, 3), _between(HAIRS, rng)
    hair = hair * min(1.0, 0.32 * skin.mean() / hair.mean())         # hair is darker than the skin round it
    dark = (np.mean(SKIN) - texture.mean(2)) / (np.mean(SKIN) - np.mean(HAIR))
    share = hairy * surf.smoothstep(0.25, 0.85, dark)
    shade = skin / SKIN + share[..., None] * (hair / HAIR - skin / SKIN)
    eyes = 1 + iris[..., None] * (_between(IRISES, rng) / IRIS - 1)
    painted = texture * np.where(on_eye[..., None], eyes, shade)
    blotches = _noise(rng, size, size / 24) * rng.uniform(0.006, 0.018)
    blotches = blotches + _noise(rng, size, 1.2) * rng.uniform(0.01, 0.025)
    red = _noise(rng, size, size / 36) * rng.uniform(0.003, 0.009)
    tone = 1 + blotches[..., None] + red[..., None] * (1.0, -0.5, -0.5)
    painted = painted * np.where(on_eye[..., None], 1, tone) * _moles(x, y, rng)[..., None]
    if rng.uniform() < 0.3:
        painted = painted * (1 - _stubble(x, y, rng, size)[..., None] * (0.28, 0.23, 0.18))
    return (np.clip(painted, 0, 1) ** 2.2).astype(np.float32)


@lru_cache(maxsize=2)
def crease_maps(size):
    """{action unit: (size, size) float32, share of light that its creases take at 8 pixels of movement}."""
    x, y = _maps(size)[:2]
    maps = {}
    for name, (darkness, half_width, lines) in CREASES.items():
        cover = np.zeros((size, size))
        for line in lines:
            cover = np.maximum(cover, _stroke(np.abs(x), y, np.array(line, float), half_width))
        maps[name] = (darkness * cover).astype(np.float32)
    return maps


def _stroke(x, y, line, half_width):
    """A soft line through the points (N, 2), thin at both ends: cover in [0, 1] at x, y."""
    best = np.zeros_like(x)
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    starts, total = np.concatenate([[0], np.cumsum(lengths)]), lengths.sum()
    for (a, b), start, length in zip(pairwise(line), starts[:-1], lengths, strict=True):
        share = np.clip(((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / length ** 2, 0, 1)
        away = np.hypot(x - a[0] - share * (b - a)[0], y - a[1] - share * (b - a)[1])
        along = (start + share * length) / total
        best = np.maximum(best, np.exp(-(away / half_width) ** 2) * np.sin(np.pi * (0.12 + 0.76 * along)))
    return best


def _between(colours, rng):
    """A colour at a random place along the list."""
    place = rng.uniform(0, len(colours) - 1)
    low = int(place)
    colours = np.array(colours)
    return colours[low] + (place - low) * (colours[low + 1] - colours[low])


def _noise(rng, size, sigma):
    """Smooth noise (size, size) with deviation 1."""
    field = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return field / field.std()


def _moles(x, y, rng):
    """A few dark spots: factor (S, S)."""
    spots = np.ones_like(x)
    for _ in range(rng.integers(0, 5)):
        centre = rng.uniform((-55, -95), (55, 60))
        away = np.hypot(x - centre[0], y - centre[1]) / rng.uniform(0.7, 1.4)
        spots *= 1 - rng.uniform(0.3, 0.6) * np.exp(-away ** 2)
    return spots


def _stubble(x, y, rng, size):
    """Shaved beard on chin, jaw and upper lip: strength (S, S) in [0, 1]."""
    jaw = surf.smoothstep(-66, -86, y) + surf.smoothstep(38, 60, np.abs(x)) * surf.smoothstep(-35, -70, y)
    lip = surf.bump(np.abs(x), y, (10, -53), (11, 4))
    face = surf.smoothstep(80, 60, np.abs(x)) * surf.smoothstep(-125, -105, y)
    grain = rng.uniform(0.2, 0.7) * (1 + 0.15 * _noise(rng, size, 0.7))
    return np.clip(np.maximum(jaw, lip), 0, 1) * face * grain
