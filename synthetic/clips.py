"""What happens in the synthetic clips: people who differ, expressions, and all that means nothing.

Difficulty is three numbers of `Settings`: how far the expression moves the face, how far the head turns
between onset and apex, and how often something else moves (blinks, glances, swallowing, the jaw, what was
felt before).
"""

from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from deca.landmarks import CROP_SIZE, crop_square
from synthetic import scene
from synthetic.basis import ACTIONS
from synthetic.mesh import build_head

SPREAD = 0.1                # between clips and between people, of how strongly an action shows
UNEVENNESS = 0.08           # deviation between people of how one-sided their faces move
TURN = (0.8, 1.0, 0.4)      # how much of a head's turn is nodding, shaking, tilting
LAMP_MOVES = (8, 4, 0.06)   # deviations from onset to apex: azimuth, height, degrees; log strength
# Of each class: the emotion, and the action units that may show it, each with the range of its share.
EMOTIONS = (
    ("disgust", ({"AU4": (0.9, 1.0), "AU15": (0.6, 0.9)}, {"AU4": (0.8, 1.0), "AU9": (0.6, 0.9)},
                 {"AU4": (0.9, 1.0), "AU7": (0.6, 0.9)})),
    ("happiness", ({"AU6": (0.5, 0.8), "AU12": (0.8, 1.0)},)),
    ("surprise", ({"AU1": (0.7, 0.9), "AU2": (0.6, 0.9), "AU5": (0.6, 0.9), "AU25": (0.5, 0.8)},
                  {"AU1": (0.7, 0.9), "AU2": (0.6, 0.9), "AU5": (0.6, 0.9), "AU26": (0.3, 0.5)})),
)
# What means nothing: how often at rate 1, share, width in time (of the clip; above 1: frames), action.
DISTRACTORS = ((0.25, (0.8, 1.0), 1.1, "AU45"), (0.5, (-1.0, 1.0), 0.5, "look across"),
               (0.4, (-1.0, 0.6), 0.5, "look up"), (0.2, (0.2, 0.5), 0.2, "AU24"),
               (0.2, (0.1, 0.3), 0.2, "AU17"), (0.2, (0.05, 0.15), 0.3, "AU26"))
TRACE = (0.9, 1.2)          # what is left at onset of an earlier expression, of this one's strength
# What a database is made from: the least and the most that each setting can be, and what it is.
OPTIONS = {"people": (1, 999, "how many people"), "clips": (1, 99, "clips of each; the classes take turns"),
           "glasses": (0, 1, "share of the people who wear glasses"),
           "intensity": (0.5, 15, "mean way of the strongest landmark to the apex, pixels of the 224 crop"),
           "head_motion": (0, 20, "degrees that the head turns to the apex; it drifts by a pixel for each"),
           "distractors": (0, 1, "how often something moves that means nothing (blinks, glances, the mouth)"),
           "seed": (0, 2**31, "same settings and seed, same bytes")}


@dataclass(frozen=True)
class Settings:
    """What a synthetic database is made from: `OPTIONS`, and how many frames a clip has, least and most.

    Raises: InputError for values that no database can have.
    """

    people: int = 6
    clips: int = 8
    glasses: float = 0.4
    intensity: float = 10.0
    head_motion: float = 1.0
    distractors: float = 1.0
    seed: int = 0
    frames: tuple = (9, 15)

    def __post_init__(self):
        for name, (low, high, _) in OPTIONS.items():
            if not low <= getattr(self, name) <= high:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {getattr(self, name)}: must be from {low:g} to {high:g}")
        if not 7 <= self.frames[0] <= self.frames[1] <= 99:
            raise InputError(f"frames {self.frames}: a clip has 7 to 99 frames, the least first")


@dataclass(frozen=True)
class Clip:
    """One clip before it is filmed: all that the random numbers decide, but for the camera's noise."""

    subject: str
    name: str
    label: int
    emotion: str
    action_units: dict          # name → coefficient at the apex, of the emotion alone
    movement: float             # the strongest landmark's way that they cause, pixels of the 224 crop
    onset: int                  # frame numbers
    apex: int
    offset: int
    intensity: np.ndarray       # (T,) 0 at onset and offset, 1 at the apex
    actions: np.ndarray         # (T, len(ACTIONS)) with what means nothing
    uneven: float
    turns: np.ndarray           # (T, 3) rotation vectors, radians
    shift: np.ndarray           # (T, 2) pixels
    lamp: np.ndarray            # (T, 3) as `scene.environment`


