"""Attack the places that read what others wrote: `python -m tests.attack --cases 20000 --seed 1`.

Each case is a picture, JSON, pickle, .npy, .npz, weights file or name, damaged or made to harm. Counted are
tracebacks (anything but a value or one line that names the file), hangs (more than 5 s), losses (a whole file
that no longer reads, code that ran, a file out of place) and crashes (the process itself died).
"""

import argparse
import collections
import io
import json
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from PIL import Image

from common.errors import InputError
from common.files import read_json, whole_file, write_json
from common.images import read_image
from common.names import is_plain_name, plain_name
from common.tensors import load_tensors
from deca import assets
from deca.safe_pickle import read_pickle
from tests.test_common.test_images import damaged
from tests.test_deca.official_files import Evil, Python2Pickler, chumpy_array, stand_in_chumpy

LIMIT = 5       # seconds a case may take
PLURAL = {"traceback": "tracebacks", "hang": "hangs", "loss": "losses"}
CHARACTERS = "aZ09 ._+-()[]/\\:*?\"'<>|$%{}~\n\r\t\0\x1b\u202e\u00e9\u4e2d\U0001f600\udc80"


class Hang(BaseException):
    """Not an Exception: no reader may take it for a damaged file."""


def _hang(*_):
    raise Hang


# --- what is attacked: kind → (whole files, reader, the same of two values) ----------------------------

def _picture(mode, kind, **options):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 4)).astype(np.uint8)
    picture, stream = Image.fromarray(noise), io.BytesIO()
    picture = picture.convert("L").convert("F") if mode == "F" else picture.convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(stream, format=kind, **options, **({} if kind == "BMP" else {"exif": exif}))
    return stream.getvalue()


