"""The contact sheet: a photograph's crop with its landmarks beside the thirteen views."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deca.landmarks import CROP_SIZE
from deca.renderer import YAWS

COLUMNS, ROWS = 7, 2                    # of view tiles: thirteen views and the coloured head
MARGIN, GAP, TITLE, LABEL = 24, 6, 40, 24       # pixels
PAGE, INK, PALE = (0, 0, 0), (235, 235, 235), (150, 150, 150)      # the views' background is black too
POINT = (70, 255, 140)
CURVES = [range(0, 17), range(17, 22), range(22, 27), range(27, 31), range(31, 36),
          [*range(36, 42), 36], [*range(42, 48), 42], [*range(48, 60), 48], [*range(60, 68), 60]]
SMOOTH = 8                              # sub-pixel bits for the drawing: cv2 counts in 1 / 2**SMOOTH pixels


def contact_sheet(title, crop, points, views, fitted):
    """One picture to look at: the crop with its landmarks large on the left, the views on the right.

    title: text of the heading. crop: uint8 (S, S, 3), any size S. points: (68, 2), pixels of a 224-pixel
    crop. views: uint8 (13, 224, 224), yaw -30 ... 30. fitted: uint8 (224, 224, 3), the head as it stands in
    the photograph, shown last. Returns: uint8 (H, W, 3).
    """
    tile = CROP_SIZE
    large = ROWS * (tile + LABEL) + (ROWS - 1) * GAP - LABEL
    width = 2 * MARGIN + large + 2 * GAP + COLUMNS * (tile + GAP) - GAP
    height = 2 * MARGIN + TITLE + large + LABEL
    page = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN + TITLE / 3), title, fill=INK, font=ImageFont.load_default(22), anchor="lm")
    top = MARGIN + TITLE
    page.paste(Image.fromarray(with_landmarks(crop, points, large)), (MARGIN, top))
    _label(draw, MARGIN + large / 2, top + large, "photograph, 68 landmarks")
    tiles = [np.repeat(view[:, :, None], 3, axis=2) for view in views]        # (224, 224) → (224, 224, 3)
    labels = [f"{yaw:+d}°" if yaw else "0°" for yaw in YAWS]
    shown = zip([*tiles, fitted], [*labels, "on the photograph"], strict=True)
    for place, (image, label) in enumerate(shown):
        row, column = divmod(place, COLUMNS)
        x = MARGIN + large + 2 * GAP + column * (tile + GAP)
        y = top + row * (tile + LABEL + GAP)
        page.paste(Image.fromarray(image), (x, y))
        _label(draw, x + tile / 2, y + tile, label)
    return np.array(page)


def with_landmarks(crop, points, size):
    """`crop` scaled to `size` pixels with its landmarks (68, 2), pixels of a 224-pixel crop, drawn on it."""
    interpolation = cv2.INTER_AREA if len(crop) > size else cv2.INTER_CUBIC
    picture = cv2.resize(crop, (size, size), interpolation=interpolation)
    scale = size / CROP_SIZE
    place = (np.asarray(points) + 0.5) * scale - 0.5
    fixed = np.round(place * 2**SMOOTH).astype(np.int32)                      # (68, 2)
    lines = picture.copy()
    for curve in CURVES:
        cv2.polylines(lines, [fixed[list(curve)][:, None]], False, POINT, 1, cv2.LINE_AA, SMOOTH)
    picture = cv2.addWeighted(picture, 0.5, lines, 0.5, 0)
    for x, y in fixed:
        cv2.circle(picture, (int(x), int(y)), round(2.2 * 2**SMOOTH), POINT, cv2.FILLED, cv2.LINE_AA, SMOOTH)
    return picture


def _label(draw, x, y, text):
    draw.text((x, y + LABEL / 2), text, fill=PALE, font=ImageFont.load_default(15), anchor="mm")
