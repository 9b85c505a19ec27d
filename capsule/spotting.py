"""Apex spotting: in which frame of a clip is the expression strongest? (SPEC section 3)

Quang, Chun, Tokuyama, FG 2019; Li, Huang, Zhao, "Can micro-expression be recognized based on single apex
frame?", ICIP 2018. First the rule, then its run over a database: clips in parallel, each kept when done.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from capsule.data.databases import BLOCKS
from capsule.data.folders import ClipFolders
from capsule.data.protocol import COLUMNS, with_paths
from capsule.data.sheets import clip_pairs, read_columns, subject_names
from common.cache import digest, file_digest
from common.errors import InputError
from common.files import read_json, whole_file, write_json
from common.images import read_image
from deca.landmarks import LandmarkDetector

RULE = 2       # version of the rule; a change makes every clip be spotted again
EPSILON = 1    # frames between a frame and the one it is compared with
DRIFT = 4      # pixels
_DRAWING = threading.Lock()    # matplotlib is not made for threads


def spot_apex(paths):
    """The apex among the frames of a clip, onset first, offset last.

    `paths`: picture files in order, at least three. The face is detected once; in the other frames the
    landmarks are predicted in its box. Returns: (index of the apex, feature (len(paths),) float64).
    Raises: InputError, naming the file or folder, for an unreadable frame, too few frames or no face.
    """
    if len(paths) < 3:
        raise InputError(f"{paths[0].parent if paths else 'clip'}: {len(paths)} frame(s) from onset to "
                         "offset; spotting needs three or more: lay all frames of the clip there")
    images = [read_image(path) for path in paths]
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{paths[0].parent}: the frames differ in size; lay frames of one recording there")
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]).astype(np.float32)
    feature = apex_feature(grey, track_landmarks(images, paths[0].parent))
    return int(feature.argmax()), feature


def track_landmarks(images, name):
    """Landmarks (frames, 68, 2) of frames of one clip: detected in the first with a face, then followed.

    The box follows the landmarks' centre in steps of `DRIFT` pixels: it rests while the head does.
    Raises: InputError starting with `name` when no frame has a face.
    """
    detector = LandmarkDetector()
    found = next((face for face in map(detector.detect, images) if face is not None), None)
    if found is None:
        raise InputError(f"{name}: no face found in {len(images)} frames; look at the pictures")
    start = found.points.mean(0)
    shift, tracked = np.zeros(2), []
    for image in images:
        points = detector.points_in_box(image, np.add(found.box, np.tile(shift, 2)))
        shift = DRIFT * np.round((points.mean(0) - start) / DRIFT)
        tracked.append(points)
    return np.stack(tracked)    # (frames, 68, 2)


def apex_feature(grey, landmarks):
    """The feature curve of SPEC section 3, (T,) float64; its argmax is the apex.

    `grey`: (T, H, W) float32 frames, onset first, offset last; `landmarks`: (T, 68, 2) pixels.
    """
    feature = np.zeros(len(grey))
    for t in range(EPSILON, len(grey)):
        against_ends = abs(grey[t] - grey[0]) + abs(grey[t] - grey[-1]) + 2          # (H, W)
        change = against_ends / (abs(grey[t] - grey[t - EPSILON]) + 1)
        means = [float(change[cell].mean()) for cell in cells(landmarks[t], grey.shape[1:])]
        feature[t] = np.mean(means) if means else 0.0
    return feature


def cells(points, shape):
    """The ten cells of SPEC section 3, each (slice of rows, slice of columns); none outside the picture.

    `points`: (68, 2) landmarks; `shape`: (height, width). In order: mouth corners, brows (left, middle,
    right), chin, both sides of the nose, outer sides of both eyes.
    """
    x, y = np.round(points).astype(int).T
    w = max(1, int((x[54] - x[48]) / 2))
    brow_x, brow_y = (x[19] + x[24]) // 2, (y[19] + y[24]) // 2
    half = w // 2
    left_lip, right_lip = y[48] - half, y[54] - half        # tops of the squares round the mouth's corners
    corners = [    # (left, top) of squares of side w
        (x[48] - half, left_lip), (x[54] - half, right_lip),
        *((brow_x - half + step, brow_y - half) for step in (-w, 0, w)),
        (x[8] - half, y[8] - w),
        (x[31] - w, left_lip - w), (x[35], right_lip - w),
        (x[36] - w, y[36] - half), (x[45], y[45] - half)]
    return [(slice(max(0, top), top + w), slice(max(0, left), left + w)) for left, top in corners
            if -w < top < shape[0] and -w < left < shape[1]]


def spot_clips(table, data_root, folder, workers, frames=""):
    """Spot the apex of each clip of one database (`table`: data, subject, clip, onset_frame, offset_frame).

    Writes a JSON and a plot per clip into `folder`; clips whose JSON is there and of the same frames are not
    done again. `workers`: threads. `frames`: as in `load_clips`. Shows a progress bar.
    Returns: (list of apex frame numbers, None where it failed; list of one-line reasons).
    """
    data = table["data"].iloc[0]
    folders = ClipFolders(data, zip(table["subject"], table["clip"], strict=True), data_root, frames)
    jobs = [_job(row, folders, Path(folder)) for row in table.itertuples()]
    problems = [job["problem"] for job in jobs if job["problem"] and not job["lost"]]
    lost = [row for row, job in zip(table.itertuples(), jobs, strict=True) if job["lost"]]
    if lost:
        problems.append(f"{data}: no frames of {len(lost)} of {len(jobs)} clips are on disk; "
                        f"{folders.explain(lost[0].subject, lost[0].clip, lost[0].onset_frame)}; see "
                        "data/README.md")
    apexes = [None if job["problem"] else _finished(job) for job in jobs]
    todo = [i for i, job in enumerate(jobs) if apexes[i] is None and not job["problem"]]
    without = sum(bool(job["problem"]) for job in jobs)
    problems += [job["gaps"] for job in jobs if job["gaps"] and not job["problem"]]
    print(f"{len(jobs)} clips: {len(jobs) - len(todo) - without} spotted already, {len(todo)} to do, "
          f"{without} that cannot be spotted", flush=True)
    with ThreadPoolExecutor(max(1, workers)) as threads:
        found = threads.map(_spot, [jobs[i] for i in todo])
        for i, (apex, problem) in zip(todo, tqdm(found, "clips", total=len(todo), unit="clip", disable=None),
                                      strict=True):
            apexes[i] = apex
            problems += [problem] if problem else []
    return apexes, sorted(problems)


def _job(row, folders, folder):
    """What one clip needs: its frames from onset to offset, its result file, or the problem that it has."""
    _, frames = folders.find(row.subject, row.clip, row.onset_frame, (row.offset_frame,))
    chosen = {n: path for n, path in frames.items() if row.onset_frame <= n <= row.offset_frame}
    missing = [str(n) for n in (row.onset_frame, row.offset_frame) if n not in chosen]
    clip = f"{row.data}/{row.subject}/{row.clip}"
    problem = (f"{clip}: frame {' and '.join(missing)} (onset, offset) not on disk; "
               "lay all frames of the clip there") if missing else ""
    if row.onset_frame > row.offset_frame:
        problem = (f"{clip}: the sheet has onset {row.onset_frame} after offset {row.offset_frame}; correct "
                   "it there")
    lacking = row.offset_frame - row.onset_frame + 1 - len(chosen)
    gaps = (f"{clip}: {lacking} frame(s) between onset and offset are not on disk, its apex was looked for "
            "among the others; lay all frames of the clip there") if lacking > 0 else ""
    return {"numbers": list(chosen), "paths": list(chosen.values()), "problem": problem, "gaps": gaps,
            "lost": not frames, "json": folder / f"{clip.replace('/', '_')}.json"}


def _key(job):
    """What a clip's result is made from. Raises: InputError for a frame that cannot be read."""
    return digest([RULE, *((path.name, file_digest(path)) for path in job["paths"])])


