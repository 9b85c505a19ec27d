"""`python -m deca`: one photograph, a folder of odd ones, the official files' table, exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from common.console import run_main
from common.errors import InputError
from common.images import read_image
from deca import __main__ as command
from deca.renderer import YAWS
from deca.sources import find_sources


@pytest.fixture(scope="module")
def face():
    return data.astronaut()[40:280, 120:340]


@pytest.fixture(scope="module")
def done(face, tmp_path_factory):
    """Exit code and result folder of one photograph with its mesh."""
    folder = tmp_path_factory.mktemp("one")
    Image.fromarray(face).save(folder / "photo.png")
    code = command.main([str(folder / "photo.png"), "--out", str(folder / "out"), "--obj", "--depth",
                         "--normals", "--mesh", "coarse", "--mesh", "detailed", "--keypoints", "--overlay",
                         "--reconstructor", "mesh", "--device", "cpu"])
    return code, folder / "out" / "photo"


def test_one_photograph(done):
    code, folder = done
    assert code == 0
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {"crop.png", "sheet.jpg", "parameters.json", "mesh.obj", "mesh.mtl", "mesh.png",
                     *(f"mesh-{level}.{kind}" for level in ("coarse", "detailed")
                       for kind in ("obj", "mtl", "png")), "textured.png",
                     "depth.png", "normals.png", "keypoints.json", "overlay.png", *(f"views/{yaw}.png"
                                                                                    for yaw in YAWS)}
    assert read_image(folder / "crop.png").shape == (224, 224, 3)
    sides = [read_image(folder / "views" / f"{yaw}.png").astype(float) for yaw in (-30, 0, 30)]
    assert all(side.shape == (224, 224, 3) and side.max() > 150 and side[0, 0].max() == 0 for side in sides)
    assert np.abs(sides[0] - sides[2]).mean() > 5


def test_results_of_another_picture_of_the_name_do_not_stay(face, tmp_path):
    def call(picture, *options):
        Image.fromarray(picture).save(tmp_path / "photo.png")
        assert command.main([str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--device", "cpu",
                             "--reconstructor", "mesh", *options]) == 0
        return {path.name for path in (tmp_path / "out/photo").iterdir()} & set(command.MORE)

    assert call(face, "--depth", "--obj") == {"depth.png", "mesh.obj", "mesh.mtl", "mesh.png"}
    assert call(face, "--keypoints") == {"depth.png", "mesh.obj", "mesh.mtl", "mesh.png", "keypoints.json"}
    assert call(face // 2, "--normals") == {"normals.png"}


@pytest.mark.parametrize("failing", [np.zeros((240, 220, 3), np.uint8), None], ids=["no face", "unreadable"])
def test_a_picture_that_fails_keeps_no_results_of_another_of_its_name(face, tmp_path, failing):
    photo, arguments = tmp_path / "photo.png", ["--out", str(tmp_path / "out"), "--device", "cpu",
                                                "--reconstructor", "mesh", "--depth"]
    Image.fromarray(face).save(photo)
    assert command.main([str(photo), *arguments]) == 0
    if failing is None:
        photo.write_bytes(b"no picture")
    else:
        Image.fromarray(failing).save(photo)
    assert command.main([str(photo), *arguments]) == 2
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_bad_line_of_a_list_is_named(face, tmp_path):
    Image.fromarray(face).save(tmp_path / "photo.png")
    (tmp_path / "list.txt").write_text("photo.png\n\nnope.png\n")
    with pytest.raises(InputError, match=r"list\.txt line 3: .*nope\.png: no such file"):
        list(find_sources([tmp_path / "list.txt"]))
    odd = os.fsdecode(b"p\xff.png")
    shutil.copy(tmp_path / "photo.png", tmp_path / odd)
    (tmp_path / "list.txt").write_bytes(b"p\xff.png\n")
    assert len(list(find_sources([tmp_path / "list.txt"]))) == 1


def test_the_sheet_shows_the_photograph_and_the_views(done):
    sheet = read_image(done[1] / "sheet.jpg").astype(float)
    assert sheet.shape[1] > 7 * 224 + 2 * 224
    view = read_image(done[1] / "views" / "-30.png").astype(float)
    left = 24 + 478 + 12
    assert np.abs(sheet[64:288, left:left + 224] - view).mean() < 3


def test_parameters_keypoints_and_maps(done, face):
    parameters = json.loads((done[1] / "parameters.json").read_text())
    assert parameters["reconstructor"] == "mesh" and "face_landmark.tflite" in parameters["model"]
    # she looks at the camera
    assert parameters["faces_found"] == 1 and abs(parameters["degrees"]["yaw"]) < 12
    points = json.loads((done[1] / "keypoints.json").read_text())
    assert np.abs(np.array(points["points_2d"]) - parameters["landmarks"]).max() < 0.1
    nose, jaw = np.array(points["points_3d"])[[30, 2]]
    assert nose[2] < jaw[2] - 10                                # smaller is nearer
    chin = np.array(points["points_3d"])[3:14, 2]               # partly below the surface's edge
    assert chin.min() > 5 and np.abs(np.diff(chin)).max() < 20, chin
    assert read_image(done[1] / "overlay.png").shape == face.shape
    depth = np.asarray(Image.open(done[1] / "depth.png"))
    assert depth.dtype == np.uint16 and depth.max() == 65535 and depth[0, 0] == 0


def test_the_mesh_has_the_photographs_colours(done, face):
    lines = (done[1] / "mesh.obj").read_text().splitlines()
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    places = np.array([line.split()[1:] for line in lines if line.startswith("vt ")], float)
    faces = np.array([[c.split("/")[0] for c in line.split()[1:]] for line in lines if line.startswith("f ")],
                     int)
    assert len(vertices) == len(places) and faces.min() == 1 and faces.max() == len(vertices)
    texture = read_image(done[1] / "mesh.png")
    # the nose
    column, row = places[vertices[:, 2].argmax()] * [1, -1] * texture.shape[0] + [0, texture.shape[0]]
    points = np.array(json.loads((done[1] / "parameters.json").read_text())["landmarks"])
    x, y = points[30].round().astype(int)
    colour = texture[int(row), int(column)].astype(float)
    assert np.abs(colour - face[y - 3:y + 4, x - 3:x + 4].mean((0, 1))).max() < 45


def read_obj(path):
    """Vertices (V, 3), triangles (F, 3) from 0."""
    lines = path.read_text().splitlines()
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    faces = [[c.split("/")[0] for c in line.split()[1:]] for line in lines if line.startswith("f ")]
    return vertices, np.array(faces, int) - 1


def test_the_face_mesh_has_a_coarse_and_a_detailed_surface(done):
    coarse, triangles = read_obj(done[1] / "mesh-coarse.obj")
    fine, _ = read_obj(done[1] / "mesh-detailed.obj")
    assert coarse.shape == (468, 3) and triangles.shape == (898, 3) and triangles.max() == 467
    assert all(map(np.array_equal, read_obj(done[1] / "mesh.obj"), read_obj(done[1] / "mesh-detailed.obj")))
    assert 1e-5 < np.abs(coarse - fine[:468]).max() < 0.02         # not yet smoothed; metres


def test_depth_and_normals_are_wishes_of_their_own(face, tmp_path):
    Image.fromarray(face).save(tmp_path / "photo.png")
    for wish in ("depth", "normals"):
        assert command.main([str(tmp_path / "photo.png"), "--out", str(tmp_path / wish), f"--{wish}",
                             "--reconstructor", "mesh", "--device", "cpu"]) == 0
        assert [(tmp_path / wish / "photo" / f"{name}.png").exists() for name in ("depth", "normals")] == [
            wish == "depth", wish == "normals"]


def test_motion_since_an_earlier_frame(face, tmp_path, capsys):
    Image.fromarray(np.roll(face, 2, 1)).save(tmp_path / "onset.png")
    Image.fromarray(face).save(tmp_path / "apex.png")
    Image.fromarray(face[:-2]).save(tmp_path / "small.png")
    arguments = [str(tmp_path / "apex.png"), "--out", str(tmp_path / "out"), "--reconstructor", "mesh",
                 "--device", "cpu", "--motion"]
    assert command.main([*arguments, str(tmp_path / "small.png")]) == 2
    assert "small.png: of another size than the photograph" in capsys.readouterr().err
    assert command.main([*arguments, str(tmp_path / "onset.png")]) == 0
    assert Image.open(tmp_path / "out" / "apex" / "motion.jpg").size == (1192, 360)


@pytest.fixture(scope="module")
def odd(face, tmp_path_factory):
    """A folder of odd pictures, good and bad."""
    folder = tmp_path_factory.mktemp("odd")
    grey = np.asarray(Image.fromarray(face).convert("L"))
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(face).quantize(64).save(folder / "palette.png")
    (folder / "sub").mkdir()
    Image.fromarray(face).convert("RGBA").save(folder / "sub" / "alpha.png")
    Image.fromarray(np.full((90, 90, 3), 200, np.uint8)).save(folder / "wall.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a picture, and not asked to be one")
    return folder


def test_a_folder_of_odd_pictures(odd, tmp_path, capsys):
    code = command.main([str(odd), "--out", str(tmp_path), "--device", "cpu"])
    output, errors = capsys.readouterr()
    assert code == 1
    assert "4 of 7 pictures done, 3 failed" in output
    for name, why in (("wall.png", "no face found"), ("broken.jpg", "not a readable picture"),
                      ("empty.png", "not a readable picture")):
        lines = [line for line in errors.splitlines() if name in line and "deca:" in line]
        assert len(lines) == 1 and why in lines[0]
    for place in ("grey", "deep", "palette", "sub/alpha"):
        assert (tmp_path / odd.name / place / "sheet.jpg").is_file()
    assert not (tmp_path / odd.name / "wall").exists()


def test_several_faces_are_said(face, tmp_path, capsys):
    page = np.zeros((480, 700, 3), np.uint8)
    page[:240, :220] = face
    page[:, 240:680] = face.repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(page).save(tmp_path / "pair.png")
    assert command.main([str(tmp_path / "pair.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "2 faces, the largest is taken" in capsys.readouterr().err
    parameters = json.loads((tmp_path / "out" / "pair" / "parameters.json").read_text())
    assert parameters["faces_found"] == 2 and parameters["crop"]["center"][0] > 240


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(b"")
    found = find_sources([tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "a"])
    assert [str(place) for place, _ in found] == ["x", "x-2", "a/x"]


def test_lists_videos_and_odd_names(face, tmp_path):
    (tmp_path / "...jpg").write_bytes(b"")
    (tmp_path / "list.txt").write_text("...jpg\n\n")
    video = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    for number in range(10):
        video.write(np.full((64, 64, 3), 25 * number, np.uint8))
    video.release()
    found = list(find_sources([tmp_path / "list.txt", tmp_path / "clip.avi"], fps=5))
    assert [str(place) for place, _ in found] == ["picture", *(f"clip/{n:06d}" for n in (0, 2, 4, 6, 8))]
    means = [read()[1].mean() for _, read in found[1:]]
    assert np.abs(np.array(means) - [0, 50, 100, 150, 200]).max() < 5
    ((_, read),) = find_sources([tmp_path / "clip.avi"], fps=5e-324)     # passes over no more than there are
    assert read()[1].shape == (64, 64, 3)
    shutil.copy(tmp_path / "clip.avi", odd_name := os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.avi"))
    with pytest.raises(UnicodeEncodeError):         # `run_main` says it; OpenCV would end the process
        list(find_sources([Path(odd_name)]))
    os.unlink(odd_name)
    (tmp_path / "list.txt").write_text("clip.avi\n" * 9)
    before = len(os.listdir("/dev/fd"))                 # a list of many videos opens one at a time
    found = list(find_sources([tmp_path / "list.txt"], fps=5))
    assert len(found) == 45 and [read()[1].shape for _, read in found] == [(64, 64, 3)] * 45
    assert len(os.listdir("/dev/fd")) == before
    (tmp_path / "list.txt").write_text("...jpg\n", encoding="utf-8-sig")         # as Notepad writes it
    assert len(list(find_sources([tmp_path / "list.txt"]))) == 1
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "...jpg").write_bytes(b"")
    assert [str(place) for place, _ in find_sources([tmp_path / "a"])] == ["a/b/picture"]
    (tmp_path / "a" / "out").mkdir()
    (tmp_path / "a" / "out" / "sheet.jpg").write_bytes(b"")      # a result of an earlier call
    assert len(list(find_sources([tmp_path / "a"], out=tmp_path / "a" / "out"))) == 1
    os.symlink("/proc/self/mem", tmp_path / "unreadable.txt")
    with pytest.raises(InputError, match=r"unreadable\.txt: cannot be read"):
        list(find_sources([tmp_path / "unreadable.txt"]))
    with pytest.raises(InputError, match="every picture found lies in this folder of results"):
        list(find_sources([tmp_path / "a"], out=tmp_path / "a"))


@pytest.mark.parametrize("arguments", [[], ["{}/none.png"], ["{}/empty"], ["{}/empty.txt"],
                                       ["{}/wall.png", "--fps", "nan"], ["{}/wall.png", "--fps", "0"],
                                       ["{}/wall.png", "--motion", "{}/none.png"],
                                       ["{}/wall.png", "--device", "toaster"],
                                       ["{}/wall.png", "--reconstructor", "deca"]])
def test_nothing_could_be_done(arguments, odd, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    shutil.copy(odd / "wall.png", tmp_path)
    arguments = [argument.format(tmp_path) for argument in arguments]
    with pytest.raises(InputError):
        command.main([*arguments, "--out", str(tmp_path / "out")])


def test_no_face_in_the_only_picture(odd, tmp_path, capsys):
    assert command.main([str(odd / "wall.png"), "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "wall.png: no face found" in capsys.readouterr().err


def test_check_lists_the_official_files(capsys, monkeypatch, tmp_path, official):
    monkeypatch.setattr(command, "ASSETS", tmp_path)
    (tmp_path / "deca_model.tar").write_bytes(b"cut off")
    assert command.main(["--check"]) == 1
    table = capsys.readouterr().out
    assert "missing generic_model.pkl" in table and "README.md" in table
    assert "bad     deca_model.tar" in table and "mesh" in table.splitlines()[-1]
    monkeypatch.setattr(command, "ASSETS", official.folder)
    assert command.main(["--check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "DECA can be used."


def test_ctrl_c_ends_with_one_line(odd, tmp_path, capsys, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "process", stopped)
    with pytest.raises(SystemExit, match="130"):
        run_main(lambda: command.main([str(odd / "grey.png"), "--out", str(tmp_path), "--device", "cpu"]))
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped; ")


@pytest.mark.parametrize(("error", "words"), [
    (PermissionError(13, "Permission denied", "some/folder"), "some/folder: Permission denied"),
    (PermissionError(13, "Permission denied", "\x1b[31mred"), r"\x1b[31mred: Permission denied"),
    (PermissionError(13, "Permission denied"), "a place without a name: Permission denied"),
    (PermissionError("no"), "a place without a name: no"),
    (OSError(36, "File name too long", "aaa"), "aaa: File name too long"),
    (OSError(5, "Input/output error", "some/disk"), "some/disk: Input/output error")])
def test_a_closed_folder_is_one_line(error, words, capsys):
    def closed():
        raise error

    with pytest.raises(SystemExit, match="2"):
        run_main(closed)
    assert capsys.readouterr().err.endswith(f": {words}; choose one that you may use\n")


def test_a_terminal_without_the_letters_and_a_full_disk():
    program, ascii_only = [sys.executable, "-m", "deca"], {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, env=ascii_only)
    assert done.returncode == 0 and "\\u2192" in done.stdout and not done.stderr
    assert "Exit codes:" in done.stdout and "nearest point 65535" in done.stdout        # what the files hold
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*program, "--check"], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2 and done.stderr.startswith("deca: the output cannot be written")


def test_run_as_a_module():
    done = subprocess.run([sys.executable, "-m", "deca", "no/such/photo.jpg"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["deca: no/such/photo.jpg: no such file or folder; check the path"]


@pytest.mark.parametrize(("line", "message"), [
    ("list.txt", "a list holds pictures, folders and videos, no lists"),
    ("x" * 5000, "no such file or folder"),
    ("a\0b.jpg", "no such file or folder")], ids=["itself", "long", "nul"])
def test_a_list_with_an_impossible_line_is_one_line(tmp_path, line, message):
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(InputError, match=message):
        list(find_sources([tmp_path / "list.txt"], fps=5))
