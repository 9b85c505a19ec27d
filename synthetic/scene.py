"""One synthetic person before the camera: light, head, glasses, background → frames.

The light is an environment of a few dozen directions; what the head hides from each of them is measured once,
so that nose, brows and chin throw soft shade. Shading is computed per vertex in linear light, the picture at
one and a half times its size, then filtered down, blurred, coded for display and given the camera's noise.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional

from deca.rasterizer import rasterize
from synthetic.basis import ACTIONS, EVEN, action_basis, shape_basis
from synthetic.glasses import Glasses, make_glasses
from synthetic.mesh import build_head
from synthetic.paint import GAMMA, crease_maps, paint
from synthetic.surface import smoothstep

WIDTH, HEIGHT = 280, 340                # pixels, near CASME II's cropped frames
LARGE = (round(1.5 * HEIGHT), round(1.5 * WIDTH))                   # the size that is drawn
SHAPE_SPREAD = 0.45                     # standard deviation of a shape coefficient
DIRECTIONS, VISIBILITY_SIZE = 72, 160
FOLDED = 0.3                            # share of an action's full strength that folds skin to two thirds
PIVOT = np.array((0.0, -78.0, -38.0))   # the head turns about the top of the neck, mm
WINDOW, SCREEN = (0.84, 0.90, 0.96), (0.16, 0.22, 0.34)             # colours that lenses mirror, linear light


@dataclass(frozen=True)
class Person:
    """What stays the same in all clips of one person. Colours are linear light."""

    rest: np.ndarray            # (V, 3) the head without expression, mm
    texture: np.ndarray         # (S, S, 3)
    lamp: np.ndarray            # (2,) azimuth and height of the main lamp, degrees
    light: dict                 # strengths of lamp, fill and surroundings: see `environment`
    gloss: float                # strength of the skin's highlights
    background: np.ndarray      # (2, 3) colours at the top and the bottom
    scale: float                # pixels per mm
    origin: np.ndarray          # (2,) where the head's origin lies in the picture, pixels
    blur: float                 # of the camera, pixels
    noise: float                # of the camera, display levels
    creased: float              # how deeply this skin folds, about 1
    glasses: Glasses | None


def sample_person(rng, glasses):
    """Draw one person. `rng`: numpy Generator; `glasses`: does this one wear glasses?"""
    head, basis = build_head(), shape_basis()
    shape = np.clip(rng.standard_normal(basis.shape[2]), -2, 2) * SHAPE_SPREAD
    rest = (head.points + basis @ shape).astype(np.float32)
    landmarks = rest[head.landmarks]
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    scale = float(rng.uniform(150, 168) / (high - low).mean())
    middle = np.array([WIDTH / 2, HEIGHT / 2 + 22]) + rng.uniform(-6, 6, 2)      # of the landmarks' box
    wall = rng.uniform(0.05, 0.55) * rng.uniform(0.85, 1.15, 3)
    light = {"lamp": rng.uniform(2.2, 4.0), "focus": rng.uniform(7, 12), "fill": rng.uniform(0.3, 0.9),
             "around": rng.uniform(0.35, 0.6), "warm": rng.uniform(-0.08, 0.08),
             "level": rng.uniform(0.8, 1.1)}
    return Person(rest, paint(rng), np.array([rng.uniform(-50, 50), rng.uniform(10, 50)]), light,
                  rng.uniform(0.02, 0.07), np.stack([wall, wall * rng.uniform(0.5, 0.9)]), scale,
                  middle - (low + high) / 2 * scale * (1, -1), rng.uniform(0.45, 1.0), rng.uniform(1.2, 3.0),
                  rng.uniform(0.6, 1.3), make_glasses(rest, landmarks, rng) if glasses else None)


@lru_cache(maxsize=1)
def _directions():
    """(DIRECTIONS, 3) unit vectors spread evenly over the part of the sphere before and beside the face."""
    count = int(DIRECTIONS / 0.65)
    z = 1 - (2 * np.arange(count) + 1) / count
    turn, radius = np.arange(count) * np.pi * (3 - np.sqrt(5)), np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], 1)[:DIRECTIONS]


def environment(person, lamp):
    """Light of a soft main lamp, a weaker one opposite and all around: (DIRECTIONS, 3) float32.

    lamp (3,): azimuth and height in degrees that it has moved from its place, and a factor on its strength.
    """
    light, directions = person.light, _directions()

    def at(azimuth, height, strength):
        azimuth, height = np.deg2rad([azimuth, height])
        main = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
        fill = np.array([-np.sign(person.lamp[0]) * 0.7, 0.1, 0.7])
        radiance = strength * light["lamp"] * np.exp(light["focus"] * (directions @ main - 1))
        radiance = radiance + light["fill"] * np.exp(4 * (directions @ fill - 1))
        return radiance[:, None] * (1 + light["warm"] * np.array([1.0, 0.1, -1.0])) + light["around"] * (
            0.75 + 0.25 * directions[:, 1:2])

    facing = np.clip(directions @ (0, 0.15, 0.99), 0, None)[:, None]
    exposure = light["level"] / (facing * at(*person.lamp, 1.0)).mean()           # the camera's, set once
    return torch.tensor(exposure * at(*(person.lamp + lamp[:2]), lamp[2]), dtype=torch.float32)


@lru_cache(maxsize=1)
def _visibility():
    """Share of each light direction that reaches each vertex of the mean head, (V, DIRECTIONS)."""
    head = build_head()
    vertices = torch.tensor(head.points, dtype=torch.float32)
    towards = torch.tensor(_directions(), dtype=torch.float32)                              # (D, 3)
    upright = torch.tensor([[0.1, 1.0, 0.2]]).expand_as(towards)
    side = functional.normalize(torch.linalg.cross(upright, towards))
    axes = torch.stack([side, -torch.linalg.cross(towards, side), -towards], 1)             # (D, 3, 3)
    centre = (vertices.amin(0) + vertices.amax(0)) / 2
    turned = torch.einsum("dij,vj->dvi", axes, (vertices - centre) / 190.0)
    depth = rasterize(turned, torch.from_numpy(head.faces), VISIBILITY_SIZE, VISIBILITY_SIZE).depth
    nearest = functional.grid_sample(depth.nan_to_num(posinf=2.0)[:, None], turned[:, :, None, :2],
                                     mode="nearest", align_corners=False)                   # (D, 1, V, 1)
    behind = (turned[..., 2] - nearest[:, 0, :, 0]) * 190.0                                 # (D, V), mm
    return 1 - ((behind - 3.0) / 6.0).clamp(0, 1).t().contiguous()


def _crossed(vertices, faces):
    """Normals (F, 3) of triangles, twice their area long."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def _lit(vertices, light, gloss):
    """Light that a head's vertices (V, 3) give back: diffuse factor and highlights, (V, 6)."""
    faces, normals = torch.from_numpy(build_head().faces), torch.zeros_like(vertices)
    cross = _crossed(vertices, faces)
    normals.index_add_(0, faces.t().reshape(-1), cross.repeat(3, 1))
    diffuse, shine = _reflected(functional.normalize(normals), light, 16, 0.12, _visibility())
    return torch.cat([diffuse, gloss * 4 * shine], 1) / DIRECTIONS


