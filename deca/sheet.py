"""Sheets to look at: a photograph's 3-D face beside its thirteen views; motion from onset to apex."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deca.landmarks import CROP_SIZE
from deca.renderer import YAWS

COLUMNS, ROWS = 7, 2                    # of view tiles: thirteen views and the coloured head
MARGIN, GAP, TITLE, LABEL = 24, 6, 40, 24       # pixels
FADED = 0.6             # of its light, the face under its motion
PAGE, INK, PALE = (0, 0, 0), (235, 235, 235), (150, 150, 150)      # the views' background is black too


def contact_sheet(title, photograph, views, textured):
    """One picture to look at: the photograph with the face on it large on the left, the views on the right.

    title: text of the heading. photograph: uint8 (S, S, 3), any size S. views: uint8 (13, 224, 224), yaw -30
    ... 30.
    textured: uint8 (224, 224, 3), the frontal view in the photograph's colours, shown last.
    Returns: uint8 (H, W, 3).
    """
    tile = CROP_SIZE
    large = ROWS * (tile + LABEL) + (ROWS - 1) * GAP - LABEL
    width = 2 * MARGIN + large + 2 * GAP + COLUMNS * (tile + GAP) - GAP
    height = 2 * MARGIN + TITLE + large + LABEL
    page = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN + TITLE / 3), title, fill=INK, font=ImageFont.load_default(22), anchor="lm")
    top = MARGIN + TITLE
    page.paste(Image.fromarray(photograph).resize((large, large), Image.Resampling.BICUBIC), (MARGIN, top))
    _label(draw, MARGIN + large / 2, top + large, "photograph; on its right half the 3-D face")
    labels = [f"{yaw:+d}°" if yaw else "0°" for yaw in YAWS]
    shown = zip([*views, textured], [*labels, "frontal, textured"], strict=True)
    for place, (image, label) in enumerate(shown):
        row, column = divmod(place, COLUMNS)
        x = MARGIN + large + 2 * GAP + column * (tile + GAP)
        y = top + row * (tile + LABEL + GAP)
        page.paste(Image.fromarray(image), (x, y))
        _label(draw, x + tile / 2, y + tile, label)
    return np.array(page)


def motion_sheet(title, onset, apex, motion, faces, yaws):
    """Onset, apex, and the motion on the turned face: hue is its direction, colour its size.

    title: text of the heading. onset, apex: uint8 (224, 224, 3). motion: float (n, 3, 224, 224), u, v in
    pixels and strain, at `yaws` (n degrees). faces: uint8 (n, 224, 224, 3), the onset's face at these yaws.
    Returns: uint8 (H, W, 3).
    """
    u, v = motion[:, 0], motion[:, 1]
    length = np.hypot(u, v)
    most = max(float(np.percentile(length[length > 0], 99)) if length.any() else 0.0, 0.5)
    degrees = np.degrees(np.arctan2(v, u)) % 360
    share = np.minimum(length / most, 1)
    hues = np.stack([degrees / 2, np.full_like(u, 255), 255 * share], 3).astype(np.uint8)      # (n, H, W, 3)
    colours = np.stack([cv2.cvtColor(hue, cv2.COLOR_HSV2RGB) for hue in hues])
    painted = colours + (1 - share[..., None]) * FADED * faces.mean(3, keepdims=True)
    tiles = [onset, apex, *painted.clip(0, 255).astype(np.uint8)]
    labels = ["onset", "apex", *(f"motion, {yaw:+d}°" if yaw else "motion, 0°" for yaw in yaws)]
    size, step = CROP_SIZE, CROP_SIZE + GAP
    width, height = 2 * MARGIN + len(tiles) * step - GAP, 2 * MARGIN + TITLE + size + 2 * LABEL
    page = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN + TITLE / 3), title, fill=INK, font=ImageFont.load_default(22), anchor="lm")
    for place, (image, label) in enumerate(zip(tiles, labels, strict=True)):
        x, y = MARGIN + place * step, MARGIN + TITLE
        page.paste(Image.fromarray(image), (x, y))
        _label(draw, x + size / 2, y + size, label)
    _label(draw, width / 2, MARGIN + TITLE + size + LABEL,
           f"red: to the right, green: down, cyan: to the left, violet: up; full colour: {most:.1f} pixels")
    return np.array(page)


def _label(draw, x, y, text):
    draw.text((x, y + LABEL / 2), text, fill=PALE, font=ImageFont.load_default(15), anchor="mm")
