"""Sheets to look at: a photograph's 3-D face beside its thirteen views; motion from onset to apex."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deca.landmarks import CROP_SIZE
from deca.renderer import YAWS

COLUMNS, ROWS = 7, 2                    # of view tiles: thirteen views and the coloured head
MARGIN, GAP, TITLE, LABEL = 24, 6, 40, 24       # pixels
LARGE = ROWS * (CROP_SIZE + LABEL + GAP) - GAP - LABEL      # side of the photograph: as high as the views
FADED = 0.6             # of its light, the face under its motion
PAGE, INK, PALE = (0, 0, 0), (235, 235, 235), (150, 150, 150)      # the views' background is black too


def contact_sheet(title, photograph, views, textured):
    """One picture to look at: the photograph with the face on it large on the left, the views on the right.

    title: text of the heading. photograph: uint8 (S, S, 3), S = LARGE. views: uint8 (13, 224, 224), at YAWS.
    textured: uint8 (224, 224, 3), the frontal view in the photograph's colours, shown last.
    Returns: uint8 (H, W, 3).
    """
    tile = CROP_SIZE
    width = 2 * MARGIN + LARGE + 2 * GAP + COLUMNS * (tile + GAP) - GAP
    height = 2 * MARGIN + TITLE + LARGE + LABEL
    top, left = MARGIN + TITLE, MARGIN + LARGE + 2 * GAP
    tiles = [(photograph, MARGIN, top, "photograph; on its right half the 3-D face")]
    labels = [*(f"{yaw:+d}°" if yaw else "0°" for yaw in YAWS), "frontal, textured"]
    for place, (image, label) in enumerate(zip([*views, textured], labels, strict=True)):
        row, column = divmod(place, COLUMNS)
        tiles.append((image, left + column * (tile + GAP), top + row * (tile + LABEL + GAP), label))
    return _page(width, height, title, tiles)


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
    pictures = [onset, apex, *painted.clip(0, 255).astype(np.uint8)]
    labels = ["onset", "apex", *(f"motion, {yaw:+d}°" if yaw else "motion, 0°" for yaw in yaws)]
    step = CROP_SIZE + GAP
    tiles = [(picture, MARGIN + place * step, MARGIN + TITLE, label)
             for place, (picture, label) in enumerate(zip(pictures, labels, strict=True))]
    width, height = 2 * MARGIN + len(tiles) * step - GAP, 2 * MARGIN + TITLE + CROP_SIZE + 2 * LABEL
    note = f"red: to the right, green: down, cyan: to the left, violet: up; full colour: {most:.1f} pixels"
    return _page(width, height, title, tiles, note)


def _page(width, height, title, tiles, note=""):
    """uint8 (height, width, 3): title, tiles (a picture, its left and top, what stands below it) and note."""
    page = Image.new("RGB", (width, height), PAGE)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    draw.text((MARGIN, MARGIN + TITLE / 3), title, fill=INK, font=ImageFont.load_default(22), anchor="lm")
    for picture, left, top, label in tiles:
        page.paste(Image.fromarray(picture), (left, top))
        place = left + picture.shape[1] / 2, top + picture.shape[0] + LABEL / 2
        draw.text(place, label, fill=PALE, font=font, anchor="mm")
    draw.text((width / 2, height - MARGIN - LABEL / 2), note, fill=PALE, font=font, anchor="mm")
    return np.array(page)
