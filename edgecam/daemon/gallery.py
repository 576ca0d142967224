"""Whom the cameras know, and by which head: made anew whenever people or the head in service change."""

from __future__ import annotations

import logging
import threading
from typing import Any, Dict, Iterator

from edgecam.pipeline.build import IdentifierFactory
from edgecam.pipeline.camera import Stages
from edgecam.pipeline.household import in_service, load_household, local_strangers, reembed
from edgecam.pipeline.operations import execute
from edgecam.store import Store

_LOGGER = logging.getLogger(__name__)


class LiveGallery:
    """Keeps encoder and identifier equal to what the store says; cameras see each new pair with their next face.

    Args:
        store: the people, and the heads.
        stages: whose encoder and identifier are replaced, as one.
        factory: makes identifiers.
    """

    def __init__(self, store: Store, stages: Stages, factory: IdentifierFactory) -> None:
        self._store, self._stages, self._factory = store, stages, factory
        self._lock = threading.Lock()
        self._generation = -1

    @property
    def generation(self) -> int:
        """The state of the store that the cameras know."""
        return self._generation

    def set_factory(self, factory: IdentifierFactory) -> None:
        """Identify by other settings from now on."""
        self._factory, self._generation = factory, -1
        self.refresh()

    def refresh(self) -> bool:
        """Take over what has changed, embedding faces that lack vectors of this encoder; return whether anything had.

        Raises:
            StoreError: the gallery cannot be read; the cameras go on with what they know.
        """
        with self._lock:
            if self._store.generation() == self._generation:
                return False
            encoder = in_service(self._ask, self._stages.encoder)
            missing = len(self._store.missing(encoder.version))
            if missing:
                _LOGGER.info("%d enrolled faces are embedded for %s", missing, encoder.version)
            reembed(self._ask, encoder)
            generation = self._store.generation()  # what changes while the gallery is read has a higher number
            household, names = load_household(self._ask, encoder)
            identifier = self._factory.make(household, local_strangers(self._ask, encoder), encoder)
            self._stages.now = (encoder, identifier)
            self._generation = generation
            _LOGGER.info("people: %d known, generation %d, model %s", len(names), generation, encoder.version)
            return True

    def _ask(self, op: str, **params: Any) -> Iterator[Dict[str, Any]]:
        return execute(self._store, {"op": op, **params})
