"""Face crops of the frames that training may use: one square per clip, cached, in memory (SPEC section 2)."""

import functools
import os
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm.contrib.concurrent import thread_map

from capsule.data import Clips
from capsule.data.folders import list_frames
from capsule.data.remarks import listed, said_of
from common.cache import digest, file_digest, read_entry, write_entry
from common.errors import InputError
from common.images import read_image
from deca.landmarks import CROP_SIZE, LandmarkDetector, crop_square, warp_square, whole_square

NEIGHBOURS = (-2, -1, 0, 1, 2)      # the frames of a clip that training may use, relative to the apex
OVERHANG = 0.03     # share of its side by which a square may leave the picture before it is moved into it
RULE = {"rule": "crop", "version": 2, "size": CROP_SIZE, "overhang": OVERHANG}
NO_NEIGHBOURS = "neighbours of the apex are not on disk"


@dataclass(frozen=True)
class FrameImages:
    """N frames of an experiment's clips as pictures, by clip, then by frame; one of each clip is its apex.

    Channels C by kind: "crop" 3 (RGB); "views" 13 (grey, yaw ascending); "texture" 39 (13 × RGB); "motion" 3,
    or 39 = 13 yaws × (u, v, strain), see `capsule.inputs.motion`.
    """

    clips: Clips                            # the clip table
    images: torch.Tensor                    # uint8 (N, C, H, W)
    clip: np.ndarray                        # int64 (N,), the row in the clip table
    is_apex: np.ndarray                     # bool (N,), one picture of each clip: by it the clip is judged
    names: list                             # N of "<data>/<subject>/<clip>/<frame>"
    kind: str
    rule: dict                              # what makes the pixels, JSON types; part of the run's identity
    said: tuple = ()                        # remarks for a reader of the results (capsule.data.remarks)
    pixels: str = ""                        # digest of the crops and onsets behind them; "": made elsewhere
    onsets: torch.Tensor | None = None      # crops only: uint8 (clips, 3, H, W), onset frames in that square
    has_onset: np.ndarray | None = None     # crops only: bool (clips,); False: the onset above is black

    def __len__(self):
        return len(self.names)

    @property
    def channels(self):
        """Input channels of a network that takes these pictures: grey views count as R = G = B."""
        return 3 * self.images.shape[1] if self.kind == "views" else self.images.shape[1]


def face_crops(clips):
    """224×224 RGB crops of each clip's apex, its neighbours (±1, ±2) and its onset, where on disk.

    One square per clip, from the landmarks of its onset frame (see `clip_square`). Cached under
    `<data_root>/crops/`, one folder a clip, and made again when a picture file or the rule has changed.
    Returns: FrameImages of kind "crop", images uint8 (N, 3, 224, 224) on the CPU.
    Raises: InputError when an apex frame is not on disk (`load_clips(skip_missing=True)` drops such clips),
    or a picture cannot be read; clips finished before stay cached.
    """
    keys = clips.keys
    missing = [key for key, there in zip(keys, clips.apex_on_disk, strict=True) if not there]
    if missing:
        raise InputError(f"{len(missing)} of {len(clips.table)} clips have no apex frame under "
                         f"{clips.data_root}: {listed(missing)}; "
                         f"{clips.notes.get('missing') or 'no folder was read'}; see data/README.md"
                         + ", or leave these clips out with --skip-missing" * bool(clips.apex_on_disk.any()))
    found = thread_map(functools.partial(_clip_crops, clips.data_root), keys, list(clips.table.itertuples()),
                       max_workers=min(8, os.cpu_count() or 1), unit="clip", disable=None,
                       desc=f"crops of {clips.dataset}")
    offsets, images, onsets, squares = zip(*found, strict=True)
    images = np.concatenate(images)                                         # (N, H, W, 3)
    has_onset = np.array([onset is not None for onset in onsets])
    empty = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
    onsets = np.stack([empty if onset is None else onset for onset in onsets])
    counts, squares = np.array([len(own) for own in offsets]), np.array(squares)
    clip, offset = np.repeat(np.arange(len(counts)), counts), np.concatenate(offsets)
    apex = clips.table["apex_frame"].to_numpy(np.int64)[clip]
    names = [f"{keys[row]}/{number}" for row, number in zip(clip, apex + offset, strict=True)]
    said = said_of(clips, {
        "no face was found, the whole picture is the crop": squares == "no face",
        "no square inside the picture holds the face, the whole picture is the crop": squares == "whole",
        "the onset frame is not on disk, the apex gives the crop": ~has_onset,
        NO_NEIGHBOURS: counts < len(NEIGHBOURS)})
    return FrameImages(clips, _planes(images), clip, offset == 0, names, "crop", RULE, said,
                       digest(images.data, onsets.data), _planes(onsets), has_onset)


