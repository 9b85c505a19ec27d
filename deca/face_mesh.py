"""FaceMesh: the 3-D face of a picture without a licensed file (SPEC section 4, "mesh").

468 points from MediaPipe's face mesh network (Kartynnik et al., "Real-time Facial Surface Geometry from
Monocular Video on Mobile GPUs", 2019; Apache-2.0), on our own triangles (`deca.face_topology`), made fine by
Loop subdivision. A picture and its mirror image are both asked: a mirrored picture has the mirrored face.
"""

import functools
import importlib.util
import threading
from pathlib import Path

import cv2
import numpy as np
import scipy.sparse
import torch

from common.errors import InputError
from deca.motion import similarity
from deca.reconstructor import Reconstructor, Surfaces, check_pictures, file_digest, usable_device
from deca.renderer import SurfaceRenderer

MODEL_FILE = "modules/face_landmark/face_landmark.tflite"
INSTALL = "pip install --no-deps mediapipe==0.10.21"
TOPOLOGY = Path(__file__).parent / "face_topology.npz"
PATCH = 192                 # pixels that the network sees
FIRST_REGION = 1.35         # a face crop, enlarged
REGION = 1.5                # of the mesh's box
SEARCHES = 2                # regions taken from the result of the one before
PRESENT = 5.0               # presence logit from which there is a face
EYES = (33, 263)            # outer corners, left and right in the picture
# Points that expression moves least: rim of the forehead, temples, bridge of the nose, corners of the eyes.
RIGID = (10, 67, 109, 297, 338, 103, 332, 54, 284, 21, 251, 162, 389, 127, 356,
         168, 6, 197, 122, 351, 196, 419, 33, 263, 133, 362)


class FaceMesh(Reconstructor):
    """Pictures → surfaces by the face mesh network; runs it on the CPU, and the renderer on `device`."""

    name = "mesh"
    rigid = RIGID           # the first 468 vertices are the points

    def __init__(self, device="cpu", rasterizer="auto"):
        """Raises: InputError when the model file is missing or broken, or no such device or rasteriser."""
        self.device = usable_device(device)
        path = model_path()
        _network(path)
        self.rule = {"rule": "face_mesh", "version": 1}
        self.model = {file.name: file_digest(file) for file in (path, TOPOLOGY)}
        self._path, self.topology = path, topology()
        self.renderer = SurfaceRenderer(self.topology["faces"], self.topology["fine"].shape[0],
                                        rasterizer=rasterizer, device=self.device)

    def reconstruct(self, pictures):
        """Pictures uint8 (n, 3, 224, 224) of one clip, all the same square → `Surfaces`.

        A picture in which the network sees no face gets the mean face, and False in `found`.
        """
        check_pictures(pictures)
        points, presence = self.points(pictures.permute(0, 2, 3, 1).numpy())           # → (n, H, W, 3)
        return self.surfaces(points, presence >= PRESENT, pictures.shape[-1])

    def points(self, pictures):
        """Pictures uint8 (n, H, W, 3) of one clip → points float64 (n, 468, 3), presence logits (n,).

        In pixels, z in the same unit, smaller is nearer. The region is found in the first picture that shows
        a face and is the same for all: what then moves between them is the face, not the region.
        """
        pictures = np.ascontiguousarray(pictures)
        for picture in pictures:
            matrix = _first_region(*picture.shape[:2])
            for _ in range(SEARCHES):
                points, presence = self._ask(picture, matrix)
                matrix = _region(points)
            if presence >= PRESENT:
                break
        found = [self._ask(picture, matrix) for picture in pictures]
        return np.stack([points for points, _ in found]), np.array([presence for _, presence in found])

    def _ask(self, picture, matrix):
        """The network's answer in one region: points (468, 3) in picture pixels, presence."""
        patch = cv2.warpAffine(picture, matrix, (PATCH, PATCH), flags=cv2.INTER_LINEAR,
                               borderMode=cv2.BORDER_REPLICATE)
        pair = np.stack([patch, patch[:, ::-1]]).transpose(0, 3, 1, 2)                 # → (2, 3, 192, 192)
        network = _network(self._path)
        network.setInput(pair.astype(np.float32) / 255)
        outputs = network.forward(network.getUnconnectedOutLayersNames())
        points, presence = sorted(outputs, key=lambda output: -output.size)
        points = points.reshape(2, 468, 3).astype(np.float64)
        mirrored = points[1, self.topology["mirror"]] * [-1, 1, 1] + [PATCH - 1, 0, 0]
        points = (points[0] + mirrored) / 2
        back = cv2.invertAffineTransform(matrix)
        flat = points[:, :2] @ back[:, :2].T + back[:, 2]
        return np.column_stack([flat, points[:, 2] * np.hypot(*back[0, :2])]), float(presence.mean())

    def surfaces(self, points, found, size):
        """Points (n, 468, 3) in pixels of pictures of `size` pixels, found (n,) → `Surfaces`."""
        mean, fine = self.topology["mean"], self.topology["fine"]
        square = points * (2 / size) + [1 / size - 1, 1 / size - 1, 0]                 # pixels → [-1, 1]
        still = mean * [8.0, -8.0, -8.0]                                               # as the views place it
        square = np.where(found[:, None, None], square, still)
        upright = square * [1, -1, -1]
        scale, turn, shift = similarity(upright[:, RIGID], mean[None, list(RIGID)])
        facing = scale[:, None, None] * upright @ turn.transpose(0, 2, 1) + shift[:, None]
        vertices, placed = (torch.tensor(np.stack([fine @ mesh for mesh in meshes]), dtype=torch.float32,
                                         device=self.device) for meshes in (facing, square))
        return Surfaces(vertices, placed, vertices.new_zeros(len(points), 3), None, torch.from_numpy(found))


