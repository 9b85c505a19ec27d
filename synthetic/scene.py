"""One synthetic person before the camera: light, head, glasses, background → frames.

The light is an environment of a few dozen directions; what the head hides from each of them is measured once,
so that nose, brows and chin throw soft shade. Shading is computed per vertex in linear light, the picture at
one and a half times its size, then filtered down, coded for display and given the camera's noise.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch.nn import functional

from deca.flame import FLAME, rotation_matrices
from deca.rasterizer import rasterize
from deca.renderer import Renderer
from synthetic.glasses import Glasses, make_glasses
from synthetic.head import sample_head
from synthetic.paint import crease_maps, subject_texture

WIDTH, HEIGHT = 280, 340                # pixels, near CASME II's cropped frames
SUPERSAMPLE = 1.5
AT_ONCE = 4                             # frames in memory at a time
SHAPE_SPREAD = 0.45                     # standard deviation of a shape coefficient
CROP_FACTOR = 1.1 * 1.25                # the crop's side over the landmarks' box (SPEC section 2)
DIRECTIONS, VISIBILITY_SIZE = 72, 160
GAMMA = 2.2


@dataclass(frozen=True)
class Subject:
    """What stays the same in all clips of one person. Colours are linear light."""

    shape: np.ndarray           # (n_shape,) coefficients
    texture: np.ndarray         # (S, S, 3)
    light: np.ndarray           # (DIRECTIONS, 3) radiance from each direction of `light_directions`
    gloss: float                # strength of the skin's highlights
    background: np.ndarray      # (2, 3) colours at the top and the bottom
    scale: float                # pixels per metre
    origin: np.ndarray          # (2,) where the head's origin lies in the picture, pixels
    noise: float                # camera noise, display levels
    glasses: Glasses | None


class Stage:
    """The sample head with everything that rendering needs of it; made once per process (`stage()`)."""

    def __init__(self):
        self.head = sample_head()
        self.flame = FLAME(self.head)
        self.renderer = Renderer(self.head)         # for its vertex normals
        towards = self._facing()
        self.faces = torch.from_numpy(self.head.faces[towards])
        self.uv_faces = torch.from_numpy(self.head.uv_faces[towards])
        self.uv = torch.from_numpy(self.head.uv)
        self.directions = light_directions()
        self.visible = self._visibility()           # (V, DIRECTIONS)

    def pose(self, shape, expressions, poses):
        """shape (n,), expressions (T, m), poses (T, 6) numpy → `deca.flame.Posed` of T heads."""
        shape = torch.tensor(shape, dtype=torch.float32).expand(len(poses), -1)
        return self.flame(shape, torch.tensor(expressions, dtype=torch.float32),
                          torch.tensor(poses, dtype=torch.float32))

    def _facing(self):
        """Which triangles (F,) can face the camera when the head turns by a few degrees."""
        a, b, c = (self.head.template[self.head.faces[:, k]] for k in range(3))
        cross = np.cross(b - a, c - a)
        return cross[:, 2] > -0.25 * np.linalg.norm(cross, axis=1)

    @torch.no_grad()
    def _visibility(self):
        """Share of each light direction that reaches each vertex of the mean head, (V, DIRECTIONS)."""
        vertices = torch.from_numpy(self.head.template) * 1000
        centre = (vertices.amin(0) + vertices.amax(0)) / 2
        towards = torch.from_numpy(self.directions).float()                                # (D, 3)
        upright = torch.tensor([[0.1, 1.0, 0.2]]).expand_as(towards)
        side = functional.normalize(torch.linalg.cross(upright, towards))
        up = torch.linalg.cross(towards, side)
        axes = torch.stack([side, -up, -towards], 1)                                       # (D, 3, 3)
        turned = torch.einsum("dij,vj->dvi", axes, (vertices - centre) / 190.0)
        faces = torch.from_numpy(self.head.faces)
        depth = rasterize(turned, faces, VISIBILITY_SIZE, VISIBILITY_SIZE).depth
        depth = depth.nan_to_num(posinf=2.0)[:, None]                                      # (D, 1, S, S)
        places = turned[:, :, None, :2]                                                    # (D, V, 1, 2)
        nearest = functional.grid_sample(depth, places, mode="nearest", align_corners=False)
        behind = (turned[..., 2] - nearest[:, 0, :, 0]) * 190.0                            # (D, V), mm
        return 1 - ((behind - 3.0) / 6.0).clamp(0, 1).t().contiguous()


@lru_cache(maxsize=1)
def stage():
    """The one `Stage` of this process."""
    return Stage()


def light_directions():
    """(DIRECTIONS, 3) unit vectors spread evenly over the part of the sphere before and beside the face."""
    count = int(DIRECTIONS / 0.65)
    z = 1 - (2 * np.arange(count) + 1) / count
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], 1)[:DIRECTIONS]


def sample_subject(rng, glasses):
    """Draw one person. `rng`: numpy Generator; `glasses`: does this one wear glasses?"""
    world = stage()
    shape = np.clip(rng.standard_normal(world.head.shape_basis.shape[2]), -2, 2) * SHAPE_SPREAD
    neutral = world.pose(shape, np.zeros((1, 1)), np.zeros((1, 6)))
    landmarks = neutral.landmarks3d[0].numpy()
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    scale = rng.uniform(150, 168) / (high - low).mean()
    middle = np.array([WIDTH / 2, HEIGHT / 2 + 22]) + rng.uniform(-6, 6, 2)      # of the landmarks' box
    origin = middle - (low + high) / 2 * scale * (1, -1)
    texture = subject_texture(world.head.texture, rng)
    wall = rng.uniform(0.05, 0.55) * rng.uniform(0.85, 1.15, 3)
    wall = np.stack([wall, wall * rng.uniform(0.5, 0.9)])
    light, gloss, noise = _light(rng), rng.uniform(0.02, 0.07), rng.uniform(0.8, 1.8)
    worn = make_glasses(neutral.verts[0].numpy(), landmarks, rng) if glasses else None
    return Subject(shape, texture, light, gloss, wall, float(scale), origin, noise, worn)


def _light(rng):
    """A soft main lamp, a weaker one opposite and light from all around: (DIRECTIONS, 3)."""
    directions = light_directions()
    azimuth, height = np.deg2rad(rng.uniform(-50, 50)), np.deg2rad(rng.uniform(10, 50))
    lamp = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    fill = np.array([-np.sign(lamp[0]) * 0.7, 0.1, 0.7])
    strength = rng.uniform(2.2, 4.0) * np.exp(rng.uniform(7, 12) * (directions @ lamp - 1))
    strength += rng.uniform(0.3, 0.9) * np.exp(4 * (directions @ fill - 1))
    around = rng.uniform(0.35, 0.6) * (0.75 + 0.25 * directions[:, 1])
    warm = 1 + rng.uniform(-0.08, 0.08) * np.array([1.0, 0.1, -1.0])
    light = strength[:, None] * warm + around[:, None]
    facing = np.clip(directions @ (0, 0.15, 0.99), 0, None)
    return light * rng.uniform(0.85, 1.1) / (facing[:, None] * light).mean()


def project_pixels(points, subject, shift):
    """Points (T, N, 3) metres → (T, N, 2) pixels, x right, y down. shift (T, 2): the head's drift, pixels."""
    flat = points[..., :2] * subject.scale * (1, -1)
    return flat + (subject.origin + shift)[:, None]


