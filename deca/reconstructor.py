"""What the two reconstructors, `deca` and `mesh`, share: surfaces → views and motion (SPEC 5 and 10)."""

from typing import NamedTuple

import torch
from torch.nn import functional

from deca.motion import Canvas
from deca.renderer import VIEW_CAMERA, YAWS

PAINTS = ("shape_detail", "texture")
MESHES = ("coarse", "detailed")
GAP = 7                 # pixels: what a picture does not see over less than this keeps the colour beside it


class Surfaces(NamedTuple):
    """The faces of n pictures: frontal surfaces, and where each picture shows them."""

    vertices: torch.Tensor          # (n, V, 3) frontal, expression kept; metres, y up, z towards the viewer
    root: torch.Tensor              # (n, 3) the point that the views turn about
    pose: torch.Tensor              # (n, 3, 4) affine map from `vertices` to the picture's image space
    found: torch.Tensor             # (n,) bool: False where the picture shows no face (then a mean face)
    displacement: torch.Tensor | None = None        # (n, 1, 256, 256) detail along the normal, metres

    def posed(self, poses=None):
        """The surfaces where the pictures show them (or where `poses` (n, 3, 4) put them): (n, V, 3).

        Image space: x right, y down, both in [-1, 1] over the picture; smaller z is nearer.
        """
        poses = self.pose if poses is None else poses
        return self.vertices @ poses[..., :3].transpose(1, 2) + poses[:, None, :, 3]


class Reconstructor:
    """Pictures of one face in one square → `Surfaces`, views, motion.

    `.name` "deca" or "mesh"; `.model` names and digests of the model files; `.renderer` draws its surfaces,
    on `.device`. Whatever changes the pixels by more than rounding has another `.rule`. Subclasses give
    `reconstruct`, `mesh` and `_shaded`, the grey views.
    """

    name, version = "", 0

    @property
    def rule(self):
        """What makes the pixels: name, version and the views' angles and camera; JSON."""
        return {"rule": self.name, "version": self.version, "camera": list(VIEW_CAMERA), "yaws": list(YAWS)}

    def reconstruct(self, pictures):
        """Crops of one clip, uint8 (n, 3, 224, 224) RGB, all of one square → `Surfaces` on this device."""
        raise NotImplementedError

    def mesh(self, surfaces, level):
        """(`surfaces` with the vertices of the mesh that `level`, one of MESHES, names; its triangles (F, 3),
        numpy): coarse, the model's own points; detailed, the finest surface that there is."""
        raise NotImplementedError

    @torch.no_grad()
    def views(self, pictures, paint="shape_detail"):
        """The faces turned to yaw -30, -25, ... 30 degrees (SPEC section 5).

        pictures: uint8 (n, 3, 224, 224) RGB crops of one clip.
        paint: "shape_detail" (grey) or "texture" (the picture's colours; hidden and grazing parts dark,
            but for gaps of a few pixels).
        Returns: uint8 (n, 13, 224, 224), or (n, 13, 3, 224, 224) for texture; found (n,) bool; on the CPU.
        Raises: ValueError for another paint, shape or type.
        """
        surfaces = self.reconstruct(pictures)
        return self.painted(surfaces, pictures, paint), surfaces.found.cpu()

    @torch.no_grad()
    def painted(self, surfaces, pictures, paint="shape_detail"):
        """The pictures of `views`, of `Surfaces` that are there already. Raises: ValueError, see there."""
        if paint not in PAINTS:
            raise ValueError(f"paint is one of {', '.join(PAINTS)}, not {paint!r}")
        draw = self._shaded if paint == "shape_detail" else self._carried
        return levels(draw(as_float(pictures, self.device), surfaces, YAWS))

    @torch.no_grad()
    def motion(self, onset, pictures, yaws=(0,)):
        """What the face did from `onset` to each of `pictures`, without what the head did (SPEC section 10).

        onset: uint8 (3, 224, 224) RGB; pictures: uint8 (n, 3, 224, 224); crops of one clip, one square.
        Both are drawn frontal on the onset's surface, each taken from where its own head pose puts it.
        Returns: float32 (n, len(yaws), 3, 224, 224): u (right), v (down) in pixels of the frontal drawing and
        strain, on the surface turned to each yaw (degrees), 0 where either picture does not see it; and
        found (n,) bool, False where onset or picture shows no face. On the CPU.
        """
        pictures = torch.cat([onset[None], pictures])                       # (n + 1, 3, H, W)
        surfaces = self.reconstruct(pictures)
        grey = as_float(pictures, self.device).mean(1, keepdim=True) * 255
        first = Surfaces(*(None if value is None else value[:1] for value in surfaces))
        found = (surfaces.found[:1] & surfaces.found[1:]).cpu()
        canvas = Canvas(self.renderer, first, grey[:1])
        moved = torch.zeros(len(found), len(yaws), 3, *grey.shape[2:])
        for k in found.nonzero()[:, 0].tolist():
            maps = canvas.motion(grey[k + 1:k + 2], surfaces.pose[k + 1:k + 2])
            moved[k] = self._turned(maps.to(self.device), first, yaws)
        return moved, found

    def _turned(self, maps, surface, yaws):
        """Frontal maps (3, H, W) carried to each yaw: (len(yaws), 3, H, W) on the CPU."""
        if tuple(yaws) == (0,):
            return maps[None].cpu()
        frontal = self.renderer.project_views(surface.vertices)
        drawn, light = self.renderer.carry(maps[None], frontal, surface.vertices, surface.root, yaws)
        return (drawn * (light[:, :, None] > 0.5))[0].cpu()

    def _carried(self, images, faces, yaws):
        drawn, light = self.renderer.carry(images, faces.posed(), faces.vertices, faces.root, yaws)
        # Closed: or else the wings of every nose, grazing in a frontal picture, would have a black rim.
        light = functional.max_pool2d(light, GAP, stride=1, padding=GAP // 2)
        light = -functional.max_pool2d(-light, GAP, stride=1, padding=GAP // 2)
        return drawn * light[:, :, None]                                    # (n, Y, 3, H, W)


def as_float(pictures, device):
    """uint8 (n, 3, H, W) → float in [0, 1] on `device`. Raises: ValueError for another shape or type."""
    if not isinstance(pictures, torch.Tensor) or pictures.dtype != torch.uint8:
        raise ValueError("pictures: expected a uint8 tensor")
    if pictures.ndim != 4 or pictures.shape[1:] != (3, 224, 224) or len(pictures) == 0:
        raise ValueError(f"pictures: expected (n, 3, 224, 224), found {tuple(pictures.shape)}")
    return pictures.to(device).float() / 255


def levels(values):
    """Values in [0, 1] → uint8 on the CPU."""
    return values.mul(255).round_().clamp_(0, 255).to(torch.uint8).cpu()
