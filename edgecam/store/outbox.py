"""Messages that wait on the disk for the broker's acknowledgement."""

from __future__ import annotations

import logging
from typing import Iterable, List, Optional, Sequence, Tuple

from edgecam.store.base import Base
from edgecam.store.records import OutboxRow

_LOGGER = logging.getLogger(__name__)


class Outbox(Base):
    """In order, bounded, sealed (payloads carry names)."""

    def outbox_put(self, messages: Sequence[Tuple[str, bytes, bool]]) -> None:
        """Append (topic, payload, critical) messages, all or none."""
        with self.transaction():
            self._append(messages, None)

    def outbox_peek(self, count: int = 100, after: int = 0) -> List[OutboxRow]:
        """Return the oldest messages with a number above `after`; they stay until deleted, damaged ones are dropped."""
        rows = self._db.rows(
            "SELECT seq, id, topic, payload, created_wall_s, critical FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?",
            (after, count),
        )
        opened = [(row, self._readable(None, f"outbox:{row[1]}:payload", row[3])) for row in rows]
        if damaged := [row[0] for row, payload in opened if payload is None]:
            _LOGGER.warning(
                "%d waiting alerts are damaged and dropped: `edgecam visits list` has the visits", len(damaged)
            )
            with self.transaction():
                self.outbox_delete(damaged)
                self._count_dropped(len(damaged))
        return [
            OutboxRow(seq, topic, payload, created, bool(critical))
            for (seq, _, topic, _, created, critical), payload in opened
            if payload is not None
        ]

    def outbox_delete(self, seqs: Iterable[int]) -> None:
        """Delete acknowledged messages; unknown numbers are passed over."""
        with self.transaction():
            self._db.run_many("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs])

    def outbox_size(self) -> int:
        """Return how many messages wait."""
        return int(self._db.rows("SELECT count(*) FROM outbox")[0][0])

    def outbox_dropped(self) -> int:
        """Return how many messages were ever dropped, because the broker was away too long or by damage."""
        return int(self._db.rows("SELECT number FROM meta WHERE key = 'outbox_dropped'")[0][0])

    def _append(self, messages: Sequence[Tuple[str, bytes, bool]], decision: Optional[str]) -> None:
        now = self._clock.wall_s()
        for topic, payload, critical in messages:
            row_id = self._new_id()
            sealed = self._master.seal(f"outbox:{row_id}:payload", payload)
            self._db.run(
                "INSERT INTO outbox (id, decision, topic, created_wall_s, critical, payload) VALUES (?, ?, ?, ?, ?, ?)",
                (row_id, decision, topic, now, critical, sealed),
            )
        excess = self.outbox_size() - self._outbox_max
        if excess > 0:
            dropped = self._db.run(
                "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox ORDER BY critical, seq LIMIT ?)", (excess,)
            )
            self._count_dropped(dropped)

    def _count_dropped(self, count: int) -> None:
        self._db.run("UPDATE meta SET number = number + ? WHERE key = 'outbox_dropped'", (count,))
