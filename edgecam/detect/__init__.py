"""Face detection: pictures in, `Faces` out. One file a detector; `make` builds the configured one."""

from __future__ import annotations

from typing import Sequence

from typing_extensions import assert_never

from edgecam.config import DetectConfig
from edgecam.detect.base import Detector
from edgecam.detect.mtcnn import Mtcnn
from edgecam.detect.yunet import YuNet
from edgecam.nn.registry import ModelRegistry
from edgecam.nn.session import Provider, Session, engine_folder

__all__ = ["Detector", "make"]


def make(
    config: DetectConfig, registry: ModelRegistry, threads: int = 1, providers: Sequence[Provider] = ("cpu",)
) -> Detector:
    """Load the configured detector.

    Args:
        config: which one, its smallest face and its thresholds.
        registry: where its nets are.
        threads: within one operation, on the CPU.
        providers: in order of preference.

    Raises:
        ModelError: a net is missing, altered or cannot be run.
    """

    def load(name: str) -> Session:
        engines = engine_folder(registry.folder, registry.version(name))
        return Session.load(registry.path(name), providers, threads, engines)

    if config.kind == "mtcnn":
        return Mtcnn(config, load("mtcnn_pnet"), load("mtcnn_rnet"), load("mtcnn_onet"))
    if config.kind == "yunet":
        return YuNet(config, load("yunet"))
    assert_never(config.kind)