def _reflected(normals, light, power, wrap=0.0, visible=1.0):
    """Diffuse light and highlights, summed over the directions, of unit normals (N, 3): (N, 3) each.

    power: the highlights' sharpness; wrap: how far beyond shade's edge light reaches, as it does in skin.
    """
    towards = torch.tensor(_directions(), dtype=torch.float32)
    half = functional.normalize(towards + torch.tensor([0.0, 0.0, 1.0]))
    diffuse = ((normals @ towards.t() + wrap) / (1 + wrap)).clamp(min=0) * visible
    shine = (normals @ half.t()).clamp(min=0).pow(power) * visible
    return diffuse @ light, shine @ light


def posed(person, actions, turns, uneven=0.0):
    """Heads of one person, (T, V, 3) float32, mm.

    actions (T, m): coefficients in the order of `basis.ACTIONS`; turns (T, 3): rotation vectors, radians,
    about the top of the neck; uneven: how much more the face moves at x > 0 than at x < 0, -1..1.
    """
    head, basis, actions = build_head(), action_basis(), np.asarray(actions, np.float32)
    sided = np.float32(uneven) * np.tanh(head.points[:, :1] / 10.0)
    moved = person.rest + np.einsum("vcm,tm->tvc", basis, actions)
    moved += sided * np.einsum("vcm,tm->tvc", basis[..., :-EVEN], actions[:, :-EVEN])
    turned = (moved - PIVOT) @ Rotation.from_rotvec(turns).as_matrix().transpose(0, 2, 1) + PIVOT
    stays = smoothstep(-110, -185, head.level)[:, None]                         # the neck's foot
    return (turned * (1 - stays) + moved * stays).astype(np.float32)


