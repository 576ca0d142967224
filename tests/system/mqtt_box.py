"""A box that does nothing but alert: an outbox on SQLite and the real client; runs as a process of its own, too."""

from __future__ import annotations

import argparse
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from edgecam.alerts.client import AlertClient, Command
from edgecam.alerts.message import Topics, event_payload, moment
from edgecam.clock import SystemClock
from edgecam.config import AlertsConfig
from edgecam.types import Decision, Liveness, Phase, Verdict

CAMERA = "front"
BOX = "testbox"
TOPICS = Topics(BOX)


@dataclass(frozen=True)
class Row:
    seq: int
    topic: str
    payload: bytes


class SqliteOutbox:
    """What the store is to the client, in twenty lines."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(str(path), check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS outbox(seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, payload BLOB)"
        )

    def put(self, topic: str, payload: bytes) -> None:
        with self._lock:
            self._db.execute("INSERT INTO outbox(topic, payload) VALUES(?, ?)", (topic, payload))

    def peek(self, n: int) -> Sequence[Row]:
        with self._lock:
            rows = self._db.execute("SELECT seq, topic, payload FROM outbox ORDER BY seq LIMIT ?", (n,)).fetchall()
        return [Row(*row) for row in rows]

    def delete(self, seqs: Sequence[int]) -> None:
        with self._lock:
            self._db.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs])

    def __len__(self) -> int:
        with self._lock:
            (count,) = self._db.execute("SELECT COUNT(*) FROM outbox").fetchone()
        return int(count)


def decision(decision_id: str, verdict: Verdict = Verdict.UNKNOWN) -> Decision:
    return Decision(
        id=decision_id,
        visit="visit-1",
        track=1,
        verdict=verdict,
        phase=Phase.FINAL,
        person_id=None,
        candidates=(),
        similarity=0.1,
        liveness=Liveness.UNPROVEN,
        reason="far from everybody",
        camera=CAMERA,
        place="door",
        model="test",
        t_first_s=0.0,
        t_named_s=None,
        wall_s=time.time(),
        clock_trusted=True,
    )


def put(outbox: SqliteOutbox, ids: Sequence[str]) -> None:
    clock = SystemClock()
    for decision_id in ids:
        payload = event_payload(decision(decision_id), None, (), names=True, now=moment(clock))
        outbox.put(TOPICS.event(CAMERA), payload)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Put rows into the outbox at a pace, and send them, until killed (or until all are gone, with --drain)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--outbox", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--drain", action="store_true")
    args = parser.parse_args(argv)
    outbox = SqliteOutbox(args.outbox)
    commands: List[Command] = []
    config = AlertsConfig(host="127.0.0.1", port=args.port, tls=False, box=BOX)
    client = AlertClient(config, [CAMERA], outbox, SystemClock(), commands.append, "test")
    client.start()
    for number in range(args.first, args.first + args.count):
        put(outbox, [f"id-{number}"])
        print(number, flush=True)  # promised from here on
        client.wake()
        time.sleep(0.005)
    drained = client.drain(20.0 if args.drain else 3600.0)
    return 0 if client.stop() and drained else 1


if __name__ == "__main__":
    sys.exit(main())
