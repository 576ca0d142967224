"""A box's life in small, every deed noted before and after it: `python ledger.py STATE DEEDS SEED ROUNDS PORT`.

What was noted as done must outlive any end of the process; what was only begun is there whole or not at all.
"""

from __future__ import annotations

import base64
import json
import random
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Set

import numpy as np

from edgecam.alerts.client import AlertClient
from edgecam.clock import SystemClock
from edgecam.config import AlertsConfig, StoreConfig
from edgecam.daemon.health import Problems
from edgecam.daemon.recorder import Recorder
from edgecam.pipeline.camera import Said
from edgecam.pipeline.operations import execute
from edgecam.pipeline.visits import VisitBook
from edgecam.pipeline.wire import pack_array, pack_face_crop
from edgecam.store import Store, new_ulid
from edgecam.types import Decision, FaceCrop, Liveness, Phase, Tracklet, Verdict

BASE = "base-1"
FACES = 3
INSTALLED = "installed"
FILES = {"edgecam.db", "master.key", "lock", "health.json", "backups", "night.wanted", "night.lock"}


def config(state: Path) -> StoreConfig:
    return StoreConfig(backup_dir=state / "backups", cluster_unknown=True)


def crop(rng: random.Random) -> FaceCrop:
    pixels = np.frombuffer(rng.randbytes(40 * 30 * 3), np.uint8).reshape(40, 30, 3).copy()
    return FaceCrop(pixels, np.array([3, 3, 20, 30], np.float32), np.ones((5, 2), np.float32), 1.0)


def floats(rng: random.Random, size: int) -> Any:
    values = np.array([rng.gauss(0, 1) for _ in range(size)], np.float32)
    return values / np.linalg.norm(values)


