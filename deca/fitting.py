"""LandmarkFit: a head from 68 landmarks, without any licensed file (SPEC section 4, "Reconstructors").

The unknowns are a weak-perspective pose (scale, rotation, shift) and the coefficients of shape and
expression. The sum of the squared landmark errors and of the coefficients' squares (a ridge: both in units of
their own standard deviation) is minimised. Alternating between pose and coefficients creeps, for a wider head
and a nearer one look alike; Gauss-Newton steps on all of them together reach the same minimum in a few.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from deca import landmarks
from deca.assets import has_flame, load_flame
from deca.landmarks import CROP_SIZE, LandmarkDetector, NoFaceError, crop_square
from deca.model import Reconstructor, check_images
from synthetic.head import sample_head

ASSETS = Path(__file__).parent / "data"
N_TEX, N_DETAIL = 50, 128       # widths of the codes that landmarks say nothing about
ITERATIONS = 30         # at most; about eight are needed
TOLERANCE = 1e-7        # of the image square's half side: a step that moves nothing further ends the fit
CHUNK = 64              # faces fitted together

# Standard deviations: of a landmark across the curve that it lies on and along it, pixels of a 224-pixel crop
# (along a jaw-line, brow or nose ridge nothing marks a point: the detector lets it slide); of coefficients.
CURVES = {      # landmarks of a curve: (across, along)
    tuple(range(17)): (2.0, 8.0), tuple(range(17, 22)): (1.0, 4.0), tuple(range(22, 27)): (1.0, 4.0),
    tuple(range(27, 31)): (1.0, 3.0)}
LANDMARK_NOISE = 1.0                # of the others: nostrils, eyes, mouth
N_CONTOUR = 17                      # landmarks 0-16 are the jaw-line
CONTOUR_YAW = np.radians(15.0)      # where the head turns away, the jaw-line seen is its outline
CONTOUR_FLOOR = 0.1                 # ... which keeps this part of its weight
SHAPE_SPREAD = 1.0
EXPRESSION_SPREAD = 1.0
JAW_SPREAD = 0.1                    # radians
RULE = {"version": 2, "detector": landmarks.RULE,
        "curves": [[list(curve), noise] for curve, noise in CURVES.items()],
        "landmark_noise": LANDMARK_NOISE, "contour_yaw": CONTOUR_YAW, "contour_floor": CONTOUR_FLOOR,
        "spreads": [SHAPE_SPREAD, EXPRESSION_SPREAD, JAW_SPREAD]}      # part of the views' cache key


@dataclass(frozen=True)
class Fit:
    """Fitted heads, float64; names and conventions as the codes of DECA (SPEC section 4)."""

    shape: np.ndarray       # (B, n_shape)
    exp: np.ndarray         # (B, n_exp)
    pose: np.ndarray        # (B, 6) axis-angle of the head and of the jaw, radians
    cam: np.ndarray         # (B, 3) scale, tx, ty
    points: np.ndarray      # (B, 68, 2) the fitted landmarks in the image square, y down
    converged: np.ndarray   # (B,) bool


class LandmarkModel:
    """The 68 landmarks of a head model as a function of its coefficients and jaw; float64, no other vertices.

    It equals the FLAME layer (`deca.flame`) exactly: skinning is linear in the vertices, so that the
    landmarks' barycentric means of (weight * vertex) can be taken beforehand.
    """

    def __init__(self, head):
        corners, bary = head.faces[head.landmark_faces], np.asarray(head.landmark_bary, np.float64)

        def at_landmarks(values):       # (V, ...) → (68, ...)
            return np.einsum("lk,lk...->l...", bary, np.asarray(values, np.float64)[corners])

        basis = np.concatenate([head.shape_basis, head.expression_basis], axis=2)      # (V, 3, n)
        corrections = np.moveaxis(head.pose_basis[9:18].reshape(9, -1, 3), 0, 2)      # (V, 3, 9) of R - I
        weight = np.asarray(head.skinning[:, 2], np.float64)                           # of the jaw
        self.n_shape, self.n_exp = head.shape_basis.shape[2], head.expression_basis.shape[2]
        self.mean, self.basis = at_landmarks(head.template), at_landmarks(basis)
        self.corrections = at_landmarks(corrections)
        self.weight = at_landmarks(weight)[:, None]
        self.jaw_mean = at_landmarks(weight[:, None] * head.template)
        self.jaw_basis = at_landmarks(weight[:, None, None] * basis)
        self.jaw_corrections = at_landmarks(weight[:, None, None] * corrections)
        joints = np.asarray(head.joint_regressor, np.float64)[[0, 2]]
        self.root, self.pivot = joints @ head.template                                 # (3,) each: root, jaw
        self.root_basis, self.pivot_basis = np.einsum("jv,vcn->jcn", joints, basis)    # (3, n) each
        self.fits_jaw = "AU26" not in head.expression_names     # else a direction drops the jaw already

    def local(self, coefficients, jaw):
        """Landmarks relative to the root joint before the head turns, and their derivative.

        coefficients (B, n): shape, then expression. jaw (B,): its angle about x, radians.
        Returns: (B, 68, 3), metres, and (B, 68, 3, n + 1), the last one by the jaw's angle.
        """
        turn = Rotation.from_rotvec(jaw[:, None] * [1.0, 0.0, 0.0]).as_matrix()        # (B, 3, 3)
        slope = np.stack([0 * turn[:, 0], -turn[:, 2], turn[:, 1]], axis=1)            # d turn / d angle
        away = turn - np.eye(3)
        pivot = self.pivot + coefficients @ self.pivot_basis.T
        relative_basis = self.basis - self.root_basis
        points = self.mean - self.root + np.einsum("lcn,bn->blc", relative_basis, coefficients) \
            + np.einsum("lcn,bn->blc", self.corrections, away.reshape(-1, 9))          # (B, 3, 3) → (B, 9)
        arm = self.jaw_mean + np.einsum("lcn,bn->blc", self.jaw_basis, coefficients) \
            + np.einsum("lcn,bn->blc", self.jaw_corrections, away.reshape(-1, 9))
        arm = arm - self.weight * pivot[:, None]
        points = points + np.einsum("bij,blj->bli", away, arm)
        by_jaw = np.einsum("bij,blj->bli", slope, arm) + np.einsum(
            "lcn,bn->blc", self.corrections, slope.reshape(-1, 9))      # the corrections' own turning: tiny
        by_basis = relative_basis + np.einsum(
            "bij,ljn->blin", away, self.jaw_basis - self.weight[..., None] * self.pivot_basis)
        return points, np.concatenate([by_basis, by_jaw[..., None]], axis=3)


class LandmarkFit(Reconstructor):
    """Heads from 68 landmarks; the same four methods as `DECA`. `tex`, `light` and `detail` are zero."""

    name = "landmarks"

    def __init__(self, device="cpu", rasterizer="torch", head=None):
        """head: `HeadModel`; by default FLAME where its files are in deca/data, else the sample head."""
        super().__init__(head or default_head(), device, rasterizer)
        self.landmark_model = LandmarkModel(self.head)

    @cached_property
    def detector(self):
        """The landmark detector, made when first needed."""
        return LandmarkDetector()

    def encode(self, images, points=None):
        """Face crops (SPEC section 2), (B, 3, 224, 224) float RGB in [0, 1] → codes (see `Reconstructor`).

        points: their landmarks (B, 68, 2) in crop pixels where they are known; else they are detected.
        Raises: NoFaceError, with the `.indices` of the pictures in which no face is found; ValueError.
        """
        check_images(images)
        if points is None:
            found = [self.detector.detect(picture) for picture in to_uint8(images)]
            missing = [index for index, detection in enumerate(found) if detection is None]
            if missing:
                raise NoFaceError(f"no face found in {len(missing)} of {len(found)} pictures (numbers "
                                  f"{', '.join(map(str, missing))}); give pictures that show one", missing)
            points = np.stack([detection.points for detection in found])        # (B, 68, 2)
        if len(points) != len(images):
            raise ValueError(f"{len(points)} sets of points for {len(images)} pictures")
        return self.fit(points)

    def fit(self, points):
        """Landmarks (B, 68, 2), pixels of the 224-pixel crop → codes of float32 tensors on this device."""
        fitted = fit_landmarks(self.landmark_model, points, CROP_SIZE)
        return self._codes(fitted.shape, fitted.exp, fitted.pose, fitted.cam)

    def mean_codes(self, count):
        """Codes of `count` mean heads, frontal, framed by the crop rule; for pictures without a face."""
        model = self.landmark_model
        points = model.mean[:, :2] * [1.0, -1.0]                # metres, y down
        center, side = crop_square(points)
        scale = 2 / side
        cam = np.tile([scale, -center[0], center[1]], (count, 1))
        return self._codes(np.zeros((count, model.n_shape)), np.zeros((count, model.n_exp)),
                           np.zeros((count, 6)), cam)

    def points(self, codes):
        """The 68 landmarks of the codes' heads, pixels of the 224-pixel crop: (B, 68, 2) float32."""
        points, cam = self.decode(codes).landmarks3d.cpu(), codes["cam"].cpu()[:, None]
        square = cam[..., :1] * (points[..., :2] + cam[..., 1:]) * torch.tensor([1.0, -1.0])
        return (((square + 1) * CROP_SIZE - 1) / 2).numpy()

    def _codes(self, shape, exp, pose, cam):
        count = len(pose)
        codes = {"shape": shape, "tex": np.zeros((count, N_TEX)), "exp": exp, "pose": pose, "cam": cam,
                 "light": np.zeros((count, 9, 3)), "detail": np.zeros((count, N_DETAIL))}
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device)
                for name, value in codes.items()}


