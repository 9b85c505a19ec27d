"""Apex spotting: in which frame of a clip is the expression strongest? (SPEC section 3)

Quang, Chun, Tokuyama, FG 2019; Li, Huang, Zhao, "Can micro-expression be recognized based on single apex
frame?", ICIP 2018.
"""

import cv2
import numpy as np

from common.errors import InputError
from common.images import read_image
from deca.landmarks import LandmarkDetector

EPSILON = 1    # frames between a frame and the one it is compared with
DRIFT = 4      # pixels


def spot_apex(paths):
    """The apex among the frames of a clip, onset first, offset last.

    `paths`: picture files in order, at least three. The face is detected once; in the other frames the
    landmarks are predicted in its box. Returns: (index of the apex, feature (len(paths),) float64).
    Raises: InputError, naming the file or folder, for an unreadable frame, too few frames or no face.
    """
    if len(paths) < 3:
        raise InputError(f"{paths[0].parent if paths else 'clip'}: {len(paths)} frame(s) from onset to "
                         "offset; spotting needs three or more: lay all frames of the clip there")
    images = [read_image(path) for path in paths]
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{paths[0].parent}: the frames differ in size; lay frames of one recording there")
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]).astype(np.float32)
    feature = apex_feature(grey, track_landmarks(images, paths[0].parent))
    return int(feature.argmax()), feature


def track_landmarks(images, name):
    """Landmarks (frames, 68, 2) of frames of one clip: detected in the first with a face, then followed.

    The box follows the landmarks' centre in steps of `DRIFT` pixels: it rests while the head does.
    Raises: InputError starting with `name` when no frame has a face.
    """
    detector = LandmarkDetector()
    found = next((face for face in map(detector.detect, images) if face is not None), None)
    if found is None:
        raise InputError(f"{name}: no face found in {len(images)} frames; look at the pictures")
    start = found.points.mean(0)
    shift, tracked = np.zeros(2), []
    for image in images:
        points = detector.points_in_box(image, np.add(found.box, np.tile(shift, 2)))
        shift = DRIFT * np.round((points.mean(0) - start) / DRIFT)
        tracked.append(points)
    return np.stack(tracked)    # (frames, 68, 2)


def apex_feature(grey, landmarks):
    """The feature curve of SPEC section 3, (T,) float64; its argmax is the apex.

    `grey`: (T, H, W) float32 frames, onset first, offset last; `landmarks`: (T, 68, 2) pixels.
    """
    feature = np.zeros(len(grey))
    for t in range(EPSILON, len(grey)):
        means = [_cell_mean(grey, t, cell) for cell in cells(landmarks[t], grey.shape[1:])]
        feature[t] = np.mean(means) if means else 0.0
    return feature


def _cell_mean(grey, t, cell):
    """Mean over a cell of (|I_t − I_onset| + 1 + |I_t − I_offset| + 1) / (|I_t − I_{t−ε}| + 1)."""
    now, before, onset, offset = (grey[i][cell] for i in (t, t - EPSILON, 0, -1))
    return float(((abs(now - onset) + abs(now - offset) + 2) / (abs(now - before) + 1)).mean())


def cells(points, shape):
    """The ten cells of SPEC section 3, each (slice of rows, slice of columns); none outside the picture.

    `points`: (68, 2) landmarks; `shape`: (height, width). In order: mouth corners, brows (left, middle,
    right), chin, both sides of the nose, outer sides of both eyes.
    """
    x, y = np.round(points).astype(int).T
    w = max(1, int((x[54] - x[48]) / 2))
    brow_x, brow_y = (x[19] + x[24]) // 2, (y[19] + y[24]) // 2
    half, lip_top = w // 2, y[48] - w // 2
    corners = [    # (left, top) of squares of side w
        (x[48] - half, lip_top), (x[54] - half, y[54] - half),
        *((brow_x - half + step, brow_y - half) for step in (-w, 0, w)),
        (x[8] - half, y[8] - w),
        (x[31] - w, lip_top - w), (x[35], lip_top - w),
        (x[36] - w, y[36] - half), (x[45], y[45] - half)]
    found = []
    for left, top in corners:
        rows = slice(max(0, top), min(shape[0], top + w))
        columns = slice(max(0, left), min(shape[1], left + w))
        if rows.stop > rows.start and columns.stop > columns.start:
            found.append((rows, columns))
    return found
