"""Thirteen rendered views of every frame, made once and kept on disk (SPEC section 5).

`<data_root>/views/<reconstructor>/<data>/<subject>/<clip>/<frame>/<yaw>.jpg`, grey, and beside them
`key.json`: what made them and a checksum of each. It is written last, so that a frame has all of its views or
none; another crop, rule or head has another key, so that stale views are never read.
"""

import dataclasses
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from common.errors import InputError
from common.files import write_bytes, write_json
from deca import fitting
from deca.assets import FLAME_FILES, has_official
from deca.fitting import ASSETS, LandmarkFit
from deca.landmarks import CROP_SIZE, LandmarkDetector
from deca.model import DECA
from deca.renderer import YAWS

RULE = {"version": 1, "yaws": list(YAWS), "size": CROP_SIZE, "jpeg_quality": 95}
RECONSTRUCTORS = ("auto", "deca", "landmarks")
MAX_RENDERING = 4       # clips rendered together on a CPU: bounds the memory, 0.2 GiB each


def thirteen_views(clips, crops, config):
    """The thirteen views of each frame of `crops`, from the cache or rendered now.

    clips: the clip table that `crops` belongs to (`clips.name` names the manifest). crops: images uint8
    (N, 3, 224, 224), `clip` and `offset` (N,), names "<data>/<subject>/<clip>/<frame>". config: `data_root`,
    `reconstructor` ("auto": DECA where its official files are there, else the landmark fit), `device`.
    A clip in which the landmark fit finds no face gets the views of the mean head: listed in notes and in
    `<data_root>/views/<reconstructor>/fallback_<clip list>.json`, and said.
    Returns: `crops` with images uint8 (N, 13, 224, 224), yaw -30 ... 30, kind "views", and notes:
    reconstructor, head, key, views_fallback.
    Raises: InputError for an unwritable cache or unusable official files.
    """
    name, why = choose_reconstructor(config.reconstructor, ASSETS)
    print(f"views: {why}", flush=True)
    maker = Maker(name, config.device)
    root = Path(config.data_root) / "views" / name
    jobs = _jobs(crops, root, maker.key)
    images = np.empty((len(crops.names), len(YAWS), CROP_SIZE, CROP_SIZE), np.uint8)
    with tqdm(total=len(images), desc=f"views of {clips.dataset}", unit="frame") as bar:
        found = _read_cached(jobs, images, bar)
        found.update(_make(maker, [job for job in jobs if job.row not in found], crops, images, bar))
    fallback = [job.clip for job in jobs if not found[job.row]]
    _write_manifest(root, clips, fallback, len(jobs))
    notes = {"reconstructor": name, "head": maker.head_name, "key": maker.key, "views_fallback": fallback}
    return dataclasses.replace(crops, images=torch.from_numpy(images), kind="views", notes=notes)


def choose_reconstructor(wanted, folder=ASSETS):
    """ "auto", "deca" or "landmarks" → the one to use ("deca" or "landmarks") and a line that says why.

    Raises: InputError for another name, or for "deca" without its official files.
    """
    if wanted not in RECONSTRUCTORS:
        raise InputError(f"reconstructor {wanted!r}: choose one of {', '.join(RECONSTRUCTORS)}")
    official = has_official(folder)
    if wanted == "deca" and not official:
        raise InputError(f"reconstructor deca: not all official files are in {folder}; "
                         "`python -m deca --check` lists them, or choose landmarks")
    if wanted == "landmarks":
        return "landmarks", "reconstructor landmarks (68 landmarks and a linear head), as asked for"
    if official:
        return "deca", f"reconstructor deca, with the official files in {folder}"
    return "landmarks", ("reconstructor landmarks (68 landmarks and a linear head): "
                         f"the official DECA files are not all in {folder}")


