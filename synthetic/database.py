"""A small synthetic database in CASME II's own layout, rendered from the embedded head (SPEC sections 1, 4).

Its numbers say that the pipeline works, not how good a method is: no person is in it.

    python -m synthetic --data-root data --subjects 8 --clips 6 --glasses 0.4 --intensity normal

writes <data-root>/synthetic/sub01/EP01_01f/img46.jpg ..., the annotation sheet CASME2-coding-20140508.xlsx
with CASME II's columns, README.txt, and synthetic.json with the settings and the truth (for judging apex
spotting; training never reads it). Same seed, same bytes. The default takes about half a minute on two cores.
The folder is there whole or not at all; an interrupted run goes on where it stopped.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from common.errors import InputError
from common.files import read_json, write_bytes, write_json, write_text
from common.images import write_image
from synthetic import scene

RECIPE = 4                              # raise it when the same settings would give other pictures
FOLDER, SHEET, MANIFEST, README = "synthetic", "CASME2-coding-20140508.xlsx", "synthetic.json", "README.txt"
INTENSITIES = {"normal": (6.5, 8.0), "micro": (1.5, 4.0)}   # strongest landmark's way, pixels of the 224 crop
MARGIN = 0.1                            # of that range, kept free at both ends
FRAMES = (9, 15)                        # frames of a clip, least and most
JPEG_QUALITY = 90
# Of each class: the emotion, and the action units that may show it, each with the range of its share.
ACTIONS = (
    ("disgust", ({"AU4": (0.9, 1.0), "AU15": (0.6, 0.9)}, {"AU4": (0.8, 1.0), "AU9": (0.6, 0.9)},
                 {"AU4": (0.9, 1.0), "AU7": (0.6, 0.9)})),
    ("happiness", ({"AU6": (0.5, 0.8), "AU12": (0.8, 1.0)},)),
    ("surprise", ({"AU1": (0.7, 0.9), "AU2": (0.6, 0.9), "AU5": (0.6, 0.9), "AU25": (0.5, 0.8)},
                  {"AU1": (0.7, 0.9), "AU2": (0.6, 0.9), "AU5": (0.6, 0.9), "AU26": (0.3, 0.5)})),
)
LABEL = ("Synthetic micro-expressions: rendered by a program, no person is shown.\n"
         "Numbers measured on them say that the pipeline works, not how good a method is.\n"
         "Layout and annotation sheet are CASME II's. synthetic.json holds the settings and the true\n"
         "movements; it is for judging apex spotting, nothing that trains may read it.\n")


@dataclass(frozen=True)
class Settings:
    """What a synthetic database is made from. Raises: InputError for values that no database can have."""

    subjects: int = 8
    clips: int = 6              # of each subject; the classes take turns
    glasses: float = 0.4        # share of the subjects who wear glasses
    intensity: str = "normal"
    seed: int = 0
    frames: tuple = FRAMES

    def __post_init__(self):
        for name in ("subjects", "clips"):
            if not 1 <= getattr(self, name) <= 99:
                raise InputError(f"--{name} {getattr(self, name)}: must be from 1 to 99")
        if not 0 <= self.glasses <= 1:
            raise InputError(f"--glasses {self.glasses}: must be from 0 to 1, a share of the subjects")
        if self.intensity not in INTENSITIES:
            raise InputError(f"--intensity {self.intensity}: must be one of {', '.join(INTENSITIES)}")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
        if not 7 <= self.frames[0] <= self.frames[1] <= 99:
            raise InputError(f"frames {self.frames}: a clip has 7 to 99 frames, the least first")


@dataclass(frozen=True)
class Clip:
    """One clip before it is rendered: all that the random numbers decide, but for the camera's noise."""

    subject: str
    name: str
    label: int
    emotion: str
    action_units: dict          # name → coefficient at the apex
    movement: float             # the strongest landmark's way from onset to apex, pixels of the 224 crop
    first_frame: int
    intensity: np.ndarray       # (T,) 0 at onset and offset, 1 at the apex
    poses: np.ndarray           # (T, 6) radians
    shift: np.ndarray           # (T, 2) pixels

    @property
    def frames(self):
        """Numbers of its frames, onset first."""
        return range(self.first_frame, self.first_frame + len(self.intensity))

    @property
    def apex(self):
        """Number of its strongest frame."""
        return self.first_frame + int(self.intensity.argmax())


