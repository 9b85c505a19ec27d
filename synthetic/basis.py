"""How the embedded head varies between people and how it turns: shape directions, joints, skinning weights.

Every direction is a smooth displacement in millimetres; one unit of a coefficient is about one standard
deviation between people (2-4 mm for most distances; Farkas, "Anthropometry of the Head and Face", 1994).
"""

import numpy as np

from synthetic import surface as surf
from synthetic.surface import bump, smoothstep

ROOT, NECK, JAW = (0.0, -130.0, -22.0), (0.0, -78.0, -38.0), (0.0, -12.0, -20.0)
PARENTS = (-1, 0, 1, 1, 1)
SHAPE_SHARE = 0.7  # directions overlap: of the spread in the tables, the share of each alone

# fmt: off
# name; (|x|, y) of the centre; (sx, sy) its width; (dx, dy, dz) the peak, dx outwards
LOCAL_SHAPES = (
    ("jaw width", (52, -72), (16, 20), (4.0, 0, -1)), ("chin forward", (0, -95), (17, 14), (0, 0, 3.6)),
    ("chin height", (0, -104), (24, 14), (0, -3.6, 0)), ("chin width", (16, -97), (9, 11), (2.8, 0, 0.6)),
    ("chin cleft", (0, -95), (4, 7), (0, 0, -1.3)), ("nose length", (0, -36), (17, 11), (0, -2.8, 0.6)),
    ("nose projection", (0, -33), (11, 15), (0, 0, 2.8)), ("nose width", (14, -37), (6, 8), (2.0, 0, 0)),
    ("nose tip", (0, -34), (8, 8), (0, 2.2, -0.6)), ("nose bridge", (0, -2), (9, 13), (0, 0, 2.2)),
    ("bridge width", (8, -8), (5, 15), (1.4, 0, 0.3)), ("nose hump", (0, -12), (6, 6), (0, 0, 1.7)),
    ("nasion depth", (0, 9), (8, 7), (0, 0, -1.8)), ("eye spacing", (31.5, 2), (17, 14), (2.2, 0, -0.6)),
    ("eye height", (31.5, 4), (24, 15), (0, 2.0, 0)), ("eye depth", (31.5, 2), (15, 11), (0, 0, -2.0)),
    ("brow height", (30, 23), (24, 9), (0, 2.8, -0.5)), ("brow ridge", (26, 20), (22, 8), (0, 0, 2.2)),
    ("brow outer end", (46, 21), (13, 9), (0, 2.3, 0)), ("brow inner end", (13, 22), (10, 9), (0, -2.0, 0)),
    ("forehead bulge", (0, 48), (40, 18), (0, 0, 3.0)), ("temple width", (64, 28), (16, 20), (3.2, 0, 0.5)),
    ("cheekbone width", (60, -8), (15, 14), (3.2, 0, 1)), ("cheek depth", (38, -17), (15, 12), (0, 0, 2.6)),
    ("cheek fullness", (44, -48), (16, 17), (2.2, 0, 3.2)), ("eye hollow", (27, -12), (12, 5), (0, 0, -1.3)),
    ("mouth width", (25, -64), (11, 12), (2.5, 0, -0.6)), ("mouth height", (0, -64), (30, 11), (0, 2.2, 0)),
    ("lip protrusion", (0, -65), (20, 8), (0, 0, 2.0)), ("mouth corners", (26, -64), (9, 9), (0, 1.5, 0)),
    ("lip length", (0, -55), (20, 7), (0, -1.6, 0)), ("smile fold", (30, -48), (7, 13), (0, 0, -1.4)))
# the same, but opposite on the two sides; a midline centre moves everything to one side
UNEVEN_SHAPES = (
    ("uneven jaw", (0, -90), (45, 26), (2.2, 0, 0)), ("bent nose", (0, -30), (13, 15), (1.5, 0, 0)),
    ("uneven brows", (30, 23), (20, 9), (0, 1.6, 0)), ("uneven mouth", (26, -64), (12, 12), (0, 1.2, 0)),
    ("uneven eyes", (31.5, 2), (18, 13), (0, 1.0, 0)), ("uneven cheeks", (42, -40), (18, 20), (0, 0, 1.6)))
WHOLE_SHAPES = (
    "head width", "head height", "head depth", "face width", "lower face length", "middle face length",
    "forehead height", "forehead slope", "neck width", "ear reach", "ear height", "eye size", "eye opening",
    "eye tilt", "upper lip fullness", "lower lip fullness")
# fmt: on
SHAPE_NAMES = WHOLE_SHAPES + tuple(row[0] for row in LOCAL_SHAPES) + tuple(row[0] for row in UNEVEN_SHAPES)


def _front(mesh):
    return np.where(np.isnan(mesh.theta), 1, 1 - smoothstep(1.15, 1.6, np.abs(np.nan_to_num(mesh.theta))))