def project(points, person, shift):
    """Points (T, N, 3) mm → pixels (T, N, 2), x right, y down. shift (T, 2): the head's drift, pixels."""
    return points[..., :2] * person.scale * (1, -1) + (person.origin + shift)[:, None]


def film(person, actions, turns, shift, lamp, rng, uneven=0.0):
    """The frames of one clip, (T, HEIGHT, WIDTH, 3) uint8 RGB.

    actions, turns, uneven: as for `posed`; shift (T, 2): pixels; lamp (T, 3): as for `environment`; `rng`
    draws the camera's noise.
    """
    heads = posed(person, actions, turns, uneven)
    rotations, frames = Rotation.from_rotvec(turns).as_matrix(), []
    for t, vertices in enumerate(heads):
        light = environment(person, lamp[t])
        image, depth = _draw_head(person, vertices, actions[t], shift[t], light)
        if person.glasses is not None:
            _wear(image, depth, person, rotations[t], shift[t], light)
        frames.append(_camera(image.numpy(), person, rng))
    return np.stack(frames)


def _seen(vertices, faces, person, shift):
    """What the camera sees of a mesh: face (H, W), -1 for none, barycentrics (H, W, 3), depth (H, W)."""
    flat = (2 * project(vertices[None], person, shift[None])[0] + 1) / (WIDTH, HEIGHT) - 1
    screen = np.column_stack([flat, -vertices[:, 2] * person.scale / WIDTH])
    seen = rasterize(torch.tensor(screen[None], dtype=torch.float32), torch.from_numpy(faces), *LARGE)
    return seen.face_index[0], seen.bary[0], seen.depth[0]


def _draw_head(person, vertices, actions, shift, light):
    """The person without glasses in linear light (H, W, 3), and the depth (H, W)."""
    head = build_head()
    face, bary, depth = _seen(vertices, head.faces, person, shift)
    y, x = np.linspace(0, 1, LARGE[0])[:, None, None], np.linspace(-1, 1, LARGE[1])[None, :, None]
    top, bottom = person.background
    image = torch.tensor((top + (bottom - top) * y) * (1 - 0.15 * x**2), dtype=torch.float32)   # a plain wall
    shade = np.ones(person.texture.shape[:2], np.float32)
    for name, strength in zip(ACTIONS, actions, strict=True):
        if name in crease_maps() and strength > 0:
            shade *= 1 - np.float32(person.creased * (1 - np.exp(-strength / FOLDED))) * crease_maps()[name]
    hit = face >= 0
    corners = torch.from_numpy(head.faces)[face[hit]]                                       # (n, 3)
    rows = torch.cat([_lit(torch.from_numpy(vertices), light, person.gloss),
                      torch.tensor(head.uv, dtype=torch.float32)], 1)                       # (V, 6 + 2)
    at = torch.einsum("nc,ncs->ns", bary[hit], rows[corners])                               # (n, 8)
    texture = torch.from_numpy(person.texture * shade[..., None]).permute(2, 0, 1)[None]    # → (1, 3, S, S)
    grid = torch.stack([2 * at[:, 6] - 1, 1 - 2 * at[:, 7]], 1)[None, None]                 # (1, 1, n, 2)
    albedo = functional.grid_sample(texture, grid, padding_mode="border", align_corners=False)[0, :, 0].t()
    image[hit] = albedo * at[:, :3] + at[:, 3:6]                                            # (3, n) → (n, 3)
    return image, depth


