"""Figures as PNG and PDF: the confusion matrix and learning curves of an experiment, where it looks in clips.

Colours are from the Okabe-Ito palette, which colour-blind readers can tell apart; lines differ in style too.
"""

import io
import os
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from capsule.metrics import uf1_of_rounds
from capsule.results import EVALUATIONS, meter, predictions
from capsule.tables import class_names, cut
from common.files import write_bytes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
STYLE = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8,
         "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "axes.spines.top": False,
         "axes.spines.right": False, "pdf.fonttype": 42, "text.parse_math": False}
PIXELS_PER_INCH = 200
FULL_WIDTH = 7.1    # inches: two columns of a conference paper
_styled = matplotlib.rc_context(STYLE)    # decorator: sizes and fonts, and all text as it is written
YAWS_SHOWN = ((0, -30), (3, -15), (6, 0), (9, 15), (12, 30))    # place in the stack of views, degrees
MAP_COLOURS = "inferno"


@_styled
def save_figure(figure, path):
    """Write `figure` to `path` + ".png" and ".pdf", the same bytes for the same figure. Returns both paths.

    Nothing is clipped: the page grows to what is drawn. Raises: InputError when they cannot be written.
    """
    paths = [Path(path).with_name(Path(path).name + suffix) for suffix in (".png", ".pdf")]
    for target, metadata in zip(paths, ({"Software": None}, {"CreationDate": None}), strict=True):
        data = io.BytesIO()
        figure.savefig(data, format=target.suffix[1:], dpi=PIXELS_PER_INCH, bbox_inches="tight",
                       metadata=metadata)
        write_bytes(target, data.getvalue())
    return paths


def figure_name(path, taken):
    """The name of the figure of the picture at `path`: its folders and its own name, without the suffix; more
    where `taken`, a list of names, has that already (a.png beside a.jpg: a_jpg)."""
    name = "_".join(part for part in path.with_suffix("").parts if part not in (path.anchor, ".."))
    name = os.fsencode(name)[-200:].decode(errors="ignore") or "_"      # a file's name has 255 bytes
    while name in taken:
        name += path.suffix.replace(".", "_") or "_"
    return name


def run_figures(run, folder):
    """Write every figure of `run` (a results.Run with a finished fold) into `folder`. Returns the paths."""
    drawn = {"confusion_strict": confusion_figure(run), "learning_curves": curve_figure(run)}
    return [path for name, figure in drawn.items() for path in save_figure(figure, Path(folder) / name)]


def heading(run):
    """What stands over each figure: the experiment, what it must not be taken for, how much is there."""
    done, count = len(run.finished), len(run.folds)
    marks = [*run.labels, *([f"{done} of {count} folds"] if run.missing else [])]
    return cut(run.name, 80) + (("\n" if len(run.name) > 40 else " · ") + " · ".join(marks) if marks else "")


def _new_figure(width, height):
    return Figure(figsize=(width, height), layout="constrained")


@_styled
def confusion_figure(run):
    """Confusion matrix, strict, over the finished folds: counts, and per cent of each true class."""
    pooled, classes, names = meter(predictions(run, "strict"), run.classes), run.classes, class_names(run)
    counts = pooled.confusion()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1) * 100    # (C, C) per cent of a row
    figure = _new_figure(1.9 + 0.6 * classes, 1.35 + 0.6 * classes)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(classes, classes):
        axes.text(column, row, f"{counts[row, column]}\n{share[row, column]:.0f} %", ha="center", va="center",
                  color="white" if share[row, column] > 60 else "black", fontsize=8)
    axes.set_xticks(range(classes), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="% of the true class", fraction=0.046, pad=0.04)
    figure.suptitle(f"{heading(run)}\nstrict (last epoch)\nUF1 {pooled.uf1:.3f}, UAR {pooled.uar:.3f}, "
                    f"accuracy {pooled.accuracy:.3f}", fontsize=8)
    return figure