def _follow(mesh, field):
    """Eyeballs move as a whole, lid rims with their lid, and the skin near an eye with the eye."""
    field = field.copy()
    for side in (-1, 1):
        centre = surf.EYE * (side, 1, 1)
        ball = mesh.eye == side
        near = np.linalg.norm((mesh.points - centre)[:, :2] * (0.85, 1.0), axis=1)
        skin = (mesh.eye == 0) & (mesh.points[:, 2] > 15) & (mesh.points[:, 0] * side > 5)
        share = np.where(skin, 1 - smoothstep(9, 22, near), 0)[:, None]
        anchor = np.exp(-0.5 * (near / 6) ** 2) * skin
        mean = (field * anchor[:, None]).sum(0) / anchor.sum()
        field = field * (1 - share) + mean * share
        field[ball] = mean
    inner = mesh.rim >= 0
    field[inner] = field[mesh.rim[inner]]
    return field


def local_field(mesh, centre, width, peak, uneven=False):
    x, y, _ = mesh.points.T
    weight = bump(np.abs(x), y, centre, width) * _front(mesh)
    if centre[0] == 0:
        weight = bump(x, y, centre, width) * _front(mesh)
    if uneven:
        side = np.sign(x) if centre[0] else np.ones_like(x)
        return weight[:, None] * np.array(peak) * side[:, None]
    lateral = np.tanh(x / 3.0)  # outwards, and 0 on the midline
    return weight[:, None] * np.stack([peak[0] * lateral, 0 * x + peak[1], 0 * x + peak[2]], 1)


def _ear_weight(mesh):
    point = surf.loft(np.nan_to_num(mesh.theta), np.nan_to_num(mesh.level, nan=100))
    _, s, q = surf.ear_frame(point[:, 1], point[:, 2])
    side = (np.abs(np.nan_to_num(mesh.theta)) > 1.0) & (np.abs(np.nan_to_num(mesh.theta)) < 2.4)
    return np.where(side, 1 - smoothstep(0.95, 1.3, q), 0), s


def _whole(mesh, name):
    x, y, z = mesh.points.T
    front, none = _front(mesh), np.zeros_like(x)
    ear, s = _ear_weight(mesh)
    above_neck = smoothstep(-185, -120, y)
    fields = {
        "head width": lambda: (0.04 * x * above_neck, none, none),
        "head height": lambda: (none, 0.035 * y * above_neck, none),
        "head depth": lambda: (none, none, 0.04 * (z + 35) * above_neck),
        "face width": lambda: (
            0.05 * x * front * (1 - smoothstep(20, 60, y)) * smoothstep(-150, -100, y),
            none,
            none,
        ),
        "lower face length": lambda: (
            none,
            -4.5 * smoothstep(-45, -105, y) * smoothstep(-70, 10, z) * smoothstep(-180, -125, y),
            none,
        ),
        "middle face length": lambda: (
            none,
            -3.6 * smoothstep(12, -45, y) * smoothstep(-50, 20, z) * smoothstep(-180, -125, y),
            none,
        ),
        "forehead height": lambda: (none, 5.0 * smoothstep(25, 110, y), none),
        "forehead slope": lambda: (none, none, -5.0 * smoothstep(20, 75, y) * smoothstep(-40, 50, z)),
        "neck width": lambda: (
            0.09 * x * smoothstep(-98, -130, y),
            none,
            0.05 * (z + 40) * smoothstep(-98, -130, y),
        ),
        "ear reach": lambda: (3.0 * np.sign(x) * ear * smoothstep(-0.9, 0.8, s), none, none),
        "ear height": lambda: (none, 3.0 * ear, none),
    }
    return np.stack(fields[name](), 1)


def _lid_weights(mesh):
    """How much each skin vertex belongs to the upper and the lower lid, 0..1, fading to the eye's corners."""
    x, y, z = mesh.points.T
    upper, lower = surf.lid_curves(x)
    middle = (upper + lower) / 2
    t = np.clip((np.abs(x) - surf.EYE_INNER[0]) / (surf.EYE_OUTER[0] - surf.EYE_INNER[0]), 0, 1)
    across = np.clip(4 * t * (1 - t), 0, 1) ** 0.75
    skin = (mesh.eye == 0) & (z > 15)
    far = np.maximum(np.where(y > middle, y - upper, lower - y), 0)
    weight = np.where(skin, across * np.exp(-((far / 6.0) ** 2)), 0)
    return np.where(y >= middle, weight, 0), np.where(y < middle, weight, 0)


def lid_field(mesh, raise_upper, raise_lower):
    """Lids moved along the eyeball by so many mm (positive is up)."""
    x, y, _ = mesh.points.T
    upper, lower = _lid_weights(mesh)
    dy = raise_upper * upper + raise_lower * lower
    dz = surf.eyeball_depth(x, y + dy, surf.LID) - surf.eyeball_depth(x, y, surf.LID)
    weight = np.maximum(upper, lower)
    field = np.stack([0 * x, dy, np.clip(dz, -3, 3) * smoothstep(0.15, 0.6, weight)], 1)
    inner = mesh.rim >= 0
    field[inner] = field[mesh.rim[inner]]
    return field