def default_head(folder=ASSETS):
    """FLAME where its official files are in `folder`, else the embedded sample head."""
    return load_flame(folder) if has_flame(folder) else sample_head()


def to_uint8(images):
    """(B, 3, H, W) float in [0, 1] → numpy (B, H, W, 3) uint8."""
    levels = images.mul(255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()             # (B, 3, H, W) → (B, H, W, 3)


def fit_landmarks(model, points, size=CROP_SIZE):
    """Fit heads to landmarks: `points` (B, 68, 2), pixels of a `size`-pixel crop → `Fit`.

    model: `LandmarkModel`. Raises: ValueError for another shape or for points that are not finite.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 3 or points.shape[1:] != (68, 2) or not np.isfinite(points).all():
        raise ValueError(f"points must be finite, (B, 68, 2), not {points.shape}")
    square = ((2 * points + 1) / size - 1) * [1.0, -1.0]        # image square with y up, as the head
    chunks = [_fit_chunk(model, square[start:start + CHUNK], size) for start in range(0, len(square), CHUNK)]
    if not chunks:
        chunks = [_fit_chunk(model, square, size)]
    names = ("shape", "exp", "pose", "cam", "points", "converged")
    return Fit(**{name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in names})


def _fit_chunk(model, target, size):
    """Gauss-Newton on pose and coefficients together; target (B, 68, 2) in the image square, y up."""
    batch, unknowns = len(target), model.n_shape + model.n_exp + 1
    spread = np.r_[np.full(model.n_shape, SHAPE_SPREAD), np.full(model.n_exp, EXPRESSION_SPREAD),
                   JAW_SPREAD if model.fits_jaw else 1e-9]
    coefficients = np.zeros((batch, unknowns))
    local, slopes = model.local(coefficients[:, :-1], coefficients[:, -1])
    scale, turn, shift = _initial_pose(local, target)
    whitening, moving = _whitening(target, size), np.ones(batch, bool)
    for _ in range(ITERATIONS):
        turned = np.einsum("bij,blj->bli", turn, local)
        error = target - scale[:, None, None] * turned[..., :2] - shift[:, None]
        jacobian = _jacobian(scale, turn, turned, slopes)                      # (B, 68, 2, 6 + n)
        weights = whitening * _contour_fade(turn)[..., None, None]             # (B, 68, 2, 2)
        step = _solve(weights @ jacobian, (weights @ error[..., None])[..., 0], coefficients, spread)
        step = step * moving[:, None]
        scale = scale * np.exp(step[:, 0])
        turn = Rotation.from_rotvec(step[:, 1:4]).as_matrix() @ turn
        shift, coefficients = shift + step[:, 4:6], coefficients + step[:, 6:]
        local, slopes = model.local(coefficients[:, :-1], coefficients[:, -1])
        moved = np.abs(np.einsum("blcn,bn->blc", jacobian, step)).max(axis=(1, 2), initial=0)
        moving &= moved > TOLERANCE
        if not moving.any():
            break
    return _packed(model, scale, turn, shift, coefficients, local, ~moving)


def _initial_pose(local, target):
    """Scale (B,), rotation (B, 3, 3), shift (B, 2) of the mean head: least squares, made orthonormal."""
    center, middle = target.mean(axis=1), local.mean(axis=1)
    affine = np.linalg.pinv(local - middle[:, None]) @ (target - center[:, None])      # (B, 3, 2)
    left, sizes, right = np.linalg.svd(affine.transpose(0, 2, 1), full_matrices=False)
    scale = np.maximum(sizes.mean(axis=1), 1e-3)
    rows = left @ right                                                                # (B, 2, 3)
    turn = np.stack([rows[:, 0], rows[:, 1], np.cross(rows[:, 0], rows[:, 1])], axis=1)
    shift = center - scale[:, None] * np.einsum("bij,bj->bi", rows, middle)
    return scale, turn, shift


def _jacobian(scale, turn, turned, slopes):
    """Derivative of the landmarks by (log scale, rotation 3, shift 2, coefficients n): (B, 68, 2, 6 + n)."""
    x, y, z = np.moveaxis(turned, 2, 0)
    zero, one = np.zeros_like(x), np.ones_like(x)
    size = scale[:, None]
    by_pose = np.stack([np.stack([size * x, zero, size * z, -size * y, one, zero], axis=2),
                        np.stack([size * y, -size * z, zero, size * x, zero, one], axis=2)], axis=2)
    by_coefficients = np.einsum("bij,bljn->blin", scale[:, None, None] * turn[:, :2], slopes)
    return np.concatenate([by_pose, by_coefficients], axis=3)


def _whitening(target, size):
    """Matrices (B, 68, 2, 2): errors in the image square → standard deviations along and across."""
    along = np.tile([1.0, 0.0], (len(target), 68, 1))
    noise = np.full((68, 2), LANDMARK_NOISE)                # (along, across)
    for curve, (across, sliding) in CURVES.items():
        points = target[:, list(curve)]
        direction = np.gradient(points, axis=1)
        length = np.linalg.norm(direction, axis=2, keepdims=True)
        along[:, list(curve)] = direction / np.maximum(length, 1e-9)
        noise[list(curve)] = sliding, across
    normal = np.stack([-along[..., 1], along[..., 0]], axis=2)
    axes = np.stack([along, normal], axis=2)                # (B, 68, 2 directions, 2)
    return axes * (size / 2 / noise)[..., None]


def _contour_fade(turn):
    """What is left of each landmark's weight, (B, 68), when the head has turned by `turn`."""
    weights = np.ones((len(turn), 68))
    yaw = np.arctan2(turn[:, 0, 2], turn[:, 2, 2])          # > 0: towards the viewer's right
    side = np.linspace(-1, 1, N_CONTOUR)                    # jaw-line from the viewer's left to the right
    away = np.maximum(yaw[:, None] * side, 0)               # how far each point has turned out of sight
    weights[:, :N_CONTOUR] = CONTOUR_FLOOR + (1 - CONTOUR_FLOOR) * np.exp(-(away / CONTOUR_YAW) ** 2)
    return weights


def _solve(jacobian, error, coefficients, spread):
    """The Gauss-Newton step (B, 6 + n) of the weighted errors and the ridge."""
    rows = jacobian.reshape(len(jacobian), -1, jacobian.shape[3])       # (B, 68, 2, p) → (B, 136, p)
    normal = rows.transpose(0, 2, 1) @ rows
    gradient = np.einsum("brp,br->bp", rows, error.reshape(len(error), -1))
    ridge = np.r_[np.zeros(6), spread ** -2.0]
    gradient[:, 6:] -= coefficients * ridge[6:]
    normal[:, np.arange(len(ridge)), np.arange(len(ridge))] += ridge
    return np.linalg.solve(normal, gradient[..., None])[..., 0]


def _packed(model, scale, turn, shift, coefficients, local, converged):
    """The fitted unknowns in DECA's conventions: the head turns about its root joint."""
    root = model.root + coefficients[:, :-1] @ model.root_basis.T
    pose = np.zeros((len(scale), 6))
    pose[:, :3] = Rotation.from_matrix(turn).as_rotvec() if len(turn) else pose[:, :3]
    pose[:, 3] = coefficients[:, -1]
    cam = np.column_stack([scale, shift / scale[:, None] - root[:, :2]])
    turned = np.einsum("bij,blj->bli", turn[:, :2], local)
    points = (scale[:, None, None] * turned + shift[:, None]) * [1.0, -1.0]
    shape, exp = coefficients[:, :model.n_shape], coefficients[:, model.n_shape:-1]
    return Fit(shape, exp, pose, cam, points, converged)
