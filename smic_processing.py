"""Find the apex frame of every SMIC clip, which its owners did not code (SPEC section 3).

Inputs    the SMIC frames and annotation sheet under data/ (data/README.md)
Outputs   data/annotations/smic_apex.csv, which the training scripts read; a plot of each clip's feature
          curve in result/smic_apex/
Command   python smic_processing.py
Expect    a few minutes for the 157 clips; stopped and started again, it goes on where it was. Exit code 1
          when a clip's frames or face could not be found. With --dataset casme, samm or
          synthetic, whose apexes are known, it writes <dataset>_apex_spotted.csv and says how far off it is.
"""

import argparse
import os
from pathlib import Path
from types import SimpleNamespace

from capsule.config import run_main
from capsule.data.protocol import annotation_table, load_clips, smic_onsets
from capsule.spotting import judge, spot_clips
from common.files import write_csv

DATASET = "smic"            # smic | casme | samm | synthetic


def main():
    choice = options()
    known = choice.dataset != "smic"
    if known:
        table = load_clips(SimpleNamespace(dataset=choice.dataset, classes=3, protocol="dsnca", subset="all",
                                           data_root=choice.data_root, skip_missing=False)).table
    else:
        table = smic_onsets(choice.data_root)
    plots = Path(choice.result_root) / "smic_apex"
    apexes, problems = spot_clips(table, choice.data_root, plots, choice.workers)
    found = [apex is not None for apex in apexes]
    spotted = table[found].assign(apex_frame=[apex for apex in apexes if apex is not None])
    path = Path(choice.data_root) / "annotations" / f"{choice.dataset}_apex{'_spotted' if known else ''}.csv"
    write_csv(path, annotation_table(spotted, choice.data_root))
    print(f"{len(spotted)} of {len(table)} apexes written to {path}")
    if known and any(found):
        result = judge(table, apexes)
        print(f"against the coded apexes: mean error {result['mean_error']:.2f} frames, "
              f"{100 * result['within_2']:.1f} % within 2 frames, {result['clips']} clips")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def options():
    """The command line, the constants above as defaults."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("smic", "casme", "samm", "synthetic"), default=DATASET,
                        help=f"database [{DATASET}]")
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    parser.add_argument("--result-root", default="result", help="folder of the results [result]")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes [the number of cores]")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
