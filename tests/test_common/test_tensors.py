"""State dicts: the same bytes each time, and nothing but tensors is ever read."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from common import files, tensors
from common.errors import InputError
from tests.test_deca.official_files import Evil, one_line

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}


def written(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def test_same_tensors_same_bytes_whatever_the_name(tmp_path):
    tensors.save_tensors(tmp_path / "a.pt", STATE)
    tensors.save_tensors(tmp_path / "folder" / "another name.pt", {k: v.clone() for k, v in STATE.items()})
    data = (tmp_path / "a.pt").read_bytes()
    assert data == (tmp_path / "folder" / "another name.pt").read_bytes()
    tensors.save_tensors(tmp_path / "a.pt", STATE | {"n": torch.tensor(8)})
    assert data != (tmp_path / "a.pt").read_bytes()


def test_what_is_saved_is_loaded(tmp_path):
    weight = torch.ones(2, requires_grad=True)
    tensors.save_tensors(tmp_path / "a.pt", STATE | {"w": weight})
    found = tensors.load_tensors(tmp_path / "a.pt")
    assert found.keys() == {"a.weight", "n", "w"} and not found["w"].requires_grad
    assert all(torch.equal(found[name], value) for name, value in STATE.items())
    assert weight.requires_grad
    (tmp_path / "b.pt").write_bytes(written({"epoch": 3, "state_dict": STATE}))
    assert tensors.load_tensors(tmp_path / "b.pt").keys() == STATE.keys()


@pytest.mark.parametrize("value", [
    {f"module.{name}": value for name, value in STATE.items()},
    {f"module._orig_mod.{name}": value for name, value in STATE.items()},
    {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
    *({"epoch": 3, "optimizer": {"state": {}}, name: STATE}
      for name in ("state_dict", "model_state_dict", "model", "net")),
    {"state_dict": {f"module.{name}": value for name, value in STATE.items()}}])
def test_the_usual_wrappings_are_taken_off(tmp_path, value):
    (tmp_path / "a.pt").write_bytes(written(value))
    assert tensors.load_tensors(tmp_path / "a.pt").keys() == STATE.keys()
    (tmp_path / "b.pt").write_bytes(written({"module.a": torch.ones(1), "b": torch.ones(1)}))
    assert tensors.load_tensors(tmp_path / "b.pt").keys() == {"module.a", "b"}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "old"])
@pytest.mark.parametrize("hide", [lambda evil: evil, lambda evil: STATE | {"evil": [evil]}])
def test_code_is_refused_and_does_not_run(tmp_path, hide, options):
    (tmp_path / "a.pt").write_bytes(written(hide(Evil(tmp_path / "it ran")), **options))
    with pytest.raises(InputError, match=rf"a\.pt: .*asks for {os.mkdir.__module__}\.mkdir") as error:
        tensors.load_tensors(tmp_path / "a.pt")
    one_line(error)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("data", [
    b"", b"PK\x03\x04", b"<html>", pickle.dumps({"a": 1}), pickle.dumps({"a": 1}, 2), written(STATE)[:-40],
    written([1, 2]), written({"a": 1}), written({}),
    written({1: torch.ones(1)}), written({"state_dict": {}})])
def test_other_files_are_one_line(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.pt: ") as error:
        tensors.load_tensors(tmp_path / "a.pt")
    assert "weights_only" not in one_line(error)      # torch's advice is to run what the file holds


@pytest.mark.parametrize("odd", [
    torch.eye(3).to_sparse(), torch.eye(3, device="meta"), torch.eye(3, dtype=torch.complex64),
    torch.zeros(1).expand(10**12, 3), torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
    torch.tensor([0, torch.nan]), torch.ones(3).to(torch.float8_e4m3fn)],
    ids=["sparse", "meta", "complex", "one repeated", "quantized", "nan", "float8"])
def test_odd_tensors_are_one_line(tmp_path, odd):
    (tmp_path / "a.pt").write_bytes(written(STATE | {"w": odd}))
    with pytest.raises(InputError, match=r"a\.pt: w: not finite real numbers") as error:
        tensors.load_tensors(tmp_path / "a.pt")
    one_line(error)


def test_a_damaged_number_is_noticed(tmp_path):
    tensors.save_tensors(tmp_path / "a.pt", STATE | {"n": torch.full((100,), 0.1)})
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(np.full(9, 0.1, np.float32).tobytes()) + 18] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.pt: .*the checksum of .*data/.* is wrong"):
        tensors.load_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("key", [b"h\x00h\x00\x86q\x00" * 64, b"\x85" * 10**6], ids=["twice", "deep"])
def test_a_key_of_nested_tuples_does_not_hang_or_crash(tmp_path, is_zip, key):
    """Its hash would take 2 to the 64 steps, or more of C's stack than there is."""
    nested = b"\x80\x02}()\x85q\x00" + key + b"K\x01u."
    (tmp_path / "a.pt").write_bytes(written(3, _use_new_zipfile_serialization=False)[:-3] + nested)
    if is_zip:
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("archive/data.pkl", nested)
            archive.writestr("archive/version", "3")
    with pytest.raises(InputError, match="tuples within tuples"):
        tensors.load_tensors(tmp_path / "a.pt")


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path):
    source = zipfile.ZipFile(io.BytesIO(written({"a": torch.zeros(10**6)})))
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    with pytest.raises(InputError, match=r"compressed, which torch\.save never does") as error:
        tensors.load_tensors(tmp_path / "bomb.pt")
    one_line(error)


def test_what_is_no_file_is_named_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    for path, message in ((tmp_path / "pipe.pt", "no plain file"), (tmp_path, "no plain file"),
                          (tmp_path / "none.pt", "no such file")):
        with pytest.raises(InputError, match=message):
            tensors.load_tensors(path)


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path, monkeypatch):
    tensors.save_tensors(tmp_path / "a.pt", STATE)
    old = (tmp_path / "a.pt").read_bytes()

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"a\.pt: cannot be written \(No space left on device\)") as error:
        tensors.save_tensors(tmp_path / "a.pt", {"a": torch.zeros(9)})
    one_line(error)
    assert (tmp_path / "a.pt").read_bytes() == old and os.listdir(tmp_path) == ["a.pt"]
