"""Official files: read in full, refused when they carry code, named when they are not what they should be."""

import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image

from common.errors import InputError
from deca import assets
from deca.assets import check, has_official, load_flame, load_networks
from tests.test_deca.official_files import (
    Evil,
    F,
    Python2Pickler,
    V,
    chumpy_array,
    one_line,
    stand_in_chumpy,
    write_flame_pickle,
)

MODEL = "generic_model.pkl"
SMALL = ("head_template.obj", "landmark_embedding.npy", "fixed_displacement_256.npy", "uv_face_eye_mask.png")
READERS = {name: row[1] for name, row in assets.FILES.items()}


# --- what the real files hold ---------------------------------------------------------------------

def test_flame_arrays_arrive_unchanged(official):
    head, arrays = load_flame(official.folder), official.arrays
    assert head.parents.tolist() == [-1, 0, 1, 1, 1]
    for found, wanted in (
            (head.template, arrays["v_template"]), (head.shape_basis, arrays["shapedirs"][:, :, :100]),
            (head.expression_basis, arrays["shapedirs"][:, :, 300:350]), (head.skinning, arrays["weights"]),
            (head.pose_basis, arrays["posedirs"].reshape(-1, 36).T),
            (head.joint_regressor, arrays["J_regressor"])):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_triangles_keep_their_uv_and_landmarks_whatever_the_order(official):
    """The template lists the triangles in another order, from other corners, than generic_model.pkl does."""
    head, arrays = load_flame(official.folder), official.arrays
    assert not np.array_equal(head.faces, arrays["f"])
    np.testing.assert_allclose(head.uv[head.uv_faces], official.uv[head.faces], atol=1e-6)
    embedding = np.load(official.folder / "landmark_embedding.npy", allow_pickle=True)[()]
    corners = arrays["v_template"][arrays["f"][embedding["full_lmk_faces_idx"][0]]]
    wanted = np.einsum("lkc,lk->lc", corners, embedding["full_lmk_bary_coords"][0])
    found = np.einsum("lkc,lk->lc", head.template[head.landmark_corners], head.landmark_bary)
    np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_maps_arrive_in_their_units(official):
    head = load_flame(official.folder)
    displacement = np.load(official.folder / "fixed_displacement_256.npy")
    np.testing.assert_allclose(head.displacement, displacement, atol=1e-9)
    mask = np.asarray(Image.open(official.folder / "uv_face_eye_mask.png"))[:, :, 0]
    np.testing.assert_allclose(head.uv_face_mask, mask / 255, atol=1e-6)


def test_checkpoint_weights_arrive_unchanged(official):
    networks = load_networks(official.folder)
    assert set(networks) == {"E_flame", "E_detail", "D_detail"}
    for name, network in networks.items():
        state = network.state_dict()
        assert not network.training and set(state) == set(official.checkpoint[name])
        assert all(torch.equal(state[key], official.checkpoint[name][key]) for key in state)


def test_weights_of_another_precision_become_the_networks_own(official, tmp_path):
    wide = {key: weight.double() for key, weight in official.checkpoint["D_detail"].items()}
    torch.save(official.checkpoint | {"D_detail": wide}, tmp_path / "deca_model.tar")
    state = load_networks(tmp_path)["D_detail"].state_dict()
    assert all(torch.equal(state[key], weight) for key, weight in official.checkpoint["D_detail"].items())


@pytest.mark.parametrize(("protocol", "sparse"), [
    (1, scipy.sparse.csr_matrix), (2, lambda dense: dense)])
def test_other_forms_of_the_model_file(official, tmp_path, protocol, sparse):
    """Protocol 1 makes objects through copy_reg; the joint regressor may be another kind of matrix."""
    arrays = dict(official.arrays, shapedirs=official.arrays["shapedirs"].astype(np.float16))
    write_flame_pickle(tmp_path / MODEL, arrays, protocol, sparse)
    found = READERS[MODEL](tmp_path / MODEL)
    np.testing.assert_array_equal(found["J_regressor"], arrays["J_regressor"])
    np.testing.assert_array_equal(found["v_template"], arrays["v_template"])


# --- which files are there ------------------------------------------------------------------------

def test_check_of_a_whole_folder(official):
    rows = check(official.folder)
    assert [(row.file, row.status) for row in rows if row.required] == [
        (name, "present") for name in (MODEL, "deca_model.tar", *SMALL)]
    assert [(row.file, row.status) for row in rows if not row.required] == [
        ("FLAME_albedo_from_BFM.npz", "missing")]
    assert has_official(official.folder)


