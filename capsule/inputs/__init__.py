"""What a network sees of a clip: crops, views or motion; which of them an epoch trains on, and how they are
augmented (SPEC sections 2, 5, 7, 10)."""

from capsule.inputs.crops import FrameImages, face_crops
from capsule.inputs.views import single_pictures, thirteen_views

__all__ = ["FrameImages", "face_crops", "single_pictures", "thirteen_views"]
