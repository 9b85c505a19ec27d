"""FLAME's heads with their UV map of detail → pictures and thirteen views (SPEC sections 4 and 5).

The thirteen views of a frame share one map of detail normals: turning the head turns the map, and instead of
the map the five lights are turned the other way.
"""

import torch
from torch.nn import functional

from deca.rasterizer import rasterize
from deca.renderer import LIMIT_NORMAL_Z, SHORTEST, SurfaceRenderer, project, turn

MODES = ("shape", "shape_detail", "texture")
MARGIN_COLUMNS, MARGIN_ROWS = 2, 5         # rim of the UV grid mesh that has no cells


def grid_normals(points, cells):
    """Normals of a grid mesh (SPEC section 4, Detail normals): each cell is two triangles.

    points (N, 3, h, w); cells (1 or N, 1, h-1, w-1), 1 where the cell exists, else 0.
    Returns (N, 3, h, w), of unit length; 0 where no triangle meets the point.
    """
    a, b = points[..., :-1, :-1], points[..., :-1, 1:]
    c, d = points[..., 1:, :-1], points[..., 1:, 1:]
    upper = torch.linalg.cross(c - a, b - a, dim=1) * cells                # triangle (a, c, b)
    lower = torch.linalg.cross(c - b, d - b, dim=1) * cells                # triangle (b, c, d)
    return functional.normalize(_at_corners(upper, lower), dim=1, eps=SHORTEST)


def _at_corners(upper, lower):
    """What each cell's two triangles (..., h-1, w-1) give to their corners, summed there: (..., h, w)."""
    *batch, height, width = upper.shape
    total = upper.new_zeros(*batch, height + 1, width + 1)
    total[..., :-1, :-1] += upper
    total[..., 1:, 1:] += lower
    both = upper + lower
    total[..., :-1, 1:] += both
    total[..., 1:, :-1] += both
    return total


