"""From configuration and gallery to working stages."""

from __future__ import annotations

from typing import Optional, Tuple

from edgecam import detect, liveness
from edgecam import embed as encoders
from edgecam.config import Config, EmbedConfig, IdentifyConfig
from edgecam.detect import Detector
from edgecam.embed import Encoder, FaceNet
from edgecam.errors import ConfigError
from edgecam.identify import Household, Identifier, Recognizability, StrangerModel, load_strangers
from edgecam.liveness import LivenessNets
from edgecam.nn.registry import ModelRegistry, models_dir
from edgecam.types import Floats

_DRAWS = 8000
"""Virtual strangers; a third of the default target still rests on eight of them."""
_CHUNK = 500
"""Drawn at a time: 8,000 rows of trunk features would be 60 MB."""


def make_stages(config: Config, registry: ModelRegistry) -> Tuple[Detector, Encoder]:
    """Load detector and encoder.

    Raises:
        ModelError: a net is missing, altered or cannot be run.
    """
    threads, providers = config.run.threads, config.run.providers
    return (
        detect.make(config.detect, registry, threads, providers),
        encoders.make(config.embed, registry, threads, providers),
    )


def make_liveness(config: Config, registry: ModelRegistry) -> LivenessNets:
    """Load what tells a person from a picture; anti-spoof nets that are absent are left out, and said to be.

    Raises:
        ModelError: a net is altered or cannot be run.
    """
    return liveness.make(config.liveness, registry, config.run.threads, config.run.providers)


def strangers_of(config: EmbedConfig) -> StrangerModel:
    """Return the statistics of strangers that fit the configured encoder.

    Raises:
        ConfigError: the owner's encoder comes without them.
        ModelError: the file is damaged.
    """
    if config.kind == "insightface":
        if config.insightface_strangers is None:
            raise ConfigError(
                "embed.insightface_strangers is missing: thresholds rest on statistics of strangers; "
                "make them with `python -m edgecam.evaluation.strangers --data FOLDER`"
            )
        return load_strangers(config.insightface_strangers)
    joint = load_strangers(models_dir() / "strangers.npz")
    if config.kind == "facenet":
        return joint.part(0, FaceNet.width)
    if config.kind == "sface":
        return joint.part(FaceNet.width, len(joint.mean))
    return joint


class IdentifierFactory:
    """Makes identifiers for changing households.

    Args:
        encoder: its head turns drawn features into vectors.
        embed: which statistics fit the encoder.
        identify: target and margin.
    """

    def __init__(self, encoder: Encoder, embed: EmbedConfig, identify: IdentifyConfig) -> None:
        self._encoder, self._config = encoder, identify
        self._strangers = strangers_of(embed)
        self.recognizability = Recognizability(encoder.installed.project(self._strangers.ruin())[0])

    def make(
        self, household: Household, local: Optional[Floats] = None, encoder: Optional[Encoder] = None
    ) -> Identifier:
        """Return the identifier of this household; see `Identifier`.

        Args:
            household: in the vectors of `encoder`.
            local: strangers seen here, likewise.
            encoder: the one in service, if its head is tuned.
        """
        head = encoder or self._encoder
        draws = (head.project(self._strangers.draw(_CHUNK, seed)) for seed in range(_DRAWS // _CHUNK))
        return Identifier(household, draws, self._config, self.recognizability, local)