def ensure(data_root):
    """Make the default database under `data_root` unless a whole one, of any settings, is there.

    Returns: its folder. Raises: InputError, see `make_synthetic`.
    """
    if is_whole(Path(data_root) / FOLDER):
        return Path(data_root) / FOLDER
    return make_synthetic(data_root, progress=True)


def make_synthetic(root, subjects=8, clips=6, glasses=0.4, intensity="normal", seed=0, progress=False,
                   frames=FRAMES):
    """Make a synthetic database under `<root>/synthetic/`, or find the same one there.

    subjects, clips: how many; clips of each subject. glasses: share of subjects in [0, 1]. intensity: a key
    of `INTENSITIES`. frames: least and most frames of a clip. progress: show a bar.
    Returns: the folder (Path). Several processes may call it at once: one works, the others wait for it.
    Raises: InputError for settings out of range, a folder that cannot be written, or one that holds another
    database.
    """
    settings = Settings(subjects, clips, glasses, intensity, seed, tuple(frames))
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / f".{FOLDER}.lock"):
            return _make(root, settings, progress)
    except OSError as error:
        raise InputError(f"{root}: the synthetic database cannot be written ({error.strerror or error}); "
                         "choose a --data-root that you may write to, with free disk space") from error


def is_whole(folder):
    """Is there a finished synthetic database in `folder`? All of it was moved there at once."""
    return (Path(folder) / MANIFEST).is_file() and (Path(folder) / SHEET).is_file()


def read_truth(data_root):
    """The manifest of the database under `data_root`: dict with "settings", "subjects", "clips" (`_truth`).

    For tests and for judging apex spotting; training must not read it. Raises: InputError when not there.
    """
    return read_json(Path(data_root) / FOLDER / MANIFEST)


def _make(root, settings, progress):
    """`make_synthetic` behind the lock."""
    folder, unfinished = root / FOLDER, root / f".{FOLDER}.unfinished"
    about = {"recipe": RECIPE, **asdict(settings), "frames": list(settings.frames)}
    if is_whole(folder):
        if read_json(folder / MANIFEST).get("settings") == about:
            return folder
        raise InputError(f"{folder}: holds a synthetic database of other settings (see {MANIFEST} there); "
                         "remove that folder or choose another --data-root")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: not a whole synthetic database; move it away or choose another "
                         "--data-root")
    _begin(unfinished, about)
    with _one_thread_each():
        plan = plan_clips(settings)
        _render_all(unfinished, settings, plan, progress)
    _write_papers(unfinished, settings, about, plan)
    _remove_strays(unfinished, plan)
    if folder.exists():
        folder.rmdir()
    os.rename(unfinished, folder)
    return folder


def _begin(unfinished, about):
    """An unfinished folder of these settings: the one of an interrupted run, or a new one."""
    note = unfinished / "settings.json"
    if unfinished.exists() and not (note.is_file() and read_json(note) == about):
        shutil.rmtree(unfinished)
    write_json(note, about)


# ---- what happens in the clips -----------------------------------------------------------------------------


def plan_clips(settings):
    """Every clip of the database, subject by subject: a list of (scene.Subject, [Clip, ...]).

    Each subject and each clip has random numbers of its own: neither depends on what was drawn before, and
    the share of glasses changes nothing but the glasses.
    """
    wearers = np.random.default_rng([settings.seed, 1]).permutation(settings.subjects)
    wearers = set(wearers[:round(settings.glasses * settings.subjects)].tolist())
    plan = []
    for number in range(settings.subjects):
        subject = scene.sample_subject(np.random.default_rng([settings.seed, 2, number]), number in wearers)
        rng = np.random.default_rng([settings.seed, 5, number])
        films = rng.permutation(19)[np.arange(settings.clips) % 19] + 1
        order = rng.permutation(settings.clips) % len(ACTIONS)
        clips = [_plan_clip(settings, subject, number, index, int(films[index]), int(order[index]))
                 for index in range(settings.clips)]
        plan.append((subject, clips))
    return plan


