"""What a network sees of a clip: crops, views, and what training draws from them (SPEC sections 2, 5, 7)."""

from capsule.inputs.crops import FrameImages, clip_frames, clip_square, face_crops

__all__ = ["FrameImages", "clip_frames", "clip_square", "face_crops"]
