"""The head as a textured mesh for other programs: OBJ, its material and its texture from the photograph."""

import cv2
import numpy as np
import torch

from common.files import write_text
from common.images import write_image
from deca.rasterizer import rasterize
from deca.renderer import project

TEXTURE_SIZE = 512
FACING = (0.15, 0.45)       # cosines to the viewer between which a texel goes from unseen to seen
DEPTH_SLACK = 0.02          # image units: a texel this far behind what is seen there still counts as seen


def write_obj(folder, name, vertices, head, texture):
    """Write `name`.obj, `name`.mtl and `name`.png into `folder`.

    vertices (V, 3), metres; head: `HeadModel`, for its triangles and UV; texture uint8 (S, S, 3).
    Raises: InputError when a file cannot be written.
    """
    write_image(folder / f"{name}.png", texture)
    material = ["newmtl skin", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {name}.png"]
    write_text(folder / f"{name}.mtl", "\n".join(material) + "\n")
    lines = [f"mtllib {name}.mtl", "usemtl skin"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in np.asarray(vertices).tolist()]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in head.uv.tolist()]
    corners = np.stack([head.faces, head.uv_faces], axis=2) + 1               # (F, 3 corners, vertex and UV)
    lines += ["f " + " ".join(f"{vertex}/{uv}" for vertex, uv in face) for face in corners.tolist()]
    write_text(folder / f"{name}.obj", "\n".join(lines) + "\n")


def photo_texture(renderer, head, vertices, cam, photo, matrix):
    """The head's texture from a photograph: uint8 (512, 512, 3).

    vertices (1, V, 3) posed, cam (1, 3): the head as it stands in the 224-pixel crop. photo: uint8 (H, W, 3).
    matrix (2, 3): photo pixels → crop pixels (`deca.landmarks.square_transform`). What the camera did not see
    is filled smoothly from what it saw.
    """
    size, crop_size = TEXTURE_SIZE, renderer.image_size
    projected = project(vertices, cam).cpu()
    facing = -renderer.vertex_normals(project(vertices, cam)).cpu()[0, :, 2]   # 1: straight to the viewer
    uv = torch.tensor(head.uv) * torch.tensor([2.0, -2.0]) + torch.tensor([-1.0, 1.0])
    flat = torch.cat([uv, torch.ones(len(uv), 1)], dim=1)[None]                # (1, T, 3)
    texels = rasterize(flat, torch.tensor(head.uv_faces), size, size)
    covered = (texels.face_index[0] >= 0).numpy()                              # (S, S)
    corners = torch.tensor(head.faces)[texels.face_index[0].clamp(min=0)]      # (S, S, 3)
    weights = texels.bary[0][..., None]                                        # (S, S, 3, 1)
    place = (projected[0][corners] * weights).sum(2).numpy()                   # (S, S, 3) image space
    cosine = (facing[corners] * weights[..., 0]).sum(2).numpy()                # (S, S)
    seen = covered * np.clip((cosine - FACING[0]) / (FACING[1] - FACING[0]), 0, 1)
    seen = seen * _in_front(projected, head, place, crop_size)
    pixels = (((place[..., :2] + 1) * crop_size - 1) / 2 - matrix[:, 2]) / matrix[0, 0]     # of the photo
    x, y = pixels[..., 0].astype(np.float32), pixels[..., 1].astype(np.float32)
    inside = (x >= 0) & (y >= 0) & (x <= photo.shape[1] - 1) & (y <= photo.shape[0] - 1)
    colours = cv2.remap(photo, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _filled(colours, seen * inside)


def _in_front(projected, head, place, size):
    """(S, S) bool: is nothing of the head before this texel?"""
    front = rasterize(projected, torch.tensor(head.faces), size, size)
    depth = front.depth[0].numpy()
    column = np.clip(((place[..., 0] + 1) * size / 2).astype(int), 0, size - 1)
    row = np.clip(((place[..., 1] + 1) * size / 2).astype(int), 0, size - 1)
    return place[..., 2] <= depth[row, column] + DEPTH_SLACK


def _filled(colours, seen):
    """Colours uint8 (S, S, 3), `seen` (S, S) in [0, 1]: what is unseen is blurred in from around it."""
    total = np.zeros((*seen.shape, 3))
    weight = np.full(seen.shape, 1e-6)
    solid = colours * seen[..., None]
    for sigma in (2, 6, 18, 54, 162):           # pixels; a nearer source counts more than a farther one
        spread = cv2.GaussianBlur(seen, (0, 0), sigma)
        total += cv2.GaussianBlur(solid, (0, 0), sigma) / sigma**2
        weight += spread / sigma**2
    fill = total / weight[..., None]
    blend = seen[..., None] * colours + (1 - seen[..., None]) * fill
    return np.clip(np.round(blend), 0, 255).astype(np.uint8)
