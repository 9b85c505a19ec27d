"""From codes to heads and views, and DECA's own way from a picture to codes (SPEC sections 4 and 5)."""

from typing import NamedTuple

import torch

from common.errors import InputError
from deca.assets import NETWORKS, load_checkpoint, load_flame
from deca.flame import FLAME
from deca.networks import split_codes
from deca.renderer import VIEW_CAMERA, YAWS, Renderer

CHUNK = {"cpu": 8, "cuda": 32}          # pictures worked on together: bounds the memory at any batch
DETAIL_SIZE = 256


class Mesh(NamedTuple):
    """A batch of posed heads; metres."""

    verts: torch.Tensor           # (B, V, 3) world coordinates
    landmarks3d: torch.Tensor     # (B, 68, 3) points of the same posed heads
    displacement: torch.Tensor    # (B, 1, 256, 256) detail along the normal, UV layout


class Reconstructor:
    """What every reconstructor shares: codes → mesh, renders, thirteen views. Subclasses add `encode`.

    `codes` is a dict of float tensors for B pictures: shape (B, n), tex (B, 50), exp (B, m), pose (B, 6)
    axis-angle of head and jaw in radians, cam (B, 3) scale, tx, ty, light (B, 9, 3), detail (B, 128); n and m
    follow the head.
    """

    name = "reconstructor"

    def __init__(self, head, device="cpu", rasterizer="torch"):
        """head: `HeadModel`. rasterizer: "torch" or "pytorch3d". Raises: InputError for no such device."""
        self.head = head
        self.device = usable_device(device)
        self.flame = FLAME(head).to(self.device)
        self.renderer = Renderer(head, rasterizer=rasterizer, device=self.device)

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
            turn, jaw = chunk["pose"].split(3, dim=1)
            pose = torch.cat((torch.zeros_like(turn), jaw), dim=1)        # (b, 3) and (b, 3) → (b, 6)
            posed = self.flame(chunk["shape"], chunk["exp"], pose)
            displacement = self._displacement(chunk)
            views.append(self.renderer.views(posed.verts, posed.root, YAWS, VIEW_CAMERA, displacement))
        grey = torch.cat(views)                                # chunks → (B, 13, 224, 224)
        return grey.unsqueeze(2).expand(-1, -1, 3, -1, -1)     # → (B, 13, 3, 224, 224)

    def _decode(self, codes):
        posed = self.flame(codes["shape"], codes["exp"], codes["pose"])
        return Mesh(posed.verts, posed.landmarks3d, self._displacement(codes))

    def _displacement(self, codes):
        """Detail of the codes (B, 1, 256, 256): none here (the fixed one is the renderer's)."""
        return codes["pose"].new_zeros(len(codes["pose"]), 1, DETAIL_SIZE, DETAIL_SIZE)

    def _chunks(self, tensors):
        """The dict of (B, ...) tensors as dicts of a few rows each, on this object's device."""
        lengths = {len(value) for value in tensors.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"codes: expected one and the same number of pictures in each, found {lengths}")
        size = CHUNK[self.device.type]
        for start in range(0, lengths.pop(), size):
            yield {name: value[start:start + size].to(self.device) for name, value in tensors.items()}


class DECA(Reconstructor):
    """DECA with the official files: picture → codes by two trained encoders, detail by a trained decoder."""

    name = "deca"

    def __init__(self, head, weights, device="cpu", rasterizer="torch"):
        """head: FLAME's `HeadModel`. weights: a state dict for each network, as `load_checkpoint` gives."""
        super().__init__(head, device, rasterizer)
        self.networks = {}
        for name, build in NETWORKS.items():
            with torch.device("meta"):          # no memory, no random start: the weights take their places
                network = build()
            network.load_state_dict(weights[name], assign=True)
            self.networks[name] = network.to(self.device).eval().requires_grad_(False)

    @classmethod
    def from_assets(cls, folder="deca/data", device="cpu", rasterizer="torch"):
        """DECA from the official files in `folder` (deca/data/README.md lists them).

        Raises: InputError, naming the file, when one is missing, broken, of another shape, or asks for code.
        """
        device = usable_device(device)          # before minutes of reading
        return cls(load_flame(folder), load_checkpoint(folder), device, rasterizer)

    @torch.no_grad()
    def encode(self, images):
        """Face crops (SPEC section 2), (B, 3, 224, 224) float RGB in [0, 1] → codes (see `Reconstructor`).

        Raises: ValueError for another shape, type or range.
        """
        check_images(images)
        parts = []
        for chunk in self._chunks({"images": images}):
            codes = split_codes(self.networks["E_flame"](chunk["images"]))
            parts.append({**codes, "detail": self.networks["E_detail"](chunk["images"])})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}      # chunks → (B, ...)

    def _displacement(self, codes):
        jaw = codes["pose"][:, 3:]
        latent = torch.cat((jaw, codes["exp"], codes["detail"]), dim=1)       # 3 + 50 + 128 → (B, 181)
        return self.networks["D_detail"](latent)


def usable_device(device):
    """`device` ("cpu", "cuda", "cuda:1", ...) → torch.device. Raises: InputError when it is not there."""
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r}: no such device; choose cpu or cuda") from error
    if chosen.type not in CHUNK:
        raise InputError(f"device {device!r}: not supported; choose cpu or cuda")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r}: PyTorch finds {torch.cuda.device_count()} CUDA devices; "
                         "choose cpu, or install a driver and a PyTorch built for it")
    return chosen


def check_images(images):
    """Raises ValueError unless `images` is a float tensor (B, 3, 224, 224) in [0, 1]."""
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        raise ValueError("images: expected a float tensor in [0, 1]")
    if images.ndim != 4 or images.shape[1:] != (3, 224, 224) or len(images) == 0:
        raise ValueError(f"images: expected (B, 3, 224, 224), found {tuple(images.shape)}")
    if not (images.min() >= 0 and images.max() <= 1):           # also false for NaN
        raise ValueError(f"images: expected values in [0, 1], found {images.min():.3g} to {images.max():.3g}")
