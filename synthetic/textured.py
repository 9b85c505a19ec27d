"""Pictures of a head from its own albedo map: one lamp, ambient light, smooth normals, a background.

The renderer of `deca.renderer` draws grey shapes or colours from a photograph; this one draws a painted head,
for the synthetic database and for showing the embedded head.
"""

import torch
from torch.nn import functional

from deca.rasterizer import rasterize
from deca.renderer import project

LIGHT = (-0.3, 0.5, 0.8)      # towards the lamp: above, a little from the viewer's left
GREY = (0.35, 0.35, 0.35)
AT_ONCE = 1 << 21             # pixels drawn together; bounds the memory


@torch.no_grad()
def render_head(head, vertices, cam, albedo=None, light=LIGHT, ambient=0.45, size=224, background=GREY,
                supersample=2, rasterizer="torch"):
    """Textured pictures of posed heads.

    head: `HeadModel` with UV coordinates; `head.texture` is drawn where `albedo` is None.
    vertices (B, V, 3) posed, metres; cam (B, 3) scale, tx, ty (SPEC section 4, Projection).
    albedo: (S, S, 3) or (B, S, S, 3), tensor or array in [0, 1], row 0 at v = 1.
    light: towards the lamp, (3,) or (B, 3), any length: the length is the lamp's strength (about 1).
    ambient: share of light that comes from all sides, a number or (B,).
    size: side of a square picture, or (height, width); then [-1, 1] spans the shorter side.
    background: a colour (3,), or pictures (3, H, W) or (B, 3, H, W) of the final size.
    supersample: each pixel is the mean of this many squared.
    Returns: (B, 3, H, W) float32 in [0, 1]. Raises: ValueError when there is no albedo.
    """
    albedo = head.texture if albedo is None else albedo
    if albedo is None:
        raise ValueError(f"head {head.name!r} has no texture of its own; pass albedo=")
    height, width = (size, size) if isinstance(size, int) else size
    device, count = vertices.device, len(vertices)
    albedo = _batch(albedo, 4, count, device).permute(0, 3, 1, 2)    # (B, S, S, 3) → (B, 3, S, S)
    lamp = _batch(light, 2, count, device)
    ambient = torch.as_tensor(ambient, dtype=torch.float32, device=device).expand(count)
    step = max(1, AT_ONCE // (height * width * supersample**2))
    parts = [_draw(head, vertices[i:i + step], cam[i:i + step], albedo[i:i + step], lamp[i:i + step],
                   ambient[i:i + step], (height * supersample, width * supersample), rasterizer)
             for i in range(0, count, step)]
    picture = functional.avg_pool2d(torch.cat(parts), supersample)   # (B, 4, H, W)
    colour, cover = picture[:, :3], picture[:, 3:]
    return (colour + (1 - cover) * _backdrop(background, device)).clamp(0, 1)


def _batch(value, dimensions, count, device):
    """A tensor with a batch axis in front, repeated as needed."""
    value = torch.as_tensor(value, dtype=torch.float32, device=device)
    value = value if value.ndim == dimensions else value[None]
    return value.expand(count, *value.shape[1:])


def _backdrop(background, device):
    backdrop = torch.as_tensor(background, dtype=torch.float32, device=device)
    backdrop = backdrop[:, None, None] if backdrop.ndim == 1 else backdrop
    return backdrop[None] if backdrop.ndim == 3 else backdrop


def _draw(head, vertices, cam, albedo, lamp, ambient, size, rasterizer):
    """Colours times cover, and the cover: (B, 4, H, W)."""
    height, width = size
    device = vertices.device
    faces = torch.as_tensor(head.faces, device=device)
    uv = torch.as_tensor(head.uv, device=device)[torch.as_tensor(head.uv_faces, device=device)]    # (F, 3, 2)
    image = project(vertices, cam)
    shrink = torch.tensor([min(1.0, height / width), min(1.0, width / height), 1.0], device=device)
    seen = rasterize(image * shrink, faces, height, width, backend=rasterizer)
    hit = seen.face_index >= 0
    face = seen.face_index.clamp(min=0)   # (B, H, W)
    normals = vertex_normals(vertices, faces)
    index = faces[face].flatten(1)   # (B, H*W*3)
    corner = normals.gather(1, index[..., None].expand(-1, -1, 3)).reshape(*face.shape, 3, 3)
    normal = functional.normalize((corner * seen.bary[..., None]).sum(3), dim=-1)   # (B, H, W, 3)
    lit = torch.einsum("bhwc,bc->bhw", normal, _directed(lamp)).clamp(min=0)
    shade = ambient[:, None, None] + (1 - ambient)[:, None, None] * lit
    at = (uv[face] * seen.bary[..., None]).sum(3)   # (B, H, W, 2)
    grid = torch.stack([2 * at[..., 0] - 1, 1 - 2 * at[..., 1]], 3)
    colour = functional.grid_sample(albedo, grid, align_corners=False, padding_mode="border")
    cover = hit[:, None].float()
    return torch.cat([(colour * shade[:, None]).clamp(0, 1) * cover, cover], 1)   # (B, 4, H, W)


def _directed(lamp):
    """The lamp a little stronger, so that skin lit from the front looks as bright as its paint."""
    return lamp * 1.15


def vertex_normals(vertices, faces):
    """Unit vertex normals (B, V, 3) of meshes (B, V, 3), as SPEC section 4, Normals."""
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))   # (B, F, 3)
    cross = torch.linalg.cross(b - a, c - a, dim=2)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total.index_add_(1, faces[:, k], cross)
    return functional.normalize(total, dim=2)
