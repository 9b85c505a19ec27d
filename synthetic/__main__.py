"""Make a synthetic database: computer-generated people with subtle expressions, laid out as CASME II.

    python -m synthetic --data-root G1 --glasses 1

Its numbers say that the pipeline works, not how good a method is: no person is in it. The same seed with other
--glasses gives the same people, clips and light. The default takes about half a minute on two cores.
"""

import argparse
import sys

from common.errors import InputError
from synthetic.clips import Settings
from synthetic.database import make_synthetic, read_truth

OPTIONS = {"people": "how many people", "glasses": "share of them who wear glasses, 0..1",
           "intensity": "way of the strongest landmark from onset to apex, pixels of the 224-pixel crop, on average",
           "head_motion": "degrees that the head turns from onset to apex; it drifts by a pixel for each",
           "distractors": "how often something moves that means nothing (blinks, glances, swallowing, jaw), 0..1",
           "seed": "same settings and seed, same bytes"}


def main(argv=None):
    """Command line; see the module's docstring. Raises: InputError."""
    parser = argparse.ArgumentParser(prog="python -m synthetic", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    for name, text in OPTIONS.items():
        default = getattr(Settings, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default,
                            help=f"{text} [{default}]")
    options = vars(parser.parse_args(argv))
    root = options.pop("data_root")
    folder = make_synthetic(root, progress=True, **options)
    truth = read_truth(root)
    frames = sum(len(clip["intensity"]) for clip in truth["clips"])
    wearers = [name for name, subject in sorted(truth["subjects"].items()) if subject["glasses"]]
    print(f"{folder}: {len(truth['clips'])} synthetic clips, {frames} frames, {len(truth['subjects'])} people; "
          f"glasses: {', '.join(wearers) or 'nobody'}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"synthetic: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command again")
