"""DECA with the official files: picture → codes → heads, renders and views (SPEC sections 4 and 5)."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from common.cache import file_digest
from common.device import choose_device
from deca.assets import ASSETS, REQUIRED, load_flame, load_networks
from deca.flame import FLAME, rotation_matrices
from deca.head_renderer import HeadRenderer
from deca.networks import split_codes
from deca.reconstructor import Reconstructor, Surfaces, as_float


class DECA(Reconstructor):
    """DECA: picture → codes by two trained encoders, detail by a trained decoder.

    `codes` is a dict of float tensors for B pictures: shape (B, 100), tex (B, 50), exp (B, 50), pose (B, 6)
    axis-angle of head and jaw in radians, cam (B, 3) scale, tx, ty, light (B, 9, 3), detail (B, 128).
    """

    name = "deca"
    version = 5

    def __init__(self, head, networks, device="cpu", rasterizer="torch"):
        """head: FLAME's `HeadModel`. networks: as `load_networks` gives.

        rasterizer: "auto", "torch" or "pytorch3d". Raises: InputError for no such device or rasteriser.
        """
        self.device, self.model = choose_device(device), {}
        self.flame = FLAME(head).to(self.device)
        self.renderer = HeadRenderer(head, rasterizer=rasterizer, device=self.device)
        self.networks = {name: network.to(self.device) for name, network in networks.items()}

    @classmethod
    def from_assets(cls, folder=ASSETS, device="cpu", rasterizer="torch"):
        """DECA from the official files in `folder` (deca/data/README.md lists them).

        Raises: InputError, naming the file, when one is missing, broken, of another shape, or asks for code.
        """
        device = choose_device(device)          # before minutes of reading
        made = cls(load_flame(folder), load_networks(folder), device, rasterizer)
        made.model = {file: file_digest(Path(folder) / file) for file in REQUIRED}
        return made

    @torch.no_grad()
    def reconstruct(self, pictures):
        """See `Reconstructor.reconstruct`; DECA calls every picture a face: all are `found`."""
        return self._surfaces(self.encode(as_float(pictures, self.device)))

    def mesh(self, surfaces, level):
        """See `Reconstructor.mesh`. Coarse: FLAME's head. Detailed: each pixel of the UV maps that shows the
        head is a point, moved along the normal by the detail; the UV map's seams stay open by a pixel."""
        renderer, vertices = self.renderer, surfaces.vertices
        if level == "coarse":
            return surfaces, renderer.faces.cpu().numpy()
        points, _ = renderer._displaced(vertices, renderer.vertex_normals(vertices), surfaces.displacement)
        inside = renderer.uv_inside                                                          # (S, S)
        dense = points.flatten(2)[..., inside.flatten()].transpose(1, 2)     # (n, 3, S, S) → (n, points, 3)
        place = torch.where(inside, inside.flatten().cumsum(0).view_as(inside) - 1, -1).cpu().numpy()
        a, b, c, d = place[:-1, :-1], place[:-1, 1:], place[1:, :-1], place[1:, 1:]
        faces = np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in ((a, c, b), (b, c, d))])
        return surfaces._replace(vertices=dense), faces[(faces >= 0).all(1)]

    def _shaded(self, images, faces):
        return self.renderer.views(faces.vertices, faces.root, detail=(faces.displacement,))

    def _surfaces(self, codes):
        """Codes → `Surfaces`: the head without its rotation, and rotation and camera as one affine map."""
        turn, jaw = codes["pose"].split(3, dim=1)
        posed = self.flame(codes["shape"], codes["exp"], torch.cat((torch.zeros_like(turn), jaw), dim=1))
        turn, scale = rotation_matrices(turn), codes["cam"][:, :1, None]                     # (B, 1, 1)
        shift = functional.pad(codes["cam"][:, 1:], (0, 1)) + posed.root                     # (B, 3)
        shift = shift - (turn @ posed.root[..., None])[..., 0]
        pose = scale * torch.cat([turn, shift[..., None]], dim=2)                            # → (B, 3, 4)
        pose = pose * pose.new_tensor([1.0, -1.0, -1.0])[:, None]
        found = torch.ones(len(pose), dtype=torch.bool, device=pose.device)
        return Surfaces(posed.verts, posed.root, pose, found, self._displacement(codes))

    @torch.no_grad()
    def encode(self, images):
        """Face crops (SPEC section 2), (B, 3, 224, 224) float RGB in [0, 1] → codes (see the class).

        Raises: ValueError for another shape, type or range.
        """
        images = check_images(images).to(self.device)
        return {**split_codes(self.networks["E_flame"](images)), "detail": self.networks["E_detail"](images)}

    @torch.no_grad()
    def decode(self, codes):
        """Codes of B pictures → `Posed` with the displacement, on this object's device. Raises: ValueError
        for codes too wide or of unequal numbers of pictures."""
        codes = self._here(codes)
        posed = self.flame(codes["shape"], codes["exp"], codes["pose"])
        return posed._replace(displacement=self._displacement(codes))

    @torch.no_grad()
    def render(self, codes, mode="shape_detail", images=None):
        """The heads as posed in their pictures → (B, 3, 224, 224) in [0, 1].

        mode: "shape" (grey), "shape_detail" (grey with the detail map) or "texture" (coloured by `images`,
        (B, 3, 224, 224) in [0, 1], which only this mode uses). Raises: ValueError when it gets none.
        """
        images = check_images(images).to(self.device) if mode == "texture" else None
        mesh = self.decode(codes)
        return self.renderer.render(mesh.verts, self._here(codes)["cam"], mode, mesh.displacement, images)

    @torch.no_grad()
    def thirteen_views(self, codes):
        """The head turned to yaw -30, -25, ... 30 degrees (SPEC section 5) → (B, 13, 3, 224, 224) in [0, 1].

        The global rotation is replaced; jaw, shape, expression and detail stay; the camera is (8, 0, 0).
        R = G = B: the three channels share memory (clone before writing into them).
        """
        grey = self._shaded(None, self._surfaces(self._here(codes)))
        return grey.unsqueeze(2).expand(-1, -1, 3, -1, -1)     # (B, 13, 224, 224) → (B, 13, 3, 224, 224)

    def _here(self, codes):
        """`codes` on this device. Raises: ValueError for unequal numbers of pictures, or none."""
        lengths = {len(value) for value in codes.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"codes: expected one and the same number of pictures in each, found {lengths}")
        return {name: value.to(self.device) for name, value in codes.items()}

    def _displacement(self, codes):
        jaw = codes["pose"][:, 3:]
        latent = torch.cat((jaw, codes["exp"], codes["detail"]), dim=1)       # 3 + 50 + 128 → (B, 181)
        return self.networks["D_detail"](latent)


def check_images(images):
    """`images`, a float tensor (B, 3, 224, 224) in [0, 1]. Raises: ValueError for anything else."""
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        raise ValueError("images: expected a float tensor in [0, 1]")
    if images.ndim != 4 or images.shape[1:] != (3, 224, 224) or len(images) == 0:
        raise ValueError(f"images: expected (B, 3, 224, 224), found {tuple(images.shape)}")
    if not (images.min() >= 0 and images.max() <= 1):           # also false for NaN
        raise ValueError(f"images: expected values in [0, 1], found {images.min():.3g} to {images.max():.3g}")
    return images
