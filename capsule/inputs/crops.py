"""Face crops of all frames that training may touch: cut by one rule, cached, in memory (SPEC section 2)."""

import hashlib
import inspect
import io
import json
import os
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import deca.landmarks
from capsule.data.folders import Folders, list_frames
from common.errors import InputError
from common.files import whole_file, write_json
from common.images import read_image
from deca.landmarks import CROP_SIZE, LandmarkDetector, crop_square, warp_square, whole_square

NEIGHBOURS = (-2, -1, 0, 1, 2)      # frames of a clip that training may touch, relative to the apex
OVERHANG = 0.03     # of its side: a square that leaves the picture by more is moved or shrunk into it
# What a damaged cache file raises, by the place of the damage.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, OverflowError,
              struct.error, zlib.error, zipfile.BadZipFile)
LISTED = 20         # clips that an error message names


@dataclass(frozen=True)
class FrameImages:
    """Frames of an experiment's clips as pictures, by clip, then offset; each clip's apex is there once.

    images: uint8 tensor (N, C, H, W); crops have 3 channels (RGB), views 13 (grey, yaw ascending).
    clip: int64 (N,), the row in `clips.table`. offset: int64 (N,), frame − apex (0 = the apex).
    names: "<data>/<subject>/<clip>/<frame>". fallback: keys of the clips in which no face was found.
    missing_neighbours: frames at apex ±1, ±2 that are not on disk. kind: "crop" or "views".
    notes: what made them, JSON types only.
    """

    images: torch.Tensor
    clip: np.ndarray
    offset: np.ndarray
    names: list
    fallback: tuple
    missing_neighbours: int
    kind: str = "crop"
    notes: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.names)

    def to(self, device):
        """The same with the images on `device`."""
        return replace(self, images=self.images.to(device))


@dataclass(frozen=True)
class _Job:
    """One clip's part of the work: `paths` of the frames to crop by offset, `reference` gives the square."""

    key: str
    paths: dict         # offset → path, ascending
    reference: Path     # the onset frame, or the apex where the onset is not on disk
    from_onset: bool
    entry: Path         # cache file

    @property
    def sources(self):
        """What the cache entry depends on: offsets, and name, size and time of every picture file."""
        files = []
        for path in (self.reference, *self.paths.values()):
            status = _stat(path)
            files.append([path.name, status.st_size, status.st_mtime_ns])
        return json.dumps([self.from_onset, list(self.paths), files])


def face_crops(clips, config):
    """224×224 RGB crops of each clip's apex frame and those of its neighbours (±1, ±2) that are on disk.

    One square per clip, from the landmarks of its onset frame (see `clip_square`). Crops are cached
    under `<data_root>/crops/`, one file a clip, and made again when a picture file or the rule has changed.
    The clips in which no face was found are listed in `<data_root>/crops/fallback_<clip list>.json` and in
    `.fallback`.
    Returns: FrameImages, images uint8 (N, 3, 224, 224) on the CPU.
    Raises: InputError when an apex frame is not on disk (`--skip-missing` drops such clips in `load_clips`),
    or when a picture cannot be read; clips finished before stay cached.
    """
    jobs = _jobs(clips, config)
    counts = [len(job.paths) for job in jobs]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    images = np.empty((starts[-1], 3, CROP_SIZE, CROP_SIZE), np.uint8)
    infos = [None] * len(jobs)
    worker = _Cropper()

    def fill(i):
        crops, infos[i] = worker.crops(jobs[i])
        images[starts[i]:starts[i + 1]] = crops.transpose(0, 3, 1, 2)       # (n, H, W, 3) → (n, 3, H, W)

    _in_threads(fill, len(jobs), f"crops of {clips.dataset}")
    notes = _notes(jobs, infos)
    _write_manifest(clips, config, jobs, notes["fallback"])
    apexes = clips.table["apex_frame"].to_numpy(np.int64)
    offset = np.array([o for job in jobs for o in job.paths], np.int64)
    clip = np.repeat(np.arange(len(jobs)), counts).astype(np.int64)
    names = [f"{jobs[i].key}/{apexes[i] + o}" for i, o in zip(clip, offset, strict=True)]
    return FrameImages(torch.from_numpy(images), clip, offset, names, tuple(notes["fallback"]),
                       notes["missing_neighbours"], "crop", notes)


def clip_square(image, detector):
    """The square to cut from every frame of a clip whose reference frame is `image`, uint8 (H, W, 3) RGB.

    SPEC section 2: the square round the face's landmarks. Where it leaves the picture by more than `OVERHANG`
    of its side (the picture is itself a tight crop, or the face is at its edge) it is shrunk to the picture's
    short side if need be and moved inside: a square crop passes through whole, a CASME II `Cropped` frame
    loses a little of its top or bottom, nothing turns black. Where that would cut through the landmarks, or
    no face was found, it is the whole picture, squared.
    Returns: (center (2,), side) in pixels, and how: "landmarks", "inside", "whole" or "no face".
    """
    height, width = image.shape[:2]
    found = detector.detect(image)
    if found is None:
        return (*whole_square(height, width), "no face")
    center, side = crop_square(found.points)
    last = np.array([width, height]) - 0.5      # the picture covers -0.5 ... size - 0.5 in x and y
    outside = max((-0.5 - (center - side / 2)).max(), (center + side / 2 - last).max())
    if outside <= OVERHANG * side:
        return center, side, "landmarks"
    side = min(side, float(min(height, width)))
    center = np.clip(center, side / 2 - 0.5, last - side / 2)
    points = np.clip(found.points, -0.5, last)  # dlib guesses landmarks outside the picture too
    if np.abs(points - center).max() > side / 2 * (1 + 2 * OVERHANG):
        return (*whole_square(height, width), "whole")
    return center, side, "inside"