def _eye_shape(mesh, name):
    x, _, z = mesh.points.T
    if name == "eye opening":
        return lid_field(mesh, 1.0, -0.7)
    centre = np.stack([np.sign(x) * surf.EYE[0], 0 * x + surf.EYE[1], 0 * x + surf.EYE[2]], 1)
    offset = mesh.points - centre
    skin = (mesh.eye == 0) & (z > 10)
    near = np.where(skin, 1 - smoothstep(12, 28, np.linalg.norm(offset[:, :2] * (0.8, 1), axis=1)), 0)
    weight = np.where(mesh.eye != 0, 1, near)[:, None]
    if name == "eye size":
        field = 0.06 * offset * weight
    else:  # eye tilt: a turn in the face's plane
        turn = np.deg2rad(3.5) * np.sign(x)
        skin_only = np.where(mesh.eye != 0, 0, weight[:, 0])
        field = np.stack([-offset[:, 1] * turn, offset[:, 0] * turn, 0 * x], 1) * skin_only[:, None]
    inner = mesh.rim >= 0
    field[inner] = field[mesh.rim[inner]]
    return field


def _lip_fullness(mesh, upper):
    x, y, z = mesh.points.T
    rise = y - surf.mouth_line(x)
    where = (mesh.upper if upper else ~mesh.upper) & (mesh.inside <= 0.01) & (mesh.eye == 0) & (z > 10)
    far = np.abs(rise)
    across = np.clip(1 - (x / (surf.MOUTH_HALF + 2)) ** 2, 0, None)
    grow = np.where(where, across * far * 0.22 * np.exp(-((far / 9.5) ** 2)), 0)
    out = np.where(where, across * 1.3 * np.exp(-(((far - 4) / 4) ** 2)), 0)
    return np.stack([0 * x, grow * (1 if upper else -1), out], 1)


def shape_basis(mesh):
    """(V, 3, n) millimetres per unit coefficient, in the order of `SHAPE_NAMES`."""
    fields = []
    for name in WHOLE_SHAPES:
        if name in ("eye size", "eye opening", "eye tilt"):
            fields.append(_eye_shape(mesh, name))
        elif name.endswith("fullness"):
            fields.append(_lip_fullness(mesh, name.startswith("upper")))
        else:
            fields.append(_follow(mesh, _whole(mesh, name)))
    fields += [_follow(mesh, local_field(mesh, *row[1:])) for row in LOCAL_SHAPES]
    fields += [_follow(mesh, local_field(mesh, *row[1:], uneven=True)) for row in UNEVEN_SHAPES]
    return SHAPE_SHARE * np.stack(fields, 2)


# ---- joints ----------


def skinning_weights(mesh):
    """(V, 5) weights of root, neck, jaw, left eye (x > 0, the person's left) and right eye.

    The lips split at the mouth line: the lower hangs on the jaw, the upper on the head, the corners on both.
    """
    x, y, z = mesh.points.T
    theta, level = np.abs(np.nan_to_num(mesh.theta)), np.nan_to_num(mesh.level)
    along = np.array([52.0, -60.0]) / np.hypot(52, 60)  # (y, z) from the mouth's corner to the hinge
    below = -((y + 64) * -along[1] + (z - 35) * along[0])
    hang = smoothstep(-15, 17, below)
    lips = 1 - smoothstep(0.45, 1.2, np.abs(x) / surf.MOUTH_HALF)
    split = np.where(mesh.inside > 0.9, 0.5, np.where(mesh.upper, 0.0, 1.0))
    jaw = hang * (1 - lips) + split * lips
    jaw = jaw * (1 - smoothstep(1.25, 1.75, theta)) * smoothstep(-142, -112, level) * (mesh.eye == 0)
    base = (1 - smoothstep(-185, -125, level)) * (mesh.eye == 0) * (1 - jaw)
    left, right = (mesh.eye == 1).astype(float), (mesh.eye == -1).astype(float)
    weights = np.stack([base, 1 - base - jaw - left - right, jaw, left, right], 1)
    inner = mesh.rim >= 0
    weights[inner] = weights[mesh.rim[inner]]
    return weights


def joint_regressor(mesh):
    """(5, V) rows that give the joints as weighted means of nearby vertices (least norm, sum 1)."""
    theta, level = np.abs(mesh.theta), mesh.level
    sets = (
        (level < -115),
        (level < -55) & (level > -115) & (mesh.inside == 0),
        (theta > 1.1) & (theta < 1.7) & (level < 5) & (level > -32),
        mesh.eye == 1,
        mesh.eye == -1,
    )
    targets = (ROOT, NECK, JAW, surf.EYE, surf.EYE * (-1, 1, 1))
    regressor = np.zeros((5, len(mesh.points)))
    for row, (chosen, target) in enumerate(zip(sets, targets, strict=True)):
        index = np.flatnonzero(chosen)
        matrix = np.vstack([mesh.points[index].T, np.ones(len(index))])  # (4, n)
        start = np.full(len(index), 1 / len(index))
        wanted = np.append(target, 1.0) - matrix @ start
        regressor[row, index] = start + matrix.T @ np.linalg.solve(matrix @ matrix.T, wanted)
    return regressor
