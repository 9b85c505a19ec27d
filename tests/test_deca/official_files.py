"""Files in exactly the official formats, with generated contents: nothing in them comes from FLAME or DECA.

The head is an egg with FLAME's numbers of vertices, triangles, joints and directions; all numbers are random
but smooth over the head, so that it still looks round. `generic_model.pkl` is written as Python 2 wrote it.
"""

import contextlib
import os
import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from PIL import Image
from scipy.spatial import ConvexHull

from deca.assets import NETWORKS

V, F, T = 5023, 9976, 5118
OLD_NAMES = {"numpy._core.multiarray": "numpy.core.multiarray", "scipy.sparse._csc": "scipy.sparse.csc",
             "scipy.sparse._csr": "scipy.sparse.csr", "scipy.sparse._coo": "scipy.sparse.coo",
             "builtins": "__builtin__", "copyreg": "copy_reg"}


class Python2Pickler(pickle._Pickler):
    """Writes protocol 1 and 2 as Python 2 did: all text as byte strings, modules under their old names."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, text):
        data = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, obj, name=None):
        module = OLD_NAMES.get(obj.__module__, obj.__module__)
        self.write(f"c{module}\n{name or obj.__qualname__}\n".encode())
        self.memoize(obj)


class Evil:
    """Unpickled the usual way, this makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def one_line(error):
    """The message of a pytest error: one line, of a bearable length."""
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


@contextlib.contextmanager
def stand_in_chumpy():
    """A module `chumpy.ch` with a class `Ch`, there for as long as the block runs."""
    module = types.ModuleType("chumpy.ch")
    module.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    parent = types.ModuleType("chumpy")
    parent.ch = module
    sys.modules.update({"chumpy": parent, "chumpy.ch": module})
    try:
        yield module.Ch
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


def chumpy_array(kind, values):
    """A chumpy array as it is pickled: the numbers under `x`, beside chumpy's bookkeeping."""
    made = kind()
    made.__dict__.update(_dirty_vars={"x"}, _itr=None, _make_dense=False, _make_sparse=False,
                         _depends_on_deps={}, x=values)
    return made


def egg(rng):
    """Vertices (V, 3), triangles (F, 3) pointing outward, UV coordinates (V, 2) that unroll it."""
    step = np.arange(V) + 0.5
    z = 1 - 2 * step / V
    angle = np.pi * (1 + 5**0.5) * step
    ring = np.sqrt(1 - z * z)
    points = np.stack((ring * np.cos(angle), ring * np.sin(angle), z), axis=1)      # (V, 3), a unit sphere
    faces = ConvexHull(points).simplices.astype(np.int64)
    a, b, c = points[faces].transpose(1, 0, 2)
    inward = np.einsum("fc,fc->f", np.cross(b - a, c - a), a) < 0
    faces[inward] = faces[inward][:, ::-1]
    faces = faces[np.argsort(-points[faces][:, :, 2].mean(1))][:F]                  # open at the back
    radius = 0.48 * np.arccos(np.clip(points[:, 2], -1, 1)) / np.pi
    uv = 0.5 + radius[:, None] * points[:, :2] / np.maximum(ring, 1e-9)[:, None]
    return points * (0.075, 0.1, 0.09) - (0, 0, 0.04), rng.permutation(faces), uv


def smooth(rng, points, *shape):
    """Random fields over the head, (V, *shape), each a mild function of the position with values about 1."""
    x, y, z = (points / 0.1).T
    features = np.stack((np.ones(V), x, y, z, x * y, np.sin(3 * x), np.sin(4 * y), np.cos(5 * z)), axis=1)
    return (features @ rng.normal(size=(features.shape[1], int(np.prod(shape)))) / 3).reshape(V, *shape)


def flame_arrays(seed=0):
    """The contents of generic_model.pkl (arrays by name), and UV coordinates for its vertices."""
    rng = np.random.default_rng(seed)
    points, faces, uv = egg(rng)
    weights = np.exp(3 * smooth(rng, points, 5))
    regressor = np.zeros((5, V))
    for joint in range(5):
        regressor[joint, rng.choice(V, 12, replace=False)] = 1 / 12
    arrays = {
        "v_template": points, "f": faces.astype(np.uint32),
        "shapedirs": 2e-3 * smooth(rng, points, 3, 400), "posedirs": 2e-3 * smooth(rng, points, 3, 36),
        "J_regressor": regressor, "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
    }
    return arrays, uv