def plan_people(settings):
    """Yields (scene.Person, [Clip, ...]) for each person.

    People and clips have random numbers of their own: none depends on what was drawn before, and the share of
    glasses changes nothing but the glasses.
    """
    worn = round(settings.glasses * settings.people)
    wearers = np.random.default_rng([settings.seed, 1]).permutation(settings.people)[:worn]
    for number in range(settings.people):
        person = scene.sample_person(np.random.default_rng([settings.seed, 2, number]), number in wearers)
        rng = np.random.default_rng([settings.seed, 5, number])
        films, order = rng.permutation(settings.clips) + 1, rng.permutation(settings.clips) % len(EMOTIONS)
        gains = dict(zip(ACTIONS, np.exp(SPREAD * rng.standard_normal(len(ACTIONS))), strict=True))
        uneven = UNEVENNESS * rng.standard_normal()
        yield person, [_plan_clip(settings, person, gains, uneven, number, index, int(films[index]),
                                  int(order[index])) for index in range(settings.clips)]


def _plan_clip(settings, person, gains, uneven, number, index, film, label):
    """Draw one clip of one person."""
    rng = np.random.default_rng([settings.seed, 3, number, index])
    count = int(rng.integers(settings.frames[0], settings.frames[1] + 1))
    rise = min(4, (count - 1) // 2)                 # frames at least on each side of the apex
    apex = int(rng.integers(rise, count - rise))
    uneven = float(np.clip(uneven + 0.1 * rng.standard_normal(), -0.6, 0.6))
    movement = float(settings.intensity * rng.uniform(1 - SPREAD, 1 + SPREAD))
    full, before = (movement * _expression(rng, person, gains, uneven, which)
                    for which in (label, rng.integers(len(EMOTIONS))))
    before = before * rng.uniform(*TRACE) * (rng.uniform() < settings.distractors)
    intensity = _rise_and_fall(count, apex)
    drift = np.interp(np.arange(count), (0, apex, count - 1), (0, 1, rng.uniform(0, 1.5)))[:, None]
    axis, away = rng.standard_normal(3) * TURN, rng.standard_normal(2)
    turned = settings.head_motion * np.deg2rad(axis / np.linalg.norm(axis)) * drift
    shift = settings.head_motion * away / np.linalg.norm(away) * drift         # a pixel for each degree
    rest = np.deg2rad(rng.uniform(-1, 1, 3) * (4.0, 5.0, 3.0))
    lamp = rng.standard_normal(3) * LAMP_MOVES * drift
    lamp[:, 2] = np.exp(lamp[:, 2])
    fading = np.maximum(1 - np.arange(count) / (apex - 2), 0)[:, None]
    actions = intensity[:, None] * full + fading * before + _distraction(settings, rng, count)
    frames = int(rng.integers(20, 160)) + np.array([0, apex, count - 1])
    return Clip(f"sub{number + 1:02d}", f"EP{film:02d}_{index + 1:02d}f", label, EMOTIONS[label][0],
                {name: float(value) for name, value in zip(ACTIONS, full, strict=True) if value}, movement,
                *frames.tolist(), intensity, actions, uneven, rest + turned, shift, lamp)


def _expression(rng, person, gains, uneven, label):
    """One way to show an emotion: coefficients (len(ACTIONS),) that move a person's landmark by a pixel."""
    choices = EMOTIONS[label][1]
    shares = choices[rng.integers(len(choices))]
    full = coefficients({name: rng.uniform(*share) * gains[name] for name, share in shares.items()})
    return full / landmark_movement(person, full, uneven)


def _rise_and_fall(count, apex):
    """Intensity (count,): 0 at both ends, 1 at `apex`; a quick start, slow near the apex, as muscles move."""
    place = np.concatenate([np.arange(apex) / apex, 1 - np.arange(count - apex) / (count - 1 - apex)])
    return np.sin(np.pi / 2 * place) ** 1.5


def _distraction(settings, rng, count):
    """Coefficients (count, len(ACTIONS)) of what means nothing: each comes and goes in a time of its own."""
    total, frame = np.zeros((count, len(ACTIONS))), np.arange(count)
    for often, share, width, name in DISTRACTORS:
        happens, size = rng.uniform() < often * settings.distractors, rng.uniform(*share)
        width, place = width if width > 1 else width * count, rng.uniform(0, count - 1)
        total += np.outer(np.exp(-(((frame - place) / width) ** 2)), coefficients({name: happens * size}))
    return total


def coefficients(action_units):
    """{name: coefficient} → (len(ACTIONS),)."""
    return np.array([action_units.get(name, 0.0) for name in ACTIONS])


def landmark_movement(person, actions, uneven):
    """How far the strongest of the 68 landmarks moves from rest to `actions`, pixels of the 224 crop."""
    heads = scene.posed(person, np.stack([0 * actions, actions]), np.zeros((2, 3)), uneven)
    pixels = scene.project(heads[:, build_head().landmarks].astype(float), person, np.zeros((2, 2)))
    _, side = crop_square(pixels[0])
    return float(np.linalg.norm(pixels[1] - pixels[0], axis=1).max() * CROP_SIZE / side)