def pooled_uf1(run, evaluation):
    """UF1 over the finished folds when each stops at the same epoch: (E,), E the shortest fold's epochs."""
    folds = list(run.finished.values())
    epochs = min(len(fold.loss) for fold in folds)
    rounds = np.concatenate([fold.predictions[evaluation][:epochs] for fold in folds], axis=1)    # (E, N)
    return uf1_of_rounds(np.concatenate([fold.y_true for fold in folds]), rounds, run.classes)


@_styled
def curve_figure(run):
    """Training loss, and UF1 of the test folds, at each epoch, for both evaluations. Returns: Figure."""
    losses = [fold.loss for fold in run.finished.values()]
    epochs = min(len(loss) for loss in losses)
    losses, axis = np.stack([loss[:epochs] for loss in losses]), np.arange(1, epochs + 1)    # (folds, E)
    kinds = {stream.get("kind") for stream in run.facts["config"].get("inputs", ())}
    turned = "as it is too (motion)" if kinds == {"motion"} else "randomly rotated"
    figure, mark = _new_figure(FULL_WIDTH, 2.9), "." if epochs < 40 else ""
    left, right = figure.subplots(1, 2)
    left.plot(axis, losses.mean(0), color="black", marker=mark)
    left.fill_between(axis, losses.min(0), losses.max(0), color=GREY, alpha=0.35, linewidth=0)
    left.set(xlabel="epoch", ylabel="training loss (mean, range of folds)", ylim=(0, None))
    for name, colour, line in zip(EVALUATIONS, (BLUE, ORANGE), "-:", strict=True):
        label = {"strict": "strict: picture as it is", "paper": f"paper: {turned}"}[name]
        right.plot(axis, pooled_uf1(run, name), color=colour, linestyle=line, marker=mark, label=label)
    right.axhline(meter(predictions(run, "paper"), run.classes).uf1, color=ORANGE, linestyle="--",
                  label="paper, each subject's best test epoch (leaks)")
    right.set(xlabel="epoch (the same for every fold)", ylabel="UF1, finished folds pooled", ylim=(0, 1))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(heading(run), fontsize=8)
    return figure


@_styled
def clip_figure(title, names, clip):
    """Where the network looked in one clip (a gradcam.ClipMaps): onset, apex, map, outputs, views. Figure.

    title: of the network, such as `heading`. names: of the classes.
    The views may be grey (13, S, S) or in colour (13, S, S, 3): texture, motion. Frontal motion is one
    picture among the photographs.
    """
    names, views = [cut(name) for name in names], "views" in clip.maps
    stream = next(iter(clip.maps))    # "views" comes first only in a network that sees the views alone
    shown_first, photograph = {"onset": clip.onset, "apex": clip.apex}, "the apex"
    if clip.apex is None:
        shown_first = {}
    elif clip.truth is None:        # a photograph, no clip
        shown_first, photograph = {"crop": clip.apex}, "the crop"
    ground = {"crop": photograph, "views": "the frontal view", "motion": "motion"}[stream]
    if stream == "motion":
        shown_first["red u, green v,\nblue strain"] = clip.frontal
    figure = _new_figure(FULL_WIDTH, 4.8 if views else 2.4)
    top, *below = figure.subfigures(1 + views, 1, squeeze=False, height_ratios=[1.25, 1][:1 + views])[:, 0]
    *pictures, overlay, bars = top.subplots(1, len(shown_first) + 2,
                                            width_ratios=[1] * (len(shown_first) + 1) + [1.15])
    for axes, (label, picture) in zip(pictures, shown_first.items(), strict=True):
        _picture(axes, picture, label, "not on disk")
    shown = _overlay(overlay, clip.apex if stream == "crop" else clip.frontal, clip.maps[stream],
                     f"map on {ground}")
    _length_bars(bars, clip, names)
    if views:
        for axes, (place, yaw) in zip(below[0].subplots(1, len(YAWS_SHOWN)), YAWS_SHOWN, strict=True):
            shown = _overlay(axes, clip.views[place], clip.maps["views"], f"view at {yaw}°")
        below[0].colorbar(shown, ax=below[0].axes, label="HiResCAM", fraction=0.015, pad=0.01)
    else:
        top.colorbar(shown, ax=(*pictures, overlay), label="HiResCAM", fraction=0.02, pad=0.01, shrink=0.8)
    truth = "" if clip.truth is None else f"true {names[clip.truth]}, "
    figure.suptitle(f"{title}\n{clip.key}: {truth}predicted {names[clip.prediction]}", fontsize=8)
    figure.supxlabel(_map_caption(clip), fontsize=7)
    return figure


