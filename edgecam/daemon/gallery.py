"""Whom the cameras know: the identifier, made anew whenever people change, and vectors made anew for a new encoder."""

from __future__ import annotations

import logging
import threading
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from edgecam.embed import embed
from edgecam.errors import StoreError
from edgecam.identify import Household
from edgecam.pipeline.build import IdentifierFactory
from edgecam.pipeline.camera import Stages
from edgecam.store import NotStoredError, Store
from edgecam.types import FaceCrop, Floats

_LOGGER = logging.getLogger(__name__)

_BATCH = 16


class LiveGallery:
    """Keeps `stages.identifier` equal to what the store says; cameras see each new one with their next face.

    Args:
        store: the people.
        stages: whose identifier is replaced.
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

    def refresh(self, progress: Callable[[str], None] = _LOGGER.debug) -> bool:
        """Take over what has changed; return whether anything had.

        Args:
            progress: told about long work, in one line.

        Raises:
            StoreError: the gallery cannot be read; the cameras go on with what they know.
        """
        with self._lock:
            generation = self._store.generation()
            if generation == self._generation:
                return False
            if self._embed_missing(progress):
                generation = self._store.generation()
            self._stages.identifier = self._factory.make(self._household(), self._local())
            self._generation = generation
            _LOGGER.info("people: generation %d is in use", generation)
            return True

    def _household(self) -> Household:
        gallery = self._store.gallery(self._stages.encoder.version)
        infrared = {
            face.id: face.infrared for person_id in set(gallery.person_ids) for face in self._store.faces(person_id)
        }
        rows = zip(gallery.person_ids, gallery.vectors, gallery.face_ids)
        return Household.of([(person, vector, infrared.get(face, False)) for person, vector, face in rows])

    def _local(self) -> Floats:
        """Return the vectors of strangers seen at this door, if the owner keeps them."""
        encoder = self._stages.encoder
        features = self._store.stranger_features(encoder.version)
        return encoder.project(features) if len(features) else np.zeros((0, encoder.dim), np.float32)

    def _embed_missing(self, progress: Callable[[str], None]) -> int:
        """Make the vectors that this encoder has not made yet, from the stored crops; return how many."""
        encoder = self._stages.encoder
        missing = self._store.missing(encoder.version)
        done = 0
        for start in range(0, len(missing), _BATCH):
            crops = self._crops(missing[start : start + _BATCH])
            embeddings = embed(encoder, [crop for _, crop in crops])
            rows: Dict[str, Tuple[Floats, Floats]] = {
                face_id: (vector, features)
                for (face_id, _), vector, features in zip(crops, embeddings.vectors, embeddings.features)
            }
            self._store.put_vectors(encoder.version, rows)
            done += len(rows)
            progress(f"embedding enrolled faces again: {done} of {len(missing)}")
        if done:
            _LOGGER.info("%d enrolled faces embedded for %s", done, encoder.version)
        return done

    def _crops(self, face_ids: Sequence[str]) -> List[Tuple[str, FaceCrop]]:
        found = []
        for face_id in face_ids:
            try:
                found.append((face_id, self._store.crop(face_id)))
            except NotStoredError:
                continue  # removed meanwhile
            except StoreError as err:
                _LOGGER.error("face %s cannot be embedded again: %s", face_id, err)  # noqa: TRY400 - one line
        return found
