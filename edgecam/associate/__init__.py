"""Faces and devices: who is who, from who was there (AutoTune)."""

from edgecam.associate.base import Association, Options, Question, Round, Scene
from edgecam.associate.run import associate

__all__ = ["Association", "Options", "Question", "Round", "Scene", "associate"]
