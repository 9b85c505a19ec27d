"""Thirteen pictures of every frame's 3-D face, turned from −30 to 30 degrees; cached (SPEC section 5).

`<data_root>/views/<reconstructor>/<paint>/<data>/<subject>/<clip>/<frame>/<yaw>.jpg`, one cache entry a clip.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from capsule.data.remarks import listed, said_of
from capsule.inputs.crops import with_images
from capsule.inputs.motion import ZERO, face_motion
from capsule.inputs.rendered import cached_pictures
from common.cache import digest
from common.errors import InputError
from common.images import IMAGE_SUFFIXES, read_image
from deca.renderer import YAWS

KINDS = {"shape_detail": "views", "texture": "texture", "motion": "motion"}     # paint → FrameImages.kind
COLOURED = 2.0      # levels: where R, G and B deviate by more, on average, the picture is no grey JPEG
STILL = 8           # levels: nothing moves beside a face; so far may JPEG take its pixels from (128, 128, 0)
RULE = {"rule": "views", "version": 1, "jpeg_quality": 95}


def thirteen_views(crops, reconstructor="auto", paint="shape_detail", device="auto", rasterizer="auto",
                   views_root=""):
    """The thirteen views of each frame of `crops`, from the cache or rendered now.

    crops: `capsule.inputs.face_crops`. reconstructor, device, rasterizer: `deca.make_reconstructor`.
    paint: "shape_detail" (grey), "texture" (the photograph's colours) or "motion" (onset to this frame;
    `capsule.inputs.motion`). views_root: a folder of views made elsewhere,
    `<data>/<subject>/<clip>/<frame>/<yaw>.jpg` (the database's folder may be missing), used instead.
    A frame without a face gets the views of the mean face; its clip is listed in `said`.
    Returns: FrameImages of kind "views" (N, 13, 224, 224), "texture" or "motion" (N, 39, 224, 224),
    yaw ascending.
    Raises: InputError for an unwritable cache, unusable model files, or views that are not there or are not
    what `paint` says.
    """
    if views_root:
        return _read_views(crops, Path(views_root), paint)
    if paint == "motion":
        return face_motion(crops, reconstructor, YAWS, device, rasterizer)
    from deca import make_reconstructor  # here: the 2-D experiments need no 3-D face

    maker = make_reconstructor(reconstructor, device, rasterizer)
    images, rule, found = cached_pictures(crops, maker, ("views", paint), {**RULE, "paint": paint},
                                          lambda row, own: maker.views(own, paint), ".jpg", YAWS)
    said = said_of(crops.clips, {"no face for the views, its views show the mean face": ~found})
    return with_images(crops, images, KINDS[paint], rule, said)


def single_pictures(crops, views):
    """Each crop and each of its thirteen views, of any paint but motion, as an RGB picture of the same clip.

    The views are drawn for training like neighbour frames; a clip is judged by its apex crop alone.
    Returns: FrameImages of kind "crop", images uint8 (14·N, 3, 224, 224).
    Raises: InputError for views of another size than the crops.
    """
    if views.images.shape[2:] != crops.images.shape[2:]:
        height, width = views.images.shape[2:]
        raise InputError(f"--streams pictures: views of {width}x{height} pixels do not mix with crops of "
                         f"{crops.images.shape[3]}; use --streams views")
    shape = (len(views), len(YAWS), -1, *views.images.shape[2:])
    each = views.images.view(shape).expand(-1, -1, 3, -1, -1)                       # (N, 13, 3, H, W)
    images = torch.cat([crops.images[:, None], each], 1).flatten(0, 1)              # → (14·N, 3, H, W)
    place = np.arange(len(YAWS) + 1)
    is_apex = (crops.is_apex[:, None] & (place == 0)).ravel()                       # (N, 14) → (14·N,)
    names = [name if i == 0 else f"{name}/{YAWS[i - 1]}" for name in crops.names for i in place]
    return replace(crops, images=images, clip=crops.clip.repeat(len(place)), is_apex=is_apex, names=names,
                   rule={**views.rule, "single pictures": {"version": 1}}, said=views.said)


def _read_views(crops, root, paint):
    """FrameImages of views made elsewhere. Raises: InputError (see `thirteen_views`)."""
    if not root.is_dir():
        raise InputError(f"--views-root {root}: no such folder; run the training script with their place")
    images, channels = [], 1 if paint == "shape_detail" else 3
    folders = {name: next((folder for folder in (root / name, root / name.split("/", 1)[1])
                           if folder.is_dir()), None) for name in crops.names}
    lost = [name for name, folder in folders.items() if folder is None]
    if lost:
        raise InputError(f"--views-root {root}: no views of {len(lost)} of {len(folders)} frames: "
                         f"{listed(lost)}; it needs <data>/<subject>/<clip>/<frame>/<yaw>.jpg of every "
                         "apex and of its neighbours on disk")
    for folder in tqdm(folders.values(), desc="views", unit="frame", disable=None):
        files = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES and re.fullmatch("-?[0-9]+", path.stem):
                other = files.setdefault(int(path.stem), path)
                if other != path:
                    raise InputError(f"{path}: of the same yaw as {other.name}; remove one of them")
        lost = [yaw for yaw in YAWS if yaw not in files]
        if lost:
            raise InputError(f"{folder}: no view of yaw {', '.join(map(str, lost))}; thirteen are needed, "
                             "-30.jpg to 30.jpg")
        pictures = [read_image(files[yaw]) for yaw in YAWS]                                     # (H, W, 3)
        if channels == 1 and max(picture.std(2).mean() for picture in pictures) > COLOURED:
            raise InputError(f"{folder}: coloured views; --paint texture or motion says what they show")
        if channels == 3 and any((paint == "motion") != _is_motion(picture) for picture in pictures):
            shown = "no motion (128, 128, 0 where nothing moves)" if paint == "motion" else "motion"
            raise InputError(f"{folder}: the views show {shown}; --paint says what they show")
        images += [picture.transpose(2, 0, 1)[:channels].copy() for picture in pictures]        # (C, H, W)
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{root}: views of different sizes; render them all at one size")
    stack = torch.from_numpy(np.stack(images))                                      # (13·N, C, H, W)
    stack = stack.view(len(folders), -1, *stack.shape[2:])                          # → (N, 13·C, H, W)
    rule = {"rule": "views of another program", "version": 1, "paint": paint,
            "views_root": digest(stack.numpy().data)}
    return with_images(crops, stack, KINDS[paint], rule)


def _is_motion(picture):
    """Whether a view, uint8 (H, W, 3), shows motion: its upper edge, beside the face, is (128, 128, 0)."""
    return bool((np.abs(np.median(picture[0], 0) - ZERO[:, 0, 0]) <= STILL).all())