def clip_frames(clip, config):
    """{frame number: path}, ascending, of the frames onset ... offset of one clip that are on disk.

    clip: a row of a clip table (or of `smic_onsets`): data, subject, clip, onset_frame, offset_frame.
    """
    frames = Folders(config.data_root).frames(clip.data, clip.subject, clip.clip, clip.onset_frame)
    return {n: path for n, path in frames.items() if clip.onset_frame <= n <= clip.offset_frame}


def _jobs(clips, config):
    """One _Job per row of the clip table. Raises: InputError when apex frames are not on disk."""
    missing = [key for key, there in zip(clips.keys, clips.apex_on_disk, strict=True) if not there]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise InputError(f"{len(missing)} of {len(clips.table)} clips have no apex frame under "
                         f"{config.data_root}: {', '.join(missing[:LISTED])}{more}; lay the frames as "
                         "data/README.md says, or leave these clips out with --skip-missing")
    root = Path(config.data_root)
    cache = root / "crops" / _cache_key()
    jobs = []
    for key, row in zip(clips.keys, clips.table.itertuples(), strict=True):
        apex = root / row.apex_frame_path
        frames = list_frames(apex.parent)
        paths = {o: frames.get(row.apex_frame + o) for o in NEIGHBOURS} | {0: apex}
        onset = root / row.onset_frame_path if row.onset_frame_path else None
        jobs.append(_Job(key, {o: path for o, path in paths.items() if path is not None}, onset or apex,
                         onset is not None, cache / f"{key}.npz"))
    return jobs


def _cache_key():
    """Twelve letters that change when the crop rule's code does."""
    rule = inspect.getsource(deca.landmarks) + inspect.getsource(clip_square) + f"{CROP_SIZE} {OVERHANG}"
    return hashlib.sha256(rule.encode()).hexdigest()[:12]


class _Cropper:
    """Cuts and caches the crops of one clip at a time; may be called from several threads."""

    def crops(self, job):
        """(uint8 (n, 224, 224, 3), info dict) of one clip, from its cache entry or from the pictures."""
        sources = job.sources
        cached = _read_entry(job, sources)
        if cached is not None:
            return cached
        pictures = {path: read_image(path) for path in {job.reference, *job.paths.values()}}
        shape = pictures[job.reference].shape
        for path, picture in pictures.items():
            if picture.shape != shape:
                raise InputError(f"{path}: {picture.shape[1]}x{picture.shape[0]} pixels, but "
                                 f"{job.reference.name} of the same clip has {shape[1]}x{shape[0]}; "
                                 "copy the clip anew from its source")
        center, side, square = clip_square(pictures[job.reference], LandmarkDetector())
        images = np.stack([warp_square(pictures[path], center, side) for path in job.paths.values()])
        info = {"square": square, "center": [float(x) for x in center], "side": float(side)}
        with whole_file(job.entry) as temporary, open(temporary, "wb") as file:
            np.savez(file, images=images, sources=np.array(sources), info=np.array(json.dumps(info)))
        return images, info


def _read_entry(job, sources):
    """(images, info) of a cache entry made from `sources`; None where it is absent, stale or damaged."""
    try:
        raw = job.entry.read_bytes()
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if archive.testzip() is not None:       # checksums first: nothing damaged is ever parsed
                return None
        with np.load(io.BytesIO(raw), allow_pickle=False) as entry:
            if str(entry["sources"]) != sources:
                return None
            images, info = entry["images"], json.loads(str(entry["info"]))
    except UNREADABLE:
        return None
    whole = images.shape == (len(job.paths), CROP_SIZE, CROP_SIZE, 3) and images.dtype == np.uint8
    return (images, info) if whole and isinstance(info, dict) and "square" in info else None


def _in_threads(work, n, title):
    """Call work(0) ... work(n-1) on a few threads under a progress bar. The first error stops the rest."""
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        for _ in tqdm(pool.map(work, range(n)), total=n, desc=title, unit="clip"):
            pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _notes(jobs, infos):
    """What a reader of the results should know of the crops."""
    squares = [info["square"] for info in infos]
    return {"squares": {how: squares.count(how) for how in sorted(set(squares))},
            "fallback": [job.key for job, how in zip(jobs, squares, strict=True) if how == "no face"],
            "onset_not_on_disk": sum(not job.from_onset for job in jobs),
            "missing_neighbours": sum(len(NEIGHBOURS) - len(job.paths) for job in jobs)}


def _write_manifest(clips, config, jobs, fallback):
    """The clips in which no face was found, as JSON beside the crops, and one line about them.

    A part of a clip list (a few chosen clips) leaves the whole list's manifest alone.
    """
    reference = {job.key: job.reference.name for job in jobs}
    path = Path(config.data_root) / "crops" / f"fallback_{clips.name}.json"
    if len(jobs) < clips.notes["clips"]:
        return
    write_json(path, {"clips": [{"clip": key, "frame": reference[key]} for key in fallback],
                      "what": "no face was found in this frame; the whole picture, squared, is the crop"})
    if fallback:
        print(f"no face found in {len(fallback)} of {len(jobs)} clips, the whole picture is used: {path}",
              flush=True)


def _stat(path):
    try:
        return os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); copy it anew") from error