def pictures():
    """Every format and kind of compression that is read, with EXIF, and some that are not."""
    return [_picture(*case) for case in (
        ("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"),
        ("RGB", "BMP"), ("P", "BMP"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("RGB", "TIFF"), ("F", "TIFF"))] + [
        _picture(mode, "TIFF", compression=name) for mode, name in (
            ("RGB", "tiff_lzw"), ("RGB", "jpeg"), ("RGB", "tiff_adobe_deflate"), ("1", "group4"),
            ("L", "packbits"))]


def json_files():
    fold = {"experiment": "a", "data_sub": "smic_s1", "seed": 1, "y_true": [0, 1, 2], "loss": [0.5, 1e-9],
            "lengths": [[[0.1, 0.2, 0.7]]], "clips": [{"data": "smic", "subject": "s1", "clip": "é"}]}
    return [json.dumps(value, indent=indent).encode() for value in (fold, {}) for indent in (None, 1)]


def pickles():
    """FLAME's kind of file, written by Python 2 and 3."""
    files = []
    with stand_in_chumpy() as kind:
        model = {"a": chumpy_array(kind, np.arange(6.0)), "b": scipy.sparse.csc_matrix(np.eye(3)),
                 "c": np.arange(12.0).reshape(3, 4), "d": "text"}
        for pickler, protocol in ((Python2Pickler, 1), (Python2Pickler, 2), (pickle._Pickler, 0),
                                  (pickle._Pickler, 2), (pickle._Pickler, 4)):
            stream = io.BytesIO()
            pickler(stream, protocol).dump(model)
            files.append(stream.getvalue())
    return files


def arrays():
    embedding = {"full_lmk_faces_idx": np.zeros((1, 68), int), "full_lmk_bary_coords": np.ones((1, 68, 3)),
                 "dynamic": torch.ones(3)}
    streams = [io.BytesIO() for _ in range(2)]
    np.save(streams[0], np.array(embedding, dtype=object), allow_pickle=True)
    np.save(streams[1], np.zeros((256, 256), np.float32))
    return [stream.getvalue() for stream in streams]


def archives():
    streams = [io.BytesIO() for _ in range(2)]
    for stream, save in zip(streams, (np.savez, np.savez_compressed), strict=True):
        save(stream, MU=np.zeros((4, 4, 3)), PC=np.zeros(3))
    return [stream.getvalue() for stream in streams]


def weights():
    state, streams = {"a.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}, []
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        streams.append(io.BytesIO())
        torch.save(state, streams[-1], **options)
    return [stream.getvalue() for stream in streams]


def _read_npy(path):
    return assets._npy(path, path.read_bytes(), ("full_lmk_faces_idx", "full_lmk_bary_coords"))


KINDS = {
    "picture": (pictures, read_image), "json": (json_files, read_json),
    "pickle": (pickles, lambda path: read_pickle(path.read_bytes(), path, "abcd")),
    "npy": (arrays, _read_npy), "npz": (archives, assets.FILES["FLAME_albedo_from_BFM.npz"][1]),
    "weights": (weights, load_tensors),
}


# --- how ------------------------------------------------------------------------------------------

def hostile(kind, marker, rng):
    """Bytes made to harm a reader of `kind`, not by chance."""
    evil = Evil(marker)
    twice = b"0h\x00h\x00\x86q\x00" * int(rng.integers(30, 90))
    size = int(rng.integers(2**20, 2**33)).to_bytes(8, "little")
    opcodes = b"".join(bytes([rng.choice(list(b"()]}NtRbsuaeq0h\x85\x86\x87\x8f\x90\x91\x93\x94c.2d"))])
                       for _ in range(rng.integers(3, 40)))
    pickled = [pickle.dumps(evil, int(rng.integers(5))), pickle.dumps({"a": [evil]}, 2),
               b"\x80\x02})q\x00" + twice + b"K\x01s.", b"\x80\x02})" + b"\x85" * 90_000 + b"K\x01s.",
               b"\x80\x02})" + b"2\x86" * 64 + b"K\x01s.", b"\x80\x05\x96" + size + b".",
               b"\x80\x04\x95" + size + b"}.", b"\x80\x02}r" + size[:4] + b".", b"\x80\x02" + opcodes + b".",
               b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", b"(lp0\ng0\na."]
    if kind == "picture":
        choices = [_picture(mode, name) for mode, name in (("RGB", "GIF"), ("RGB", "EPS"), ("RGB", "PCX"))]
        choices = [*choices, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch) system\n",
                   b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size[:4] + size[:4] + b"\x08\x06\0\0\0" + bytes(4)]
    elif kind == "json":
        choices = [b"[" * 200_000, b"{\"a\":" * 100_000, b"1" * 10_000, b"{\"a\": NaN}", b"null",
                   b"\"\\ud800\"", b"{\"a\": 1e99999}", b"\xff\xfe{\0}\0", b"{}" * 2, b""]
    elif kind == "npy":
        header = b"{'descr': 'O', 'fortran_order': False, 'shape': ()}\n"
        huge = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,)}\n" % int.from_bytes(size, "little")
        choices = [b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + data for data in pickled]
        choices += [b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text for text in (
            huge, b"(" * 9000, b"{'descr': '<f8', 'shape': (2L, 3", b"[" * 500 + b"]" * 500)]
    elif kind == "pickle":
        choices = pickled
    else:
        choices = [_zip({"archive/data.pkl": data, "archive/version": b"3\n", "MU.npy": data}, rng)
                   for data in pickled] + pickled
    return choices[rng.integers(len(choices))]


def _zip(members, rng):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def attack_file(kind, rng, folder, wholes):
    """One damaged or hostile file of `kind`. Returns: what went wrong, or ""."""
    path = folder / rng.choice(["a.jpg", "a b.json", "é.pkl", "x" * 200])
    data, is_whole = wholes[rng.integers(len(wholes))], rng.random() < 0.05
    if not is_whole:
        data = hostile(kind, folder / "ran", rng) if rng.random() < 0.1 else damaged(data, rng)
        data = data[:rng.integers(len(data) + 1)] if rng.random() < 0.1 else data
    path.write_bytes(data)
    try:
        KINDS[kind][1](path)
    except InputError as error:
        message = str(error)
        if is_whole:
            return f"loss: a whole {kind} was refused: {message}"
        if not message.startswith(f"{path}: ") or "\n" in message or len(message) > len(str(path)) + 400:
            return f"traceback: no line of an error: {message[:300]!r}"
    finally:
        path.unlink()
    return "loss: something ran, or was written" if os.listdir(folder) != ["whole.json"] else ""


def attack_name(rng, folder):
    """One name: it is refused in one line, or it is one file in its folder."""
    text = "".join(CHARACTERS[i] for i in rng.integers(len(CHARACTERS), size=rng.integers(0, 12)))
    text *= int(rng.choice([1, 1, 1, 40]))
    try:
        plain_name(text, "--experiment")
    except InputError as error:
        return "" if "\n" not in str(error) and not is_plain_name(text) else f"traceback: {error!r}"
    try:
        write_json(folder / text, {})
    except InputError as error:     # longer than the file system takes
        return "" if len(text.encode()) > 200 else f"loss: {error!r}"
    found = set(os.listdir(folder)) - {"whole.json"}
    (folder / text).unlink()
    return "" if found == {text} else f"loss: {text!r} wrote {found}"


def attack_writer(rng, folder):
    """A writer that fails half way, in its block or by a full disk: the old file stays."""
    try:
        with whole_file(folder / "whole.json") as temporary:
            temporary.write_text("{ half")
            raise [OSError(28, "No space left on device"), ValueError("x")][rng.integers(2)]
    except (InputError, ValueError):
        pass
    return "" if read_json(folder / "whole.json") == {"whole": 1} else "loss: whole.json"


def worker(cases, seed, report):
    """Run `cases`; each is announced in `report` (a pipe) before it starts, so that a crash has a name."""
    signal.signal(signal.SIGALRM, _hang)
    wholes = {kind: make() for kind, (make, _) in KINDS.items()}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "whole.json", {"whole": 1})
        for case in cases:
            rng = np.random.default_rng((seed, case))
            kind = [*KINDS, "name", "writer"][case % (len(KINDS) + 2)]
            signal.alarm(LIMIT)
            try:
                if kind in KINDS:
                    wrong = attack_file(kind, rng, folder, wholes[kind])
                else:
                    wrong = {"name": attack_name, "writer": attack_writer}[kind](rng, folder)
            except Hang:
                wrong = "hang: more than 5 s"
            except Exception as error:
                wrong = f"traceback: {type(error).__name__}: {error}"
            finally:
                signal.alarm(0)
            report.send((case, kind, wrong))
    report.send(None)


def run(cases, seed):
    """Attack. Returns: Counter of what went wrong ("tracebacks", ...); each is printed with its case."""
    counts, todo = collections.Counter(), list(range(cases))
    while todo:
        receive, send = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=worker, args=(todo, seed, send))
        process.start()
        send.close()
        done = 0
        try:
            while receive.poll(12 * LIMIT) and (message := receive.recv()):
                done += 1
                case, kind, wrong = message
                if wrong:
                    counts[PLURAL[wrong.split(":")[0]]] += 1
                    print(f"case {case} ({kind}): {wrong}", flush=True)
            if done < len(todo):        # silent for a minute: in C code, where no alarm is heard
                process.kill()
                counts["hangs"] += 1
                print(f"case {todo[done]}: hangs in C code", flush=True)
                done += 1
        except EOFError:
            counts["crashes"] += 1
            print(f"case {todo[done]}: the process died", flush=True)
            done += 1
        process.join()
        todo = todo[done:]
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    counts = run(options.cases, options.seed)
    print(f"{options.cases} cases, " + ", ".join(
        f"{counts[what]} {what}" for what in ("tracebacks", "hangs", "losses", "crashes"))
        + f", {time.perf_counter() - started:.0f} s")
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main())
