"""DECA with the official files: picture → codes → head, detail and views (SPEC sections 4 and 5).

Feng, Feng, Black, Bolkart, "Learning an Animatable Detailed 3D Face Model from In-the-Wild Images",
SIGGRAPH 2021.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from deca.assets import FLAME_FILES, NETWORKS, load_checkpoint, load_flame
from deca.flame import FLAME
from deca.networks import split_codes
from deca.reconstructor import Reconstructor, Surfaces, check_pictures, file_digest, usable_device
from deca.renderer import VIEW_CAMERA, YAWS, Renderer, project

CHUNK = {"cpu": 8, "cuda": 32}          # pictures worked on together: bounds the memory at any batch
RIGID_LANDMARKS = (27, 28, 29, 30, 36, 39, 42, 45)      # bridge of the nose, corners of the eyes


class Mesh(NamedTuple):
    """A batch of posed heads; metres."""

    verts: torch.Tensor           # (B, V, 3) world coordinates
    landmarks3d: torch.Tensor     # (B, 68, 3) points of the same posed heads
    displacement: torch.Tensor    # (B, 1, 256, 256) detail along the normal, UV layout


class DECA(Reconstructor):
    """Picture → codes by two trained encoders, detail by a trained decoder, codes → FLAME's head.

    `codes` is a dict of float tensors for B pictures: shape (B, 100), tex (B, 50), exp (B, 50), pose (B, 6)
    axis-angle of head and jaw in radians, cam (B, 3) scale, tx, ty, light (B, 9, 3), detail (B, 128).
    """

    name = "deca"

    def __init__(self, head, weights, device="cpu", rasterizer="auto", model=None):
        """head: FLAME's `HeadModel`. weights: a state dict for each network, as `load_checkpoint` gives.

        model: {file name: digest} of what they were read from. Raises: InputError for no such device.
        """
        self.head, self.device = head, usable_device(device)
        self.flame = FLAME(head).to(self.device)
        corners = head.faces[head.landmark_faces[list(RIGID_LANDMARKS)]]
        self.rigid = tuple(dict.fromkeys(corners.flatten().tolist()))
        self.renderer = Renderer(head, rasterizer=rasterizer, device=self.device)
        self.model, self.rule = model or {}, {"rule": "deca", "version": 1}
        self.networks = {}
        for name, build in NETWORKS.items():
            with torch.device("meta"):          # no memory, no random start: the weights take their places
                network = build()
            network.load_state_dict(weights[name], assign=True)
            self.networks[name] = network.to(self.device).eval().requires_grad_(False)

    @classmethod
    def from_assets(cls, folder="deca/data", device="cpu", rasterizer="auto"):
        """DECA from the official files in `folder` (deca/data/README.md lists them).

        Raises: InputError, naming the file, when one is missing, broken, of another shape, or asks for code.
        """
        device = usable_device(device)          # before minutes of reading
        head, weights = load_flame(folder), load_checkpoint(folder)
        model = {name: file_digest(Path(folder) / name) for name in (*FLAME_FILES, "deca_model.tar")}
        return cls(head, weights, device, rasterizer, model)

    def reconstruct(self, pictures):
        """Pictures uint8 (n, 3, 224, 224) → `Surfaces`; `found` is all true: its networks always answer."""
        check_pictures(pictures)
        codes = self.encode(pictures.float() / 255)
        return self.surfaces(codes)

    @torch.no_grad()
    def surfaces(self, codes):
        """Codes of B pictures → `Surfaces`."""
        parts = []
        for chunk in self._chunks(codes):
            facing = self.flame(chunk["shape"], chunk["exp"], _frontal(chunk["pose"]))
            posed = self.flame(chunk["shape"], chunk["exp"], chunk["pose"])
            found = torch.ones(len(facing.verts), dtype=torch.bool)
            parts.append((facing.verts, project(posed.verts, chunk["cam"]), facing.root,
                          self._displacement(chunk), found))
        return Surfaces(*(torch.cat(part) for part in zip(*parts, strict=True)))       # chunks → (B, ...)

    @torch.no_grad()
    def encode(self, images):
        """Face crops (SPEC section 2), (B, 3, 224, 224) float RGB in [0, 1] → codes.

        Raises: ValueError for another shape, type or range.
        """
        check_images(images)
        parts = []
        for chunk in self._chunks({"images": images}):
            codes = split_codes(self.networks["E_flame"](chunk["images"]))
            parts.append({**codes, "detail": self.networks["E_detail"](chunk["images"])})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}      # chunks → (B, ...)

    @torch.no_grad()
    def decode(self, codes):
        """Codes of B pictures → `Mesh`, on this object's device. Raises: ValueError for codes too wide."""
        meshes = [self._decode(chunk) for chunk in self._chunks(codes)]
        return Mesh(*(torch.cat(parts) for parts in zip(*meshes, strict=True)))        # chunks → (B, ...)

    @torch.no_grad()
    def render(self, codes, mode="shape_detail", images=None):
        """The heads as posed in their pictures → (B, 3, 224, 224) in [0, 1].

        mode: "shape" (grey), "shape_detail" (grey with the detail map) or "texture" (coloured by `images`,
        (B, 3, 224, 224) in [0, 1], which only this mode uses). Raises: ValueError when it gets none.
        """
        if mode == "texture":
            check_images(images)
            codes = {**codes, "images": images}
        renders = []
        for chunk in self._chunks(codes):
            mesh = self._decode(chunk)
            renders.append(self.renderer.render(mesh.verts, chunk["cam"], mode, mesh.displacement,
                                                chunk.get("images")))
        return torch.cat(renders)                              # chunks → (B, 3, 224, 224)

    @torch.no_grad()
    def thirteen_views(self, codes):
        """The head turned to yaw -30, -25, ... 30 degrees (SPEC section 5) → (B, 13, 3, 224, 224) in [0, 1].

        The global rotation is replaced; jaw, shape, expression and detail stay; the camera is (8, 0, 0).
        R = G = B: the three channels share memory (clone before writing into them).
        """
        views = []
        for chunk in self._chunks(codes):
            posed = self.flame(chunk["shape"], chunk["exp"], _frontal(chunk["pose"]))
            views.append(self.renderer.views(posed.verts, posed.root, YAWS, VIEW_CAMERA,
                                             self._displacement(chunk)))
        grey = torch.cat(views)                                # chunks → (B, 13, 224, 224)
        return grey.unsqueeze(2).expand(-1, -1, 3, -1, -1)     # → (B, 13, 3, 224, 224)

    def _decode(self, codes):
        posed = self.flame(codes["shape"], codes["exp"], codes["pose"])
        return Mesh(posed.verts, posed.landmarks3d, self._displacement(codes))

    def _displacement(self, codes):
        jaw = codes["pose"][:, 3:]
        latent = torch.cat((jaw, codes["exp"], codes["detail"]), dim=1)       # 3 + 50 + 128 → (B, 181)
        return self.networks["D_detail"](latent)

    def _chunks(self, tensors):
        """The dict of (B, ...) tensors as dicts of a few rows each, on this object's device."""
        lengths = {len(value) for value in tensors.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"codes: expected one and the same number of pictures in each, found {lengths}")
        size = CHUNK[self.device.type]
        for start in range(0, lengths.pop(), size):
            yield {name: value[start:start + size].to(self.device) for name, value in tensors.items()}


def _frontal(pose):
    """Pose codes (B, 6) with the head's own rotation taken out and the jaw's kept."""
    return torch.cat((torch.zeros_like(pose[:, :3]), pose[:, 3:]), dim=1)      # (B, 3) and (B, 3) → (B, 6)


def check_images(images):
    """Raises ValueError unless `images` is a float tensor (B, 3, 224, 224) in [0, 1]."""
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        raise ValueError("images: expected a float tensor in [0, 1]")
    if images.ndim != 4 or images.shape[1:] != (3, 224, 224) or len(images) == 0:
        raise ValueError(f"images: expected (B, 3, 224, 224), found {tuple(images.shape)}")
    if not (images.min() >= 0 and images.max() <= 1):           # also false for NaN
        raise ValueError(f"images: expected values in [0, 1], found {images.min():.3g} to {images.max():.3g}")
