"""How people differ and how faces move: smooth displacements of the embedded head, in millimetres.

Shapes: one unit is about one standard deviation between people (Farkas, "Anthropometry of the Head and Face",
1994). Actions: one unit is an action unit of FACS in its full, strong form (Ekman, Friesen, Hager, "Facial
Action Coding System", 2002); the strongest landmark then moves 3-14 mm.
"""

from functools import lru_cache

import numpy as np

from synthetic import surface as surf
from synthetic.mesh import build_head
from synthetic.surface import bump, smoothstep

JAW, JAW_DROP = (0.0, -12.0, -20.0), 0.12       # the jaw's hinge; radians that it turns in a full AU26
SHAPE_SHARE = 0.7                               # directions overlap: of the table's spread, the share of each
CORNER = (surf.MOUTH_HALF, surf.MOUTH_Y)

# (|x|, y) of the centre; (sx, sy) its width; (dx, dy, dz) the peak, dx outwards
LOCAL_SHAPES = {
    "head width": ((76, 40), (40, 70), (4.0, 0, 0)), "face width": ((62, -30), (28, 42), (4.0, 0, 0)),
    "lower face": ((0, -104), (70, 34), (0, -4.0, 0)), "forehead": ((0, 92), (75, 34), (0, 4.5, 0)),
    "jaw width": ((52, -72), (16, 20), (4.0, 0, -1)), "chin forward": ((0, -95), (17, 14), (0, 0, 3.6)),
    "chin height": ((0, -104), (24, 14), (0, -3.6, 0)), "chin width": ((16, -97), (9, 11), (2.8, 0, 0.6)),
    "chin cleft": ((0, -95), (4, 7), (0, 0, -1.3)), "nose length": ((0, -36), (17, 11), (0, -2.8, 0.6)),
    "nose projection": ((0, -33), (11, 15), (0, 0, 2.8)), "nose width": ((14, -37), (6, 8), (2.0, 0, 0)),
    "nose tip": ((0, -34), (8, 8), (0, 2.2, -0.6)), "nose bridge": ((0, -2), (9, 13), (0, 0, 2.2)),
    "nose hump": ((0, -12), (6, 6), (0, 0, 1.7)), "nasion depth": ((0, 9), (8, 7), (0, 0, -1.8)),
    "eye spacing": ((31.5, 2), (17, 14), (2.2, 0, -0.6)), "eye height": ((31.5, 4), (24, 15), (0, 2.0, 0)),
    "eye depth": ((31.5, 2), (15, 11), (0, 0, -2.0)), "brow height": ((30, 23), (24, 9), (0, 2.8, -0.5)),
    "brow ridge": ((26, 20), (22, 8), (0, 0, 2.2)), "brow outer end": ((46, 21), (13, 9), (0, 2.3, 0)),
    "brow inner end": ((13, 22), (10, 9), (0, -2.0, 0)), "forehead bulge": ((0, 48), (40, 18), (0, 0, 3.0)),
    "temple width": ((64, 28), (16, 20), (3.2, 0, 0.5)), "cheekbones": ((60, -8), (15, 14), (3.2, 0, 1)),
    "cheek depth": ((38, -17), (15, 12), (0, 0, 2.6)), "cheek fullness": ((44, -48), (16, 17), (2.2, 0, 3.2)),
    "mouth width": ((25, -64), (11, 12), (2.5, 0, -0.6)), "mouth height": ((0, -64), (30, 11), (0, 2.2, 0)),
    "lip protrusion": ((0, -65), (20, 8), (0, 0, 2.0)), "mouth corners": ((26, -64), (9, 9), (0, 1.5, 0)),
    "lip length": ((0, -55), (20, 7), (0, -1.6, 0)), "smile fold": ((30, -48), (7, 13), (0, 0, -1.4))}
# the same, but opposite on the two sides; a midline centre moves everything to one side
UNEVEN_SHAPES = {
    "uneven jaw": ((0, -90), (45, 26), (2.2, 0, 0)), "bent nose": ((0, -30), (13, 15), (1.5, 0, 0)),
    "uneven brows": ((30, 23), (20, 9), (0, 1.6, 0)), "uneven mouth": ((26, -64), (12, 12), (0, 1.2, 0)),
    "uneven eyes": ((31.5, 2), (18, 13), (0, 1.0, 0)), "uneven cheeks": ((42, -40), (18, 20), (0, 0, 1.6))}
# each action is a sum of pulls: "at" and "brow": centre (|x|, y), width (sx, sy), peak (dx, dy, dz);
# "lids" and "lips": how far the upper and the lower one go up; "jaw": the whole jaw turns; "look": degrees
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
    "AU24": (("lips", -1.6, 2.4), ("at", (0, -64), (18, 8), (0, 0, -1.5)),
             ("at", CORNER, (9, 8), (-1.8, 0, 0))),
    "AU25": (("lips", 2.2, -4.2),),
    "AU26": (("jaw",),),
    "AU45": (("lids", -9.0, 1.2),),
    "look across": (("look", 9.0, 0.0),),
    "look up": (("look", 0.0, 9.0),),
}
EVEN = 4                                # the last of them are the same on both sides, whoever it is


def _local(head, centre, width, peak, uneven=False):
    """A bump of skin on both sides of the face, (V, 3); `uneven`: opposite on the two."""
    x, y, _ = head.points.T
    front = (1 - smoothstep(1.15, 1.6, np.abs(head.theta))) * (head.eye == 0)
    across, along = np.tanh(x / 3.0), np.ones_like(x)
    if uneven:
        across = along = np.sign(x) if centre[0] else along
    weight = bump(np.abs(x), y, centre, width) * front
    return weight[:, None] * (np.stack([across, along, along], 1) * peak)