def test_check_of_an_empty_folder(tmp_path):
    assert {row.status for row in check(tmp_path)} == {"missing"}
    assert not has_official(tmp_path)
    with pytest.raises(InputError, match=r"generic_model\.pkl: no such file; .*README\.md"):
        load_flame(tmp_path)
    with pytest.raises(InputError, match=r"deca_model\.tar: no such file"):
        load_networks(tmp_path)


def test_flame_alone_is_enough_for_the_head(official, tmp_path):
    for name in (MODEL, *SMALL):
        (tmp_path / name).symlink_to(official.folder / name)
    assert not has_official(tmp_path)
    assert load_flame(tmp_path).template.shape == (V, 3)


def test_albedo_archive(tmp_path):
    path = tmp_path / "FLAME_albedo_from_BFM.npz"
    np.savez(path, MU=np.zeros((4, 4, 3)), PC=np.zeros((4, 4, 3, 2)))
    assert check(tmp_path)[-1].status == "present"
    np.savez(path, MU=np.zeros((4, 4, 3)))
    assert "expected arrays MU and PC" in check(tmp_path)[-1].problem
    path.write_bytes(b"PK\x03\x04 not a zip")
    assert "truncated or broken" in check(tmp_path)[-1].problem


def test_every_file_is_described_in_the_readme():
    readme = (assets.Path(assets.__file__).parent / "data/README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in assets.FILES)


@pytest.mark.parametrize("damage", ["method", "bytes", "size", "header"])
def test_a_damaged_archive_is_one_line(tmp_path, damage):
    path = tmp_path / "FLAME_albedo_from_BFM.npz"
    np.savez_compressed(path, MU=np.zeros((4, 4, 3)), PC=np.zeros(3))
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    if damage == "method":
        data[directory + 10] = data[8] = 99                                     # NotImplementedError
    elif damage == "bytes":
        data[60:80] = b"\xff" * 20                                              # zlib.error
    elif damage == "size":
        data[directory + 24:directory + 28] = (2**31).to_bytes(4, "little")     # it claims 2 GB
    else:
        np.savez(path, PC=np.zeros(3))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("MU.npy", npy_with_header(b"{'descr': '<f8', 'shape': (4L, 3"))
        data = path.read_bytes()
    path.write_bytes(data)
    row = check(tmp_path)[-1]
    assert row.status == "bad" and "truncated or broken" in row.problem and "\n" not in row.problem


def npy_with_header(header, rest=b""):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + rest


@pytest.mark.parametrize("header", [
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999,)}\n",     # 80 GB
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (256, 256)}\n",        # nothing follows
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 3",               # tokenize.TokenError
    b"{'descr': [(('a', 'b'), '<f8', (2, 2))], 'fortran_order': True, 'shape': (1,)}\n",
    b"(" * 9000, b"{'descr': 'O', 'fortran_order': False, 'shape': ()}\n", b"{}", b"[1]", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["fixed_displacement_256.npy", "landmark_embedding.npy"])
def test_a_damaged_array_header_is_one_line(tmp_path, name, header):
    (tmp_path / name).write_bytes(npy_with_header(header, b"\0" * 32))
    with pytest.raises(InputError, match=name) as error:
        READERS[name](tmp_path / name)
    one_line(error)


def test_a_file_far_larger_than_the_official_one_is_not_read(tmp_path):
    for name in (MODEL, *SMALL[:3]):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)        # sparse: it takes no space
        with pytest.raises(InputError, match=rf"{name}: .*far larger"):
            READERS[name](tmp_path / name)


# --- files that carry code ------------------------------------------------------------------------

def evil_flame(path, marker):
    with path.open("wb") as stream:
        pickle.dump({"v_template": np.zeros((V, 3)), "f": Evil(marker)}, stream, protocol=2)


def evil_flame_in_chumpy(path, marker):
    with stand_in_chumpy() as kind, path.open("wb") as stream:
        Python2Pickler(stream, 2).dump({"v_template": chumpy_array(kind, Evil(marker))})


def evil_array(path, marker):
    with path.open("wb") as stream:
        np.save(stream, np.array(Evil(marker), dtype=object), allow_pickle=True)


def evil_checkpoint(path, marker):
    torch.save({"E_flame": {"w": torch.zeros(1)}, "E_detail": Evil(marker)}, path)