def make_reconstructor(name, device="auto", folder=ASSETS, rasterizer="torch"):
    """The reconstructor "deca" or "landmarks" on `device` ("auto": CUDA where there is one)."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if name == "deca":
        return DECA.from_assets(folder, device, rasterizer)
    return LandmarkFit(device, rasterizer, fitting.default_head(folder))


class Maker:
    """Renders the views of a clip; `.key` says what made them. The networks are read when first needed."""

    def __init__(self, name, device):
        self.name, self._device, self._reconstructor = name, device, None
        if name == "deca":
            files = [ASSETS / file for file in (*FLAME_FILES, "deca_model.tar")]
            self.head_name, head, rule = "flame", _files_hash(files), {}
        else:
            self._reconstructor = make_reconstructor(name, device, ASSETS)
            model = self._reconstructor.head
            self.head_name, head, rule = model.name, _head_hash(model), fitting.RULE
        text = json.dumps([RULE, name, head, rule], sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def reconstructor(self):
        if self._reconstructor is None:
            self._reconstructor = make_reconstructor(self.name, self._device, ASSETS)
        return self._reconstructor

    def points(self, pictures, offsets):
        """Landmarks of one clip's crops, uint8 (n, 224, 224, 3): (n, 68, 2), or None where no face is found.

        All crops of a clip are the same square: the box in which the detector finds the face nearest to the
        apex is used for every frame, so that what moves between them is the face and not the box.
        """
        if self.name == "deca":
            return None
        detector = LandmarkDetector()
        for index in np.argsort(np.abs(offsets), kind="stable"):
            detection = detector.detect(pictures[index])
            if detection is not None:
                return np.stack([detector.points_in_box(picture, detection.box) for picture in pictures])
        return None

    def views(self, pictures, points):
        """Grey views uint8 (n, 13, 224, 224) of one clip's crops, uint8 (n, 224, 224, 3), and landmarks."""
        if self.name == "deca":
            images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255     # → (n, 3, 224, 224)
            codes = self.reconstructor.encode(images)
        elif points is None:
            codes = self.reconstructor.mean_codes(len(pictures))
        else:
            codes = self.reconstructor.fit(points)
        views = self.reconstructor.thirteen_views(codes)[:, :, 0]
        return views.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


@dataclasses.dataclass(frozen=True)
class _Job:
    """One clip: the places of its frames in the crops, their folders in the cache and their keys."""

    row: int            # in the clip table
    clip: str           # "<data>/<subject>/<clip>"
    frames: np.ndarray
    folders: tuple
    keys: tuple


def _jobs(crops, root, maker_key):
    """One _Job per clip. A frame's key covers every crop of its clip: the landmarks depend on them all."""
    pictures = crops.images.permute(0, 2, 3, 1).numpy()     # (N, 3, H, W) → (N, H, W, 3), no copy
    jobs = []
    for row in dict.fromkeys(crops.clip.tolist()):
        frames = np.flatnonzero(crops.clip == row)
        digest = hashlib.sha256(maker_key.encode())
        digest.update(crops.offset[frames].astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(pictures[frames]).tobytes())
        names = [crops.names[frame] for frame in frames]
        for name in names:
            if len(Path(name).parts) != 4 or ".." in Path(name).parts or Path(name).is_absolute():
                raise InputError(f"{name}: not a name of the form database/subject/clip/frame; "
                                 "correct it in the annotation sheet")
        keys = tuple(f"{digest.hexdigest()[:32]}-{place}" for place in range(len(frames)))
        jobs.append(_Job(row, names[0].rsplit("/", 1)[0], frames, tuple(root / name for name in names), keys))
    return jobs


def _read_cached(jobs, images, bar):
    """Fill `images` with the clips that are whole in the cache. Returns {row: was a face found}."""
    def read(job):
        entries = [_read_frame(folder, key) for folder, key in zip(job.folders, job.keys, strict=True)]
        if any(entry is None for entry in entries):
            return None
        images[job.frames] = np.stack([views for views, _ in entries])
        return all(face for _, face in entries)

    found = {}
    with ThreadPoolExecutor(max_workers=_threads()) as pool:
        for job, face in zip(jobs, pool.map(read, jobs), strict=True):
            if face is not None:
                found[job.row] = face
                bar.update(len(job.frames))
    return found


