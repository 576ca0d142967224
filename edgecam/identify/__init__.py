"""Identification of faces among the household and against strangers."""

from edgecam.identify.identifier import Calibration, Household, Identifier, clopper_pearson
from edgecam.identify.recognizability import Recognizability
from edgecam.identify.strangers import StrangerModel, fit_strangers, load_strangers

__all__ = [
    "Calibration", "Household", "Identifier",
    "Recognizability", "StrangerModel", "clopper_pearson", "fit_strangers", "load_strangers",
]  # fmt: skip