def crop_scale(pixels):
    """Pixels of the 224-pixel crop (SPEC section 2) per pixel of the picture, from landmarks (68, 2)."""
    return 224 / (np.ptp(pixels, axis=0).mean() * CROP_FACTOR)


@torch.no_grad()
def render_clip(subject, expressions, poses, shift, creases, rng):
    """The frames of one clip.

    expressions (T, m): coefficients in the order of the head's directions; poses (T, 6) radians; shift (T, 2)
    pixels; creases: {action unit: (T,) strength, 1 = 8 pixels of movement}; `rng` draws the camera's noise.
    Returns: (T, HEIGHT, WIDTH, 3) uint8 RGB.
    """
    frames = []
    for start in range(0, len(poses), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        folds = {name: values[part] for name, values in creases.items()}
        linear = _picture(subject, expressions[part], poses[part], shift[part], folds)
        frames += [_camera(picture, subject, rng) for picture in linear]
    return np.stack(frames)


def _picture(subject, expressions, poses, shift, creases):
    """Linear light at SUPERSAMPLE times the size, (T, H, W, 3) float32."""
    world = stage()
    posed = world.pose(subject.shape, expressions, poses)
    height, width = round(HEIGHT * SUPERSAMPLE), round(WIDTH * SUPERSAMPLE)
    seen = rasterize(_screen(posed.verts, subject, shift), world.faces, height, width)
    image = _background(subject, len(poses))
    light = torch.tensor(subject.light, dtype=torch.float32)
    for t in range(len(poses)):
        texture = _creased(subject.texture, {name: values[t] for name, values in creases.items()})
        pixels = (seen.face_index[t].flatten() >= 0).nonzero()[:, 0]                       # (n,)
        face = seen.face_index[t].flatten()[pixels]
        bary = seen.bary[t].flatten(0, 1)[pixels]                                          # (n, 3)
        diffuse, gloss = _lit(world, posed.verts[t:t + 1], light, subject.gloss)
        rows = torch.cat([diffuse, gloss], 1)[world.faces[face]]                           # (n, 3 corners, 6)
        shade = torch.einsum("nc,ncs->ns", bary, rows)
        uv = torch.einsum("nc,ncs->ns", bary, world.uv[world.uv_faces[face]])
        image[t].flatten(0, 1)[pixels] = _sampled(texture, uv) * shade[:, :3] + shade[:, 3:]
    if subject.glasses is not None:
        _wear(image, seen.depth, subject, posed, poses, shift)
    return image.numpy()


def _screen(vertices, subject, shift):
    """Posed vertices (T, V, 3) → image space of the rasteriser, [-1, 1] over the picture."""
    pixels = project_pixels(vertices.numpy(), subject, shift)
    flat = (2 * pixels + 1) / (WIDTH, HEIGHT) - 1        # the first pixel's centre is (0, 0)
    depth = -vertices[..., 2:] * subject.scale / WIDTH
    return torch.cat([torch.tensor(flat, dtype=torch.float32), depth], 2)


def _lit(world, vertices, light, gloss):
    """Light that a head's vertices (1, V, 3) give back: diffuse factor and highlights, each (V, 3)."""
    normals = world.renderer.vertex_normals(vertices)[0]                                   # (V, 3)
    towards = torch.tensor(world.directions, dtype=torch.float32)
    half = functional.normalize(towards + torch.tensor([0.0, 0.0, 1.0]), dim=1)
    wrap = 0.12                                      # light that the skin passes on beyond the edge of shade
    diffuse = ((normals @ towards.t() + wrap) / (1 + wrap)).clamp(min=0) * world.visible
    shine = (normals @ half.t()).clamp(min=0) .pow(16) * world.visible
    return diffuse @ light / len(towards), gloss * 4 * (shine @ light) / len(towards)


def _creased(texture, folds):
    """The texture (S, S, 3) with the creases of {action unit: strength}, (1, 3, S, S)."""
    maps = crease_maps(len(texture))
    shade = np.ones(texture.shape[:2], np.float32)
    for name, strength in folds.items():
        if name in maps:
            shade *= 1 - np.float32(strength) * maps[name]
    return torch.from_numpy(texture * shade[..., None]).permute(2, 0, 1)[None]      # (S, S, 3) → (1, 3, S, S)


def _sampled(texture, uv):
    """Bilinear samples (n, 3) of a texture (1, 3, S, S) at uv (n, 2)."""
    grid = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], 1)[None, None]                # (1, 1, n, 2)
    found = functional.grid_sample(texture, grid, padding_mode="border", align_corners=False)
    return found[0, :, 0].t()                                                          # (1, 3, 1, n) → (n, 3)


