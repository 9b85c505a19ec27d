"""A tiny generated database in the owners' layout, with a sheet like theirs: no faces, no real person.

    make_database(root, data="casme", subjects=2, clips_per_subject=3)

Each picture is a smooth pattern whose form tells the class and whose strength grows towards the apex, so that
even a small network can learn it; a subject has a tone of its own. No face is found in it.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from common.images import write_image

FIRST_FRAME = 11
EMOTIONS = {
    "casme": ("disgust", "happiness", "surprise", "repression", "others"),
    "synthetic": ("disgust", "happiness", "surprise"),
    "smic": ("negative", "positive", "surprise"),
    "samm": ("Anger", "Happiness", "Surprise"),
}
SMIC_WORD = {"negative": "ne", "positive": "po", "surprise": "sur"}


def make_database(root, data="casme", subjects=2, clips_per_subject=3, frames=7, size=64, seed=0, classes=3):
    """Write a database under `root` and return `root` (a Path).

    data: casme, smic, samm, synthetic, or composite (the three real layouts). frames: pictures of each clip,
    the apex in the middle. size: side of the square pictures, pixels. classes: 3, or 5 for casme; the classes
    take turns over a subject's clips. SMIC gets its apexes in smic_apex_frames.csv beside the sheet.
    """
    root = Path(root)
    if data == "composite":
        for part in ("casme", "smic", "samm"):
            make_database(root, part, subjects, clips_per_subject, frames, size, seed)
        return root
    rows = []
    for subject in range(1, subjects + 1):
        for i in range(clips_per_subject):
            rows.append(_clip_row(data, subject, i, frames, EMOTIONS[data][i % classes]))
    for row in rows:
        _write_clip(root, data, row, size, seed)
    _write_sheet(root, data, pd.DataFrame(rows))
    return root


def clip_picture(subject, emotion, strength, size=64, seed=0):
    """A picture (size, size, 3) uint8: the pattern of `emotion` at `strength` in 0 ... 1."""
    y, x = np.mgrid[0:size, 0:size] / size
    kind = {"disgust": 0, "negative": 0, "anger": 0, "happiness": 1, "positive": 1, "surprise": 2,
            "repression": 3, "others": 4}[emotion.lower()]
    pattern = np.sin(2 * np.pi * (2 * x, 2 * y, x + y, 4 * x, 4 * y)[kind])
    generator = np.random.default_rng((seed, subject))
    tone = generator.uniform(90, 160, 3)
    noise = generator.normal(0, 3, (size, size, 1))
    picture = tone + 60 * strength * pattern[..., None] + noise
    return np.clip(picture, 0, 255).astype(np.uint8)


def _clip_row(data, subject, i, frames, emotion):
    """One row of the sheet, our column names."""
    word = SMIC_WORD.get(emotion)
    clip = {"smic": f"s{subject}_{word}_{i + 1:02d}",
            "samm": f"{subject:03d}_{i // 3 + 1}_{i % 3 + 1}"}.get(data, f"EP{i + 1:02d}_01f")
    return {"subject": subject, "clip": clip, "onset": FIRST_FRAME, "apex": FIRST_FRAME + frames // 2,
            "offset": FIRST_FRAME + frames - 1, "emotion": emotion}


def _write_clip(root, data, row, size, seed):
    """The frames onset ... offset of one clip, in the database's own folders and names."""
    subject, clip = row["subject"], row["clip"]
    folder, name = {
        "casme": (f"casme2/CASME2_RAW_selected/sub{subject:02d}", "img{}.jpg"),
        "synthetic": (f"synthetic/CASME2_RAW_selected/sub{subject:02d}", "img{}.jpg"),
        "smic": (f"smic/SMIC_HS_E/s{subject:02d}", "image{:06d}.png"),
        "samm": (f"samm/SAMM/{subject:03d}", f"{subject:03d}_{{:05d}}.jpg"),
    }[data]
    reach = max(row["apex"] - row["onset"], 1)
    for frame in range(row["onset"], row["offset"] + 1):
        strength = 1 - abs(frame - row["apex"]) / (reach + 1)
        picture = clip_picture(subject, row["emotion"], strength, size, seed)
        write_image(root / folder / clip / name.format(frame), picture)


def _write_sheet(root, data, rows):
    """The sheet with the owners' column names and quirks."""
    frame = {"casme": "{}Frame", "synthetic": "{}Frame", "smic": "{}F", "samm": "{} Frame"}[data]
    width = {"smic": 1, "samm": 3}.get(data, 2)
    sheet = pd.DataFrame({"Subject": [f"{n:0{width}d}" for n in rows["subject"]], "Filename": rows["clip"]})
    for moment in ("onset", "apex", "offset"):
        if data != "smic" or moment != "apex":
            sheet[frame.format(moment.capitalize())] = rows[moment]
    if data != "smic":
        sheet["Action Units"] = rows["emotion"].map({"happiness": "6+12", "surprise": "1+2"}).fillna("4+L10")
    sheet["Emotion" if data == "smic" else "Estimated Emotion"] = rows["emotion"]
    if data == "smic":
        with pd.ExcelWriter(root / "SMIC-HS-E_annotation.xlsx") as book:
            sheet.to_excel(book, sheet_name="HS", index=False)
            sheet.head(1).to_excel(book, sheet_name="VIS", index=False)
        apexes = rows.rename(columns={m: f"{m}_frame" for m in ("onset", "apex", "offset")})
        apexes.drop(columns=["emotion"]).to_csv(root / "smic_apex_frames.csv", index=False)
    elif data == "samm":    # thirteen rows of notes stand above the header
        path = root / "SAMM_Micro_FACS_Codes_v2.xlsx"
        sheet.to_excel(path, index=False, startrow=13, sheet_name="MICRO_ONLY")
    else:
        folder = root / "synthetic" if data == "synthetic" else root
        sheet.to_excel(folder / "CASME2-coding-20140508.xlsx", index=False)
