"""Small values by name, and the features of strangers that refine the thresholds."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np

from edgecam.store.base import Base
from edgecam.store.records import pack_floats, pack_json
from edgecam.types import Floats

_LOGGER = logging.getLogger(__name__)


class Settings(Base):
    """Sealed with the master key; what names a person goes when the person is forgotten."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the JSON value stored under this key; the default also if it is damaged (noted in the log)."""
        rows = self._db.rows("SELECT value FROM settings WHERE key = ?", (key,))
        if not rows:
            return default
        data = self._readable(None, f"settings:{key}:value", rows[0][0])
        if data is None:
            _LOGGER.warning("setting %s is damaged: the default is used; `edgecam doctor` says what helps", key)
            return default
        return json.loads(data)

    def put(self, key: str, value: Any) -> None:
        """Store a JSON value; None removes the key.

        The key is kept in the clear: it must not name a person.
        """
        if value is None:
            self._db.run("DELETE FROM settings WHERE key = ?", (key,))
            return
        sealed = self._master.seal(f"settings:{key}:value", pack_json(value))
        self._db.run("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, sealed))

    def add_stranger_features(self, model: str, features: Floats) -> None:
        """Keep features of unknown visitors for 30 days, if the owner opted in (`store.local_strangers`).

        Args:
            model: version of the encoder.
            features: (N, K) float32.
        """
        if not self._config.local_strangers:
            return
        now = self._clock.wall_s()
        with self.transaction():
            for row in features:
                row_id = self._new_id()
                sealed = self._master.seal(f"strangers:{row_id}:features", pack_floats(row))
                self._db.run("INSERT INTO strangers VALUES (?, ?, ?, ?)", (row_id, model, now, sealed))

    def stranger_features(self, model: str) -> Floats:
        """Return (N, K) float32 features of this model; (0, 0) without any."""
        rows = self._db.rows("SELECT id, features FROM strangers WHERE model = ? ORDER BY id", (model,))
        opened = [self._readable(None, f"strangers:{row_id}:features", blob) for row_id, blob in rows]
        kept = [data for data in opened if data is not None]
        if not kept:
            return np.zeros((0, 0), np.float32)
        return np.frombuffer(b"".join(kept), "<f4").astype(np.float32).reshape(len(kept), -1)
