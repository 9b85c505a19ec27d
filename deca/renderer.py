"""Surfaces → pictures: turned grey views, pictures carried to other views (SPEC section 5).

What depends on the topology alone is computed once, when the renderer is made.
"""

import torch
from torch.nn import functional

from deca.rasterizer import choose_rasterizer, rasterize, rasterize_turned

YAWS = tuple(range(-30, 31, 5))            # degrees, SPEC section 5
VIEW_CAMERA = (8.0, 0.0, 0.0)              # scale (half the image per metre), tx, ty of `project`
GREY = 180 / 255                           # albedo; this, lights and limit: SPEC section 4, Shape render
LIGHTS = ((-1, 1, 1), (1, 1, 1), (-1, -1, 1), (1, -1, 1), (0, 0, 1))     # directions
LIGHT_INTENSITY = 1.7
LIMIT_NORMAL_Z = 0.15                      # a pixel is kept where the normal's z in image space is below
HIDDEN = 0.12                              # image space: a vertex further behind what is seen there is hidden
GRAZING = 0.2                              # colours fade out where the normal's −z in the picture is below
SHORTEST = 1e-6                            # metres²: shorter sums of cross products give no unit normal
AT_ONCE = {"cpu": 13, "cuda": 208}         # images rendered together: bounds the memory


def project(vertices, cam):
    """Orthographic projection into image space (SPEC section 4): x right, y down, smaller z nearer.

    vertices (B, V, 3) metres; cam (B, 3) scale, tx, ty. Returns (B, V, 3); the image is [-1, 1] in x and y.
    """
    scale, shift = cam[:, None, :1], functional.pad(cam[:, None, 1:], (0, 1))        # (B, 1, 1), (B, 1, 3)
    return scale * (vertices + shift) * vertices.new_tensor([1.0, -1.0, -1.0])


def yaw_rotations(yaws_degrees, device=None):
    """(Y, 3, 3) float32: rotations about the y axis, the axis-angle vectors (0, yaw, 0)."""
    angle = torch.deg2rad(torch.as_tensor(yaws_degrees, dtype=torch.float64, device=device))
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], 1).reshape(-1, 3, 3).float()


def turn(points, matrices):
    """Row vectors (..., 3) by matrices (..., k, 3) → (..., k). Not a matrix product: full precision (no TF32)
    and the same bits in any batch."""
    return (matrices * points[..., None, :]).sum(-1)


