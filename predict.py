"""What a trained network says of any pictures: a class, and each class's capsule length or probability.

Inputs    pictures or folders of them: photographs, or ready motion pictures for a network of
          train_me_loso_composite_motion.py; --model: result/<experiment>/models/<data_sub>.pt of a run with
          --save-models, or the state dict of another program with the same layers (an old CapsuleNet
          checkpoint)
Outputs   a printed table, and the same as CSV (--out, predictions_of_pictures.csv);
          "face": found, no face found, or (for motion) not needed
Command   python predict.py photo.jpg folder/ --model result/NAME/models/casme_sub01.pt
Expect    a second a picture. A face at rest has no micro-expression: the network names a class all the same.
"""

from pathlib import Path

import pandas as pd

from capsule.trained import load_trained, look_at, picture_options
from common.console import Parser, run_main
from common.device import choose_device
from common.errors import printable
from common.files import write_csv

OUT = "predictions_of_pictures.csv"


def options():
    """The command line, the constant above as a default."""
    parser = Parser(description=__doc__)
    picture_options(parser)
    parser.add_argument("--out", type=Path, default=Path(OUT), help=f"CSV file to write [{OUT}]")
    return parser.parse_args()


def main():
    """Read the network, look at each picture, print and write the table. Returns: 1 when a picture failed."""
    choice = options()
    device = choose_device(choice.device)
    trained = load_trained(choice.model, device, choice.paint)
    rows, failed = [], []
    for path, _, pictures, face in look_at(choice.pictures, trained, device, failed):
        lengths = trained.outputs(pictures)[0].tolist()
        rows.append({"picture": str(path), "class": trained.class_names[lengths.index(max(lengths))],
                     "face": face,
                     **{name: round(x, 4) for name, x in zip(trained.class_names, lengths, strict=True)}})
    if rows:
        table = pd.DataFrame(rows)
        shown = table.assign(picture=table["picture"].map(printable)).to_string(index=False)
        try:
            write_csv(choice.out, table)
        finally:        # also where it cannot be written
            print(f"{trained.title}: {trained.network.measure}\n\n{shown}\n", flush=True)
        print(f"written: {choice.out}")
    for line in failed:
        print(line)
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