def _wear(image, depth, person, rotation, shift, light):
    """Draw the glasses over `image` (H, W, 3), in place, where they are nearer than `depth` (H, W)."""
    glasses = person.glasses
    frame, lens = ((points - PIVOT) @ rotation.T + PIVOT for points in (glasses.frame, glasses.lens))
    face, bary, near = _seen(lens, glasses.lens_faces, person, shift)
    hit = (face >= 0) & (near < depth)
    normals = torch.tensor((glasses.lens_normals @ rotation.T)[glasses.lens_faces], dtype=torch.float32)
    normals = functional.normalize(torch.einsum("nc,ncs->ns", bary[hit], normals[face[hit]]))
    tint = torch.tensor(glasses.tint, dtype=torch.float32)
    image[hit] = image[hit] * tint + glasses.reflection * _mirrored(normals, light)
    face, _, near = _seen(frame, glasses.frame_faces, person, shift)
    hit = (face >= 0) & (near < depth)
    normals = functional.normalize(_crossed(torch.tensor(frame, dtype=torch.float32), glasses.frame_faces))
    normals = normals * torch.where(normals[:, 2:] < 0, -1.0, 1.0)
    diffuse, shine = (part / DIRECTIONS for part in _reflected(normals, light, 32))
    colour = torch.tensor(glasses.colour, dtype=torch.float32)
    image[hit] = (diffuse * colour + 0.12 * shine)[face[hit]]


def _mirrored(normals, light):
    """What lenses with unit normals (n, 3) mirror, linear light: a window, a computer's screen, the room."""
    towards = 2 * normals[:, 2:] * normals - normals.new_tensor([0.0, 0.0, 1.0])     # where the camera looks
    azimuth = torch.atan2(towards[:, 0], towards[:, 2]).rad2deg()
    height = towards[:, 1].clamp(-1, 1).asin().rad2deg()
    weight = light.sum(1).numpy() ** 4
    x, y, z = weight @ _directions() / weight.sum()                                  # the lamp is a window

    def pane(across, up, half):
        across, up = (azimuth - across).abs(), (height - up).abs()
        bar = 0.3 + 0.7 * ((across - 0.4) / 0.8).clamp(0, 1)
        return (((half[0] - across) / 2.5).clamp(0, 1) * ((half[1] - up) / 2.5).clamp(0, 1) * bar)[:, None]

    window = pane(0.5 * np.rad2deg(np.arctan2(x, z)), 0.6 * np.rad2deg(np.arcsin(y)), (9, 8))
    bright = window * torch.tensor(WINDOW) + pane(2, -13, (8, 4.5)) * torch.tensor(SCREEN)
    return 0.012 + 0.02 * (1 + towards[:, 1:2]) + light.mean() * bright


def _camera(picture, person, rng):
    """Linear light (H, W, 3) → a frame (HEIGHT, WIDTH, 3) uint8: blur, display code, noise."""
    small = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), person.blur)
    shown = 255 * np.clip(small, 0, 1) ** (1 / GAMMA)
    noise = rng.standard_normal((HEIGHT, WIDTH, 1)) + 0.6 * rng.standard_normal(shown.shape)
    return np.clip(np.rint(shown + person.noise * noise), 0, 255).astype(np.uint8)