def write_flame_pickle(path, arrays, protocol=2, sparse=scipy.sparse.csc_matrix):
    """generic_model.pkl as Python 2 and chumpy wrote it."""
    with stand_in_chumpy() as kind, Path(path).open("wb") as stream:
        model = dict(arrays, bs_style="lbs", bs_type="lrotmin", J_regressor=sparse(arrays["J_regressor"]))
        for name in ("v_template", "shapedirs", "posedirs"):
            model[name] = chumpy_array(kind, arrays[name])
        Python2Pickler(stream, protocol).dump(model)


def write_template(path, arrays, uv, seed=0):
    """head_template.obj: the same triangles, each from another first corner, rows in another order."""
    rng = np.random.default_rng(seed)
    faces = rng.permutation(arrays["f"].astype(np.int64))
    faces = np.take_along_axis(faces, (np.arange(3) + rng.integers(3, size=(F, 1))) % 3, axis=1)
    place = rng.permutation(T)[:V]                      # vertex → its row among the UV coordinates
    table = np.zeros((T, 2))
    table[place] = uv
    lines = ["# generated", "mtllib template.mtl"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in arrays["v_template"]]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in table] + ["usemtl None", "s off"]
    lines += ["f " + " ".join(f"{corner + 1}/{place[corner] + 1}" for corner in face) for face in faces]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_landmarks(path, seed=0):
    """landmark_embedding.npy: a pickled dictionary with numpy arrays and torch tensors."""
    rng = np.random.default_rng(seed)
    bary = rng.dirichlet((1, 1, 1), 68)
    embedding = {
        "static_lmk_faces_idx": rng.integers(F, size=51), "static_lmk_bary_coords": bary[:51],
        "dynamic_lmk_faces_idx": torch.zeros(79, 17, dtype=torch.int64),
        "dynamic_lmk_bary_coords": torch.rand(79, 17, 3, dtype=torch.float64),
        "full_lmk_faces_idx": rng.integers(F, size=(1, 68)),
        "full_lmk_bary_coords": bary[None].astype(np.float32),
    }
    np.save(path, np.array(embedding, dtype=object), allow_pickle=True)


def random_state(network, generator):
    """A state dict of random weights, small as a file: the entries of each tensor overlap in memory."""
    state = {}
    for name, value in network.state_dict().items():
        strides = (5, 3, 2, 1)[:value.ndim]
        length = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, strides, strict=True))
        values = torch.randn(length, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif value.ndim == 1 and not name.endswith(("bias", "running_mean")):
            state[name] = (0.5 + values.abs() / 4).as_strided(value.shape, strides)    # scales and variances
        else:
            fan_in = max(value[0].numel(), 1) if value.ndim > 1 else 100
            state[name] = (values / fan_in**0.5).as_strided(value.shape, strides)
    return state


def write_checkpoint(path, seed=0):
    """deca_model.tar: the three networks beside what else a training run saves."""
    generator = torch.Generator().manual_seed(seed)
    checkpoint = {"global_step": 5, "batch_size": 8}
    for name, build in NETWORKS.items():
        with torch.device("meta"):
            network = build()
        checkpoint[name] = random_state(network, generator)
    torch.save(checkpoint, path)
    return checkpoint


def write_maps(folder, seed=0):
    """fixed_displacement_256.npy and uv_face_eye_mask.png."""
    rng = np.random.default_rng(seed)
    np.save(folder / "fixed_displacement_256.npy", rng.normal(size=(256, 256)) * 2e-4)
    row, column = np.mgrid[:256, :256] - 127.5
    mask = np.clip((100 - np.hypot(row, column)) * 20, 0, 255).astype(np.uint8)
    opaque = np.full_like(mask, 255)
    Image.fromarray(np.stack((mask, mask, mask, opaque), axis=2)).save(folder / "uv_face_eye_mask.png")


def write_official_files(folder, seed=0):
    """All six required files. Returns: the model's arrays, the UV of its vertices, the checkpoint."""
    folder = Path(folder)
    arrays, uv = flame_arrays(seed)
    write_flame_pickle(folder / "generic_model.pkl", arrays)
    write_template(folder / "head_template.obj", arrays, uv, seed)
    write_landmarks(folder / "landmark_embedding.npy", seed)
    write_maps(folder, seed)
    return arrays, uv, write_checkpoint(folder / "deca_model.tar", seed)