def _background(subject, count):
    """A plain wall, a little darker towards the bottom and the edges: (count, H, W, 3)."""
    height, width = round(HEIGHT * SUPERSAMPLE), round(WIDTH * SUPERSAMPLE)
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    top, bottom = subject.background
    wall = (top + (bottom - top) * y[..., None]) * (1 - 0.15 * x[..., None] ** 2)          # (H, W, 3)
    return torch.tensor(wall, dtype=torch.float32).repeat(count, 1, 1, 1)


def _wear(image, depth, subject, posed, poses, shift):
    """Draw the glasses over `image` (T, H, W, 3), in place, where they are nearer than `depth` (T, H, W)."""
    glasses, light = subject.glasses, torch.tensor(subject.light, dtype=torch.float32)
    turns = rotation_matrices(torch.tensor(poses[:, :3], dtype=torch.float32))             # (T, 3, 3)
    root = posed.root[:, None]

    def screen(points):
        turned = (torch.tensor(points, dtype=torch.float32) - root) @ turns.transpose(1, 2) + root
        return _screen(turned, subject, shift)                                             # (T, N, 3)

    frame, lens = screen(glasses.frame), screen(glasses.lens)
    top, bottom = _rows(torch.cat([frame, lens], 1), image.shape[1])
    part, part_depth = image[:, top:bottom], depth[:, top:bottom]
    for points, faces, is_lens in ((lens, glasses.lens_faces, True), (frame, glasses.frame_faces, False)):
        faces = torch.from_numpy(faces)
        seen = rasterize(_on_rows(points, top, bottom, image.shape[1]), faces, bottom - top, image.shape[2])
        near = (seen.face_index >= 0) & (seen.depth < part_depth)
        time, face, bary = near.nonzero()[:, 0], seen.face_index[near], seen.bary[near]   # (n,), (n,), (n, 3)
        if is_lens:
            normals = torch.tensor(glasses.lens_normals, dtype=torch.float32)[faces[face]]  # (n, 3, 3)
            normals = functional.normalize(torch.einsum("nc,ncs->ns", bary, normals), dim=1)
            normals = torch.einsum("nij,nj->ni", turns[time], normals)
            tint = torch.tensor(glasses.tint, dtype=torch.float32)
            part[near] = part[near] * tint + glasses.reflection * _mirrored(normals, light)
        else:
            part[near] = _plastic(_facets(points, faces), glasses.colour, light)[time, face]