class SurfaceRenderer:
    """Renders surfaces of one topology, without UV maps."""

    def __init__(self, faces, n_vertices, image_size=224, rasterizer="torch", device="cpu"):
        """faces: (F, 3) triangles. image_size: side of the pictures.

        rasterizer: "auto", "torch" or "pytorch3d". Raises: InputError when pytorch3d is asked for and cannot
        be imported.
        """
        self.image_size = image_size
        self.backend = choose_rasterizer(rasterizer)
        faces = torch.as_tensor(faces, dtype=torch.int64)
        self.faces = faces.to(device)
        lights = functional.normalize(torch.tensor(LIGHTS, dtype=torch.float32), dim=1)
        self.lights = lights.to(device)                                # (5, 3)
        order = faces.flatten().argsort(stable=True)
        counts = torch.bincount(faces.flatten(), minlength=n_vertices)
        self.fan_faces = (order // 3).to(device)                       # faces round each vertex, in a row
        self.fan_starts = (counts.cumsum(0) - counts).to(device)       # where each vertex' faces begin

    def vertex_normals(self, vertices):
        """Unit normals (B, V, 3) of meshes (B, V, 3): sums of the triangles' cross products, normalised."""
        corner = vertices.transpose(0, 1).index_select(0, self.faces.flatten())        # fast indexing
        corner = corner.unflatten(0, (-1, 3))                                          # (F, 3, B, 3)
        cross = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        total = functional.embedding_bag(self.fan_faces, cross.flatten(1), self.fan_starts, mode="sum")
        total = total.reshape(len(total), -1, 3).transpose(0, 1)                       # (V, B*3) → (B, V, 3)
        return functional.normalize(total, dim=2, eps=SHORTEST)

    @staticmethod
    def _shade(normals, lights, keep):
        """Normals (B, 3, H, W), lights' directions (B or 1, 5, 3), keep (B, H, W) bool → grey (B, H, W)."""
        total = 0
        for light in lights[..., None, None].unbind(1):                                # (B or 1, 3, 1, 1)
            total = total + (light * normals).sum(1).clamp(0, 1)
        return total * (LIGHT_INTENSITY * GREY / len(LIGHTS)) * keep

    def _in_parts(self, draw, yaws_degrees, *tensors):
        """What draw(rotations, *tensors) returns, each (B, Y, ...); tensors (B, ...), some rows a call."""
        rotations = yaw_rotations(yaws_degrees, self.faces.device)
        step = max(1, AT_ONCE[self.faces.device.type] // len(rotations))
        parts = [draw(rotations, *(values[first:first + step] for values in tensors))
                 for first in range(0, len(tensors[0]), step)]
        return [torch.cat(made).unflatten(0, (-1, len(rotations))) for made in zip(*parts, strict=True)]

    @staticmethod
    def project_views(vertices):
        """Vertices (B, V, 3), metres, in the image space of a view's camera: (B, V, 3)."""
        return project(vertices, vertices.new_tensor([VIEW_CAMERA]))

    def _turned_views(self, vertices, root, rotations):
        """What each pixel of B*Y turned views sees, `Turned` (pytorch3d: Fragments), and which pixels are
        kept, (B*Y, H, W) bool: those that see the front of a surface (SPEC section 4, Shape render)."""
        axis = self.project_views(root[:, None])[:, 0, [0, 2]]                         # (B, 2)
        # Projection negates z, so that x' = cos x - sin z and z' = sin x + cos z.
        turns = rotations[:, [0, 2]][:, :, [0, 2]] * rotations.new_tensor([[1.0, -1.0], [-1.0, 1.0]])
        seen = rasterize_turned(self.project_views(vertices), self.faces, turns, axis,
                                self.image_size, self.image_size, self.backend)
        # Projection negates y and z, so the transformed normal's z is minus the turned normal's.
        scaled = self.vertex_normals(vertices * VIEW_CAMERA[0])
        facing = -turn(scaled[:, None], rotations[:, None, 2:]).flatten(0, 1)          # (B*Y, V, 1)
        return seen, seen.hit & (seen.at_pixels(self.faces, facing)[:, 0] < LIMIT_NORMAL_Z)

    @torch.no_grad()
    def views(self, vertices, root, yaws_degrees=YAWS, detail=()):
        """Grey pictures of surfaces turned about the vertical axis (SPEC section 5).

        vertices (B, V, 3): frontal, metres. root (B, 3): the point that they turn about. yaws_degrees: Y
        angles. detail: tensors (B, ...) that the shade takes up; which, `_views` of the class says.
        Returns: (B, Y, H, W) in [0, 1], the grey channel (red = green = blue), background 0.
        """
        return self._in_parts(self._views, yaws_degrees, vertices, root, *detail)[0]

    def _views(self, rotations, vertices, root, *detail):
        """Shaded per vertex. detail, if any, is added: grey pictures (B, 1, h, w), the surfaces as posed in
        them (B, V, 3), and how much of the picture each vertex takes (B, V), 0 to 1."""
        seen, keep = self._turned_views(vertices, root, rotations)
        lit = torch.einsum("bvc,ylc->byvl", self.vertex_normals(vertices), self._turned_lights(rotations))
        shade = lit.clamp(0, 1).mean(-1, keepdim=True).flatten(0, 1)                   # (B*Y, V, 1)
        shade = seen.at_pixels(self.faces, shade * (LIGHT_INTENSITY * GREY))[:, 0]     # (B*Y, H, W)
        if detail:
            sampled, share = self.sampled(seen, *detail)
            shade = (shade + sampled[:, 0] * share).clamp_(0, 1)
        return (shade * keep,)

    def _turned_lights(self, rotations):
        """Lights (Y, 5, 3) in the unturned axes: (R n) · l = n · (Rᵀ l), so no normal need be turned."""
        return turn(self.lights, rotations.transpose(1, 2)[:, None])

    def sampled(self, seen, images, posed, share):
        """Pictures `images` (b, C, h, w) as the b·Y views `seen` show them, carried by surfaces posed in them
        (b, V, 3): (b·Y, C, H, W); and the vertices' `share` (b, V) at each pixel, 0 where the surface lies
        outside its picture: (b·Y, H, W)."""
        found = seen.at_pixels(self.faces, torch.cat([posed[..., :2], share[..., None]], 2))
        where = found[:, :2].permute(0, 2, 3, 1)                                       # (b·Y, H, W, 2)
        images = images.repeat_interleave(len(found) // len(images), 0)
        sampled = functional.grid_sample(images, where, align_corners=False, padding_mode="border")
        return sampled, found[:, 2] * (where.abs().amax(3) <= 1)

    @torch.no_grad()
    def carry(self, images, posed, vertices, root, yaws_degrees=YAWS):
        """Pictures carried by surfaces to turned views.

        images (B, C, h, w): what is carried. posed (B, V, 3): where they show the surfaces, image space.
        vertices, root, yaws_degrees: the turned surfaces, as for `views`.
        Returns: (B, Y, C, H, W), 0 where a view shows no surface; and how well the picture sees what the
        view shows, (B, Y, H, W): 1 seen, falling to 0 where the picture sees it grazing, 0 hidden.
        """
        visible = self.visibility(posed)
        return self._in_parts(self._carry, yaws_degrees, vertices, root, images, posed, visible)

    def _carry(self, rotations, vertices, root, images, posed, visible):
        seen, keep = self._turned_views(vertices, root, rotations)
        sampled, share = self.sampled(seen, images, posed, visible)
        return sampled * keep[:, None], share * keep

    def frontal(self, vertices, root):
        """What each pixel sees of surfaces (B, V, 3) from the front: see `_turned_views`."""
        return self._turned_views(vertices, root, yaw_rotations([0], vertices.device))[0]

    def visibility(self, posed):
        """How well pictures see the vertices of surfaces posed in them, (B, V, 3): (B, V), 0 hidden to 1."""
        seen = rasterize(posed, self.faces, self.image_size, self.image_size, self.backend)
        depth = seen.depth.clamp(max=10.0)[:, None]                         # of nothing it is infinite
        front = functional.grid_sample(depth, posed[:, :, None, :2], mode="nearest", align_corners=False)
        unhidden = posed[..., 2] < front[:, 0, :, 0] + HIDDEN
        return (-self.vertex_normals(posed)[..., 2] / GRAZING).clamp(0, 1) * unhidden
