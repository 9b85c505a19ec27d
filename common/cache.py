"""The one cache: an entry is a folder of picture files and, written last, `key.json`.

`key.json` holds the entry's key, a checksum of each file and what else is known of it. A reader takes an
entry whole or not at all: another key, a damaged or missing file, and it is made again. A key is made from
a rule (a dict with a name and a version) and its sources, never from the text of a program.
"""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from common.files import sweep, write_bytes, write_json

JPEG_QUALITY = 95


def digest(*values):
    """16 hexadecimal digits of JSON-able values, bytes and memory views."""
    found = hashlib.sha256()
    for value in values:
        is_raw = isinstance(value, bytes | memoryview)
        found.update(value if is_raw else json.dumps(value, sort_keys=True).encode())
    return found.hexdigest()[:16]


def file_digest(path):
    """16 hexadecimal digits of a file's content. Raises: InputError when it cannot be read."""
    try:
        return digest(Path(path).read_bytes())
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", "far too large")
        raise InputError(f"{path}: cannot be read ({reason}); copy it anew") from error


def read_entry(folder, key, names=(), facts=()):
    """(dict of file name → uint8 picture (H, W) or (H, W, 3) RGB, info) of an entry.

    None unless whole, of `key`, and with these `names` of files and `facts` of the info.
    """
    try:
        stored = json.loads((Path(folder) / "key.json").read_text(encoding="utf-8"))
        if stored["key"] != key:
            return None
        pictures = {}
        for name, checksum in stored["sha256"].items():
            data = (Path(folder) / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != checksum:
                return None
            pictures[name] = _decoded(data)
        info = dict(stored["info"])
        return (pictures, info) if set(names) <= set(pictures) and set(facts) <= set(info) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, cv2.error):
        return None


def write_entry(folder, key, pictures, info):
    """Write an entry, its key last. `pictures`: file name (.png, .jpg) → uint8 (H, W) or (H, W, 3) RGB.

    Returns: the pictures as `read_entry` will give them (JPEG loses a little).
    Raises: InputError when the folder cannot be written.
    """
    folder, sums, decoded = Path(folder), {}, {}
    sweep(folder)       # of a writer that was killed
    for name, picture in pictures.items():
        data = _encoded(name, picture)
        write_bytes(folder / name, data)
        sums[name], decoded[name] = hashlib.sha256(data).hexdigest(), _decoded(data)
    write_json(folder / "key.json", {"key": key, "sha256": sums, "info": info})
    return decoded


def _encoded(name, picture):
    """A picture file's bytes; OpenCV orders colours blue, green, red."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if name.endswith(".jpg") else []
    picture = np.ascontiguousarray(picture[..., ::-1] if picture.ndim == 3 else picture)
    return cv2.imencode(Path(name).suffix, picture, options)[1].tobytes()


def _decoded(data):
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return picture[..., ::-1] if picture.ndim == 3 else picture
