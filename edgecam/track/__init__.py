"""Tracking: `Faces` of successive frames in, `Tracks` out."""

from __future__ import annotations

from edgecam.track.appearance import appearance
from edgecam.track.clothes import clothes, mean_clothes
from edgecam.track.still import StillPlace
from edgecam.track.tracker import Tracker

__all__ = ["StillPlace", "Tracker", "appearance", "clothes", "mean_clothes"]
