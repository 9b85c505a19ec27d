"""Write the annotation table of a clip list and show its counts.

    python -m capsule.data casme --classes 5 --data-root data

reads the owners' sheets under the data root (the pictures may be missing), writes
<data-root>/annotations/<dataset>_<classes>[_megc2019][_glasses].csv and prints clips, subjects, clips
per class, and how many of their apex frames are on disk. Takes a few seconds.
"""

import argparse
from pathlib import Path

import pandas as pd

from capsule.config import run_main
from capsule.data.protocol import DATABASES, PROTOCOLS, SUBSETS, load_clips
from common.files import write_csv


def main(argv=None):
    """Parse `argv`, write the table, print the counts. Raises: InputError, see `load_clips`."""
    parser = argparse.ArgumentParser(prog="python -m capsule.data", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=tuple(DATABASES), help="database, or the composite of the three")
    parser.add_argument("--classes", type=int, choices=(3, 5), default=3, help="5: CASME II only [3]")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="dsnca", help="clip list [dsnca]")
    parser.add_argument("--subset", choices=SUBSETS, default="all", help="only subjects with glasses? [all]")
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    config = parser.parse_args(argv)
    config.skip_missing = False
    clips = load_clips(config)
    path = Path(config.data_root) / "annotations" / f"{clips.name}.csv"
    write_csv(path, clips.table)
    print(f"\n{count_table(clips)}\n\nwritten: {path}")


def count_table(clips):
    """Counts by database and in all, as text: clips, subjects, clips per class, apex frames on disk."""
    table = clips.table.assign(on_disk=clips.apex_on_disk)
    parts = [(name, part) for name, part in table.groupby("data", sort=False)]
    if len(parts) > 1:
        parts.append(("all", table))
    rows = []
    for name, part in parts:
        counts = part["label"].value_counts()
        per_class = {label: counts.get(i, 0) for i, label in enumerate(clips.class_names)}
        rows.append({"data": name, "clips": len(part), "subjects": part["data_sub"].nunique(), **per_class,
                     "apex frames on disk": int(part["on_disk"].sum())})
    return pd.DataFrame(rows).to_string(index=False)


if __name__ == "__main__":
    run_main(main)