def _follow(head, field):
    """Eyeballs move as a whole and the skin near an eye with the eye."""
    for side in (-1, 1):
        near = np.linalg.norm((head.points - surf.EYE * (side, 1, 1))[:, :2] * (0.85, 1.0), axis=1)
        skin = (head.eye == 0) & (head.points[:, 2] > 15) & (head.points[:, 0] * side > 5)
        share = np.where(skin, 1 - smoothstep(9, 22, near), 0)[:, None]
        anchor = np.exp(-0.5 * (near / 6) ** 2) * skin
        mean = (field * anchor[:, None]).sum(0) / anchor.sum()
        field = field * (1 - share) + mean * share
        field[head.eye == side] = mean
    return field


def _lids(head, raise_upper, raise_lower):
    """Lids moved along the eyeball by so many mm (positive is up), fading into skin and the eye's corners."""
    x, y, z = head.points.T
    upper, lower = surf.lid_curves(x)
    above = y >= (upper + lower) / 2
    t = np.clip((np.abs(x) - surf.EYE_INNER[0]) / (surf.EYE_OUTER[0] - surf.EYE_INNER[0]), 0, 1)
    far = np.maximum(np.where(above, y - upper, lower - y), 0)
    weight = (4 * t * (1 - t)) ** 0.75 * np.exp(-((far / 6.0) ** 2))
    weight = np.where((head.eye == 0) & (z > 15), weight, 0)
    dy = weight * np.where(above, raise_upper, raise_lower)
    dz = surf.eyeball_depth(x, y + dy, surf.LID) - surf.eyeball_depth(x, y, surf.LID)
    return np.stack([0 * x, dy, np.clip(dz, -3, 3) * smoothstep(0.15, 0.6, weight)], 1)


def _lips(head, raise_upper, raise_lower):
    """The upper and the lower lip moved up by so many mm, fading to the corners and into the face."""
    x, y, z = head.points.T
    across = np.clip(1 - (x / (surf.MOUTH_HALF * 0.9)) ** 2, 0, None)
    far = np.abs(y - surf.mouth_line(x))
    fade = np.exp(-((np.where(head.upper, np.maximum(far - 6, 0) / 9, np.maximum(far - 8, 0) / 10)) ** 2))
    weight = across * fade * (z > 10) * (head.eye == 0) * (1 - smoothstep(0.7, 1, head.inside) * 0.5)
    return np.stack([0 * x, weight * np.where(head.upper, raise_upper, raise_lower), 0 * x], 1)


def _brow(head, centre, width, peak):
    """A brow's pull: local, and gone at the upper lid's fold."""
    return _local(head, centre, width, peak) * smoothstep(7.0, 17.0, head.points[:, 1])[:, None]


def _jaw(head):
    """First-order jaw rotation by `JAW_DROP`: the lower lip hangs on the jaw, the upper on the head."""
    x, y, z = head.points.T
    hang = smoothstep(-15, 17, (y + 64) * -0.756 - (z - 35) * 0.655)     # below the line to the hinge
    lips = 1 - smoothstep(0.45, 1.2, np.abs(x) / surf.MOUTH_HALF)
    split = np.where(head.inside > 0.9, 0.5, np.where(head.upper, 0.0, 1.0))
    weight = (hang * (1 - lips) + split * lips) * (1 - smoothstep(1.25, 1.75, np.abs(head.theta)))
    weight = weight * smoothstep(-142, -112, head.level)
    offset = head.points - JAW
    return np.stack([0 * x, -offset[:, 2] * weight, offset[:, 1] * weight], 1) * JAW_DROP


def _look(head, across, up):
    """The eyeballs turned by so many degrees, to first order."""
    x, y, z = (head.points - np.where(head.points[:, :1] < 0, surf.EYE * (-1, 1, 1), surf.EYE)).T
    across, up = np.deg2rad([across, up])
    return np.stack([across * z, up * z, -across * x - up * y], 1) * (head.eye != 0)[:, None]


PULLS = {"at": _local, "brow": _brow, "lids": _lids, "lips": _lips, "jaw": _jaw, "look": _look}


def _basis(fields):
    """Fields (V, 3) → (V, 3, n) float32; the lids' rims move as their lids do."""
    basis, rim = np.stack(fields, 2), build_head().rim
    basis[rim >= 0] = basis[rim[rim >= 0]]
    return basis.astype(np.float32)


@lru_cache(maxsize=1)
def shape_basis():
    """(V, 3, n) float32, mm per unit coefficient: parts of the head, uneven faces, wide eyes."""
    head = build_head()
    fields = [_local(head, *row) for row in LOCAL_SHAPES.values()]
    fields += [_local(head, *row, uneven=True) for row in UNEVEN_SHAPES.values()]
    fields = [_follow(head, field) for field in fields] + [_lids(head, 1.0, -0.7)]
    return _basis([SHAPE_SHARE * field for field in fields])


@lru_cache(maxsize=1)
def action_basis():
    """(V, 3, len(ACTIONS)) float32, millimetres at full strength; eyeballs move by "look" alone."""
    return _basis([sum(PULLS[kind](build_head(), *numbers) for kind, *numbers in pulls)
                   for pulls in ACTIONS.values()])