def evil_old_checkpoint(path, marker):
    torch.save({"E_flame": Evil(marker)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path, marker):
    path.write_bytes(pickle.dumps(Evil(marker), protocol=2))


def evil_archive(path, marker):
    np.savez(path, MU=np.array(Evil(marker), dtype=object), PC=np.zeros(3))


@pytest.mark.parametrize(("name", "write"), [
    (MODEL, evil_flame), (MODEL, evil_flame_in_chumpy),
    (MODEL, plain_pickle), ("landmark_embedding.npy", evil_array),
    ("fixed_displacement_256.npy", evil_array), ("deca_model.tar", evil_checkpoint),
    ("deca_model.tar", evil_old_checkpoint), ("deca_model.tar", plain_pickle)])
def test_a_file_that_carries_code_is_refused_and_does_not_run(tmp_path, name, write):
    marker = tmp_path / "it ran"
    write(tmp_path / name, marker)
    with pytest.raises(InputError) as error:
        READERS[name](tmp_path / name)
    assert not marker.exists()
    message = one_line(error)
    assert name in message and f"asks for {os.mkdir.__module__}.mkdir" in message
    row = next(row for row in check(tmp_path) if row.file == name)
    assert row.status == "bad" and row.problem == message and not marker.exists()


def test_an_archive_that_carries_code_does_not_run(tmp_path):
    evil_archive(tmp_path / "FLAME_albedo_from_BFM.npz", tmp_path / "it ran")
    assert check(tmp_path)[-1].status == "bad"
    assert not (tmp_path / "it ran").exists()


# --- files that are broken ------------------------------------------------------------------------

@pytest.mark.parametrize("name", [MODEL, "deca_model.tar", *SMALL])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.95])
def test_a_truncated_file_is_named(official, tmp_path, name, share):
    size = int(share * (official.folder / name).stat().st_size)
    with (official.folder / name).open("rb") as whole, (tmp_path / name).open("wb") as part:
        part.write(whole.read(size))
    with pytest.raises(InputError, match=name) as error:
        READERS[name](tmp_path / name)
    one_line(error)


@pytest.mark.parametrize("name", [MODEL, "deca_model.tar", *SMALL])
def test_a_web_page_in_place_of_the_file_is_named(tmp_path, name):
    """What a download without registration often leaves."""
    (tmp_path / name).write_text("<!DOCTYPE html>\n<html><body>Log in</body></html>\n", encoding="utf-8")
    with pytest.raises(InputError, match=name) as error:
        READERS[name](tmp_path / name)
    one_line(error)


@pytest.mark.parametrize("name", [MODEL, "landmark_embedding.npy", "fixed_displacement_256.npy"])
def test_a_file_that_may_not_be_read_is_named(official, monkeypatch, name):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr(assets.Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=f"{name}.*Permission denied"):
        READERS[name](official.folder / name)


def test_a_pickle_of_something_else_is_named(tmp_path):
    for value, message in (([1, 2], "expected a dictionary, found list"), ("text", "found str")):
        (tmp_path / MODEL).write_bytes(pickle.dumps(value))
        with pytest.raises(InputError, match=message):
            READERS[MODEL](tmp_path / MODEL)
    for protocol in (2, 4):
        (tmp_path / "deca_model.tar").write_bytes(pickle.dumps({"E_flame": {}}, protocol))
        with pytest.raises(InputError, match=r"deca_model\.tar: cannot be read safely") as error:
            load_networks(tmp_path)
        one_line(error)


def without(arrays, name, value):
    return dict(arrays, shapedirs=arrays["shapedirs"].astype(np.float16)) | {name: value}


@pytest.mark.parametrize(("name", "change", "message"), [
    ("v_template", lambda a: a[:-1], r"v_template: expected numbers \(5023, 3\), found float64 \(5022, 3\)"),
    ("f", lambda a: a + 500, r"f: expected indices from 0 to 5022, found 500 to \d+"),
    ("shapedirs", lambda a: a[:, :, :150], r"shapedirs: expected numbers \(5023, 3, 400\)"),
    ("posedirs", lambda a: a[:, :, :9], r"posedirs: expected numbers \(5023, 3, 36\)"),
    ("J_regressor", lambda a: a[:4], r"J_regressor: expected numbers \(5, 5023\)"),
    ("weights", lambda a: a * np.nan, r"weights: expected finite numbers"),
    ("kintree_table", lambda a: a * 0 + 3, r"kintree_table: expected parents before children"),
    ("kintree_table", lambda a: "none", r"kintree_table: expected numbers \(2, 5\), found str")])