def _planes(images):
    """uint8 (N, H, W, 3) → tensor (N, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def clip_square(image, detector):
    """The square to cut from every frame of a clip whose reference frame is `image`, uint8 (H, W, 3) RGB.

    SPEC section 2: the square round the face's landmarks. Where it leaves the picture by more than `OVERHANG`
    of its side (the picture is itself a tight crop, or the face is at its edge) it is shrunk to the picture's
    short side if need be and moved inside: a square crop passes through whole, a CASME II `Cropped` frame
    loses a little of its top or bottom. Within `OVERHANG`, what lies outside is black. Where moving would cut
    through the landmarks, or no face was found, it is the whole picture, squared.
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


def _clip_crops(root, name, row):
    """The crops of one clip, from the cache or cut now. name: its key. row: its row of the clip table.

    Returns: the n frames' offsets from the apex, a list; their crops (n, H, W, 3); the onset's crop, None
    where it is not on disk; how the square was found (see `clip_square`).
    """
    apex = root / row.apex_frame_path
    wanted = {row.onset_frame, *(row.apex_frame + o for o in NEIGHBOURS)}
    paths = {n: path for n, path in list_frames(apex.parent).items() if n in wanted}
    onset = row.onset_frame if row.onset_frame in paths else None
    reference = row.apex_frame if onset is None else onset        # the frame that gives the square
    paths |= {row.apex_frame: apex}
    folder = root / "crops" / name
    key = digest(RULE, reference, [[n, file_digest(paths[n])] for n in sorted(paths)])
    entry = read_entry(folder, key, [f"{n}.png" for n in paths], ["square"])
    pictures, info = entry or _cut(folder, key, paths, reference)
    offsets = [o for o in NEIGHBOURS if row.apex_frame + o in paths]
    images = np.stack([pictures[f"{row.apex_frame + o}.png"] for o in offsets])
    return offsets, images, None if onset is None else pictures[f"{onset}.png"], info["square"]


def _cut(folder, key, paths, reference):
    """Cut all frames {number: path} of a clip by the square of frame `reference`; write the cache entry.

    Returns: ({"<number>.png": crop}, info), as `read_entry`. Raises: InputError for frames of unequal size.
    """
    frames = {number: read_image(path) for number, path in paths.items()}
    shape = frames[reference].shape
    for number, frame in frames.items():
        if frame.shape != shape:
            raise InputError(f"{paths[number]}: {frame.shape[1]}x{frame.shape[0]} pixels, but "
                             f"{paths[reference].name} of the same clip has {shape[1]}x{shape[0]}; "
                             "copy the clip anew from its source")
    center, side, square = clip_square(frames[reference], LandmarkDetector())
    pictures = {f"{n}.png": warp_square(frame, center, side) for n, frame in frames.items()}
    info = {"square": square, "center": [float(x) for x in center], "side": float(side)}
    return write_entry(folder, key, pictures, info), info


def with_images(crops, images, kind, rule, said=()):
    """`crops` with other pictures of the same frames; their remarks `said` follow those on the crops."""
    return replace(crops, images=images, kind=kind, rule=rule, said=(*crops.said, *said), onsets=None,
                   has_onset=None)
