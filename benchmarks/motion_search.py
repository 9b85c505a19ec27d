"""Which settings the SVM on motion pictures gets, by nested leave-one-subject-out, and its score.

    python -m benchmarks.motion_search FOLDER [--data-root data]      # some minutes on one core

FOLDER: ready motion pictures, as train_me_loso_composite_motion.py takes them. For each held-out subject the
others are split into five groups of subjects; the setting with the best UF1 over these inner folds predicts
the subject. Two tables, without and with action units; the last line of each is the score of that procedure:
to take the best of the column "outer" would be to choose on the test subjects. Kernel widths come from the
distances of all pictures, without labels.
"""

from collections import Counter
from itertools import product

import numpy as np
from tqdm import tqdm

from capsule.data import load_clips, with_action_units
from capsule.data.action_units import unit_matrix
from capsule.inputs.motion import normalised, ready_motion
from capsule.metrics import Meter, bootstrap_uf1
from capsule.modules.svm import SVM, KernelMachine
from common.console import Parser, run_main

KERNELS = {"normalised": (False, True), "patch": (28, 14), "blur": (0.0, 1.0), "gamma": (0.5, 1.5)}
MACHINES = {"c": (1.0, 3.0), "units": (False, True)}     # units: also from training clips' action units
GROUPS = 5


def predictions(kernel, labels, subjects, groups, c, units=None):
    """Class numbers of all clips: outer (n,), each from the others' subjects; inner (subjects, n), row i
    without subject i, each clip from the other groups (-1 for subject i's own)."""
    names = np.unique(subjects)
    outer, inner = np.empty_like(labels), np.full((len(names), len(labels)), -1)
    for row, name in enumerate(names):
        rest = subjects != name
        outer[~rest] = _predicted(kernel, labels, subjects, units, rest, ~rest, c)
        for group in np.unique(groups[rest]):
            own = rest & (groups == group)
            inner[row, own] = _predicted(kernel, labels, subjects, units, rest & ~own, own, c)
    return outer, inner


def _predicted(kernel, labels, subjects, units, train, wanted, c):
    """Class numbers of the clips `wanted` from those of `train`; both (n,) bool."""
    units = None if units is None else units[train]
    machine = KernelMachine(kernel[np.ix_(train, train)], labels[train], c, subjects[train], units)
    return machine.predict(kernel[np.ix_(wanted, train)])


def nested(found, labels, subjects, classes):
    """(class numbers (n,), list of the setting chosen for each subject). found: setting → `predictions`."""
    predicted, chosen = np.empty_like(labels), []
    for row, name in enumerate(np.unique(subjects)):
        own = subjects == name
        best = max(found, key=lambda setting: Meter(classes, labels[~own], found[setting][1][row, ~own]).uf1)
        predicted[own] = found[best][0][own]
        chosen.append(best)
    return predicted, chosen


def search(folder, data_root):
    """Print the tables of all settings and the nested scores."""
    clips, motion = ready_motion(load_clips("composite", data_root, protocol="megc2019", frames=None), folder)
    units = unit_matrix(with_action_units(clips).table["action_units"])
    labels, subjects, classes = clips.labels, clips.table["data_sub"].to_numpy(str), clips.n_classes
    names, owner = np.unique(subjects, return_inverse=True)
    groups = np.random.default_rng(0).permutation(len(names))[owner] % GROUPS
    pictures = {False: motion.images.numpy(), True: normalised(motion).images.numpy()}
    found = {}
    for given in tqdm(list(product(*KERNELS.values())), unit="kernel", disable=None):
        kernel = SVM(classes, *given[1:]).known_kernel(pictures[given[0]])
        for c, with_units in product(*MACHINES.values()):
            found[(*given, c, with_units)] = predictions(kernel, labels, subjects, groups, c,
                                                         units if with_units else None)
    for only in (False, True):
        _print(found, labels, subjects, classes, only)


def _print(found, labels, subjects, classes, with_units):
    """The table of the settings with or without action units, and what nesting makes of them."""
    found = {setting: both for setting, both in found.items() if setting[-1] == with_units}
    picked, chosen = nested(found, labels, subjects, classes)
    times = Counter(chosen)
    print(*(f"{name:>10}" for name in (*KERNELS, *MACHINES, "outer UF1", "chosen")))
    for setting, (outer, _) in found.items():
        print(*(f"{value!s:>10}" for value in setting), f"{Meter(classes, labels, outer).uf1:10.4f}",
              f"{times[setting]:10d}")
    low, high = bootstrap_uf1(labels, picked, subjects, classes)
    meter = Meter(classes, labels, picked)
    print(f"nested over {len(found)} settings: UF1 {meter.uf1:.4f} ({low:.3f}-{high:.3f}), "
          f"UAR {meter.uar:.4f}")


if __name__ == "__main__":
    parser = Parser(prog="python -m benchmarks.motion_search", description=__doc__)
    parser.add_argument("folder", help="of ready motion pictures")
    parser.add_argument("--data-root", default="data", help="folder of the annotation sheets [data]")
    given = parser.parse_args()
    run_main(lambda: search(given.folder, given.data_root))
