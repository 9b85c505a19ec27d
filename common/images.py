"""The one place that reads and writes pictures: any common mode in, 8-bit RGB out."""

import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import InputError
from common.files import whole_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")    # the other decoders are rare, and some start programs
DEPTHS = (255, 4095, 65535)    # white of deep grey: the first that its brightest pixel does not exceed
MAX_PIXELS = 100_000_000    # a larger picture is refused: decoding it could fill the memory

# What Pillow remarks on a file is of no use here. For good: filters set for a while are not safe in threads.
warnings.filterwarnings("ignore", module="PIL")


def read_image(path):
    """The picture at `path` as an array (H, W, 3), uint8 RGB, upright as its EXIF orientation says.

    JPEG, PNG, BMP, TIFF or WebP, told by content, not by name. Grey, palette, 16-bit (or 12 in 16), CMYK and
    RGBA pictures are converted (transparency is laid on black).

    Raises: InputError, naming the file, when it is missing, no plain file, too large or not such a picture.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("a folder, pipe or device, no file")
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels is too large, "
                                 f"scale it under {MAX_PIXELS:,}")
            return _to_rgb(ImageOps.exif_transpose(picture))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a readable picture (no {', '.join(FORMATS)} file); copy it anew from "
                         "its source, or convert it") from None
    except Exception as error:      # a decoder raises whatever it stumbles over: KeyError, zlib.error, ...
        reason = str(error).replace(repr(str(path)), "it").replace(str(path), "")
        reason = " ".join(reason.split())[:120] or type(error).__name__
        raise InputError(f"{path}: not a readable picture ({reason}); copy it anew from its source") from None


def _to_rgb(picture):
    """A PIL picture of any mode → (H, W, 3) uint8. Raises: ValueError for NaN or infinity."""
    if picture.mode.startswith("I") or picture.mode == "F":    # deep grey: PIL would clip, not scale
        values = np.asarray(picture, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("NaN or infinity in it")
        brightest = values.max(initial=0)
        if picture.mode == "F":
            top = 1.0 if brightest <= 1 else max(255.0, brightest)
        else:
            top = next((top for top in DEPTHS if brightest <= top), DEPTHS[-1])
        grey = np.clip(values * (255.0 / top), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)          # (H, W) → (H, W, 3)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    return np.array(picture.convert("RGB"))


def write_image(path, image, quality=95):
    """Write `image`, uint8 (H, W, 3) RGB or (H, W) grey, in the format of the path's ending, whole or not.

    PNG takes grey uint16 too. `quality` is JPEG's, 1-100. Raises: InputError when the file cannot be written.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    options = {"quality": quality} if Path(path).suffix.lower() in (".jpg", ".jpeg") else {}
    with whole_file(path) as temporary:
        picture.save(temporary, **options)


def find_pictures(paths):
    """The picture files among `paths`, folders searched (sorted, everything below them).

    Raises: InputError when a path does not exist or a folder holds no picture.
    """
    found = []
    for path in map(Path, paths):
        if os.path.isdir(path):
            below = sorted(p for p in path.rglob("*")
                           if p.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(p)
                           and not p.name.startswith("._"))       # what macOS lays beside a file
            if not below:
                raise InputError(f"{path}: no picture ({', '.join(IMAGE_SUFFIXES)}) in this folder")
            found += below
        elif os.path.exists(path):
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder; check the path")
    return found
