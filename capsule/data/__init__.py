"""Annotation sheets → clips → face crops, and what training draws from them (SPEC sections 1, 2, 7)."""

from capsule.data.frames import FrameImages, clip_frames, clip_square, face_crops
from capsule.data.protocol import Clips, load_clips

__all__ = ["Clips", "FrameImages", "clip_frames", "clip_square", "face_crops", "load_clips"]
