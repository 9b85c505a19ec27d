"""What other programs ask of a face: textured mesh, depth, normals, points, and the mesh on its
photograph."""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from common.files import write_json, write_text
from common.images import write_image
from deca.landmarks import transform_points
from deca.rasterizer import rasterize

TEXTURE_SIZE = 1024     # pixels of the crop that colours the mesh
OVERLAY = 0.65          # share of the face in the overlay


def seen_pixels(reconstructor, surfaces, size=224):
    """What each pixel of the crop (`size`²) sees of the first surface: points (H, W, 3) in image space,
    smaller z is nearer, and normals (H, W, 3), x right, y up, z towards the viewer, both 0 where nothing; and
    hit (H, W) bool, where something."""
    renderer, posed = reconstructor.renderer, surfaces.posed()[:1]
    seen = rasterize(posed, renderer.faces, size, size, renderer.backend)
    normals = renderer.vertex_normals(posed) * posed.new_tensor([1.0, -1.0, -1.0])
    values = seen.at_pixels(renderer.faces, torch.cat([posed, normals], 2))[0].permute(1, 2, 0)
    points, normals = values.split(3, 2)                                                    # (H, W, 3) each
    normals = torch.nn.functional.normalize(normals, dim=2)
    return points.cpu().numpy(), normals.cpu().numpy(), seen.hit[0].cpu().numpy()


def overlaid(crop, normals, hit):
    """The face as a lit grey surface on its crop: uint8 (H, W, 3); crop, normals, hit: (H, W, ...)."""
    grey = 255 * np.clip(0.15 + 0.8 * normals[hit][:, 2:], 0, 1)                            # (n, 1)
    drawn = crop.copy()
    drawn[hit] = np.round(grey.astype(float) * OVERLAY + crop[hit] * (1 - OVERLAY))
    return drawn


def write_depth(path, points, hit):
    """The depth of points (H, W, 3) where hit (H, W), as 16 bits: nearest 65535, nothing 0."""
    depth = np.where(hit, points[..., 2] * len(points) / 2, np.nan)                         # pixels
    near, far = np.nanmin(depth), np.nanmax(depth)
    levels = np.rint(np.nan_to_num(1 + 65534 * (far - depth) / max(far - near, 1e-9))).astype(np.uint16)
    write_image(path, levels)


def write_normals(path, normals, hit):
    """Normals (H, W, 3) where hit (H, W), as 8 bits: (n + 1) / 2, nothing 0."""
    write_image(path, np.round((normals + 1) / 2 * 255 * hit[..., None]).astype(np.uint8))


def write_keypoints(folder, landmarks, points, hit, matrix):
    """keypoints.json: the 68 iBUG landmarks in photograph pixels, and the surface points under them (next to
    them where a landmark lies beside the surface).

    landmarks (68, 2) photograph pixels; points (H, W, 3) and hit (H, W) of `seen_pixels`; matrix (2, 3):
    photograph → crop pixels.
    """
    size, scale = len(points), matrix[0, 0]
    column, row = np.clip(np.round(transform_points(matrix, landmarks)).astype(int), 0, size - 1).T
    nearest = distance_transform_edt(~hit, return_distances=False, return_indices=True)
    row, column = nearest[:, row, column]
    flat = landmarks.astype(float)
    solid = np.column_stack([flat, points[row, column, 2] * size / 2 / scale])
    write_json(folder / "keypoints.json", {"points_2d": np.round(flat, 2).tolist(),
                                           "points_3d": np.round(solid, 2).tolist()})


def write_obj(folder, name, surfaces, faces, texture):
    """Write `name`.obj, `name`.mtl and `name`.png: the frontal surface, coloured by the crop where it lies on
    it.

    surfaces: `Surfaces` of one picture with the vertices of this mesh; faces (F, 3); texture: uint8
    (S, S, 3), the crop.
    Raises: InputError when a file cannot be written.
    """
    write_image(folder / f"{name}.png", texture)
    material = ["newmtl skin", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {name}.png"]
    write_text(folder / f"{name}.mtl", "\n".join(material) + "\n")
    places = ((surfaces.posed()[0, :, :2].cpu().numpy() * [1, -1] + 1) / 2).clip(0, 1)
    lines = [f"mtllib {name}.mtl", "usemtl skin"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in surfaces.vertices[0].cpu().tolist()]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in places.tolist()]
    lines += ["f " + " ".join(f"{corner}/{corner}" for corner in face)
              for face in (np.asarray(faces) + 1).tolist()]
    write_text(folder / f"{name}.obj", "\n".join(lines) + "\n")
