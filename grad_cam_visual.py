"""Where a trained network looks: HiResCAM of clips of held-out subjects, each from its own subject's fold.

Inputs    result/<experiment>/ of a training script run with --save-models, and the database it was
          trained on; or any pictures with --model FILE (ready motion pictures for a network that sees motion)
Outputs   result/<experiment>/grad_cam/<clip>.png and .pdf; with --all one for each clip, and mean_maps.png;
          of pictures: grad_cam/<folders and name>.png and .pdf
Command   python grad_cam_visual.py --experiment NAME [--clip DATA/SUBJECT/CLIP | --all]
          python grad_cam_visual.py PICTURES --model FILE
Expect    about 2 s for each clip, after reading the crops and views.
"""

from pathlib import Path

from capsule import gradcam
from capsule.figures import clip_figure, figure_name, heading, mean_map_figure, save_figure
from capsule.results import read_runs, select
from capsule.trained import NO_FACE, load_trained, look_at, picture_options
from common.console import KEPT, Parser, run_main
from common.device import choose_device
from common.errors import InputError, printable

RESULT_ROOT, DATA_ROOT = "result", "data"


def options():
    """The command line, the constants above as defaults."""
    parser = Parser(description=__doc__)
    picture_options(parser, required=False)
    parser.add_argument("--result-root", default=RESULT_ROOT, help=f"folder of the results [{RESULT_ROOT}]")
    parser.add_argument("--data-root", default=DATA_ROOT, help=f"folder of the databases [{DATA_ROOT}]")
    parser.add_argument("--experiment", default="", help="name of the result folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--clip", help="DATA/SUBJECT/CLIP [the first one whose fold has a model]")
    which.add_argument("--all", action="store_true", help="every clip whose fold has a model")
    choice = parser.parse_args()
    clips, pictures = (choice.experiment, choice.clip, choice.all), (choice.pictures, choice.model)
    if (any(clips) and any(pictures)) or not (choice.experiment or all(pictures)):
        raise InputError("give --experiment NAME (and --clip or --all), or pictures and --model FILE")
    return choice


def draw_run(choice, device):
    """Explain clips of a run of ours, each with its subject's fold."""
    run = select(*read_runs(choice.result_root), [choice.experiment])[0]
    clips = gradcam.clips_of(run, choice.data_root, choice.clip, choice.all)
    folder, class_names, drawn = run.folder / "grad_cam", run.facts["class_names"], []
    for clip in gradcam.explain_clips(run, clips, device):
        drawn.append(clip)
        save_figure(clip_figure(heading(run), class_names, clip), folder / clip.key.replace("/", "_"))
    if choice.all:
        save_figure(mean_map_figure(run, gradcam.mean_maps(drawn)), folder / "mean_maps")
    return [*gradcam.differences(run, drawn), f"{len(drawn)} clip{'s' * (len(drawn) != 1)}: {folder}"], []


def draw_pictures(choice, device):
    """Explain what the network of --model says of any pictures."""
    trained = load_trained(choice.model, device, choice.paint)
    names, failed, faceless = [], [], []
    for path, crop, pictures, face in look_at(choice.pictures, trained, device, failed):
        shown = printable(path.name)
        if face == NO_FACE:
            faceless.append(f"{printable(path)}: {face}")
            shown += f" ({face})"
        clip = gradcam.explain(trained, shown, None, pictures, crop)
        names.append(figure_name(path, names))
        save_figure(clip_figure(trained.title, trained.class_names, clip), Path("grad_cam") / names[-1])
    return [f"{len(names)} of {len(names) + len(failed)} pictures: grad_cam", *faceless], failed


def main():
    """Choose, explain, draw, say what was drawn. Returns: 1 when a picture could not be read."""
    choice = options()
    lines, failed = (draw_pictures if choice.pictures else draw_run)(choice, choose_device(choice.device))
    print("\n".join([*lines, *failed]))
    return int(bool(failed))


if __name__ == "__main__":
    run_main(main, KEPT)
