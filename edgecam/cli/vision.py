"""Stages for the subcommands that look at pictures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from edgecam.config import Config
    from edgecam.detect import Detector
    from edgecam.embed import Encoder
    from edgecam.identify import Identifier
    from edgecam.liveness import LivenessNets
    from edgecam.pipeline.build import IdentifierFactory
    from edgecam.pipeline.household import Ask


def quiet_libraries() -> None:
    """Keep the maths libraries from starting threads that fight over small cores; call before importing numpy."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class Eyes(NamedTuple):
    """What looking at pictures needs."""

    detector: Detector
    encoder: Encoder
    """As installed."""
    factory: IdentifierFactory
    liveness: LivenessNets


def open_eyes(config: Config) -> Eyes:
    """Load the nets.

    Raises:
        ModelError: they are missing or altered.
    """
    quiet_libraries()
    import cv2

    from edgecam.nn.registry import ModelRegistry, default_folder
    from edgecam.pipeline.build import IdentifierFactory, make_liveness, make_stages

    cv2.setNumThreads(1)
    registry = ModelRegistry(default_folder())
    detector, encoder = make_stages(config, registry)
    factory = IdentifierFactory(encoder, config.embed, config.identify)
    return Eyes(detector, encoder, factory, make_liveness(config, registry))


class Known(NamedTuple):
    """The household, ready to be compared with."""

    encoder: Encoder
    """With the head in service."""
    identifier: Identifier
    names: dict[str, str]
    """Person id to name."""

    def name(self, person_id: Any) -> Any:
        """Return a person's name; None for None."""
        return None if person_id is None else self.names.get(person_id, person_id)


def know(ask: Ask, eyes: Eyes, *, installed: bool = False) -> Known:
    """Load the household and calibrate for it, by the head in service or by the installed one."""
    from edgecam.pipeline.household import in_service, load_household, local_strangers

    encoder = eyes.encoder if installed else in_service(ask, eyes.encoder)
    household, names = load_household(ask, encoder)
    return Known(encoder, eyes.factory.make(household, local_strangers(ask, encoder), encoder), names)
