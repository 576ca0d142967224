"""Face encoders. One file an encoder; `make` builds the configured one."""

from __future__ import annotations

from typing import Sequence

from typing_extensions import assert_never

from edgecam.config import EmbedConfig
from edgecam.embed.base import Encoder, as_installed, embed
from edgecam.embed.facenet import FaceNet
from edgecam.embed.fused import Fused
from edgecam.embed.insightface import InsightFace
from edgecam.embed.sface import SFace
from edgecam.errors import ConfigError
from edgecam.nn.registry import ModelRegistry
from edgecam.nn.session import LateSession, Provider, Session, engine_folder

__all__ = ["FACENET_SHARE", "Encoder", "FaceNet", "SFace", "as_installed", "embed", "make"]

FACENET_SHARE = 0.2
"""Weight of FaceNet's cosine in the fused score; chosen on people who take no part in the reported test."""


def make(
    config: EmbedConfig,
    registry: ModelRegistry,
    threads: int = 1,
    providers: Sequence[Provider] = ("cpu",),
    *,
    late: bool = False,
) -> Encoder:
    """Load the configured encoder.

    Args:
        config: which.
        registry: where the nets are.
        threads: within one operation, on the CPU.
        providers: in order of preference.
        late: load trunks with the first face; who only projects features is spared 160 MB.

    Raises:
        ModelError: a net is missing, altered or cannot be run.
        ConfigError: `insightface` without a model file.
    """

    def load(name: str) -> Session:
        engines = engine_folder(registry.folder, registry.version(name))
        path = registry.path(name)
        if late and name != "facenet_head":
            return LateSession(path, lambda: Session.load(path, providers, threads, engines))
        return Session.load(path, providers, threads, engines)

    def facenet() -> FaceNet:
        head = load("facenet_head")
        # On a CPU the 8-bit trunk is three times as fast; GPUs take the full one and round as they like.
        trunk = "facenet_trunk_int8" if head.provider == "cpu" else "facenet_trunk"
        return FaceNet(load(trunk), head, registry.version("facenet_head"))

    def sface() -> SFace:
        return SFace(load("sface"), registry.version("sface"))

    if config.kind == "facenet":
        return facenet()
    if config.kind == "sface":
        return sface()
    if config.kind == "fused":
        return Fused(facenet(), sface(), FaceNet.width, FACENET_SHARE)
    if config.kind == "insightface":
        if config.insightface_model is None:
            raise ConfigError('embed.kind = "insightface" needs embed.insightface_model, an ArcFace-style ONNX file')
        return InsightFace(config.insightface_model, providers)
    assert_never(config.kind)
