"""Words into the store: each decision with its alerts in one transaction, or kept in RAM until there is room again."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple

from edgecam.alerts.message import Alert, moment
from edgecam.alerts.policy import AlertPolicy
from edgecam.clock import Clock
from edgecam.config import AlertsConfig, StoreConfig
from edgecam.daemon.health import BOX, Problems
from edgecam.daemon.metrics import Tally
from edgecam.daemon.presence import Presence
from edgecam.errors import StoreError
from edgecam.pipeline.camera import Said
from edgecam.pipeline.visits import Visit
from edgecam.store import FORGOTTEN, NotStoredError, Store, new_ulid
from edgecam.store import Visit as StoredVisit
from edgecam.types import Decision, Liveness, Person, Phase, Role, Verdict

_LOGGER = logging.getLogger(__name__)

_WAITING_MAX = 500
"""Words kept in RAM while nothing can be stored; with their pictures some 100 MB at the very worst."""
_RECALL_S = 3600.0
INTERRUPTED = "interrupted"


@dataclass
class _Job:
    """Something to be written, whole or not at all."""

    write: Callable[[], None]
    what: str
    visit: str = ""
    """It is not written before what else of this visit waits: a visit that is over has had its last words."""


class Recorder:
    """Takes every word about a visit; called from several threads.

    Args:
        store: open.
        alerts: rules of announcement.
        keep: how long pictures are kept (0: never).
        clock: wall time.
        problems: told when the store fails.
        wake: called after a commit that may have put something into the outbox.
    """

    def __init__(
        self,
        store: Store,
        alerts: AlertsConfig,
        keep: StoreConfig,
        clock: Clock,
        problems: Problems,
        wake: Callable[[], None],
    ) -> None:
        self._store, self._clock, self._problems, self._wake = store, clock, problems, wake
        self._pictures = keep.unknown_visitors_h > 0 or keep.cluster_unknown
        self._tracklets = keep.cluster_unknown
        self._policy = AlertPolicy(alerts)
        self._lock = threading.RLock()
        self._waiting: Deque[_Job] = deque()
        self.presence: Optional[Presence] = None
        """Told of visits, so that what it notices can be joined with them."""
        self.lost = 0
        """Words that were dropped from RAM because nothing could be stored for too long."""
        self.stored = 0
        """Words stored since the start."""
        self.tally = Tally()

    @property
    def waiting(self) -> int:
        """Words that wait in RAM for the store."""
        return len(self._waiting)

    def set_rules(self, alerts: AlertsConfig) -> None:
        """Announce by other rules from now on."""
        with self._lock:
            self._policy = AlertPolicy(alerts)
            self.recall()

    def recall(self) -> None:
        """Remember what was announced in the last hour, before a restart or a change of rules."""
        since = self._clock.wall_s() - _RECALL_S
        people = {person.id: person for person in self._store.people()}
        words = [word for visit in self._store.visits(200, since, ignored=True) for word in visit.decisions]
        words.sort(key=lambda word: word.wall_s)
        self._policy.recall((word, _role(word, people), self._local(word.wall_s, word.clock_trusted)) for word in words)

    def say(self, said: Said) -> None:
        """Store a word, its alerts and its picture; what cannot be stored now is kept and tried again."""
        decision = said.decision
        _LOGGER.info(
            "visit %s track %d: %s %s%s",
            decision.visit,
            decision.track,
            decision.phase.value,
            decision.verdict.value,
            f" {decision.person_id}" if decision.person_id else "",
        )
        with self._lock:
            alerts: Dict[Decision, Sequence[Alert]] = {}

            def write() -> None:
                with self._store.transaction():
                    word = self._without_forgotten(decision)
                    # The rules remember what they said: asked once, whatever becomes of the transaction.
                    if word not in alerts:
                        alerts[word] = self._announce(word)
                    self._store.record(word, alerts[word])
                    if said.picture is not None and decision.phase is not Phase.NAMED and self._pictures:
                        self._store.add_visit_picture(decision.visit, decision.track, said.picture)
                    if said.tracklet is not None and self._tracklets:
                        self._store.add_tracklet(said.tracklet)
                    if said.tracklet is not None and word.verdict is Verdict.UNKNOWN and word.liveness is Liveness.LIVE:
                        self._store.add_stranger_features(said.tracklet.model, said.tracklet.mean()[None])
                self.stored += 1
                self.tally.note(word)

            self._do(_Job(write, f"decision {decision.id}", decision.visit))

    def send(self, alerts: Sequence[Alert]) -> None:
        """Put alerts into the outbox that belong to no decision (a ring)."""
        with self._lock:
            self._do(_Job(lambda: self._store.outbox_put(alerts), "ring"))

    def opened(self, visit: Visit, camera: str) -> None:
        """Note that somebody is there: from here on a visit cut by a kill is told of."""
        wall_s = self._clock.wall_s()
        _LOGGER.info("visit %s at %s begins (camera %s)", visit.id, visit.place, camera)
        with self._lock:
            write = lambda: self._store.open_visit(visit.id, visit.place, camera, wall_s)  # noqa: E731 - one expression
            self._do(_Job(write, f"visit {visit.id}", visit.id))
        if self.presence is not None:
            self.presence.opened(visit.id)

    def closed(self, visit: Visit) -> None:
        """Note that a visit ended."""
        wall_s = self._clock.wall_s()
        _LOGGER.info("visit %s at %s is over: %d tracks", visit.id, visit.place, visit.tracks)
        summary = {"tracks": visit.tracks, "motion_s": round(visit.motion_s, 1), "faces": visit.faces_seen}
        with self._lock:
            write = lambda: self._store.close_visit(visit.id, wall_s, summary)  # noqa: E731 - one expression
            self._do(_Job(write, f"visit {visit.id}", visit.id))
        if self.presence is not None:
            self.presence.closed(visit.id)

    def retry(self) -> None:
        """Try to store what waits."""
        with self._lock:
            self._flush()

    def end_interrupted(self, model: str) -> int:
        """Say how the visits of a killed process end; return how many there were."""
        cut = self._store.interrupted_visits()
        for visit in cut:
            for word in _last_words(visit, model, self._clock):
                self.say(Said(word, None))
            self._store.close_visit(visit.id, self._clock.wall_s(), {INTERRUPTED: True})
        return len(cut)

    def _do(self, job: _Job) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            gone = self._waiting.popleft()
            self.lost += 1
            _LOGGER.error("%s is lost: nothing could be stored for too long", gone.what)
        self._waiting.append(job)
        self._flush()

    def _flush(self) -> None:
        """Write what waits, in order; one that fails holds up nothing but its own visit."""
        failed: Deque[_Job] = deque()
        behind: Set[str] = set()
        trouble = ""
        wrote = False
        while self._waiting:
            job = self._waiting.popleft()
            if job.visit in behind:
                failed.append(job)
                continue
            try:
                job.write()
                wrote = True
            except NotStoredError as err:
                _LOGGER.warning("%s is not stored: %s", job.what, err)
            except StoreError as err:
                trouble = str(err)
                failed.append(job)
                behind.add(job.visit)
        self._waiting = failed
        if trouble:
            self._problems.begin(BOX, "store_failing", f"{trouble}; kept in memory and tried again")
        else:
            self._problems.end(BOX, "store_failing")
        if wrote:
            self._wake()

    def _announce(self, decision: Decision) -> Tuple[Alert, ...]:
        people = self._people([decision.person_id, *decision.candidates])
        person = people.get(decision.person_id or "")
        announcement = self._policy.announce(
            decision,
            role=_role(decision, people),
            person_name=person.name if person else None,
            candidate_names=[people[c].name for c in decision.candidates],
            local=self._local(decision.wall_s, decision.clock_trusted),
            now=moment(self._clock),
        )
        if announcement.held_back:
            _LOGGER.info("visit %s track %d: not announced, %s", decision.visit, decision.track, announcement.held_back)
        return announcement.alerts

    def _without_forgotten(self, decision: Decision) -> Decision:
        """Return a decision without people who were forgotten after the camera had recognised them."""
        named = (decision.person_id, *decision.candidates)
        there = self._people(named)
        if all(who is None or who in there for who in named):
            return decision
        person_id = decision.person_id if decision.person_id in there else None
        candidates = tuple(who for who in decision.candidates if who in there)
        return replace(decision, person_id=person_id, candidates=candidates, reason=FORGOTTEN)

    def _people(self, ids: Sequence[Optional[str]]) -> Dict[str, Person]:
        found: Dict[str, Person] = {}
        for person_id in filter(None, ids):
            try:
                found[person_id] = self._store.person(person_id)
            except NotStoredError:
                continue
        return found

    @staticmethod
    def _local(wall_s: float, trusted: bool) -> Optional[dt.time]:
        return dt.datetime.fromtimestamp(wall_s).time() if trusted else None  # noqa: DTZ006 - quiet hours are local


def _role(decision: Decision, people: Dict[str, Person]) -> Optional[Role]:
    if decision.person_id is None:
        return None
    person = people.get(decision.person_id)
    return person.role if person else Role.KNOWN


def _last_words(visit: StoredVisit, model: str, clock: Clock) -> List[Decision]:
    """Return what is still to be said about a visit that was cut: each track without a final word, or the visit."""
    open_ended = [word for word in visit.latest.values() if word.phase is Phase.NAMED]
    if visit.decisions and not open_ended:
        return []
    words: List[Optional[Decision]] = [*open_ended] or [None]
    return [
        Decision(
            id=new_ulid(clock.wall_s()),
            visit=visit.id,
            track=word.track if word else 0,
            verdict=Verdict.UNCERTAIN,
            phase=Phase.FINAL,
            person_id=None,
            candidates=(word.person_id,) if word and word.person_id else (),
            similarity=word.similarity if word else -1.0,
            liveness=word.liveness if word else Liveness.UNPROVEN,
            reason=INTERRUPTED,
            camera=visit.camera,
            place=visit.place,
            model=word.model if word else model,
            t_first_s=word.t_first_s if word else 0.0,
            t_named_s=word.t_named_s if word else None,
            wall_s=clock.wall_s(),
            clock_trusted=clock.wall_trusted(),
        )
        for word in words
    ]
