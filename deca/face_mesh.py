"""FaceMesh: the reconstructor `mesh`, a 3-D face without licensed files (SPEC section 4).

MediaPipe's face mesh network (Kartynnik, Ablavatski, Grishchenko, Grundmann, "Real-time Facial Surface
Geometry from Monocular Video on Mobile GPUs", 2019; Apache-2.0) gives 468 points. Pose and size are taken out
by a similarity to the mean mesh on points that expression hardly moves; two Loop subdivisions make the mesh
smooth (`face_topology.npz`, from `make_face_topology.py`). 468 points have no creases, so the grey views add
the picture's own fine detail to the shading, except round the eyes, where glasses are.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.sparse import csr_matrix

from common.cache import file_digest
from common.device import choose_device
from common.errors import InputError
from common.files import installed_file
from deca.reconstructor import Reconstructor, Surfaces, as_float
from deca.renderer import GRAZING, VIEW_CAMERA, SurfaceRenderer

MODEL = "modules/face_landmark/face_landmark.tflite"        # within the package mediapipe
MODEL_DIGEST = "1055cb9d4a9ca8b8"       # `file_digest` of the file in mediapipe 0.10.21
INSTALL = "pip install --no-deps mediapipe==0.10.21"
TOPOLOGY = Path(__file__).with_name("face_topology.npz")
POINTS, INPUT = 468, 192        # points of the mesh; side of the network's input, pixels
FIRST, REGION = 1.35, 1.5       # side of the square looked at: first, per picture's; then, per mesh's box
DEPTH = 1.15                    # factor on the network's z, with which heads of known yaw get that yaw
PASSES = 2                      # how often the network looks again, at the region round its last mesh
PRESENT = 5.0                   # presence logit above which it is a face; real crops have 13 and more
EYES = (33, 263)                # outer corners, left and right in the picture
# Points that expression hardly moves. Upper face: forehead, temples, nose bridge, eye corners. And the sides
# down to the corners of the jaw: by the upper ones alone, which glasses move together, a face would be tilted
# and its mouth shifted.
UPPER = [10, 151, 9, 168, 6, 197, 195, 33, 263, 133, 362, 67, 297, 109, 338, 108, 337, 69, 299, 103, 332,
         104, 333, 54, 284, 21, 251, 68, 298, 71, 301, 162, 389, 127, 356]
RIGID = [*UPPER, 234, 454, 93, 323, 132, 361]
# Round what large glasses hide: brows, temples, cheeks down to the wings of the nose. Inside, and so far
# outside (metres), a picture's detail is not shown, then more and more: no rim gets into the views.
GLASSES = [70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 162, 127, 234, 389, 356, 454, 123, 50, 101, 352,
           280, 330]
CLEAR, FADE = 0.008, 0.006
FINE = 5.0                      # pixels: detail is grey minus its Gaussian blur of this sigma
CHIN_ROOM = 0.05                # of a view's side: the mean face lies higher by it, as jaws drop
BOX = (105, 334, 152, 234, 454)     # brows, chin, sides: what the crop rule's box of 68 landmarks spans
CROP_RULE = 1.1 * 1.25              # side of a crop over that box (SPEC section 2)


class FaceNetwork:
    """The face mesh network: pictures → 468 points each, in pixels; usable from any thread.

    Pictures are spread over as many threads as torch has. OpenCV's own threads, which would share one picture
    and gain nothing in so small a network, are set to one, for the whole process.
    """

    def __init__(self, mirror=None):
        """mirror (468,): each point's mirror image; if given, the mirrored picture's result is averaged in.

        Raises: InputError, naming the remedy, when the model file is not installed or is another version's.
        """
        self.path = installed_file("mediapipe", MODEL, INSTALL)
        if file_digest(self.path) != MODEL_DIGEST:
            raise InputError(f"{self.path}: damaged or of another version; install it anew with `{INSTALL}`")
        self.mirror, self._idle = mirror, [cv2.dnn.readNetFromTFLite(str(self.path))]
        cv2.setNumThreads(1)

    def __call__(self, pictures):
        """Face crops, uint8 (n, H, W, 3) RGB → meshes (n, 468, 3) float64 and presence logits (n,).

        x right, y down, in pixels (the first one's centre is 0); z in the same unit, smaller is nearer.
        Each picture is looked at in a region of its own, which follows the head: with one region for a clip
        there is less noise while the head is still (.19 mm, not .23), but far more as soon as it moves by
        half a pixel (.49 mm, not .28).
        """
        height, width = pictures[0].shape[:2]
        whole = region_matrix(np.array([width - 1, height - 1]) / 2, FIRST * max(height, width), 0.0)
        regions = [whole] * len(pictures)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for _ in range(1 + PASSES):
                patches = [cv2.warpAffine(picture, region, (INPUT, INPUT), flags=cv2.INTER_LINEAR,
                                          borderMode=cv2.BORDER_REPLICATE)
                           for picture, region in zip(pictures, regions, strict=True)]
                points, presence = self._ask(patches, threads)
                meshes = [in_picture(region, mesh) for mesh, region in zip(points, regions, strict=True)]
                regions = [own_region(mesh) for mesh in meshes]
        return np.stack(meshes), presence

    def _ask(self, patches, threads):
        """The network's points (n, 468, 3) in pixels of patches (192, 192, 3), and presence logits (n,)."""
        turned = [] if self.mirror is None else [patch[:, ::-1] for patch in patches]
        points, presence = map(np.array, zip(*threads.map(self._predict, patches + turned), strict=True))
        if turned:
            points, others = np.split(points, 2)
            points = (points + (others * [-1, 1, 1] + [INPUT - 1, 0, 0])[:, self.mirror]) / 2
            presence = np.mean(np.split(presence, 2), axis=0)
        return points, presence

    def _predict(self, patch):      # a net serves one thread at a time: an idle one, or one more
        blob = np.ascontiguousarray(patch.transpose(2, 0, 1)[None], dtype=np.float32) / 255     # (1, 3, h, w)
        try:
            net = self._idle.pop()
        except IndexError:
            net = cv2.dnn.readNetFromTFLite(str(self.path))
        net.setInput(blob)
        outputs = net.forward(net.getUnconnectedOutLayersNames())
        presence, points = sorted((output.flatten() for output in outputs), key=len)    # copies
        self._idle.append(net)
        return points.reshape(POINTS, 3) * np.array([1.0, 1.0, DEPTH]), float(presence[0])


def region_matrix(center, side, angle):
    """Matrix (2, 3) from picture pixels to the network's input, for a square turned by `angle` radians."""
    cosine, sine = np.cos(angle) * INPUT / side, np.sin(angle) * INPUT / side
    turn = np.array([[cosine, sine], [-sine, cosine]])
    return np.column_stack([turn, (INPUT - 1) / 2 - turn @ center])


def in_picture(matrix, points):
    """Points (468, 3) in pixels of the patch that `matrix` (2, 3) cuts out → in pixels of the picture."""
    scale = np.hypot(matrix[0, 0], matrix[0, 1])
    flat = (points[:, :2] - matrix[:, 2]) @ matrix[:, :2] / scale**2        # the transpose turns back
    return np.column_stack([flat, points[:, 2] / scale])


def own_region(mesh):
    """`region_matrix` of the region round a mesh (468, 3), pixels, with level eyes (SPEC section 4)."""
    low, high = mesh[:, :2].min(0), mesh[:, :2].max(0)
    across = mesh[EYES[1], :2] - mesh[EYES[0], :2]
    return region_matrix((low + high) / 2, REGION * (high - low).max(), np.arctan2(across[1], across[0]))


def similarity(points, target):
    """Least-squares similarities of `points` (n, k, 3) to `target` (k, 3): scaled rotations (n, 3, 3) and
    shifts (n, 3), target ≈ matrix @ point + shift (Umeyama, PAMI 1991)."""
    middle, goal = points.mean(1, keepdims=True), target.mean(0)
    left, sizes, right = np.linalg.svd(np.einsum("nki,kj->nji", points - middle, target - goal))
    sign = np.sign(np.linalg.det(left @ right))
    left[:, :, 2] *= sign[:, None]
    sizes[:, 2] *= sign
    scale = sizes.sum(1) / np.square(points - middle).sum((1, 2))
    matrix = scale[:, None, None] * (left @ right)
    return matrix, goal - (matrix @ middle.transpose(0, 2, 1))[..., 0]


class FaceMesh(Reconstructor):
    """The `Reconstructor` by MediaPipe's face mesh network."""

    name = "mesh"
    version = 8

    def __init__(self, device="auto", rasterizer="auto"):
        """Raises: InputError for an unusable device or rasteriser, or when the network is not installed."""
        self.device = choose_device(device)
        data = np.load(TOPOLOGY)
        self.mirror, self.faces = data["mirror"].astype(np.int64), data["fine_triangles"].astype(np.int64)
        self.coarse = data["triangles"].astype(np.int64)
        self.fine = csr_matrix((data["weights"], data["columns"], data["rows"]))        # (fine points, 468)
        self.mean = framed(data["mean"].astype(np.float64))
        self.network = FaceNetwork(self.mirror)
        self.model = {self.network.path.name: MODEL_DIGEST, TOPOLOGY.name: file_digest(TOPOLOGY)}
        self.renderer = SurfaceRenderer(self.faces, self.fine.shape[0], 224, rasterizer, self.device)
        hull = cv2.convexHull(self.mean[GLASSES, :2].astype(np.float32))
        away = [-cv2.pointPolygonTest(hull, point, True) for point in (self.fine @ self.mean)[:, :2].tolist()]
        self.bare = torch.tensor(np.clip((np.array(away) - CLEAR) / FADE, 0, 1), dtype=torch.float32,
                                 device=self.device)                            # (V,) 0 at glasses, 1
        # Turned about this point, two thirds back to the ears, a face stays in the middle of the picture.
        self.root = np.array([0.0, 0.0, self.mean[[234, 454], 2].mean() * 2 / 3])

    def reconstruct(self, pictures):
        """See `Reconstructor.reconstruct`. Without a face: the mean face, where a view's camera shows it."""
        as_float(pictures[:1], "cpu")                       # raises for another shape or type
        meshes, presence = self.network(np.ascontiguousarray(pictures.permute(0, 2, 3, 1).cpu().numpy()))
        size = pictures.shape[-1]
        square = (2 * meshes + [1, 1, 0]) / size - [1, 1, 0]                    # (n, 468, 3), image space
        turn, shift = similarity((square * [1, -1, -1])[:, RIGID], self.mean[RIGID])
        frontal = (square * [1, -1, -1]) @ turn.transpose(0, 2, 1) + shift[:, None]
        back = np.linalg.inv(turn)
        pose = np.concatenate([back, -back @ shift[..., None]], 2)              # (n, 3, 4)
        pose = pose * np.array([1, -1, -1])[:, None]
        found = presence > PRESENT
        frontal[~found] = self.mean
        pose[~found] = np.eye(3, 4) * np.array([[1], [-1], [-1]]) * VIEW_CAMERA[0]
        fine = self.fine @ np.concatenate(frontal, 1)                           # (V, 3n)
        fine = np.ascontiguousarray(fine.reshape(-1, len(frontal), 3).transpose(1, 0, 2))       # (n, V, 3)
        tensors = [torch.as_tensor(values, dtype=torch.float32, device=self.device)
                   for values in (fine, np.tile(self.root, (len(fine), 1)), pose)]
        return Surfaces(*tensors, torch.as_tensor(found, device=self.device))

    def _shaded(self, images, faces):
        """The shaded surface, and on it the picture's detail (creases, lips), except round the eyes."""
        grey = images.mean(1).cpu().numpy()                                     # (n, H, W)
        detail = np.stack([fine_detail(picture) for picture in grey])
        posed = faces.posed()
        turned = (-self.renderer.vertex_normals(posed)[..., 2] / GRAZING).clamp(0, 1)          # (n, V)
        share = self.bare * turned * faces.found[:, None]
        detail = torch.from_numpy(detail)[:, None].to(self.device)              # (n, 1, H, W)
        return self.renderer.views(faces.vertices, faces.root, detail=(detail, posed, share))

    def mesh(self, surfaces, level):
        """See `Reconstructor.mesh`. Coarse: the network's 468 points. Detailed: subdivided twice."""
        if level == "detailed":
            return surfaces, self.faces
        # The 468 points back from their subdivision, by the normal equations of self.fine.
        fine = surfaces.vertices.cpu().numpy()                                  # (n, V, 3)
        square = (self.fine.T @ self.fine).toarray()                            # (468, 468)
        points = np.linalg.solve(square, np.stack([self.fine.T @ mesh for mesh in fine]))
        return surfaces._replace(vertices=torch.as_tensor(points).to(surfaces.vertices)), self.coarse


def fine_detail(grey):
    """A crop's grey (H, W) less its blur; 0 in the rows and columns at its edges that are black throughout:
    there it reaches beyond its photograph, whose end is no detail of the face."""
    detail, (rows, columns) = np.zeros_like(grey), np.nonzero(grey)
    if len(rows):
        shown = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        detail[shown] = grey[shown] - cv2.GaussianBlur(grey[shown], (0, 0), FINE)
    return detail


def framed(mean):
    """The mean mesh (468, 3), in any unit, as metres: in a view it is as large as in a crop, and central."""
    box = mean[list(BOX), :2]
    low, high = box.min(0), box.max(0)
    side = (high - low).mean() * CROP_RULE                  # of a crop, which spans [-1, 1]
    middle = np.array([0, (mean[:, 1].min() + mean[:, 1].max()) / 2 - CHIN_ROOM * side, 0])
    return (mean - middle) * 2 / side / VIEW_CAMERA[0]
