"""The face mesh network on synthetic people: faces are found, heads turn as asked, glasses change little."""

import numpy as np
import pytest

from deca.face_mesh import RIGID, FaceNetwork, similarity
from deca.landmarks import crop_square, warp_square
from synthetic import scene
from synthetic.clips import Settings, plan_people
from synthetic.mesh import build_head

BROWS = [[70, 63, 105, 66, 107], [336, 296, 334, 293, 300]]
LEAST_PRESENCE = 10.0               # the logit; real crops have more than 13


@pytest.fixture(scope="module")
def network():
    return FaceNetwork()


def meshes(network, **settings):
    """Meshes (clips, 2, 468, 3) of onset and apex, pixels of the onset's 224 crop; labels; least presence."""
    found, labels, least = [], [], np.inf
    for person, clips in plan_people(Settings(clips=3, distractors=0, **settings)):
        for clip in clips:
            at = [0, int(clip.intensity.argmax())]
            moves = clip.actions[at], clip.turns[at]
            frames = scene.film(person, *moves, clip.shift[at], clip.lamp[at], np.random.default_rng(0),
                                clip.uneven)
            heads = scene.posed(person, *moves, clip.uneven)[:, build_head().landmarks]
            square = crop_square(scene.project(heads, person, clip.shift[at])[0])
            mesh, presence = network([warp_square(frame, *square) for frame in frames])
            found.append(mesh)
            labels.append(clip.label)
            least = min(least, presence.min())
    return np.stack(found), np.array(labels), least


@pytest.mark.parametrize("degrees", [0.0, 5.0, 10.0])
def test_the_head_turns_as_asked(network, degrees):
    found, _, least = meshes(network, people=1, head_motion=degrees, intensity=2.0)
    assert least > LEAST_PRESENCE
    turns = []
    for onset, apex in found:
        matrix = similarity(apex[None, RIGID], onset[RIGID])[0][0]
        matrix = matrix / np.cbrt(np.linalg.det(matrix))
        turns.append(np.rad2deg(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))))
    assert np.median(turns) == pytest.approx(degrees, abs=2.0)


def test_brows_move_as_drawn_with_and_without_glasses(network):
    """Correlation of the brows' motion of the same people with and without glasses, at least .90."""
    motion = []
    for worn in (0, 1):
        found, labels, least = meshes(network, people=4, glasses=worn, head_motion=0)
        assert least > LEAST_PRESENCE
        motion.append((found[:, 1] - found[:, 0])[:, BROWS, 1].mean(2))     # (clips, 2 brows, 5) → (clips, 2)
    up = -motion[0].mean(1)
    assert np.corrcoef(motion[0].ravel(), motion[1].ravel())[0, 1] >= 0.90
    assert up[labels == 2].min() > 1 and up[labels == 0].max() < -1                 # surprise, disgust