def _rows(points, height):
    """The rows [top, bottom) of a picture of `height` rows that image-space points (T, N, 3) lie in."""
    low, high = float(points[..., 1].min()), float(points[..., 1].max())
    top = int(np.clip((low + 1) / 2 * height - 2, 0, height - 1))
    return top, int(np.clip((high + 1) / 2 * height + 3, top + 1, height))


def _on_rows(points, top, bottom, height):
    """Image-space points (T, N, 3) of a whole picture → those of its rows [top, bottom)."""
    low, high = 2 * top / height - 1, 2 * bottom / height - 1
    y = (points[..., 1:2] - low) / (high - low) * 2 - 1
    return torch.cat([points[..., :1], y, points[..., 2:]], 2)                             # 3 x (T, N, 1)


def _facets(points, faces):
    """Normals (T, F, 3) towards the camera, y up, of triangles with image-space corners (T, N, 3)."""
    a, b, c = ((points * points.new_tensor([WIDTH, -HEIGHT, -WIDTH]))[:, faces[:, k]] for k in range(3))
    normals = functional.normalize(torch.linalg.cross(b - a, c - a, dim=2), dim=2)
    return normals * torch.where(normals[..., 2:] < 0, -1.0, 1.0)


def _mirrored(normals, light):
    """What lenses with unit normals (n, 3) mirror: bright windows in a dim room, (n, 3) linear light."""
    towards = 2 * normals[:, 2:] * normals - normals.new_tensor([0.0, 0.0, 1.0])     # where the camera looks
    azimuth = torch.atan2(towards[:, 0], towards[:, 2]).rad2deg()
    height = towards[:, 1].clamp(-1, 1).asin().rad2deg()
    x, y, z = light_directions()[int(light.sum(1).argmax())]                         # the lamp is a window
    across = (azimuth - 0.5 * float(np.rad2deg(np.arctan2(x, z)))).abs()
    up = (height - 0.6 * float(np.rad2deg(np.arcsin(y)))).abs()
    pane = ((9 - across) / 2.5).clamp(0, 1) * ((8 - up) / 2.5).clamp(0, 1)
    bar = ((across - 0.4) / 0.8).clamp(0, 1)
    room = 0.012 + 0.02 * (1 + towards[:, 1:2])
    return room + (pane * (0.3 + 0.7 * bar))[:, None] * torch.tensor([0.42, 0.45, 0.48])


def _plastic(normals, colour, light):
    """Frame surface: its colour under the light, with a narrow highlight; normals (..., 3) → (..., 3)."""
    towards = torch.tensor(light_directions(), dtype=torch.float32)
    half = functional.normalize(towards + torch.tensor([0.0, 0.0, 1.0]), dim=1)
    diffuse = (normals @ towards.t()).clamp(min=0) @ light / len(towards)
    shine = (normals @ half.t()).clamp(min=0).pow(32) @ light / len(towards)
    return diffuse * torch.tensor(colour, dtype=torch.float32) + 0.12 * shine


def _camera(picture, subject, rng):
    """Linear light (H, W, 3) at SUPERSAMPLE → a frame (HEIGHT, WIDTH, 3) uint8: blur, display code, noise."""
    small = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 0.45)
    shown = 255 * np.clip(small, 0, 1) ** (1 / GAMMA)
    noise = rng.standard_normal((HEIGHT, WIDTH, 1)) + 0.6 * rng.standard_normal(shown.shape)
    return np.clip(np.rint(shown + subject.noise * noise), 0, 255).astype(np.uint8)
