"""The synthetic database on disk, laid out and annotated as CASME II is (SPEC section 1).

<data-root>/synthetic/sub01/EP02_01f/img46.jpg ..., the annotation sheet CASME2-coding-20140508.xlsx,
README.txt, and synthetic.json with the settings and the truth (for judging apex spotting; training never
reads it). Same settings, same bytes. The folder is there whole or not at all.
"""

import io
import os
import re
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import torch
from tqdm.contrib.concurrent import thread_map

from common.errors import InputError
from common.files import read_json, write_bytes, write_json, write_text
from common.images import write_image
from synthetic import FOLDER, MANIFEST, RECIPE, SHEET, is_there, scene
from synthetic.clips import Settings, plan_people

LABEL = ("Synthetic micro-expressions: rendered by a program, no person is shown.\n"
         "Numbers measured on them say that the pipeline works, not how good a method is.\n"
         "Layout and annotation sheet are CASME II's. synthetic.json holds the settings and the true\n"
         "movements; it is for judging apex spotting, nothing that trains may read it.\n")


def ensure(data_root):
    """Make the default database under `data_root` unless one is there (see `is_there`).

    Returns: its folder. Raises: InputError, see `is_there` and `make_synthetic`.
    """
    if not is_there(data_root):
        make_synthetic(data_root, progress=True, any_will_do=True)
    return Path(data_root) / FOLDER


def make_synthetic(root, progress=False, any_will_do=False, **settings):
    """Make a synthetic database under `<root>/synthetic/`, or find the same one there.

    settings: as `clips.Settings`. progress: show a bar. any_will_do: one of other settings is taken too.
    Returns: the folder (Path). Several processes may call it at once: one works, the others wait for it.
    Raises: InputError for settings out of range, a folder that cannot be written or holds something else.
    """
    settings, root = Settings(**settings), Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / f".{FOLDER}.lock"):
            return _make(root, settings, progress, any_will_do)
    except OSError as error:
        raise InputError(f"{root}: the synthetic database cannot be written ({error.strerror or error}); "
                         "choose a --data-root that you may write to, with free disk space") from error


def _make(root, settings, progress, any_will_do):
    """`make_synthetic` behind the lock."""
    folder, unfinished = root / FOLDER, root / f".{FOLDER}.unfinished"
    about = {"recipe": RECIPE, **asdict(settings), "frames": list(settings.frames)}
    if (folder / MANIFEST).is_file():
        if any_will_do or read_json(folder / MANIFEST).get("settings") == about:
            return folder                                           # any: made while this one waited
        raise InputError(f"{folder}: holds a synthetic database of other settings (see {MANIFEST} there); "
                         "remove that folder or choose another --data-root")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: not a whole synthetic database; move it away or choose another "
                         "--data-root")
    shutil.rmtree(unfinished, ignore_errors=True)                   # of a run that was stopped
    plan = list(plan_people(settings))
    jobs = [(unfinished, person, clip, np.random.default_rng([settings.seed, 4, number, index]))
            for number, (person, clips) in enumerate(plan) for index, clip in enumerate(clips)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)        # for each clip: the order of sums, and so every byte, stays the same
    try:
        thread_map(lambda job: _film(*job), jobs, desc="synthetic database", unit="clip",
                   disable=not progress, max_workers=os.cpu_count())
    finally:
        torch.set_num_threads(threads)
    _write_papers(unfinished, about, plan)
    os.rename(unfinished, folder)                                   # onto nothing, or an empty folder
    return folder


def _film(folder, person, clip, rng):
    """Write the frames of one clip into `<folder>/<subject>/<clip>/`."""
    images = scene.film(person, clip.actions, clip.turns, clip.shift, clip.lamp, rng, clip.uneven)
    for frame, image in enumerate(images, clip.onset):
        write_image(folder / clip.subject / clip.name / f"img{frame}.jpg", image, quality=90)


def _write_papers(folder, about, plan):
    """Annotation sheet, README and manifest."""
    clips = [clip for _, clips in plan for clip in clips]
    rows = [{"Subject": int(clip.subject[3:]), "Filename": clip.name, "OnsetFrame": clip.onset,
             "ApexFrame": clip.apex, "OffsetFrame": clip.offset,
             "Action Units": "+".join(name.removeprefix("AU") for name in clip.action_units),
             "Estimated Emotion": clip.emotion} for clip in clips]
    truth = [{"subject": clip.subject, "clip": clip.name, "label": clip.label, "emotion": clip.emotion,
              "action_units": clip.action_units, "movement_px_at_224": clip.movement, "onset": clip.onset,
              "apex": clip.apex, "offset": clip.offset, "intensity": clip.intensity.tolist(),
              "turn_radians": clip.turns.tolist(), "shift_pixels": clip.shift.tolist()} for clip in clips]
    subjects = {clips[0].subject: {"glasses": person.glasses is not None} for person, clips in plan}
    write_bytes(folder / SHEET, _workbook(pd.DataFrame(rows)))
    write_text(folder / "README.txt", LABEL)
    write_json(folder / MANIFEST, {"synthetic": True, "label": LABEL, "settings": about, "subjects": subjects,
                                   "clips": truth})


def _workbook(table):
    """`table` as the bytes of an .xlsx file that carries no date."""
    raw, fixed = io.BytesIO(), io.BytesIO()
    table.to_excel(raw, index=False, engine="openpyxl")
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(fixed, "w") as target:
        for name in sorted(source.namelist()):
            data = source.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb">\d{4}-\d\d-\d\dT[\d:.]+Z?<", b">2000-01-01T00:00:00Z<", data)
            target.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return fixed.getvalue()
