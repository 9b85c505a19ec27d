"""What glasses cost that nobody wore in training: the same people without and with them.

    python -m synthetic --data-root G0 --people 8 --clips 6 --glasses 0
    python -m synthetic --data-root G1 --people 8 --clips 6 --glasses 1
    python train_me_loso.py --dataset synthetic --quick --epochs 10 --save-models --data-root G0
    python -m benchmarks.glasses_on NAME... --data-root G1

NAME is the folder that the training wrote under --result-root, of any script. Each person's clips of G1 are
given to the network that was trained on all others of G0. Prints strict UF1 without (as trained and stored)
and with glasses, and the difference with its 95 % interval, paired over subjects.
"""

import torch

from capsule import gradcam
from capsule.metrics import Meter, paired_uf1
from capsule.results import KEY, predictions, read_runs, select
from common.console import Parser, run_main
from common.device import choose_device
from common.errors import InputError


def predicted_in(run, data_root, device):
    """dict of clip key → class that the network of its own subject's fold predicts, of the clips of `run` as
    they lie in another data root."""
    clips = gradcam.clips_of(run, data_root, every=True)
    return {key: int(trained.outputs(pictures).argmax())
            for key, _, trained, pictures, *_ in gradcam.held_out(run, clips, device)}


def main():
    """Print a row for each experiment."""
    parser = Parser(prog="python -m benchmarks.glasses_on", description=__doc__)
    parser.add_argument("experiments", nargs="+", metavar="NAME")
    parser.add_argument("--result-root", default="result", help="folder of the results [result]")
    parser.add_argument("--data-root", required=True, help="folder of the database with glasses")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    choice = parser.parse_args()
    device = choose_device(choice.device)
    torch.set_num_threads(1)        # as --quick was trained
    for run in select(*read_runs(choice.result_root), choice.experiments):
        table = predictions(run, "strict")
        found = predicted_in(run, choice.data_root, device)
        with_glasses = table[KEY].agg("/".join, axis=1).map(found)
        true, subjects = table["y_true"], table["data_sub"]
        if lost := sorted(set(subjects[with_glasses.isna()])):
            raise InputError(f"{run.name}: no model of {', '.join(lost)}; run its script with --save-models")
        gain, low, high = paired_uf1(true, with_glasses, [table["y_pred"]], subjects, run.classes)
        without, worn = (Meter(run.classes, true, one).uf1 for one in (table["y_pred"], with_glasses))
        print(f"{run.name}: strict UF1 {without:.3f} without glasses, {worn:.3f} with; {gain:+.3f} "
              f"({low:+.3f} to {high:+.3f})", flush=True)


if __name__ == "__main__":
    run_main(main)
