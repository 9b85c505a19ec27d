"""What both reconstructors share: pictures of a face in; surfaces, views, motion out (SPEC 4, 5, 10)."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch

from common.errors import InputError
from deca.assets import has_official
from deca.motion import face_motion
from deca.renderer import PAINTS, YAWS

ASSETS = Path(__file__).parent / "data"
RECONSTRUCTORS = ("auto", "deca", "mesh")
DEVICES = ("cpu", "cuda")


class Surfaces(NamedTuple):
    """The faces of n pictures, all with the triangles of one renderer."""

    vertices: torch.Tensor      # (n, V, 3) metres, x right, y up, z to the viewer; facing it, expression kept
    placed: torch.Tensor        # (n, V, 3) in the picture: x right, y down in [-1, 1]; smaller z nearer
    root: torch.Tensor          # (n, 3) the point that the views turn the face about
    detail: torch.Tensor | None     # (n, 1, 256, 256) metres along the normal, UV layout; None: no such map
    found: torch.Tensor         # (n,) bool, CPU; without a face the surface is the mean face


class Reconstructor:
    """Pictures → surfaces → pictures. A subclass has `reconstruct` and what follows.

    name: "deca" or "mesh". model: {file name: digest} of what it was read from. rule: its name and version; a
    change of the pixels is another version. renderer: `SurfaceRenderer`. rigid: vertices for the head's pose.
    """

    def views(self, pictures, paint="shape_detail"):
        """The face turned to yaw -30, -25, ... 30 degrees (SPEC section 5).

        pictures: uint8 (n, 3, 224, 224) RGB of one clip, all the same square. paint: "shape_detail" (grey) or
        "texture" (the picture's own colours; what it does not show is dark).
        Returns: uint8 (n, 13, 224, 224), or (n, 13, 3, 224, 224) for texture; and found, bool (n,).
        """
        if paint not in PAINTS:
            raise ValueError(f"paint is one of {', '.join(PAINTS)}, not {paint!r}")
        surfaces = self.reconstruct(pictures)
        images = pictures if paint == "texture" else None
        return self.renderer.thirteen(surfaces, YAWS, images), surfaces.found

    def motion(self, onset, pictures, yaws=(0,)):
        """What the face did from `onset` to each of `pictures`, painted on the onset's face (SPEC 10).

        onset: uint8 (3, 224, 224). pictures: uint8 (n, 3, 224, 224), the same square of the same clip.
        Returns: float32 (n, len(yaws), 3, 224, 224): u (right) and v (down) in pixels of the frontal drawing,
        and the optical strain; and found, bool (n,): a face in the onset and in this picture, else 0 motion.
        """
        pictures = torch.cat([onset[None], pictures])              # (n + 1, 3, H, W)
        return face_motion(self.renderer, self.rigid, self.reconstruct(pictures), pictures, yaws)


def usable_device(device):
    """`device` ("auto", "cpu", "cuda", "cuda:1") → torch.device. Raises: InputError when it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r}: no such device; choose cpu or cuda") from error
    if chosen.type not in DEVICES:
        raise InputError(f"device {device!r}: not supported; choose cpu or cuda")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r}: PyTorch finds {torch.cuda.device_count()} CUDA devices; "
                         "choose cpu, or install a driver and a PyTorch built for it")
    return chosen


def check_pictures(pictures):
    """Raises ValueError unless `pictures` is a uint8 tensor (n, 3, 224, 224), n > 0."""
    if not isinstance(pictures, torch.Tensor) or pictures.dtype != torch.uint8:
        raise ValueError("pictures: expected a uint8 tensor")
    if pictures.ndim != 4 or pictures.shape[1:] != (3, 224, 224) or len(pictures) == 0:
        raise ValueError(f"pictures: expected (n, 3, 224, 224), found {tuple(pictures.shape)}")


def file_digest(path):
    """The first 16 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def choose_reconstructor(wanted, folder=ASSETS):
    """"auto", "deca" or "mesh" → the one to use: auto is DECA where all its files lie in `folder`, else mesh.

    Raises: InputError for another name, or for "deca" without its official files.
    """
    if wanted not in RECONSTRUCTORS:
        raise InputError(f"reconstructor {wanted!r}: choose one of {', '.join(RECONSTRUCTORS)}")
    official = has_official(folder)
    if wanted == "deca" and not official:
        raise InputError(f"reconstructor deca: not all official files are in {folder}; "
                         "`python -m deca --check` lists them, or choose mesh")
    return "mesh" if wanted == "auto" and not official else "deca" if wanted == "auto" else wanted


def make_reconstructor(name="auto", device="auto", rasterizer="auto", folder=ASSETS):
    """The reconstructor `name` (see `choose_reconstructor`) on `device`, drawing with `rasterizer`.

    Raises: InputError for a name, device or rasteriser that is not there, or for a missing model file.
    """
    device = usable_device(device)
    if choose_reconstructor(name, folder) == "deca":
        from deca.deca import DECA
        return DECA.from_assets(folder, device, rasterizer)
    from deca.face_mesh import FaceMesh
    return FaceMesh(device, rasterizer)
