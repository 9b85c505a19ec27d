"""What the two reconstructors, `deca` and `mesh`, share: surfaces → views and motion (SPEC 5 and 10)."""

from typing import NamedTuple

import torch
from torch.nn import functional

from deca.motion import Canvas
from deca.renderer import VIEW_CAMERA, YAWS

PAINTS = ("shape_detail", "texture")
MESHES = ("coarse", "detailed")
GAP = 7                 # pixels: hidden strips narrower than this are painted all the same


class Surfaces(NamedTuple):
    """The faces in n pictures: their surfaces, turned to the front, and where each picture shows them."""

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
    """Pictures of one face, cut by the same square → `Surfaces`, views, motion.

    Attributes: `name`, "deca" or "mesh"; `version`, raised by each change of the pixels beyond rounding;
    `model`, dict of the model files' names → digests; `renderer`, a SurfaceRenderer on `device`.
    Subclasses implement `reconstruct`, `mesh` and `_shaded(images, surfaces)`, the grey views.
    """

    @property
    def rule(self):
        """What the pixels depend on besides the model files; JSON types, part of a cache's key."""
        return {"rule": self.name, "version": self.version, "camera": list(VIEW_CAMERA), "yaws": list(YAWS)}

    @property
    def rasterizer(self):
        """What draws: "torch" or "pytorch3d"."""
        return self.renderer.backend

    def reconstruct(self, pictures):
        """Crops of one clip by one square, uint8 (n, 3, 224, 224) RGB → `Surfaces` on `self.device`."""
        raise NotImplementedError

    def mesh(self, surfaces, level):
        """(`surfaces` with other vertices, their triangles (F, 3), numpy). level: "coarse", the model's own
        points, or "detailed", the finest surface that the reconstructor has."""
        raise NotImplementedError

    @torch.no_grad()
    def views(self, pictures, paint="shape_detail"):
        """The faces turned to yaw -30, -25, ... 30 degrees (SPEC section 5).

        pictures: uint8 (n, 3, 224, 224) RGB crops of one clip.
        paint: "shape_detail" (grey) or "texture" (the picture's colours; what it hides or sees at a grazing
            angle is dark, except for gaps of a few pixels).
        Returns: uint8 (n, 13, 224, 224), or (n, 13, 3, 224, 224) for texture; found (n,) bool; on the CPU.
        Raises: ValueError for another paint, shape or type.
        """
        surfaces = self.reconstruct(pictures)
        return self.painted(surfaces, pictures, paint), surfaces.found.cpu()

    @torch.no_grad()
    def painted(self, surfaces, pictures, paint="shape_detail"):
        """`views` of ready `surfaces`, without `found`. Raises: ValueError, see there."""
        if paint not in PAINTS:
            raise ValueError(f"paint is one of {', '.join(PAINTS)}, not {paint!r}")
        draw = self._shaded if paint == "shape_detail" else self._carried
        return levels(draw(as_float(pictures, self.device), surfaces))

    @torch.no_grad()
    def motion(self, onset, pictures, yaws=(0,)):
        """The face's motion from `onset` to each of `pictures`, the head's taken out (SPEC section 10).

        onset: uint8 (3, 224, 224) RGB; pictures: uint8 (n, 3, 224, 224); crops of one clip, one square.
        Both are drawn on the onset's surface seen from the front, each sampled where its head pose puts that.
        Returns: float32 (n, len(yaws), 3, 224, 224): u (right), v (down) in pixels of the frontal drawing and
        strain, on the surface turned to each yaw (degrees), 0 where either picture does not see it; and
        found (n,) bool, False where onset or picture shows no face. On the CPU.
        """
        pictures = torch.cat([onset[None], pictures])                       # (n + 1, 3, H, W)
        surfaces = self.reconstruct(pictures)
        grey = as_float(pictures, self.device).mean(1, keepdim=True) * 255
        first = Surfaces(*(value[:1] for value in surfaces[:4]))            # the onset's, without its detail
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
        drawn, visible = self.renderer.carry(maps[None], frontal, surface.vertices, surface.root, yaws)
        return (drawn * (visible[:, :, None] > 0.5))[0].cpu()

    def _carried(self, images, faces):
        drawn, visible = self.renderer.carry(images, faces.posed(), faces.vertices, faces.root)
        # Morphological closing: the wings of a nose, grazing in a frontal picture, would get a black rim.
        visible = functional.max_pool2d(visible, GAP, stride=1, padding=GAP // 2)
        visible = -functional.max_pool2d(-visible, GAP, stride=1, padding=GAP // 2)
        return drawn * visible[:, :, None]                                  # (n, Y, 3, H, W)


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