def model_path():
    """The network's file in the installed wheel `mediapipe`, which is not imported. Raises: InputError."""
    spec = importlib.util.find_spec("mediapipe")
    paths = [Path(folder) / MODEL_FILE for folder in (spec.submodule_search_locations or ())] if spec else []
    found = [path for path in paths if path.is_file()]
    if not found:
        raise InputError(f"reconstructor mesh: {Path(MODEL_FILE).name} is not installed; {INSTALL}")
    return found[0]


_OF_THREAD = threading.local()      # OpenCV's networks keep their work in themselves: one for each thread


def _network(path):
    if not hasattr(_OF_THREAD, "networks"):
        _OF_THREAD.networks = {}
    if path not in _OF_THREAD.networks:
        try:
            _OF_THREAD.networks[path] = cv2.dnn.readNetFromTFLite(str(path))
        except cv2.error as error:
            raise InputError(f"{path}: not a readable network; install it anew: "
                             f"{INSTALL} --force-reinstall") from error
    return _OF_THREAD.networks[path]


def _first_region(height, width):
    """Matrix (2, 3), picture pixels → patch: the whole picture, enlarged."""
    scale = PATCH / (FIRST_REGION * max(height, width))
    centre = np.array([width - 1, height - 1]) / 2
    return np.column_stack([scale * np.eye(2), (PATCH - 1) / 2 - scale * centre])


def _region(points):
    """Matrix (2, 3), picture pixels → patch: a square round the points, the eyes level (SPEC section 4)."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    across = points[EYES[1], :2] - points[EYES[0], :2]
    cos, sin = across / np.hypot(*across)
    turn = np.array([[cos, sin], [-sin, cos]]) * (PATCH / (REGION * (high - low).max()))
    return np.column_stack([turn, (PATCH - 1) / 2 - turn @ ((low + high) / 2)])


@functools.lru_cache(maxsize=1)
def topology():
    """What `face_topology.npz` holds, and what follows from it: a dict, read once.

    mean (468, 3) metres: the mean face, frontal. mirror (468,): each point's mirror image. triangles (F, 3).
    uv (468, 2). fine: sparse (V, 468), the points of the mesh that is drawn; faces (4 F, 3) of it: the points
    after two subdivisions, the triangles after one (those after two are smaller than a view's pixels).
    """
    with np.load(TOPOLOGY) as file:
        data = {name: file[name] for name in ("mean", "triangles", "mirror", "uv")}
    once, faces = loop_matrix(data["triangles"].astype(np.int64), len(data["mean"]))
    twice, _ = loop_matrix(faces, once.shape[0])
    fine = (twice @ once)[:once.shape[0]]
    return {**data, "mean": data["mean"].astype(np.float64), "fine": fine, "faces": faces}


def loop_matrix(triangles, count):
    """One Loop subdivision (Loop 1987) of triangles (F, 3) on `count` points.

    Returns: sparse (count + E, count), the old points first, then one for each of the E edges; and (4 F, 3).
    """
    sides = triangles[:, [[1, 2], [2, 0], [0, 1]]]                     # (F, 3, 2); side k lies opposite k
    edges, place = np.unique(np.sort(sides, axis=2).reshape(-1, 2), axis=0, return_inverse=True)
    place = place.reshape(-1, 3)                                       # (F, 3)
    on_rim = np.bincount(place.ravel(), minlength=len(edges)) == 1
    made = _matrix(np.arange(len(edges))[:, None], edges, np.where(on_rim, 1 / 2, 3 / 8)[:, None],
                   (len(edges), count))
    made = made + _matrix(place, triangles, np.where(on_rim, 0, 1 / 8)[place], made.shape)
    rim_point = np.isin(np.arange(count), edges[on_rim])
    degree = np.maximum(np.bincount(edges.ravel(), minlength=count), 3)
    pull = (5 / 8 - (3 / 8 + np.cos(2 * np.pi / degree) / 4) ** 2) / degree
    counts = on_rim[:, None] | ~rim_point[edges]                       # a rim point looks along the rim only
    weight = np.where(rim_point, 1 / 8, pull)[edges] * counts
    around = _matrix(edges, edges[:, ::-1], weight, (count, count))
    kept = around + scipy.sparse.diags_array(1 - around.sum(1))
    a, b, c = triangles.T
    x, y, z = count + place.T                                          # the new points opposite a, b, c
    faces = np.stack([a, z, y, z, b, x, y, x, c, x, y, z], axis=1).reshape(-1, 3)      # (F, 12) → (4 F, 3)
    return scipy.sparse.vstack([kept, made]).tocsr(), faces


def _matrix(rows, columns, weights, shape):
    rows, columns, weights = (part.ravel() for part in np.broadcast_arrays(rows, columns, weights))
    return scipy.sparse.coo_array((weights, (rows, columns)), shape).tocsr()
