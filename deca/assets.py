"""The official FLAME and DECA files: opened without running anything in them, checked, made a `HeadModel`.

None of these files is part of this project; `deca/data/README.md` says where their owners hand them out.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.errors import InputError, broken_file
from common.images import read_image
from common.tensors import read_torch
from deca.flame import HeadModel
from deca.networks import N_CODES, N_DETAIL, N_EXP, N_SHAPE, Generator, ResnetEncoder
from deca.safe_pickle import read_pickle

ASSETS = Path(__file__).parent / "data"
N_VERTS, N_FACES, N_JOINTS, N_BASES, N_POSE_BASES, UV_SIZE = 5023, 9976, 5, 400, 36, 256
FIRST_EXPRESSION = 300          # FLAME's 400 directions: 300 of shape, then 100 of expression
FLAME_SHAPES = {
    "v_template": (N_VERTS, 3), "f": (N_FACES, 3), "shapedirs": (N_VERTS, 3, N_BASES),
    "posedirs": (N_VERTS, 3, N_POSE_BASES), "J_regressor": (N_JOINTS, N_VERTS),
    "weights": (N_VERTS, N_JOINTS), "kintree_table": (2, N_JOINTS),
}
NETWORKS = {
    "E_flame": lambda: ResnetEncoder(N_CODES),
    "E_detail": lambda: ResnetEncoder(N_DETAIL),
    "D_detail": Generator,
}
MAX_BYTES = 2**29        # of a file that is read whole; generic_model.pkl has 53 million
AGAIN = "download it anew from its owner (deca/data/README.md)"


class AssetRow(NamedTuple):
    """What `check` says of one official file."""

    file: str
    required: bool
    status: str          # "present", "missing" or "bad"
    problem: str = ""    # one line, when bad


def load_flame(folder):
    """FLAME with DECA's topology, landmarks and detail maps, from the official files in `folder`.

    Needs generic_model.pkl, head_template.obj, landmark_embedding.npy, fixed_displacement_256.npy and
    uv_face_eye_mask.png; not deca_model.tar. Returns: `HeadModel`, 100 shape and 50 expression directions.
    Raises: InputError, naming the file, when one is missing, truncated, of another shape, or asks for code.
    """
    folder = Path(folder)
    flame = _read_flame(folder / "generic_model.pkl")
    template = folder / "head_template.obj"
    faces, uv, uv_faces = _read_template(template)
    if set(map(frozenset, faces.tolist())) != set(map(frozenset, flame["f"].tolist())):
        raise InputError(f"{template}: its triangles are not those of generic_model.pkl; take both from the "
                         "official FLAME 2020 and DECA downloads")
    lmk_faces, lmk_bary = _read_landmarks(folder / "landmark_embedding.npy")
    parents = flame["kintree_table"][0].astype(np.int64)
    return HeadModel(
        template=_float(flame["v_template"]), faces=faces,
        shape_basis=_float(flame["shapedirs"][:, :, :N_SHAPE]),
        expression_basis=_float(flame["shapedirs"][:, :, FIRST_EXPRESSION:FIRST_EXPRESSION + N_EXP]),
        pose_basis=_float(flame["posedirs"].reshape(-1, N_POSE_BASES).T),     # (V, 3, 36) → (36, V*3)
        joint_regressor=_float(flame["J_regressor"]), skinning=_float(flame["weights"]),
        parents=np.concatenate(([-1], parents[1:])),                          # 1 + 4 joints → (5,)
        landmark_corners=flame["f"][lmk_faces].astype(np.int64), landmark_bary=lmk_bary,
        uv=uv, uv_faces=uv_faces,
        displacement=_read_displacement(folder / "fixed_displacement_256.npy"),
        uv_face_mask=_read_mask(folder / "uv_face_eye_mask.png"))


def load_networks(folder):
    """{"E_flame": network, "E_detail": ..., "D_detail": ...}, on the CPU, weights of `folder`/deca_model.tar.

    What else the file holds is left out; batch counters (`num_batches_tracked`), which prediction never
    reads, may be missing. Raises: InputError when the file is missing, truncated, lacks a weight, has one of
    another shape, or asks for code (nothing is run).
    """
    path = _existing(Path(folder) / "deca_model.tar")
    checkpoint, networks = read_torch(path), {}
    for name, build in NETWORKS.items():
        with torch.device("meta"):          # no memory, no random start: the weights take their places
            network = build()
        state, weights = checkpoint.get(name) if isinstance(checkpoint, dict) else None, {}
        if not isinstance(state, dict):
            raise InputError(f"{path}: expected the networks {', '.join(NETWORKS)}, found no {name}; {AGAIN}")
        for key, value in network.state_dict().items():
            weight = state.get(key)
            if weight is None and key.endswith("num_batches_tracked"):
                weight = torch.zeros((), dtype=torch.int64)
            is_dense = isinstance(weight, torch.Tensor) and weight.layout == torch.strided
            found = tuple(weight.shape) if is_dense else "nothing"
            if found != tuple(value.shape):
                raise InputError(f"{path}: {name}.{key}: expected {tuple(value.shape)}, found {found}; "
                                 f"{AGAIN}")
            weights[key] = weight.to(value.dtype)
            if not weights[key].isfinite().all():
                raise InputError(f"{path}: {name}.{key}: NaN or infinity in it; {AGAIN}")
        network.load_state_dict(weights, assign=True)
        networks[name] = network.eval().requires_grad_(False)
    return networks


def _existing(path):
    if not path.is_file():
        raise InputError(f"{path}: no such file; deca/data/README.md says where its owner hands it out")
    return path


def _bytes(path):
    try:
        if _existing(path).stat().st_size > MAX_BYTES:
            raise ValueError("far larger than the official file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise broken_file(path, error) from error


def _float(values):
    return np.ascontiguousarray(values, dtype=np.float32)


def _numbers(path, name, value, shape, below=None):
    """`value` if it is a finite numeric array of `shape`, in [0, below) if given; else InputError."""
    is_array = isinstance(value, np.ndarray)
    found = f"{value.dtype} {value.shape}" if is_array else type(value).__name__
    if not is_array or value.dtype.kind not in "fiub" or value.shape != shape:
        raise InputError(f"{path}: {name}: expected numbers {shape}, found {found}; {AGAIN}")
    if not np.isfinite(value).all():
        raise InputError(f"{path}: {name}: expected finite numbers, found NaN or infinity; {AGAIN}")
    if below is not None and (value.min() < 0 or value.max() >= below):
        raise InputError(f"{path}: {name}: expected indices from 0 to {below - 1}, found {value.min()} to "
                         f"{value.max()}; {AGAIN}")
    return value


def _read_flame(path):
    """generic_model.pkl → dict of arrays of FLAME_SHAPES."""
    model = read_pickle(_bytes(path), path, FLAME_SHAPES)
    arrays = {name: _numbers(path, name, model.get(name), shape, N_VERTS if name == "f" else None)
              for name, shape in FLAME_SHAPES.items()}
    parents = arrays["kintree_table"][0, 1:].astype(np.int64)
    if (parents < 0).any() or (parents >= np.arange(1, N_JOINTS)).any():
        raise InputError(f"{path}: kintree_table: expected parents before children, found {parents}; {AGAIN}")
    return arrays


def _npy(path, data, names=()):
    """The array in the bytes of a .npy file; of one that holds an object, the dictionary of its `names`."""
    stream = io.BytesIO(data)
    try:
        major, _ = np.lib.format.read_magic(stream)
        read_header = getattr(np.lib.format, f"read_array_header_{major}_0")
        shape, is_fortran, dtype = read_header(stream)
        if not dtype.hasobject:
            return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if is_fortran else "C")
    except Exception as error:      # ValueError, TokenError, KeyError, ...: damaged bytes fail as they like
        raise broken_file(path, error) from error
    return read_pickle(stream.read(), path, names)


def _read_landmarks(path):
    """landmark_embedding.npy → triangle (68,) and barycentric coordinates (68, 3) of the 68 landmarks."""
    names = ("full_lmk_faces_idx", "full_lmk_bary_coords")
    embedding = _npy(path, _bytes(path), names)
    if not isinstance(embedding, dict):
        raise InputError(f"{path}: expected a dictionary, found an array of numbers; {AGAIN}")
    faces, bary = (embedding.get(name) for name in names)
    faces = _numbers(path, names[0], faces, (1, 68), below=N_FACES)
    return faces[0].astype(np.int64), _float(_numbers(path, names[1], bary, (1, 68, 3))[0])


def _read_displacement(path):
    """fixed_displacement_256.npy → (256, 256), metres along the normal."""
    return _float(_numbers(path, "array", _npy(path, _bytes(path)), (UV_SIZE, UV_SIZE)))


def _read_mask(path):
    """uv_face_eye_mask.png → (256, 256) in [0, 1]; 1 where detail applies."""
    image = read_image(_existing(path))
    height, width = image.shape[:2]
    if (height, width) != (UV_SIZE, UV_SIZE):
        raise InputError(f"{path}: expected {UV_SIZE}x{UV_SIZE} pixels, found {width}x{height}; {AGAIN}")
    return _float(image[:, :, 0]) / 255


def _read_template(path):
    """head_template.obj → faces (F, 3), UV coordinates (T, 2), UV faces (F, 3); indices from 0."""
    n_verts, uv, corners = 0, [], []
    try:
        for line in _bytes(path).decode().splitlines():
            kind, *fields = line.split() or [""]
            if kind == "v":
                n_verts += 1
            elif kind == "vt":
                uv.append((float(fields[0]), float(fields[1])))
            elif kind == "f":
                a, b, c = fields
                corners.append([[int(index) for index in corner.split("/")[:2]] for corner in (a, b, c)])
        corners = np.array(corners, dtype=np.int64).reshape(-1, 3, 2) - 1      # (F, 3 corners, vertex and UV)
    except (ValueError, IndexError, OverflowError) as error:
        raise broken_file(path, error) from error
    if (n_verts, len(corners)) != (N_VERTS, N_FACES):
        raise InputError(f"{path}: expected {N_VERTS} vertices and {N_FACES} triangles, found {n_verts} and "
                         f"{len(corners)}; {AGAIN}")
    faces = _numbers(path, "f", corners[:, :, 0], (N_FACES, 3), below=N_VERTS)
    uv_faces = _numbers(path, "f (texture)", corners[:, :, 1], (N_FACES, 3), below=len(uv))
    uv = _numbers(path, "vt", np.array(uv), (len(uv), 2))
    return np.ascontiguousarray(faces), _float(uv), np.ascontiguousarray(uv_faces)


def _read_albedo(path):
    """FLAME_albedo_from_BFM.npz: an archive with a mean colour map and its directions (1.2 GB, not read)."""
    try:
        with zipfile.ZipFile(_existing(path)) as archive:
            names = archive.namelist()
            if archive.getinfo("MU.npy").file_size > MAX_BYTES:
                raise ValueError("MU is far larger than the official one")
            data = archive.read("MU.npy")
    except Exception as error:      # zlib.error, BadZipFile, NotImplementedError, KeyError, ...
        raise broken_file(path, error) from error
    mean = _npy(path, data)
    _numbers(path, "MU", mean, np.shape(mean))
    if "PC.npy" not in names:
        raise InputError(f"{path}: expected arrays MU and PC, found {names}; {AGAIN}")


FILES = {    # file → required, how it is read; deca/data/README.md says what each is for
    "generic_model.pkl": (True, _read_flame),
    "deca_model.tar": (True, lambda path: load_networks(path.parent)),
    "head_template.obj": (True, _read_template),
    "landmark_embedding.npy": (True, _read_landmarks),
    "fixed_displacement_256.npy": (True, _read_displacement),
    "uv_face_eye_mask.png": (True, _read_mask),
    "FLAME_albedo_from_BFM.npz": (False, _read_albedo),
}
REQUIRED = tuple(name for name, (required, _) in FILES.items() if required)


def check(folder):
    """Open each official file in `folder` and say how it stands: a list of `AssetRow`. Raises nothing."""
    rows = []
    for file, (required, read) in FILES.items():
        path = Path(folder) / file
        try:
            if path.is_file():
                read(path)
            rows.append(AssetRow(file, required, "present" if path.is_file() else "missing"))
        except InputError as error:
            rows.append(AssetRow(file, required, "bad", str(error)))
    return rows


def has_official(folder):
    """True when every required official file lies in `folder` (they are not opened; see `check`)."""
    return all((Path(folder) / name).is_file() for name in REQUIRED)