def _map_caption(clip):
    """The lines under a clip's figure: what the maps are, and what they are not."""
    side = f"{clip.side}×{clip.side}"
    bold = "" if clip.truth is None else "Bold: the true class. "
    lines = [f"HiResCAM for the predicted class at the last backbone layer ({side}), each map scaled to its "
             "own maximum.", f"{bold}Filled: the predicted one."]
    if "views" in clip.maps:
        lines[1] += (" The stack of 13 views has one map, laid over five of them: it does not tell the views "
                     "apart.")
    if any(found.max() == 0 for found in clip.maps.values()):
        lines.append("Empty: by its reckoning nothing speaks for it, in that stream.")
    return "\n".join(lines)


def _picture(axes, image, title, nothing=""):
    """Show a picture (H, W, 3) or grey (H, W) without ticks; None: the words `nothing`."""
    axes.set_title(title)
    axes.set_axis_off()
    if image is None:
        axes.text(0.5, 0.5, nothing, ha="center", va="center", transform=axes.transAxes)
        axes.set_aspect(1)
    else:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)


def _overlay(axes, image, found, title):
    """Show `found` (H, W) in [0, 1] over a greyed picture; returns what a colour bar needs.

    A map of zeros is called empty in the title; `_map_caption` says what that means.
    """
    grey = image if image.ndim == 2 else image.mean(2)
    _picture(axes, grey, title if found.max() > 0 else f"{title}: empty")
    return axes.imshow(found, cmap=MAP_COLOURS, vmin=0, vmax=1, alpha=0.15 + 0.6 * found)


def _length_bars(axes, clip, names):
    """The network's output for each class; the true class is named in bold, the predicted one is filled."""
    places = np.arange(len(names))
    colours = [BLUE if label == clip.prediction else "white" for label in places]
    axes.barh(places, clip.lengths, color=colours, edgecolor=BLUE)
    axes.set_yticks(places, names, fontsize=7)
    if clip.truth is not None:
        axes.get_yticklabels()[clip.truth].set_fontweight("bold")
    low, high = min(0.0, float(clip.lengths.min())), max(1.0, float(clip.lengths.max()))
    axes.set(xlim=(low, high + 0.3 * (high - low)), title="network output")
    for place, length in zip(places, clip.lengths, strict=True):
        axes.text(max(length, 0) + 0.03 * (high - low), place, f"{length:.3f}", va="center", fontsize=7)
    axes.xaxis.get_major_locator().set_params(nbins=3)
    axes.invert_yaxis()
    axes.set_box_aspect(0.9)


@_styled
def mean_map_figure(run, means):
    """The mean map of each predicted class and stream; `means`: gradcam.mean_maps' dict. Returns: Figure."""
    names = class_names(run)
    streams = sorted({stream for stream, _ in means})
    figure = _new_figure(max(3.5, 1.0 + 1.5 * len(names)), 0.8 + 1.6 * len(streams))
    grid = figure.subplots(len(streams), len(names), squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        picture, found, count = means.get((streams[row], column), (None, None, 0))
        title = f"{names[column]} ({count} clip{'s' * (count != 1)})"
        if count:
            shown = _overlay(axes, picture, found, title)
        else:
            _picture(axes, None, title, "never predicted")
    figure.colorbar(shown, ax=grid, label="mean HiResCAM", fraction=0.03, pad=0.02)
    figure.suptitle(f"{heading(run)}\nmean map of the clips predicted as each class "
                    f"({', then '.join(streams)})", fontsize=8)
    return figure
