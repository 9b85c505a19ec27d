"""How the embedded head moves: the action units of FACS as linear displacements.

One unit of a coefficient is the action's full, strong form (Ekman, Friesen, Hager, "Facial Action Coding
System", 2002): the strongest landmark moves 3-14 mm. In millimetres; dx is outwards, dy up, dz to the viewer.
"""

import numpy as np

from synthetic import surface as surf
from synthetic.basis import JAW, lid_field, local_field, skinning_weights
from synthetic.surface import smoothstep

JAW_DROP = 0.12  # radians of jaw rotation in a full AU26
CORNER = (surf.MOUTH_HALF, surf.MOUTH_Y)

# fmt: off
# each action is a sum of pulls: "at" and "brow": centre (|x|, y), width (sx, sy), peak (dx, dy, dz);
# "lids" and "lips": how far the upper and the lower one go up; "jaw": the whole jaw turns
ACTIONS = {
    "AU1": (("brow", (13, 24), (11, 13), (0.0, 6.5, 0.3)),),
    "AU2": (("brow", (43, 24), (13, 13), (0.5, 6.5, 0.3)),),
    "AU4": (("brow", (15, 23), (12, 11), (-3.0, -4.0, 1.0)), ("brow", (32, 24), (18, 11), (-0.8, -3.0, 0.6)),
            ("lids", -0.8, 0)),
    "AU5": (("lids", 4.0, 0),),
    "AU6": (("at", (38, -20), (15, 11), (0.3, 5.0, 2.2)), ("at", (50, -2), (9, 10), (-1.0, 1.0, 0.5)),
            ("lids", 0, 2.2)),
    "AU7": (("lids", -2.5, 3.3),),
    "AU9": (("at", (12, -24), (8, 13), (0.4, 5.0, 1.6)), ("at", (13, -40), (7, 6), (1.0, 1.8, 0.3)),
            ("brow", (12, 21), (11, 9), (-1.5, -4.0, 0.8)), ("at", (20, -32), (7, 12), (0, 1.5, 1.2)),
            ("lips", 3.0, 0), ("lids", -0.6, 0.8)),
    "AU10": (("lips", 5.0, 0), ("at", (24, -42), (9, 11), (0.8, 2.2, 1.6)),
             ("at", (14, -38), (6, 6), (0.6, 1.2, 0.2))),
    "AU12": (("at", CORNER, (12, 11), (6.5, 6.5, -3.5)), ("at", (41, -36), (13, 13), (1.5, 2.5, 2.8)),
             ("at", (0, -64), (14, 9), (0, 0.8, -1.2)), ("lids", 0, 0.5)),
    "AU15": (("at", CORNER, (9, 10), (0.8, -7.0, -0.8)), ("at", (28, -78), (9, 9), (0.5, -1.5, 0.8))),
    "AU17": (("at", (0, -90), (15, 10), (0, 4.5, 2.0)), ("at", (0, -70), (20, 8), (0, 2.6, 1.8)),
             ("at", CORNER, (9, 7), (0, -1.5, 0)), ("at", (0, -58), (20, 6), (0, 1.2, 1.0))),
    "AU20": (("at", CORNER, (13, 12), (8.0, -1.8, -4.5)), ("at", (0, -64), (16, 9), (0, 0, -1.0))),
    "AU25": (("lips", 2.2, -4.2),),
    "AU26": (("jaw",),),
}
# fmt: on
ACTION_UNITS = tuple(ACTIONS)


def _lips(mesh, raise_upper, raise_lower):
    """The upper and the lower lip moved up by so many mm, fading to the corners and into the face."""
    x, y, z = mesh.points.T
    across = np.clip(1 - (x / (surf.MOUTH_HALF * 0.9)) ** 2, 0, None)
    far = np.abs(y - surf.mouth_line(x))
    fade = np.where(
        mesh.upper,
        np.exp(-((np.maximum(far - 6, 0) / 9) ** 2)),
        np.exp(-((np.maximum(far - 8, 0) / 10) ** 2)),
    )
    weight = across * fade * (z > 10) * (mesh.eye == 0) * (1 - smoothstep(0.7, 1, mesh.inside) * 0.5)
    return np.stack([0 * x, weight * np.where(mesh.upper, raise_upper, raise_lower), 0 * x], 1)


def _brow(mesh, centre, width, peak):
    """A brow's pull: local, and gone at the upper lid's fold."""
    lifted = smoothstep(7.0, 17.0, mesh.points[:, 1])
    return local_field(mesh, centre, width, peak) * lifted[:, None]


def _jaw_turn(mesh):
    """First-order jaw rotation by `JAW_DROP`."""
    offset = mesh.points - JAW
    weight = skinning_weights(mesh)[:, 2]
    return np.stack([0 * weight, -offset[:, 2] * weight, offset[:, 1] * weight], 1) * JAW_DROP


PULLS = {"at": local_field, "brow": _brow, "lids": lid_field, "lips": _lips, "jaw": _jaw_turn}


def expression_basis(mesh):
    """(V, 3, 14) millimetres at full strength, in the order of `ACTION_UNITS`; eyeballs stay."""
    fields = []
    for pulls in ACTIONS.values():
        field = sum(PULLS[kind](mesh, *numbers) for kind, *numbers in pulls)
        field = np.where((mesh.eye != 0)[:, None], 0, field)
        field[mesh.rim >= 0] = field[mesh.rim[mesh.rim >= 0]]
        fields.append(field)
    return np.stack(fields, 2)