def test_a_model_of_another_shape_says_what_was_expected(official, tmp_path, name, change, message):
    path = tmp_path / MODEL
    arrays = official.arrays
    write_flame_pickle(path, without(arrays, name, change(arrays[name])))
    with pytest.raises(InputError, match=r"generic_model\.pkl: " + message) as error:
        READERS[path.name](path)
    one_line(error)


def test_a_template_with_other_triangles_is_named(official, tmp_path):
    for name in (MODEL, *SMALL):
        shutil.copy(official.folder / name, tmp_path / name)
    path = tmp_path / "head_template.obj"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[-1] = "f 1/1 2/2 3/3"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=r"head_template\.obj: its triangles are not those of generic_model"):
        load_flame(tmp_path)
    for wrong, message in (("f 1/1 2/2 3/3 4/4", "truncated or broken"), ("f 1 2 3", "truncated or broken"),
                           ("f 1/1 2/2 9999/3", f"expected indices from 0 to {V - 1}"),
                           ("f 1/1 2/2 0/3", f"expected indices from 0 to {V - 1}"),
                           ("", f"expected {V} vertices and {F} triangles, found {V} and {F - 1}")):
        lines[-1] = wrong
        path.write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            READERS[path.name](path)


@pytest.mark.parametrize(("embedding", "message"), [
    ({"full_lmk_faces_idx": np.zeros((1, 51), int)}, r"full_lmk_faces_idx: expected numbers \(1, 68\)"),
    ({"full_lmk_faces_idx": np.full((1, 68), F)}, rf"expected indices from 0 to {F - 1}"),
    ({"full_lmk_faces_idx": np.zeros((1, 68), int)}, r"full_lmk_bary_coords: expected numbers \(1, 68, 3\)"),
    (["no", "dictionary"], r"expected a dictionary, found list")])
def test_landmarks_of_another_shape(tmp_path, embedding, message):
    path = tmp_path / "landmark_embedding.npy"
    holder = np.empty((), dtype=object)
    holder[()] = embedding
    np.save(path, holder, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        READERS[path.name](path)


def test_maps_of_another_shape(tmp_path):
    path = tmp_path / "fixed_displacement_256.npy"
    np.save(path, np.zeros((512, 512)))
    with pytest.raises(InputError, match=r"expected numbers \(256, 256\), found float64 \(512, 512\)"):
        READERS[path.name](path)
    path = tmp_path / "uv_face_eye_mask.png"
    Image.new("L", (64, 32)).save(path)
    with pytest.raises(InputError, match="expected 256x256 pixels, found 64x32"):
        READERS[path.name](path)


def test_a_checkpoint_of_another_shape(official, tmp_path):
    path = tmp_path / "deca_model.tar"
    whole = official.checkpoint
    detail = whole["D_detail"]
    cases = [
        ([1, 2], "expected the networks E_flame, E_detail, D_detail, found no E_flame"),
        (whole | {"E_detail": 1}, "expected the networks E_flame, E_detail, D_detail, found no E_detail"),
        (whole | {"D_detail": {k: v for k, v in detail.items() if k != "l1.0.weight"}},
         r"D_detail\.l1\.0\.weight: expected \(8192, 181\), found nothing"),
        (whole | {"D_detail": detail | {"l1.0.weight": torch.zeros(8192, 178)}}, r"found \(8192, 178\)"),
        (whole | {"D_detail": detail | {"l1.0.weight": torch.zeros(8192, 181).to_sparse()}}, "found nothing"),
        (whole | {"D_detail": detail | {"l1.0.bias": torch.full((8192,), torch.nan)}},
         r"D_detail\.l1\.0\.bias: NaN or infinity"),
    ]
    for checkpoint, message in cases:
        torch.save(checkpoint, path)
        with pytest.raises(InputError, match=rf"deca_model\.tar: .*{message}"):
            load_networks(tmp_path)
    torch.save(whole | {"D_detail": {k: v for k, v in detail.items() if not k.endswith("tracked")}}, path)
    assert load_networks(tmp_path)["D_detail"].conv_blocks[0].num_batches_tracked == 0


def test_a_zip_with_other_contents_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "deca_model.tar", "w") as archive:
        archive.writestr("readme.txt", "not a checkpoint")
    with pytest.raises(InputError, match=r"deca_model\.tar: cannot be read safely"):
        load_networks(tmp_path)
