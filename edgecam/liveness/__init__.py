"""Is it a living face? Passive nets and blinks, per track; `make` loads what is installed. It only denies."""

from __future__ import annotations

import logging
from typing import Final, Optional, Sequence

from typing_extensions import assert_never

from edgecam.config import LivenessConfig
from edgecam.errors import ModelError
from edgecam.liveness.eyenet import EyeNet
from edgecam.liveness.eyes import EyeEstimator
from edgecam.liveness.follow import LivenessNets, LivenessWatch
from edgecam.liveness.passive import SCALES, Look, Passive
from edgecam.nn.registry import ModelRegistry, models_dir
from edgecam.nn.session import Provider, Session, engine_folder

__all__ = ["EYE_NET", "PASSIVE_NETS", "EyeEstimator", "LivenessNets", "LivenessWatch", "Look", "make", "missing"]

_LOGGER = logging.getLogger(__name__)

PASSIVE_NETS: Final = tuple(SCALES)
EYE_NET: Final = "eye_state.onnx"
"""Ours, and small: it comes with the package and is not pulled."""


def make(
    config: LivenessConfig, registry: ModelRegistry, threads: int = 1, providers: Sequence[Provider] = ("cpu",)
) -> LivenessNets:
    """Load what the configuration asks for and the models folder has.

    Raises:
        ModelError: a net is altered or cannot be run, or `eyes = "dlib"` without its file.
    """
    eyes = _eyes(config, registry)
    if not config.passive:
        return LivenessNets(None, eyes, "liveness.passive is off")
    lacking = missing(registry)
    if lacking:
        _LOGGER.warning("%s: nobody can be told from a picture of them; run: edgecam models pull", lacking)
        return LivenessNets(None, eyes, lacking)
    nets = []
    for name, scale in SCALES.items():
        engines = engine_folder(registry.folder, registry.version(name))
        nets.append((Session.load(registry.path(name), providers, threads, engines), scale))
    return LivenessNets(Passive(nets), eyes)


def missing(registry: ModelRegistry) -> str:
    """Return, in words, which passive nets are not installed; empty if all are."""
    absent = [name for name in PASSIVE_NETS if not registry.available(name)]
    return f"anti-spoof nets are not installed ({', '.join(absent)})" if absent else ""


def _eyes(config: LivenessConfig, registry: ModelRegistry) -> Optional[EyeEstimator]:
    if config.eyes == "none":
        return None
    if config.eyes == "net":
        path = models_dir() / EYE_NET
        if not path.is_file():
            raise ModelError(f"{path} is missing: reinstall edgecam")
        # A hundred times smaller than the detector: always on the CPU, one thread.
        return EyeNet(Session.load(path))
    if config.eyes == "dlib":
        from edgecam.liveness.ear import EyeAspect

        return EyeAspect(registry.path("landmarks68"))
    assert_never(config.eyes)