class HeadRenderer(SurfaceRenderer):
    """Renders one head model's meshes with their UV maps of detail."""

    def __init__(self, head, image_size=224, rasterizer="torch", device="cpu"):
        """head: `deca.flame.HeadModel`. The rest as `SurfaceRenderer`."""
        super().__init__(head.faces, len(head.template), image_size, rasterizer, device)
        self.uv_size = len(head.displacement)                              # S
        uv_faces = torch.as_tensor(head.uv_faces, dtype=torch.int64)
        uv = torch.as_tensor(head.uv, dtype=torch.float32) * 2 - 1
        uv = uv * uv.new_tensor([1.0, -1.0])                               # image coordinates of the UV map
        self.uv_faces, self.uv = uv_faces.to(device), uv.to(device)
        corners = functional.pad(self.uv, (0, 1), value=1.0)[None]         # z = 1: (1, T, 3)
        self.uv_seen = rasterize(corners, self.uv_faces, self.uv_size, self.uv_size, self.backend)
        self.uv_inside = self.uv_seen.hit[0]                               # (S, S)
        self.fixed, self.mask = (torch.as_tensor(uv_map, dtype=torch.float32, device=device)[None, None]
                                 for uv_map in (head.displacement, head.uv_face_mask))
        self._find_border()

    def _find_border(self):
        """The points of the UV grid mesh whose normal depends on where the origin of the axes is.

        Outside the UV islands a map is 0, so triangles over an island's border reach to the origin, and this
        point does not turn with the head. Their normals are computed anew for each yaw (`_turned_maps`).
        """
        size = self.uv_size
        cells = torch.zeros(1, 1, size - 1, size - 1, device=self.mask.device)
        cells[..., MARGIN_ROWS:size - 1 - MARGIN_ROWS, MARGIN_COLUMNS:size - 1 - MARGIN_COLUMNS] = 1
        self.cells = cells
        inside = self.uv_inside
        a, b, c, d = inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]
        upper = ((a | b | c) & ~(a & b & c)) * cells[0, 0]                 # partly inside
        lower = ((b | c | d) & ~(b & c & d)) * cells[0, 0]
        border = (_at_corners(upper, lower) > 0) & (self.mask[0, 0] > 0)
        near = torch.arange(-1, 2, device=border.device)
        row, column = (place[:, None] + near for place in border.nonzero(as_tuple=True))        # (n, 3) each
        self.border_around = row[:, :, None] * size + column[:, None]                  # (n, 3, 3)
        self.border = self.border_around[:, 1, 1]
        self.border_cells = cells[0, 0][row[:, :2, None], column[:, None, :2]][:, None]        # (n, 1, 2, 2)

    def uv_map(self, values):
        """Per-vertex values (B, V, C) → their UV map (B, C, S, S), 0 outside the islands."""
        rows = values.transpose(0, 1).flatten(1)[None]                                 # (1, V, B*C)
        pixels = self.uv_seen.at_pixels(self.faces, rows)[0]                           # (B*C, S, S)
        return pixels.unflatten(0, values.shape[::2]).contiguous()                     # → (B, C, S, S)

    def _displaced(self, vertices, normals, displacement):
        """The grid mesh's points and the coarse normals, both (B, 3, S, S)."""
        points, coarse = self.uv_map(torch.cat([vertices, normals], 2)).split(3, 1)    # (B, 6, S, S) → 2
        height = self.fixed
        if displacement is not None:
            height = height + displacement * self.mask
        return points + height * coarse, coarse

    def _turned_maps(self, vertices, normals, displacement, root, rotations):
        """UV maps of detail normals (SPEC section 4) of each yaw, (B, Y, 3, S, S), in the axes of the head.

        vertices, normals (B, V, 3); displacement (B, 1, S, S) metres along the normal, or None for 0.
        """
        points, coarse = self._displaced(vertices, normals, displacement)
        maps = torch.lerp(coarse, grid_normals(points, self.cells), self.mask)
        maps = maps[:, None].expand(-1, len(rotations), -1, -1, -1)
        # The origin, seen from the turned head: v with R (v - root) + root = 0.
        origin = root[:, None] - turn(root[:, None], rotations.transpose(1, 2))       # (B, Y, 3)
        near = points.flatten(2)[:, None, :, self.border_around]                       # (B, 1, 3, n, 3, 3)
        inside = self.uv_inside.flatten()[self.border_around]                          # (n, 3, 3)
        near = torch.where(inside, near, origin[..., None, None, None])                # (B, Y, 3, n, 3, 3)
        near = near.permute(0, 1, 3, 2, 4, 5).flatten(0, 1)                            # (B*Y, n, 3, 3, 3)
        cells = self.border_cells.repeat(len(near), 1, 1, 1)                           # (B*Y*n, 1, 2, 2)
        middle = grid_normals(near.flatten(0, 1), cells)[..., 1, 1]                    # (B*Y*n, 3)
        middle = middle.unflatten(0, (*origin.shape[:2], len(self.border))).transpose(2, 3)     # (B, Y, 3, n)
        maps = maps.flatten(3).clone()                                                 # (B, Y, 3, S*S)
        flat = coarse.flatten(2)[:, None, :, self.border]                              # (B, 1, 3, n)
        maps[..., self.border] = torch.lerp(flat, middle, self.mask.flatten()[self.border])
        return maps.unflatten(3, (self.uv_size, self.uv_size))

    def _uv_at_pixels(self, seen):
        """(B, H, W, 2): where in the UV maps each pixel looks, as `grid_sample` wants it."""
        return seen.at_pixels(self.uv_faces, self.uv[None]).permute(0, 2, 3, 1)

    @torch.no_grad()
    def render(self, vertices, cam, mode="shape", displacement=None, images=None):
        """Pictures (B, 3, H, W) in [0, 1], background 0 (SPEC section 4).

        vertices (B, V, 3): posed meshes, metres. cam (B, 3): scale, tx, ty.
        mode: "shape" grey; "shape_detail" grey with the detail normals, displacement (B, 1, S, S) metres
        (None is 0); "texture" the colours of `images` (B, 3, h, w) in [0, 1], which the camera projects onto.
        Raises: ValueError for another mode, or texture without images.
        """
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
        if (mode == "texture") != (images is not None):
            raise ValueError("images are for the texture mode, which needs them")
        projected = project(vertices, cam)
        seen = rasterize(projected, self.faces, self.image_size, self.image_size, self.backend)
        hit = seen.hit
        if mode == "texture":
            where = self.uv_map(projected[..., :2]).permute(0, 2, 3, 1)                # (B, S, S, 2)
            colours = functional.grid_sample(images, where, align_corners=False)
            pixels = functional.grid_sample(colours, self._uv_at_pixels(seen), align_corners=False)
            return pixels * hit[:, None]
        normals = self.vertex_normals(vertices)
        facing = self.vertex_normals(projected)[..., 2:]                               # (B, V, 1)
        keep = hit & (seen.at_pixels(self.faces, facing)[:, 0] < LIMIT_NORMAL_Z)
        if mode == "shape":
            normals = seen.at_pixels(self.faces, normals)
        else:
            still = torch.eye(3, device=vertices.device)[None]
            maps = self._turned_maps(vertices, normals, displacement, torch.zeros_like(vertices[:, 0]), still)
            normals = functional.grid_sample(maps[:, 0], self._uv_at_pixels(seen), align_corners=False)
        return self._shade(normals, self.lights[None], keep)[:, None].expand(-1, 3, -1, -1)

    def _views(self, rotations, vertices, root, displacement=None):
        """As `render` in the mode shape_detail. displacement (B, 1, S, S): metres, or None for 0."""
        normals = self.vertex_normals(vertices)
        maps = self._turned_maps(vertices, normals, displacement, root, rotations).flatten(0, 1)
        seen, keep = self._turned_views(vertices, root, rotations)
        pixels = functional.grid_sample(maps, self._uv_at_pixels(seen), align_corners=False)
        lights = self._turned_lights(rotations).repeat(len(vertices), 1, 1)            # → (B*Y, 5, 3)
        return (self._shade(pixels, lights, keep),)                                    # (B*Y, H, W)
