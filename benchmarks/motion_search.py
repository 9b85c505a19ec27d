"""Which settings the SVM on motion pictures gets, by nested leave-one-subject-out, and its score.

    python -m benchmarks.motion_search FOLDER [--data-root data] [--split 0]      # some minutes on one core

FOLDER: ready motion pictures, as train_me_loso_composite_motion.py takes them. For each held-out subject the
others are split into five groups of subjects; the setting with the best UF1 over these inner folds predicts
the subject. Two tables, without and with action units; the last line of each is the score of that procedure:
to take the best of the column "outer" would be to choose on the test subjects. Kernel widths come from the
pictures that are learnt from, in the inner folds too.
"""

from collections import Counter
from itertools import product

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances
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


class Kernel:
    """The kernel of `machine`, an SVM, for any part of the pictures: the distances are taken once, the widths
    anew from whatever is learnt from."""

    def __init__(self, machine, pictures):
        known = machine.patches(pictures)
        self.gamma = machine.gamma
        self.apart = [[euclidean_distances(part, other, squared=True)
                       for part, other in zip(machine.patches(pictures, mirrored), known, strict=True)]
                      for mirrored in (False, True)]

    def of(self, train, wanted):
        """How alike the pictures `train` are to each other, and `wanted` to them: as `SVM.known_kernel` and
        `SVM.alike` have it. train, wanted: bool (n,), of no common picture."""
        medians = [np.median(part[np.ix_(train, train)]) + 1e-9 for part in self.apart[0]]
        return [sum(np.exp(-self.gamma * part[np.ix_(rows, train)] / median)
                    for parts in self.apart for part, median in zip(parts, medians, strict=True))
                / (2 * len(medians)) for rows in (train, wanted)]


def predictions(kernel, labels, subjects, groups, machines, units=None):
    """Class numbers of all clips by each of `machines`, (C, whether it has `units`): a dict of outer (n,),
    each clip from the others' subjects, and inner (subjects, n), row i without subject i, each clip from the
    other groups (-1 for subject i's own). kernel: `Kernel.of`, or a function like it."""
    names = np.unique(subjects)
    found = {machine: (np.empty_like(labels), np.full((len(names), len(labels)), -1)) for machine in machines}
    for row, name in enumerate(names):
        rest = subjects != name
        for own in (~rest, *(rest & (groups == group) for group in np.unique(groups[rest]))):
            train = rest & ~own
            known, wanted = kernel(train, own)
            for (c, with_units), (outer, inner) in found.items():
                machine = KernelMachine(known, labels[train], c, subjects[train],
                                        units[train] if with_units else None)
                (inner[row] if rest[own].all() else outer)[own] = machine.predict(wanted)
    return found


def nested(found, labels, subjects, classes):
    """(class numbers (n,), list of the setting chosen for each subject). found: setting → `predictions`."""
    predicted, chosen = np.empty_like(labels), []
    for row, name in enumerate(np.unique(subjects)):
        own = subjects == name
        best = max(found, key=lambda setting: Meter(classes, labels[~own], found[setting][1][row, ~own]).uf1)
        predicted[own] = found[best][0][own]
        chosen.append(best)
    return predicted, chosen


def search(folder, data_root, split):
    """Print the tables of all settings and the nested scores. split: seed of the inner groups."""
    clips, motion = ready_motion(load_clips("composite", data_root, protocol="megc2019", frames=None), folder)
    units = unit_matrix(with_action_units(clips).table["action_units"])
    labels, subjects, classes = clips.labels, clips.table["data_sub"].to_numpy(str), clips.n_classes
    names, owner = np.unique(subjects, return_inverse=True)
    groups = np.random.default_rng(split).permutation(len(names))[owner] % GROUPS
    pictures = {False: motion.images.numpy(), True: normalised(motion).images.numpy()}
    found = {}
    for given in tqdm(list(product(*KERNELS.values())), unit="kernel", disable=None):
        kernel = Kernel(SVM(classes, *given[1:]), pictures[given[0]]).of
        for machine, both in predictions(kernel, labels, subjects, groups, list(product(*MACHINES.values())),
                                         units).items():
            found[(*given, *machine)] = both
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
    parser.add_argument("--split", type=int, default=0, help="seed of the five inner groups [0]")
    given = parser.parse_args()
    run_main(lambda: search(given.folder, given.data_root, given.split))
