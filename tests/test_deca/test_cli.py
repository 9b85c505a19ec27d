"""`python -m deca`: one photograph, a folder of odd ones, the official files' table, exit codes."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data

from common.images import read_image
from deca import __main__ as command
from deca.export import write_obj
from deca.renderer import YAWS
from synthetic.head import sample_head


@pytest.fixture(scope="module")
def face():
    return data.astronaut()[40:280, 120:340]


@pytest.fixture(scope="module")
def done(face, tmp_path_factory):
    """Exit code and result folder of one photograph with its mesh."""
    folder = tmp_path_factory.mktemp("one")
    Image.fromarray(face).save(folder / "photo.png")
    code = command.main([str(folder / "photo.png"), "--out", str(folder / "out"), "--obj", "--reconstructor",
                         "landmarks", "--device", "cpu"])
    return code, folder / "out" / "photo"


def test_one_photograph(done):
    code, folder = done
    assert code == 0
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {"crop.png", "sheet.jpg", "parameters.json", "mesh.obj", "mesh.mtl", "mesh.png",
                     *(f"views/{yaw}.png" for yaw in YAWS)}
    assert read_image(folder / "crop.png").shape == (224, 224, 3)
    sides = [read_image(folder / "views" / f"{yaw}.png").astype(float) for yaw in (-30, 0, 30)]
    assert all(side.shape == (224, 224, 3) and side.max() > 150 and side[0, 0].max() == 0 for side in sides)
    assert np.abs(sides[0] - sides[2]).mean() > 5


def test_the_sheet_shows_the_crop_and_the_views(done):
    sheet = read_image(done[1] / "sheet.jpg").astype(float)
    assert sheet.shape[1] > 7 * 224 + 2 * 224
    crop = read_image(done[1] / "crop.png").astype(float)
    shown = sheet[64:64 + 478, 24:24 + 478]                     # under the heading, on the left
    assert np.abs(shown.mean((0, 1)) - crop.mean((0, 1))).max() < 12
    view = read_image(done[1] / "views" / "-30.png").astype(float)
    left = 24 + 478 + 12
    assert np.abs(sheet[64:288, left:left + 224] - view).mean() < 3


def test_the_parameters(done):
    parameters = json.loads((done[1] / "parameters.json").read_text())
    assert parameters["reconstructor"] == "landmarks" and parameters["head"] == "sample"
    assert parameters["faces_found"] == 1 and len(parameters["landmarks"]) == 68
    assert {name: len(value) for name, value in parameters["codes"].items()} == {
        "shape": 54, "tex": 50, "exp": 14, "pose": 6, "cam": 3, "light": 27, "detail": 128}
    assert abs(parameters["degrees"]["yaw"]) < 12               # she looks at the camera
    assert parameters["action_units"]["AU12"] == parameters["codes"]["exp"][8]


def test_the_mesh_has_the_photographs_colours(done, face):
    lines = (done[1] / "mesh.obj").read_text().splitlines()
    head = sample_head()
    assert sum(line.startswith("v ") for line in lines) == len(head.template)
    assert sum(line.startswith("vt ") for line in lines) == len(head.uv)
    assert sum(line.startswith("f ") for line in lines) == len(head.faces)
    assert "map_Kd mesh.png" in (done[1] / "mesh.mtl").read_text()
    texture = read_image(done[1] / "mesh.png")
    assert texture.shape == (512, 512, 3)
    nose = head.uv[head.uv_faces[head.landmark_faces[30]]].mean(0)
    colour = texture[int((1 - nose[1]) * 512), int(nose[0] * 512)].astype(float)
    points = np.array(json.loads((done[1] / "parameters.json").read_text())["landmarks"])
    column, row = points[30].round().astype(int)
    assert np.abs(colour - face[row - 3:row + 4, column - 3:column + 4].mean((0, 1))).max() < 30


def test_obj_indices_by_hand(tmp_path):
    head = sample_head()
    write_obj(tmp_path, "m", head.template, head, np.zeros((4, 4, 3), np.uint8))
    faces = [line for line in (tmp_path / "m.obj").read_text().splitlines() if line.startswith("f ")]
    corners = np.array([[corner.split("/") for corner in line.split()[1:]] for line in faces], dtype=int)
    assert np.array_equal(corners[..., 0] - 1, head.faces)
    assert np.array_equal(corners[..., 1] - 1, head.uv_faces)


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
    assert "4 of 7 photographs done" in output
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
    photos = command.find_photos([tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "a"])
    assert [str(place) for place in photos] == ["x", "x-2", "a/x"]


@pytest.mark.parametrize("arguments", [[], ["{}/none.png"], ["{}/empty"], ["{}/wall.png"],
                                       ["{}/wall.png", "--device", "toaster"],
                                       ["{}/wall.png", "--reconstructor", "deca"]])
def test_nothing_could_be_done(arguments, odd, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    shutil.copy(odd / "wall.png", tmp_path)
    arguments = [argument.format(tmp_path) for argument in arguments]
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("deca: ") and "Traceback" not in message and len(message.splitlines()) == 1


def test_check_lists_the_official_files(capsys, monkeypatch, tmp_path, official):
    monkeypatch.setattr(command, "ASSETS", tmp_path)
    (tmp_path / "deca_model.tar").write_bytes(b"cut off")
    assert command.main(["--check"]) == 1
    table = capsys.readouterr().out
    assert "missing generic_model.pkl" in table and "flame.is.tue.mpg.de" in table
    assert "bad     deca_model.tar" in table and "landmarks" in table.splitlines()[-1]
    monkeypatch.setattr(command, "ASSETS", official.folder)
    assert command.main(["--check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "DECA can be used."


def test_ctrl_c_ends_with_one_line(odd, tmp_path, capsys, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "process", stopped)
    assert command.main([str(odd / "grey.png"), "--out", str(tmp_path), "--device", "cpu"]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("deca: stopped")


def test_run_as_a_module():
    done = subprocess.run([sys.executable, "-m", "deca", "no/such/photo.jpg"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["deca: no/such/photo.jpg: no such file or folder; check the path"]
