"""Clips and pictures made up in memory: as many as a benchmark needs, and a network can learn them."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from capsule.data.protocol import Clips
from capsule.inputs.crops import NEIGHBOURS, FrameImages

NAMES = ("negative", "positive", "surprise")
COARSE = 14


def generated(clips_of, channels=(3,), size=224):
    """A clip table and its pictures.

    clips_of: how many clips each subject has; a subject's labels go round the three classes. channels: of
    each stream (3: crops, 13: views). size: pixels. Half of a picture is its class's pattern, half its own.
    Returns: Clips, list of FrameImages, uint8 (5·clips, C, size, size), the five frames of a clip alike.
    """
    rows = [{"data": "synthetic", "subject": f"sub{s:02d}", "clip": f"EP{c:02d}", "label": c % len(NAMES),
             "onset_frame": 1, "apex_frame": 10, "offset_frame": 20, "data_sub": f"synthetic_sub{s:02d}"}
            for s, count in enumerate(clips_of) for c in range(count)]
    clips = Clips(pd.DataFrame(rows), "synthetic", NAMES, Path("data"), {"said": []})
    names = [f"{key}/{10 + offset}" for key in clips.keys for offset in NEIGHBOURS]
    frames = len(NEIGHBOURS)        # of a clip: every neighbour is there
    index = np.repeat(np.arange(len(rows)), frames), np.tile(np.equal(NEIGHBOURS, 0), len(rows)), names
    draws, labels, streams = torch.Generator().manual_seed(9), torch.from_numpy(clips.labels), []
    for count in channels:
        patterns = torch.rand(len(NAMES), 1, COARSE, COARSE, generator=draws)    # grey: a new hue keeps it
        own = torch.rand(len(rows), count, COARSE, COARSE, generator=draws)
        coarse = (127.5 * (patterns[labels] + own)).byte()
        pictures = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
        pictures = pictures.repeat_interleave(frames, 0)                         # (clips, …) → (5·clips, …)
        kind = "crop" if count == 3 else "views"
        streams.append(FrameImages(clips, pictures, *index, kind, {"rule": f"generated {kind}",
                                                                   "version": 1}))
    return clips, streams