class Life:
    """The deeds, on a real store."""

    def __init__(self, state: Path, seed: int, port: int) -> None:
        self._rng, self._clock, self._seed, self._count = random.Random(seed), SystemClock(), seed, 0
        self._note(begin="open")
        self._store = Store.open(state, config(state), outbox_max=100_000)
        alerts = AlertsConfig(host="127.0.0.1" if port else None, port=port or 1883, tls=False, discovery_prefix=None)
        self._recorder = Recorder(self._store, alerts, config(state), self._clock, Problems(), self._wake)
        self._book = VisitBook()
        self._recorder.recall()
        self._recorder.end_interrupted(BASE)
        self._note(done="open")
        self._client = AlertClient(alerts, ("front",), self, self._clock, lambda _: None)
        if port:
            self._client.start()

    def peek(self, n: int) -> Any:
        return self._store.outbox_peek(n)

    def delete(self, seqs: Any) -> None:
        self._store.outbox_delete(seqs)

    def _wake(self) -> None:
        if hasattr(self, "_client"):
            self._client.wake()

    def _note(self, **said: Any) -> None:
        if "done" in said and hasattr(self, "_store"):
            said["generation"] = self._store.generation()
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    def do(self, deed: str) -> None:
        self._count += 1
        getattr(self, deed)(f"{self._seed}-{self._count}")

    def _ask(self, op: str, **params: Any) -> Dict[str, Any]:
        (answer,) = execute(self._store, {"op": op, **params})
        return answer

    def enrol(self, name: str) -> None:
        faces = []
        for _ in range(FACES):
            vectors = [{"model": BASE, "vector": pack_array(floats(self._rng, 32)), "features": ""}]
            faces.append({**pack_face_crop(crop(self._rng)), "quality": 1.0, "source": name, "vectors": vectors})
        self._note(begin="enrol", name=name)
        self._ask("faces.add", name=name, faces=faces)
        self._note(done="enrol", name=name)

    def forget(self, _: str) -> None:
        people = self._store.people()
        if people:
            taught = self._taught() & self._store._with_merged(people[0].id)
            self._note(begin="forget", name=people[0].name)
            if taught:
                self._note(begin="active", to=INSTALLED)
            self._ask("people.forget", who=people[0].id)
            self._note(done="forget", name=people[0].name)
            if taught:
                self._note(done="active", to=INSTALLED)

    def _taught(self) -> Set[str]:
        """Return of whom the head in service has learnt."""
        return {who for one in self._store.versions() if one.state == "active" for who in one.record["people"]}

    def merge(self, _: str) -> None:
        people = self._store.people()
        if len(people) > 1:
            self._note(begin="forget", name=people[1].name)
            self._store.merge(people[0].id, people[1].id)
            self._note(done="forget", name=people[1].name)

    def visit(self, _: str) -> None:
        opened = self._book.join("door", "front", self._clock.wall_s())
        self._recorder.opened(opened, "front")
        for track in (1, 2):
            self._say(opened.id, track, Phase.NAMED)
            self._say(opened.id, track, Phase.FINAL)
        self._book.leave(opened, "front")
        self._recorder.closed(opened)

    def _say(self, visit: str, track: int, phase: Phase) -> None:
        people = self._store.people()
        who = people[-1].id if phase is Phase.NAMED and people else None
        word = Decision(
            id=new_ulid(self._clock.wall_s()),
            visit=visit,
            track=track,
            verdict=Verdict.KNOWN if who else Verdict.UNKNOWN,
            phase=phase,
            person_id=who,
            candidates=(),
            similarity=0.3,
            liveness=Liveness.LIVE,
            reason="",
            camera="front",
            place="door",
            model=BASE,
            t_first_s=0.0,
            t_named_s=None,
            wall_s=self._clock.wall_s(),
            clock_trusted=True,
        )
        seen = Tracklet(
            visit, track, "front", BASE, 0.0, 1.0, floats(self._rng, 64)[None], np.ones(1, np.float32), False,
            Liveness.LIVE,
        )  # fmt: skip
        last = phase is Phase.FINAL
        self._note(begin="word", id=word.id, told=not who)
        self._recorder.say(Said(word, crop(self._rng) if last else None, seen if last else None))
        assert not self._recorder.waiting
        self._note(done="word", id=word.id)

    def send(self, _: str) -> None:
        """The broker has got half of what waits (where there is no real one)."""
        rows = self._store.outbox_peek(10_000)
        rows = rows[: len(rows) // 2]
        self._note(sent=[json.loads(row.payload).get("id") for row in rows])
        self._store.outbox_delete([row.seq for row in rows])

    def deliver(self, _: str) -> None:
        self._client.drain(20.0)

    def promote(self, name: str) -> None:
        rows = list(execute(self._store, {"op": "versions.list"}))
        to = f"v{1 + max([int(row['version'][1:]) for row in rows], default=0)}"
        heads = {
            name: base64.b64encode(self._rng.randbytes(20_000)).decode() for name in ("facenet_head", "sface_head")
        }
        people = [person.id for person in self._store.people()[-1:]]
        self._note(begin="active", to=to)
        self._ask("versions.put", base=BASE, heads=heads, people=people, report={}, accepted=True)
        self._note(done="active", to=to)

    def rollback(self, _: str) -> None:
        active = [row for row in execute(self._store, {"op": "versions.list"}) if row["state"] == "active"]
        if active:
            to = active[0]["parent"] or INSTALLED
            self._note(begin="active", to=to)
            self._ask("versions.rollback", version=to)
            self._note(done="active", to=to)

    def backup(self, _: str) -> None:
        self._note(done="backup", name=self._store.backup().name)

    def rotate(self, _: str) -> None:
        self._store.rotate(self._store.key_place, self._store.key_place)

    def purge(self, _: str) -> None:
        self._ask("purge")


class Ledger:
    """What was noted, and whether a state keeps it."""

    def __init__(self) -> None:
        self.people: Dict[str, Set[bool]] = {}
        """Name -> whether the person may be there."""
        self.active: Set[str] = {INSTALLED}
        self.words: Set[str] = set()
        self.told: Set[str] = set()
        """Words for which somebody waits."""
        self.sent: Set[str] = set()
        self.backups: Set[str] = set()
        self.generation = 0
        self.deeds = 0

    def read(self, lines: Iterable[str]) -> Ledger:
        """Take in what a process said; a line that was cut is nothing."""
        for line in lines:
            if not line.endswith("}\n"):
                continue
            note = json.loads(line)
            deed, done = note.get("done") or note.get("begin"), "done" in note
            self.deeds += done
            self.generation = max(self.generation, note.get("generation", 0))
            if deed in ("enrol", "forget"):
                after, may = deed == "enrol", self.people.setdefault(note["name"], {deed != "enrol"})
                self.people[note["name"]] = {after} if done else may | {after}
            elif deed == "active":
                self.active = {note["to"]} if done else self.active | {note["to"]}
            elif deed == "word" and done:
                self.words.add(note["id"])
            elif deed == "backup":
                self.backups.add(note["name"])
            self.told |= {note["id"]} if note.get("told") else set()
            self.sent |= set(note.get("sent", ())) - {None}
        return self

    def faults(self, state: Path) -> List[str]:
        """Start on a state as the box would; return what is wrong with it or missing. What is there now is certain."""
        with Store.open(state, config(state), outbox_max=100_000) as store:
            return list(self._faults(store, state))

    def _faults(self, store: Store, state: Path) -> Iterator[str]:
        if self.generation > store.generation():
            yield f"generation {store.generation()}, it was {self.generation}"
        recorder = Recorder(store, AlertsConfig(), config(state), SystemClock(), Problems(), lambda: None)
        recorder.recall()
        recorder.end_interrupted(BASE)
        store.purge(time.time(), trusted=True)
        yield from store.problems()
        left = {path.name for path in state.iterdir()} - FILES - {"edgecam.db-wal", "edgecam.db-shm"}
        backups = {path.name for path in state.glob("backups/*")}
        yield from (f"left over: {name}" for name in sorted({*left, *(n for n in backups if not n.endswith(".db"))}))
        yield from (f"backup {name} is gone" for name in sorted(self.backups - backups))
        yield from self._people(store)
        yield from self._words(store)
        active = [one.name for one in store.versions() if one.state == "active"] or [INSTALLED]
        if not set(active) <= self.active:
            yield f"{active} is in service, not one of {sorted(self.active)}"
        self.active = set(active)

    def _people(self, store: Store) -> Iterator[str]:
        there = {person.name: person for person in store.people()}
        yield from (f"{name} was never enrolled" for name in sorted(set(there) - set(self.people)))
        for name, may in self.people.items():
            if (name in there) not in may:
                yield f"{name} is {'still' if name in there else 'not'} there"
            self.people[name] = {name in there}
            if name in there and there[name].faces % FACES:
                yield f"{name} has {there[name].faces} faces"
        if lost := store.missing(BASE):
            yield f"{len(lost)} faces have no vector"

    def _words(self, store: Store) -> Iterator[str]:
        words = {word.id: word for visit in store.visits(1_000_000, ignored=True) for word in visit.decisions}
        rows = store._db.rows("SELECT decision FROM outbox WHERE decision IS NOT NULL")
        waiting = {row[0] for row in rows}
        yield from (f"word {one} is lost" for one in sorted(self.words - set(words)))
        yield from (f"alert {one} is about nothing" for one in sorted(waiting - set(words)))
        spoken_of = {(words[one].visit, words[one].track) for one in self.told & set(words)}
        cut = {i for i, word in words.items() if word.reason == "interrupted" and (word.visit, word.track) in spoken_of}
        told = (self.told | cut) & set(words)
        yield from (f"nobody hears of {one}" for one in sorted(told - waiting - self.sent))
        yield from (f"{one} was sent, and never decided" for one in sorted((self.sent & self.told) - set(words)))
        for visit in store.visits(1_000_000, ignored=True):
            if visit.closed_wall_s is None:
                yield f"visit {visit.id} never ends"
            for track, word in visit.latest.items():
                if word.phase is Phase.NAMED:
                    yield f"visit {visit.id} track {track} has no last word"


def main() -> None:
    state, deeds, (seed, rounds, port) = Path(sys.argv[1]), sys.argv[2].split(","), map(int, sys.argv[3:])
    life = Life(state, seed, port)
    while rounds:  # -1: until it is killed
        rounds -= 1
        for deed in deeds:
            life.do(deed)


if __name__ == "__main__":
    main()
