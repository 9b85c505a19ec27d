"""Result folders as a training script leaves them, with drawn predictions: for tests of what reads them."""

import json

import numpy as np

from common.files import write_json

NAMES = ("negative", "positive", "surprise")


def clip_list(databases=("synthetic",), subjects=4, clips=5, classes=3):
    """Clip rows: every subject has `clips` clips, labels going round the classes."""
    return [{"data": data, "subject": f"s{s:02d}", "clip": f"c{c}", "data_sub": f"{data}_s{s:02d}",
             "label": (s + c) % classes}
            for data in databases for s in range(subjects) for c in range(clips)]


def write_run(root, name="fake", rows=None, seed=9, epochs=3, skill=0.6, missing=(), **facts):
    """Write an experiment folder under `root`; `facts` override experiment.json. Returns its folder.

    A prediction is right with probability `skill`, growing a little each epoch; `missing` folds are not
    written.
    """
    rows = rows or clip_list()
    classes = facts.get("classes", 3)
    config = {"script": "train_fake", "protocol": "dsnca", "subset": "all", "seed": seed,
              **facts.pop("config", {})}
    description = {"experiment": name, "script": "train_fake", "dataset": "synthetic", "synthetic": True,
                   "classes": classes, "class_names": list(NAMES[:classes]), "seed": seed, "quick": True,
                   "reconstructor": None, "pretrained": False, "config": config, "clips": rows,
                   "weights": {"asked": "none", "found": "none"}, "notes": [],
                   "places": {"protocol": config["protocol"], "motion": "frames", "views_root": "",
                              "frames": "", "skip_missing": False},
                   "folds": list(dict.fromkeys(row["data_sub"] for row in rows)), **facts}
    folder = root / name
    write_json(folder / "experiment.json", description)
    draws = np.random.default_rng(seed)
    for data_sub in description["folds"]:
        fold = make_fold(description, data_sub, draws, epochs, skill)
        if data_sub not in missing:
            write_json(folder / "folds" / f"{data_sub}.json", fold)
    return folder


def make_fold(description, data_sub, draws, epochs=3, skill=0.6):
    """A fold file's value."""
    rows = [row for row in description["clips"] if row["data_sub"] == data_sub]
    true, classes = np.array([row["label"] for row in rows]), description["classes"]

    def guess(epoch):
        right = draws.random(len(true)) < skill + 0.2 * epoch / epochs
        return np.where(right, true, draws.integers(classes, size=len(true))).tolist()

    strict = [guess(e) for e in range(epochs)]
    lengths = (draws.random((len(true), classes)) + np.eye(classes)[strict[-1]]).round(4)
    return {"experiment": description["experiment"], "data_sub": data_sub, "seed": description["seed"],
            "fold_seed": 1, "config": description["config"], "environment": {}, "reconstructor": None,
            "pretrained": False, "clips": [{k: row[k] for k in ("data", "subject", "clip")} for row in rows],
            "y_true": true.tolist(), "loss": [round(0.9 / (e + 1) + 0.05 * draws.random(), 4)
                                              for e in range(epochs)],
            "train_uf1": [round(0.3 + 0.5 * e / epochs, 4) for e in range(epochs)],
            "paper": [guess(e) for e in range(epochs)], "strict": strict,
            "lengths": lengths.tolist(), "seconds": 1.0,
            "images_per_second": 10.0, "date": "2026-01-01T00:00:00+00:00"}


def change_json(path, **changes):
    """Overwrite keys of the JSON object at `path`."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


def said_strictly(strict, classes=3):
    """A fold file's strict predictions, a list an epoch, and the lengths that give the last one's."""
    return {"strict": strict, "lengths": np.eye(classes)[strict[-1]].tolist()}