def _finished(job):
    """The apex of a clip that is done already, else None (a broken or foreign file is done again)."""
    try:
        stored = read_json(job["json"])
        key = _key(job)
    except InputError:
        return None
    same = stored.get("key") == key and stored.get("apex") in job["numbers"]
    return stored["apex"] if same and job["json"].with_suffix(".png").exists() else None


def _spot(job):
    """Spot one clip, write its plot, then its JSON. Returns: (apex, "") or (None, problem).

    Where its apex shows no face, that is the problem, beside the apex; the JSON is not written then.
    """
    try:
        index, feature = spot_apex(job["paths"])
    except InputError as error:
        return None, str(error)
    apex = job["numbers"][index]
    with _DRAWING:
        _plot(job, apex, feature)
    if LandmarkDetector().detect(read_image(job["paths"][index])) is None:
        return apex, f"{job['paths'][index]}: the apex, but no face was found in it; look at the picture"
    write_json(job["json"], {"key": _key(job), "apex": apex, "frames": job["numbers"],
                             "feature": [round(float(value), 6) for value in feature]})
    return apex, ""


def _plot(job, apex, feature):
    """The feature curve with a line at the apex, as PNG."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(job["numbers"][1:], feature[1:], marker="o", markersize=3)
    axes.axvline(apex, color="tab:red", linestyle="--", label=f"apex: frame {apex}")
    axes.set(title=job["json"].stem, xlabel="frame", ylabel="change against onset and offset")
    axes.ticklabel_format(useOffset=False, axis="x", style="plain")
    axes.legend()
    with whole_file(job["json"].with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def merged_table(path, table, apexes, data_root, frames=""):
    """What to write to `path`: the clips of `table` with an apex, and the rows there of any other clip.

    Returns: (DataFrame of text, columns `COLUMNS`, in the order of `table`; how many old rows it keeps).
    Raises: InputError when `path` holds something else than such a table.
    """
    new = table.assign(apex_frame=[-1 if apex is None else apex for apex in apexes])
    new = new[new["apex_frame"] >= 0]
    if len(new):
        new = with_paths(new, data_root, frames)[0].astype(str)
    kept = pd.DataFrame(columns=COLUMNS)
    if Path(path).exists() and Path(path).stat().st_size:
        try:
            kept = read_columns(Path(path), COLUMNS, optional=set(COLUMNS) - {"subject", "clip"})
        except InputError as error:
            raise InputError(f"{path}: not a table of apexes ({error}); move it away") from error
        kept["subject"] = subject_names(path, kept["subject"], BLOCKS[table["data"].iloc[0]].subject)
        kept = kept[~clip_pairs(kept).isin(set(clip_pairs(new)))]
    order = {pair: i for i, pair in enumerate(clip_pairs(table))}
    both = pd.concat([new.reindex(columns=COLUMNS), kept.reindex(columns=COLUMNS, fill_value="")])
    places = [order.get(pair, len(order)) for pair in clip_pairs(both)]
    return both.iloc[np.argsort(places, kind="stable")], len(kept)


def judge(table, apexes):
    """How far spotted apexes, as `spot_clips` gives them, lie from the coded ones (`apex_frame` of `table`).

    Returns: dict with clips, mean_error (frames) and within_2 (share), over the clips that were spotted.
    """
    errors = np.array([abs(apex - true) for apex, true in zip(apexes, table["apex_frame"], strict=True)
                       if apex is not None], dtype=float)
    return {"clips": len(errors), "mean_error": float(errors.mean()), "within_2": float((errors <= 2).mean())}
