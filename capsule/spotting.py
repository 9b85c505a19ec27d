"""Apex spotting over a database: clips in parallel processes, each kept as it is finished."""

import concurrent.futures
import hashlib
import multiprocessing
import signal
from pathlib import Path

import numpy as np
from tqdm import tqdm

from capsule.data.apex import spot_apex
from capsule.data.folders import Folders
from common.errors import InputError
from common.files import read_json, whole_file, write_json

RULE = 1    # number of the spotting rule; a change makes every clip be spotted again


def spot_clips(table, data_root, folder, workers):
    """Spot the apex of each clip of `table` (columns data, subject, clip, onset_frame, offset_frame).

    Writes a JSON and a plot per clip into `folder`; clips whose JSON is there and of the same frames are not
    done again. `workers`: processes. Shows a progress bar.
    Returns: (list of apex frame numbers, None where it failed; list of one-line reasons).
    """
    folders = Folders(data_root)
    jobs = [_job(row, folders, Path(folder)) for row in table.itertuples()]
    apexes, problems = [None] * len(jobs), []
    todo = []
    for i, job in enumerate(jobs):
        if job["problem"]:
            problems.append(job["problem"])
        else:
            apexes[i] = _finished(job)
            todo += [i] if apexes[i] is None else []
    print(f"{len(jobs)} clips: {len(jobs) - len(todo) - len(problems)} spotted already, {len(todo)} to do, "
          f"{len(problems)} without frames")
    count = max(1, min(workers, len(todo)))
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(count, spawn, _ignore_interrupts)
    try:
        futures = {pool.submit(_spot, jobs[i]): i for i in todo}
        for future in tqdm(concurrent.futures.as_completed(futures), "clips", total=len(todo), unit="clip"):
            apex, problem = future.result()
            apexes[futures[future]] = apex
            problems += [problem] if problem else []
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return apexes, sorted(problems)


def _ignore_interrupts():
    """In a worker: Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(row, folders, folder):
    """What one clip needs: its frames from onset to offset, its files, or the problem that it has."""
    name, key = f"{row.data}_{row.subject}_{row.clip}", f"{row.data}/{row.subject}/{row.clip}"
    frames = folders.frames(row.data, row.subject, row.clip, row.onset_frame)
    chosen = {n: path for n, path in frames.items() if row.onset_frame <= n <= row.offset_frame}
    missing = [str(n) for n in (row.onset_frame, row.offset_frame) if n not in chosen]
    problem = ""
    if not frames:
        problem = f"{key}: no frames on disk; lay them as data/README.md says"
    elif missing:
        problem = (f"{key}: frame {' and '.join(missing)} (onset, offset) not on disk; "
                   "lay all frames of the clip there")
    status = [(path.name, path.stat()) for path in chosen.values()]
    signature = [RULE, [(file, stat.st_size, stat.st_mtime_ns) for file, stat in status]]
    return {"name": name, "numbers": list(chosen), "paths": list(chosen.values()), "problem": problem,
            "json": folder / f"{name}.json", "plot": folder / f"{name}.png",
            "key": hashlib.sha256(repr(signature).encode()).hexdigest()[:16]}


def _finished(job):
    """The apex of a clip that is done already, else None (a broken or foreign file is done again)."""
    if not (job["json"].exists() and job["plot"].exists()):
        return None
    try:
        stored = read_json(job["json"])
    except InputError:
        return None
    same = isinstance(stored, dict) and stored.get("key") == job["key"]
    return stored["apex"] if same and stored.get("apex") in job["numbers"] else None


def _spot(job):
    """In a worker: spot one clip, write its plot, then its JSON. Returns: (apex, "") or (None, problem)."""
    try:
        index, feature = spot_apex(job["paths"])
    except InputError as error:
        return None, str(error)
    apex = job["numbers"][index]
    _plot(job, apex, feature)
    write_json(job["json"], {"key": job["key"], "apex": apex, "frames": job["numbers"],
                             "feature": [round(float(value), 6) for value in feature]})
    return apex, ""


def _plot(job, apex, feature):
    """The feature curve with a line at the apex, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(job["numbers"][1:], feature[1:], marker="o", markersize=3)
    axes.axvline(apex, color="tab:red", linestyle="--", label=f"apex: frame {apex}")
    axes.set(title=job["name"], xlabel="frame", ylabel="change against onset and offset")
    axes.ticklabel_format(useOffset=False, axis="x", style="plain")
    axes.legend()
    with whole_file(job["plot"]) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def judge(table, apexes):
    """How far spotted apexes lie from the coded ones, for databases that code them.

    `table` with `apex_frame`; `apexes` as `spot_clips` gives them. Returns: dict with clips, mean_error
    (frames) and within_2 (share), over the clips that were spotted.
    """
    errors = np.array([abs(apex - true) for apex, true in zip(apexes, table["apex_frame"], strict=True)
                       if apex is not None], dtype=float)
    return {"clips": len(errors), "mean_error": float(errors.mean()) if len(errors) else float("nan"),
            "within_2": float((errors <= 2).mean()) if len(errors) else float("nan")}