def _plan_clip(settings, subject, number, index, film, label):
    """Draw one clip of one subject."""
    rng = np.random.default_rng([settings.seed, 3, number, index])
    emotion, choices = ACTIONS[label]
    shares = {name: rng.uniform(*share) for name, share in choices[rng.integers(len(choices))].items()}
    count = int(rng.integers(settings.frames[0], settings.frames[1] + 1))
    rise = min(4, (count - 1) // 2)                 # frames at least on each side of the apex
    apex = int(rng.integers(rise, count - rise))
    poses, shift = _head_motion(rng, count)
    low, high = INTENSITIES[settings.intensity]
    movement = rng.uniform(low + MARGIN * (high - low), high - MARGIN * (high - low))
    scale = movement / landmark_movement(subject, shares, poses[apex])
    return Clip(f"sub{number + 1:02d}", f"EP{film:02d}_{index + 1:02d}f", label, emotion,
                {name: float(scale * share) for name, share in shares.items()}, float(movement),
                int(rng.integers(20, 160)), _rise_and_fall(count, apex), poses, shift)


def _rise_and_fall(count, apex):
    """Intensity (count,): 0 at both ends, 1 at `apex`; a quick start, slow near the apex, as muscles move."""
    place = np.concatenate([np.arange(apex) / apex, 1 - np.arange(count - apex) / (count - 1 - apex)])
    return np.clip(np.sin(np.pi / 2 * place), 0, 1) ** 1.5


def _head_motion(rng, count):
    """A small head pose that drifts slowly: poses (count, 6) radians and shift (count, 2) pixels."""
    time = np.linspace(0, 1, count)
    drift = rng.standard_normal((2, 5)) * np.array([0.25, 0.25, 0.15, 0.3, 0.3])      # degrees, pixels
    path = drift[0] * time[:, None] + drift[1] * np.sin(np.pi * time)[:, None] * 0.5  # (count, 5)
    angles = rng.uniform(-1, 1, 3) * (4.0, 5.0, 3.0) + path[:, :3]
    poses = np.zeros((count, 6))
    poses[:, :3] = np.deg2rad(angles)
    return poses, path[:, 3:]


def landmark_movement(subject, action_units, pose):
    """How far the strongest of the 68 landmarks moves, in pixels of the 224 crop.

    action_units: {name: coefficient}; from rest to there, the head held still in `pose` (6,).
    """
    expressions = np.stack([np.zeros_like(_coefficients(action_units)), _coefficients(action_units)])
    posed = scene.stage().pose(subject.shape, expressions, np.tile(pose, (2, 1)))
    pixels = scene.project_pixels(posed.landmarks3d.numpy().astype(np.float64), subject, np.zeros((2, 2)))
    return float(np.linalg.norm(pixels[1] - pixels[0], axis=1).max() * scene.crop_scale(pixels[0]))


def _coefficients(action_units):
    """{name: coefficient} → (m,) in the order of the head's expression directions."""
    names = scene.stage().head.expression_names
    return np.array([action_units.get(name, 0.0) for name in names])


# ---- files -------------------------------------------------------------------------------------------------


def _render_all(folder, settings, plan, progress):
    """Render the clips that `folder` lacks, several at a time."""
    jobs = [(subject, clip, number, index) for number, (subject, clips) in enumerate(plan)
            for index, clip in enumerate(clips)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(_render_clip, folder, settings, *job) for job in jobs]
        try:
            for future in tqdm(futures, "synthetic database", unit="clip", disable=not progress):
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _render_clip(folder, settings, subject, clip, number, index):
    """Render one clip into `<folder>/<subject>/<clip>/` unless it is there whole."""
    paths = [folder / clip.subject / clip.name / f"img{frame}.jpg" for frame in clip.frames]
    if all(path.is_file() for path in paths):
        return
    expressions = clip.intensity[:, None] * _coefficients(clip.action_units)
    creases = {name: clip.intensity * clip.movement / 8 * min(1.0, value / max(clip.action_units.values()))
               for name, value in clip.action_units.items()}
    rng = np.random.default_rng([settings.seed, 4, number, index])
    images = scene.render_clip(subject, expressions, clip.poses, clip.shift, creases, rng)
    for path, image in zip(paths, images, strict=True):
        write_image(path, image, JPEG_QUALITY)


@contextlib.contextmanager
def _one_thread_each():
    """Clips run side by side, each in one thread: the order of sums, and so every byte, stays the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_papers(folder, settings, about, plan):
    """Annotation sheet, README and manifest."""
    clips = [clip for _, clips in plan for clip in clips]
    rows = [{"Subject": int(clip.subject[3:]), "Filename": clip.name, "OnsetFrame": clip.frames[0],
             "ApexFrame": clip.apex, "OffsetFrame": clip.frames[-1], "Action Units": _code(clip.action_units),
             "Estimated Emotion": clip.emotion} for clip in clips]
    write_bytes(folder / SHEET, _workbook(pd.DataFrame(rows)))
    write_text(folder / README, LABEL)
    subjects = {clips[0].subject: {"glasses": subject.glasses is not None, "shape": subject.shape.tolist()}
                for subject, clips in plan}
    write_json(folder / MANIFEST, {"synthetic": True, "label": LABEL, "settings": about, "subjects": subjects,
                                   "clips": [_truth(clip) for clip in clips]})


def _code(action_units):
    """As CASME II's sheet writes action units: 4+15."""
    return "+".join(sorted((name.removeprefix("AU") for name in action_units), key=int))


def _truth(clip):
    """What really happens in a clip, JSON types."""
    return {"subject": clip.subject, "clip": clip.name, "label": clip.label, "emotion": clip.emotion,
            "action_units": clip.action_units, "movement_px_at_224": clip.movement, "onset": clip.frames[0],
            "apex": clip.apex, "offset": clip.frames[-1], "intensity": clip.intensity.tolist(),
            "pose_radians": clip.poses[:, :3].tolist(), "shift_pixels": clip.shift.tolist()}


def _workbook(table):
    """`table` as the bytes of an .xlsx file that carries no date, so that they are the same each time."""
    raw, fixed = io.BytesIO(), io.BytesIO()
    table.to_excel(raw, index=False, engine="openpyxl")
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in sorted(source.namelist()):
            data = source.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb">\d{4}-\d\d-\d\dT[\d:.]+Z?<", b">2000-01-01T00:00:00Z<", data)
            entry = zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, data)
    return fixed.getvalue()


