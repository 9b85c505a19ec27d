"""Annotation sheets and folders of frames → one checked clip table (SPEC section 1)."""

from capsule.data.action_units import with_action_units
from capsule.data.databases import database_name
from capsule.data.protocol import Clips, load_clips

__all__ = ["Clips", "database_name", "load_clips", "with_action_units"]
