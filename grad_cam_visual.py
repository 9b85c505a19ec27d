"""Where a trained network looks: Grad-CAM of clips of held-out subjects, each from its own subject's fold.

Inputs: result/<experiment>/ of a training script run with --save-models, and the database it was trained on.
Outputs: result/<experiment>/grad_cam/<clip>.png and .pdf; with --all one for each clip, and mean_maps.png.
Command: python grad_cam_visual.py --experiment NAME [--clip DATA/SUBJECT/CLIP | --all]
Expected: about 2 s for each clip, after reading the crops and views.
"""

import argparse
import dataclasses
from pathlib import Path

from tqdm import tqdm

from capsule import gradcam
from capsule.config import run_main
from capsule.data.protocol import load_clips
from capsule.device import choose_device
from capsule.figures import clip_figure, mean_map_figure, save_figure
from capsule.inputs.crops import clip_square, face_crops
from capsule.inputs.views import thirteen_views
from capsule.results import check_inside, read_runs, select
from common.images import read_image
from deca.landmarks import LandmarkDetector, warp_square

RESULT_ROOT, DATA_ROOT, DEVICE = "result", "data", "auto"


def options():
    """The command line, the constants above as defaults."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result-root", default=RESULT_ROOT, help=f"folder of the results [{RESULT_ROOT}]")
    parser.add_argument("--data-root", default=DATA_ROOT, help=f"folder of the databases [{DATA_ROOT}]")
    parser.add_argument("--experiment", required=True, help="name of the result folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--clip", help="DATA/SUBJECT/CLIP [the first one whose fold has a model]")
    which.add_argument("--all", action="store_true", help="every clip whose fold has a model")
    parser.add_argument("--device", default=DEVICE, help=f"auto, cpu, cuda or cuda:N [{DEVICE}]")
    return parser.parse_args()


def onset_crop(row, data_root):
    """The onset frame cut by the clip's square, uint8 (224, 224, 3); None where it is not on disk."""
    if not row.onset_frame_path:
        return None
    image = read_image(Path(data_root) / row.onset_frame_path)
    center, side, _ = clip_square(image, LandmarkDetector())
    return warp_square(image, center, side)


def main():
    """Choose the clips, read their pictures, explain each with its subject's fold, draw."""
    choice = options()
    run = select(*read_runs(choice.result_root), [choice.experiment])[0]
    config, device = gradcam.config_of(run, choice.data_root, choice.device), choose_device(choice.device)
    streams = gradcam.streams_of(run)
    clips = gradcam.chosen_clips(run, load_clips(config), choice.clip, choice.all)
    crops = face_crops(clips, config)
    images = {"crop": crops.images}
    if "views" in streams:
        images["views"] = thirteen_views(clips, crops, dataclasses.replace(config, device=str(device))).images
    folder, drawn, model, subject = check_inside(choice.result_root, run.folder / "grad_cam"), [], None, None
    for row, place, key in tqdm(gradcam.apexes(clips, crops), desc="figures", unit="clip"):
        if row.data_sub != subject:
            model, subject = gradcam.load_model(run, row.data_sub, config, device), row.data_sub
        pictures = {name: stack[place] for name, stack in images.items()}
        drawn.append(gradcam.explain(model, config.input_size, streams, key, row.label, pictures,
                                     onset_crop(row, choice.data_root)))
        save_figure(clip_figure(run, drawn[-1]), folder / key.replace("/", "_"))
    if choice.all:
        save_figure(mean_map_figure(run, gradcam.mean_maps(drawn)), folder / "mean_maps")
    for line in gradcam.differences(run, drawn):
        print(line)
    print(f"{len(drawn)} clips: {folder}")


if __name__ == "__main__":
    run_main(main)
