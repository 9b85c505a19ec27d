"""Apex spotting: the face followed through a clip, against the face detected afresh in every frame.

    python -m benchmarks.spotting_throughput [--data-root data] [--clips 60]

spots the synthetic database's clips both ways, in one process and one run, and prints frames/s, the ratio,
how many apexes are the same, and how far both lie from the true ones.
"""

import argparse
import time
from types import SimpleNamespace

import cv2
import numpy as np

from capsule.config import run_main
from capsule.data import clip_frames, load_clips
from capsule.data.apex import apex_feature, spot_apex
from common.images import read_image
from deca.landmarks import LandmarkDetector


def detected_afresh(paths):
    """The apex's index by the plain way: the face detected in each frame of the clip."""
    detector = LandmarkDetector()
    images = [read_image(path) for path in paths]
    landmarks = np.stack([detector.detect(image).points for image in images])
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]).astype(np.float32)
    return int(apex_feature(grey, landmarks).argmax())


def measure(data_root, n_clips):
    """dict: frames, seconds and errors of both ways, and the share of the same apexes."""
    config = SimpleNamespace(dataset="synthetic", classes=3, protocol="dsnca", subset="all",
                             data_root=data_root, skip_missing=False)
    seconds, errors, same, frames = {"followed": 0.0, "afresh": 0.0}, {"followed": [], "afresh": []}, [], 0
    LandmarkDetector().detect(np.zeros((200, 200, 3), np.uint8))    # reads the model
    for row in load_clips(config).table.head(n_clips).itertuples():
        found = clip_frames(row, config)
        numbers, paths = list(found), list(found.values())
        frames += len(paths)
        index = {}
        for way, spot in (("followed", lambda p: spot_apex(p)[0]), ("afresh", detected_afresh)):
            began = time.perf_counter()
            index[way] = spot(paths)
            seconds[way] += time.perf_counter() - began
            errors[way].append(abs(numbers[index[way]] - row.apex_frame))
        same.append(index["followed"] == index["afresh"])
    return {"frames": frames, "seconds": seconds, "errors": errors, "same": float(np.mean(same)),
            "clips": len(same)}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spotting_throughput", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    parser.add_argument("--clips", type=int, default=60, help="at most so many clips [60]")
    options = parser.parse_args()
    result = measure(options.data_root, options.clips)
    print(f"{result['clips']} clips, {result['frames']} frames")
    for way, spent in result["seconds"].items():
        error = np.array(result["errors"][way])
        print(f"{way:>9}: {result['frames'] / spent:6.1f} frames/s; mean error {error.mean():.2f} frames, "
              f"{100 * (error <= 2).mean():.1f} % within 2")
    ratio = result["seconds"]["afresh"] / result["seconds"]["followed"]
    print(f"ratio {ratio:.2f}; the same apex in {100 * result['same']:.1f} % of the clips")


if __name__ == "__main__":
    run_main(main)
