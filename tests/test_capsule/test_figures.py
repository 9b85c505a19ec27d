"""Figures of a run: what they say, where they lie, the same bytes twice."""


from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from capsule.figures import (
    clip_figure,
    confusion_figure,
    curve_figure,
    figure_name,
    heading,
    pooled_uf1,
    run_figures,
)
from capsule.gradcam import ClipMaps
from capsule.results import read_run
from common.images import read_image
from tests.fake_runs import change_json, clip_list, said_strictly, write_run


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path, missing=("synthetic_s03",))
    return read_run(tmp_path, "fake")


def words(figure):
    """All text that a figure shows."""
    return [text.get_text() for text in figure.findobj(Text)]


def test_confusion_matrix_holds_each_clip_once_and_row_per_cents(run):
    figure = confusion_figure(run)
    cells = [text.split("\n") for text in words(figure) if "\n" in text and text.endswith(" %")]
    assert len(cells) == 9
    counts = np.array([int(count) for count, _ in cells]).reshape(3, 3)
    share = np.array([int(text.removesuffix(" %")) for _, text in cells]).reshape(3, 3)
    expected = np.zeros((3, 3), int)
    for fold in run.finished.values():
        np.add.at(expected, (fold.y_true, fold.predictions["strict"][-1]), 1)
    assert (counts == expected).all()
    assert share.sum(1) == pytest.approx(100, abs=2)      # each cell is rounded


def test_no_figure_of_a_picture_takes_anothers_place():
    names = []
    for path in ("a/b.png", "/a/b.jpg", "../a/b", "a_b", "a_b_"):
        names.append(figure_name(Path(path), names))
    assert names == ["a_b", "a_b_jpg", "a_b_", "a_b__", "a_b___"]
    assert figure_name(Path(101 * "é" + "x.png"), names) == 99 * "é" + "x"      # no half of a letter


def test_every_figure_says_synthetic_quick_and_incomplete(run):
    assert heading(run) == "fake · SYNTHETIC · quick · 3 of 4 folds"
    for figure in (confusion_figure(run), curve_figure(run)):
        assert any("SYNTHETIC · quick · 3 of 4 folds" in text for text in words(figure))


def test_curves_pool_the_folds_at_each_epoch_by_hand(tmp_path):
    folder = write_run(tmp_path, rows=clip_list(subjects=2, clips=3), epochs=2)
    # truth: s00 0 1 2, s01 1 2 0
    change_json(folder / "folds/synthetic_s00.json", loss=[0.9, 0.5],
                **said_strictly([[0, 0, 0], [0, 1, 2]]))
    change_json(folder / "folds/synthetic_s01.json", loss=[0.7, 0.3],
                **said_strictly([[0, 0, 0], [1, 2, 1]]))
    run = read_run(tmp_path, "fake")
    # epoch 1, all 0: F1 4/(4+4) = 1/2. epoch 2: F1 of 0 2/3, of 1 4/5, of 2 1
    assert pooled_uf1(run, "strict") == pytest.approx([1 / 6, (2 / 3 + 4 / 5 + 1) / 3])
    loss, uf1 = curve_figure(run).axes[:2]
    assert loss.lines[0].get_ydata() == pytest.approx([0.8, 0.4])
    assert uf1.lines[0].get_ydata() == pytest.approx(pooled_uf1(run, "strict"))


def test_files_are_png_and_pdf_and_the_same_bytes_twice(run, tmp_path):
    first = run_figures(run, tmp_path / "a")
    second = run_figures(run, tmp_path / "b")
    names = ("confusion_strict", "learning_curves")
    assert {path.name for path in first} == {name + end for name in names for end in (".png", ".pdf")}
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        if one.suffix == ".png":
            picture = read_image(one)
            assert min(picture.shape[:2]) > 300 and picture.std() > 5
            border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
            assert (border == 255).all()      # nothing touches the edge: no label is clipped
        else:
            assert one.read_bytes().startswith(b"%PDF")


def test_text_is_plain_and_long_names_are_cut(tmp_path):
    write_run(tmp_path, "price", class_names=["a" * 90, "positive", "surprise"])
    run = read_run(tmp_path, "price")
    run.facts["class_names"][1] = r"$\frac{1"      # no mathematics, whatever it looks like
    paths = run_figures(run, tmp_path / "figures")
    assert all(path.stat().st_size < 300_000 for path in paths)
    assert "a" * 21 + "..." in words(confusion_figure(run))


@pytest.mark.parametrize("views", [None, (13, 32, 32), (13, 32, 32, 3)])
def test_clip_figure_takes_grey_and_coloured_views(run, tmp_path, views):
    picture, found = np.full((32, 32, 3), 90, np.uint8), np.linspace(0, 1, 1024).reshape(32, 32)
    maps = {"views": found} if views else {"crop": found}
    clip = ClipMaps("casme/sub01/EP01_01f", 0, 1, np.array([-0.1, 0.7, 0.3]), picture, None,
                    None if views is None else np.full(views, 9, np.uint8), maps, 28)
    figure = clip_figure(heading(run), run.facts["class_names"], clip)
    assert f"map on the {'frontal view' if views else 'apex'}" in words(figure)
    figure.savefig(tmp_path / "clip.png", dpi=40)