def _remove_strays(folder, plan):
    """Remove what is no part of the finished database: left-overs of a killed run, the settings' note."""
    wanted = {folder / name for name in (SHEET, MANIFEST, README)}
    wanted |= {folder / clip.subject / clip.name / f"img{frame}.jpg"
               for _, clips in plan for clip in clips for frame in clip.frames}
    for path in list(folder.rglob("*")):
        if path.is_file() and path not in wanted:
            path.unlink()


def main(argv=None):
    """Command line; see the module's docstring. Raises: InputError."""
    parser = argparse.ArgumentParser(prog="python -m synthetic", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    parser.add_argument("--subjects", type=int, default=8, help="how many subjects [8]")
    parser.add_argument("--clips", type=int, default=6, help="clips of each; the classes take turns [6]")
    parser.add_argument("--glasses", type=float, default=0.4, help="share of subjects with glasses [0.4]")
    parser.add_argument("--intensity", choices=tuple(INTENSITIES), default="normal",
                        help="the strongest landmark's way, pixels of the 224 crop: " + ", ".join(
                            f"{name} {low:g}-{high:g}" for name, (low, high) in INTENSITIES.items())
                        + " [normal]")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes [0]")
    config = parser.parse_args(argv)
    folder = make_synthetic(config.data_root, config.subjects, config.clips, config.glasses, config.intensity,
                            config.seed, progress=True)
    truth = read_json(folder / MANIFEST)
    frames = sum(len(clip["intensity"]) for clip in truth["clips"])
    wearers = [name for name, subject in sorted(truth["subjects"].items()) if subject["glasses"]]
    print(f"{folder}: {len(truth['clips'])} synthetic clips, {frames} frames, {config.subjects} subjects; "
          f"glasses: {', '.join(wearers) or 'nobody'}")