def _make(maker, jobs, crops, images, bar):
    """Render and store the clips of `jobs`, and fill `images`. Returns {row: was a face found}.

    Each thread takes one clip from its landmarks to its files; on a GPU they render in turn. A clip is one
    batch, whatever was cached before: a resumed run gives the same bytes.
    """
    if not jobs:
        return {}
    on_gpu = maker.reconstructor.device.type == "cuda"
    workers = _threads() if on_gpu else min(MAX_RENDERING, _threads())
    rendering = threading.Semaphore(1 if on_gpu else workers)

    def make(job):
        pictures = _pictures(crops, job)
        points = maker.points(pictures, crops.offset[job.frames])
        face = points is not None or maker.name == "deca"
        with rendering:
            views = maker.views(pictures, points)
        for frame, folder, key, view in zip(job.frames, job.folders, job.keys, views, strict=True):
            images[frame] = _write_frame(folder, key, view, face)
        return face

    before = torch.get_num_threads()
    torch.set_num_threads(1)        # in each of ours: torch's wait for each other busily
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        found = {}
        for job, face in zip(jobs, pool.map(make, jobs), strict=True):
            found[job.row] = face
            bar.update(len(job.frames))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
    return found


def _pictures(crops, job):
    """The clip's crops, uint8 (n, 224, 224, 3)."""
    pictures = crops.images[job.frames].permute(0, 2, 3, 1)     # (n, 3, H, W) → (n, H, W, 3)
    return np.ascontiguousarray(pictures.numpy())


def _read_frame(folder, key):
    """(views uint8 (13, 224, 224), was a face found) of a cache entry; None unless whole and of this key."""
    try:
        entry = json.loads((folder / "key.json").read_text(encoding="utf-8"))
        if entry["key"] != key:
            return None
        views = []
        for yaw in YAWS:
            data = (folder / f"{yaw}.jpg").read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"][str(yaw)]:
                return None
            views.append(_decode(data))
        return np.stack(views), bool(entry["face"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_frame(folder, key, views, face):
    """Store the views uint8 (13, 224, 224) of one frame; returns them as they will be read back."""
    key_path = folder / "key.json"
    try:
        key_path.unlink(missing_ok=True)        # first: no old key over new views
    except OSError as error:
        raise InputError(f"{key_path}: cannot be removed ({error.strerror}); "
                         "choose a --data-root that you may write to") from error
    sums, decoded = {}, []
    for yaw, view in zip(YAWS, views, strict=True):
        data = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, RULE["jpeg_quality"]])[1].tobytes()
        write_bytes(folder / f"{yaw}.jpg", data)
        sums[str(yaw)] = hashlib.sha256(data).hexdigest()
        decoded.append(_decode(data))
    write_json(key_path, {"key": key, "face": face, "sha256": sums})
    return np.stack(decoded)


def _decode(data):
    view = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if view is None or view.shape != (CROP_SIZE, CROP_SIZE):
        raise ValueError("not a view")
    return view


def _write_manifest(root, clips, fallback, count):
    """The clips whose views are the mean head's, as JSON beside the views, and one line about them."""
    path = root / f"fallback_{clips.name}.json"
    write_json(path, {"clips": fallback, "what": "no face was found in the clip's crops; "
                                                 "its views show the mean head"})
    if fallback:
        tqdm.write(f"no face found in {len(fallback)} of {count} clips, the mean head stands for them: "
                   f"{path}")


def _files_hash(paths):
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _head_hash(head):
    """A hash of everything in a HeadModel."""
    digest = hashlib.sha256()
    for field in dataclasses.fields(head):
        value = getattr(head, field.name)
        digest.update(field.name.encode())
        digest.update(np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray)
                      else repr(value).encode())
    return digest.hexdigest()


def _threads():
    return min(16, os.cpu_count() or 1)
