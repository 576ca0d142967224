"""The promotion gate: a tuned head against the one in service, on the same faces. Refusal is a normal result.

Everything is paired: both heads judge the same verified faces and the same strangers, each by an identifier of its own
with thresholds calibrated anew. What must hold, why and with which numbers: docs/gate.md.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from math import comb
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.config import IdentifyConfig
from edgecam.errors import ShapeError
from edgecam.identify import Household, Identifier, Recognizability, StrangerModel, clopper_pearson
from edgecam.types import Floats, Ints, Verdict

Project = Callable[[Floats], Floats]

_DRAWS, _CHUNK = 8000, 500
"""Virtual strangers, to calibrate with and to judge by; a false-accept target of 0.3 % is 24 of them."""
_FRESH = 1_000_000
"""First seed of those that judge: no identifier was calibrated with them."""
_FOLDS = 5
"""A fifth of each person's enrolment photos is judged by a gallery of the others."""
_P = 0.05
"""One-sided level of every exact test."""
_PEOPLE_MIN = 2
_EACH_MIN = 2
"""So many judged faces of everybody: nobody's recognition may change unseen."""
_FRESH_MIN = 10
"""Confirmed faces that no training has seen; of fewer than five an exact test can tell nothing."""
_ALIKE_MORE = 0.02
"""Similarity by which a pair that is already over the threshold may look more alike."""
_HEADROOM_LESS = 0.01
"""A mean rise of similarity above the threshold under this is no gain, however sure."""
_BYTES_MAX = 16_000_000
"""FaceNet's head cut before the last block has 10 MB, the default cut 3.7 MB."""
_MORE_MS = 3.0
"""A face may take so much longer; the whole of FaceNet takes 12 to 35 ms."""
_TIMED = 20
_ROUNDING = 1e-3
"""Below the threshold by more than this, nobody need be asked: that is most strangers."""


@dataclass(frozen=True)
class Version:
    """One of the two: the head, and what goes with it."""

    name: str
    project: Project
    """(N, K) trunk features to (N, D) unit vectors."""

    liveness: Tuple[str, ...] = ()
    """Versions of the nets that tell a person from a picture."""

    head_bytes: int = 0


@dataclass(frozen=True, eq=False)
class Gallery:
    """The enrolled faces as trunk features, so that either head can be given them."""

    people: Tuple[str, ...]
    """Person ids."""

    owner: Ints
    """(F,) int64 index into `people`."""

    features: Floats
    """(F, K) float32."""

    infrared: NDArray[np.bool_]
    """(F,)."""

    face_ids: Tuple[str, ...]
    """(F,)."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the parts agree."""
        n = len(self.features)
        if not self.owner.shape == self.infrared.shape == (n,) or len(self.face_ids) != n:
            raise ShapeError(f"want {n} owners, flags and ids")

    def household(self, vectors: Floats, rows: NDArray[np.bool_]) -> Household:
        """Return the household of some rows; people of whom none is left are left out."""
        left = np.unique(self.owner[rows])
        people = tuple(self.people[i] for i in left)
        return Household(people, np.searchsorted(left, self.owner[rows]), vectors[rows], self.infrared[rows])


@dataclass(frozen=True, eq=False)
class Verified:
    """The locked set: faces of T tracks of which a person has said who it is. No machine's label ever enters it."""

    features: Floats
    """(V, K) float32."""

    track: Ints
    """(V,) int64 track of each face, 0..T-1; every track has a face."""

    owner: Ints
    """(T,) int64 index into the gallery's people, -1 nobody of the house."""

    learnt: NDArray[np.bool_]
    """(T,) whether the new head was trained on the track: it may show a loss, but no gain."""

    ids: Tuple[str, ...]
    """(T,) for the report: tracklets or faces."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the parts agree."""
        tracks = len(self.owner)
        if self.track.shape != (len(self.features),) or self.learnt.shape != (tracks,) or len(self.ids) != tracks:
            raise ShapeError(f"want {len(self.features)} tracks and {tracks} flags and ids")
        if len(np.unique(self.track)) != tracks or (tracks and not 0 <= self.track.min() <= self.track.max() < tracks):
            raise ShapeError(f"tracks outside 0..{tracks - 1}, or without a face")


@dataclass(frozen=True, eq=False)
class Strangers:
    """People who are surely not enrolled; rows should be independent: one face a person, or a visit."""

    model: StrangerModel
    """Virtual ones are drawn from it."""

    local: Floats
    """(L, K) trunk features of strangers seen here; L may be 0. They also calibrate, as in service."""

    given: Floats
    """(M, K) trunk features of a folder of faces; M may be 0."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    passed: bool
    said: str
    """One line with the numbers; without names."""

    subject: str = ""
    """A person id, or which strangers."""

    n: int = 0
    """Faces or tracks that it rests on."""

    now: Optional[float] = None
    new: Optional[float] = None
    bound: Optional[float] = None
    """What `new` is held against, or (rates) the end of the exact 95 % interval that n supports."""

    p: Optional[float] = None
    """Exact, one-sided."""


class Answers(NamedTuple):
    """What one head's identifiers say of T tracks."""

    named: Ints
    """(T,) index into the people, -1 nobody."""

    uncertain: NDArray[np.bool_]
    """(T,) whether two names were told."""

    own: Floats
    """(T,) similarity to its owner, -1 where it has none."""

    highest: Floats
    """(T,) similarity to the nearest."""

    threshold: Floats
    """(T,) similarity from which it would have been named."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Both heads' answers, for the plots of the morning; not part of the record."""

    people: Tuple[str, ...]
    """The gallery's."""

    owner: Ints
    """(T,) of the verified tracks, then of the enrolment photos."""

    enrolled: NDArray[np.bool_]
    """(T,)."""

    answers: Tuple[Answers, Answers]
    """Of the head in service, of the new one."""

    strangers: Mapping[str, Tuple[Answers, Answers]]
    """By the kind of strangers."""


@dataclass(frozen=True, eq=False)
class GateReport:
    """What the gate found."""

    now: str
    """Version in service."""

    new: str
    accepted: bool
    reasons: Tuple[str, ...]
    """One line each: why not; or what was gained."""

    checks: Tuple[Check, ...]
    judged: Optional[Judged] = None
    """None if there was too little to judge by."""

    def record(self) -> Dict[str, Any]:
        """Return it as JSON values, with person ids and without names."""
        return {
            "now": self.now,
            "new": self.new,
            "accepted": self.accepted,
            "reasons": list(self.reasons),
            "checks": [asdict(check) for check in self.checks],
        }


def judge(
    now: Version, new: Version, gallery: Gallery, verified: Verified, strangers: Strangers, config: IdentifyConfig
) -> GateReport:
    """Return whether the new head may take the place of the one in service.

    Args:
        now: the head in service.
        new: the candidate.
        gallery: the enrolled.
        verified: the locked set; enrolment photos need not be in it, they are judged anyway.
        strangers: who must not be named.
        config: false-accept target and margin, as in service.
    """
    short = list(_too_little(gallery, verified))
    if short:
        return GateReport(now.name, new.name, False, tuple(check.said for check in short), tuple(short))
    everything = _with_enrolled(gallery, verified)
    doors = [_Door(version, gallery, strangers, config) for version in (now, new)]
    answers = [door.tracks(everything) for door in doors]
    met = {kind: (doors[0].met[kind], doors[1].met[kind]) for kind in doors[0].met}
    enrolled = np.arange(len(everything.owner)) >= len(verified.owner)
    judged = Judged(gallery.people, everything.owner, enrolled, (answers[0], answers[1]), met)
    checks = [
        *_verified_checks(everything, answers[0], answers[1], gallery.people),
        *(check for kind, pair in met.items() for check in _stranger_checks(kind, *pair, config.target_fpir)),
        *_look_alike_checks(doors[0].identifier, doors[1].identifier, everything, answers[0], answers[1]),
        *_cost_checks(now, new, gallery.features[:1]),
    ]
    failed = tuple(_line(check) for check in checks if not check.passed)
    gain = _gain(everything, answers[0], answers[1], met)
    checks.append(gain)
    reasons = failed or ((gain.said,) if gain.passed else (f"no gain: kept ({gain.said})",))
    return GateReport(now.name, new.name, not failed and gain.passed, reasons, tuple(checks), judged)


def _line(check: Check) -> str:
    return f"{check.name} {check.subject}: {check.said}" if check.subject else f"{check.name}: {check.said}"


# --- too little -------------------------------------------------------------------------------------------------------


def _too_little(gallery: Gallery, verified: Verified) -> Iterator[Check]:
    """Yield a failed check for everything that is missing for a judgement."""
    people = len(np.unique(gallery.owner))
    if people < _PEOPLE_MIN:
        yield Check("people", False, f"{people} enrolled, {_PEOPLE_MIN} are needed", n=people, bound=_PEOPLE_MIN)
    fresh = int(np.sum(~verified.learnt & (verified.owner >= 0)))
    if fresh < _FRESH_MIN:
        said = f"{fresh} confirmed faces that took no part in training, {_FRESH_MIN} are needed: `edgecam review`"
        yield Check("confirmed", False, said, n=fresh, bound=_FRESH_MIN)
    for i, person in enumerate(gallery.people):
        photos = int(np.sum(gallery.owner == i))
        judged = int(np.sum(verified.owner == i)) + (photos if photos > 1 else 0)
        if judged < _EACH_MIN:
            said = f"{judged} faces to judge by, {_EACH_MIN} are needed: confirm visits or add photos"
            yield Check("faces", False, said, subject=person, n=judged, bound=_EACH_MIN)


# --- judging ----------------------------------------------------------------------------------------------------------


def _with_enrolled(gallery: Gallery, verified: Verified) -> Verified:
    """Return the locked set and, behind it, every enrolment photo of whoever has two: a track of its own, learnt."""
    photos = np.flatnonzero(np.bincount(gallery.owner, minlength=len(gallery.people))[gallery.owner] > 1)
    first = len(verified.owner)
    return Verified(
        features=np.concatenate([verified.features.reshape(-1, gallery.features.shape[1]), gallery.features[photos]]),
        track=np.concatenate([verified.track, first + np.arange(len(photos))]),
        owner=np.concatenate([verified.owner, gallery.owner[photos]]),
        learnt=np.concatenate([verified.learnt, np.ones(len(photos), np.bool_)]),
        ids=(*verified.ids, *(gallery.face_ids[i] for i in photos)),
    )


class _Door:
    """One head at this door: its identifiers, and whom they name."""

    def __init__(self, version: Version, gallery: Gallery, strangers: Strangers, config: IdentifyConfig) -> None:
        self._project, self._gallery, self._config = version.project, gallery, config
        model = strangers.model
        self._drawn = [version.project(model.draw(_CHUNK, seed)) for seed in range(_DRAWS // _CHUNK)]
        self._ruin = Recognizability(version.project(model.ruin())[0])
        self._vectors = version.project(gallery.features)
        self._local = version.project(strangers.local) if len(strangers.local) else None
        self.identifier = self._identifier(np.ones(len(gallery.owner), np.bool_), self._local)
        fresh = range(_FRESH, _FRESH + _DRAWS // _CHUNK)
        virtual = np.concatenate([version.project(model.draw(_CHUNK, seed)) for seed in fresh])
        self.met = {"virtual": self._one_by_one(self.identifier, virtual)}
        if self._local is not None:
            self.met["local"] = self._met_locally(self._local)
        if len(strangers.given):
            self.met["given"] = self._one_by_one(self.identifier, version.project(strangers.given))

    def _identifier(self, rows: NDArray[np.bool_], local: Optional[Floats]) -> Identifier:
        return Identifier(
            self._gallery.household(self._vectors, rows), self._drawn, self._config, self._ruin, local
        )  # fmt: skip

    def _met_locally(self, local: Floats) -> Answers:
        """Judge each half of the local strangers at thresholds that only the other half helped to set."""
        odd = np.arange(len(local)) % 2 == 1
        everyone = np.ones(len(self._gallery.owner), np.bool_)
        parts = [self._one_by_one(self._identifier(everyone, local[~half]), local[half]) for half in (odd, ~odd)]
        order = np.argsort(np.concatenate([np.flatnonzero(odd), np.flatnonzero(~odd)]))
        return Answers(*(np.concatenate(columns)[order] for columns in zip(*parts)))

    def _one_by_one(self, identifier: Identifier, vectors: Floats) -> Answers:
        return _answers(identifier, vectors, np.ones(len(vectors), np.int64), self._gallery.people)

    def tracks(self, verified: Verified) -> Answers:
        """Judge the verified; an enrolment photo by a gallery without it."""
        vectors = self._project(verified.features)
        row = {face: i for i, face in enumerate(self._gallery.face_ids)}
        photo = np.array([row.get(one, -1) for one in verified.ids], np.int64)
        fold = _folds(self._gallery.owner)
        own = np.where(photo >= 0, fold[photo], -1)
        parts: List[Tuple[Ints, Answers]] = []
        for k in np.unique(own):
            rows = np.flatnonzero(own == k)
            identifier = self.identifier if k < 0 else self._identifier(fold != k, self._local)
            order = np.argsort(verified.track, kind="stable")
            faces = vectors[order[np.isin(verified.track[order], rows)]]
            counts = np.bincount(verified.track, minlength=len(own))[rows]
            parts.append((rows, _answers(identifier, faces, counts, self._gallery.people, verified.owner[rows])))
        back = np.argsort(np.concatenate([rows for rows, _ in parts]))
        return Answers(*(np.concatenate(columns)[back] for columns in zip(*(one for _, one in parts))))


def _folds(owner: Ints) -> Ints:
    """Return (F,) the fold of each photo: its number among its person's, modulo the folds; -2 if it is the only one."""
    fold = np.full(len(owner), -2, np.int64)
    for i in np.unique(owner):
        mine = np.flatnonzero(owner == i)
        if len(mine) > 1:
            fold[mine] = np.arange(len(mine)) % _FOLDS
    return fold


def _answers(
    identifier: Identifier, faces: Floats, counts: Ints, people: Sequence[str], owner: Optional[Ints] = None
) -> Answers:
    """Let an identifier judge tracks.

    Args:
        identifier: of one head.
        faces: (N, D) unit vectors, track by track.
        counts: (T,) faces of each track, each at least 1.
        people: the gallery's.
        owner: (T,) index into `people`, -1 nobody; None: nobody is anybody's.
    """
    at = {person: i for i, person in enumerate(people)}
    column = {at[person]: i for i, person in enumerate(identifier.people)}
    tracks, threshold = len(counts), identifier.calibration.threshold
    named, uncertain = np.full(tracks, -1, np.int64), np.zeros(tracks, np.bool_)
    own, highest = np.full(tracks, -1.0, np.float32), np.full(tracks, -1.0, np.float32)
    ends = np.cumsum(counts)
    if tracks:
        scores = np.add.reduceat(identifier.scores(faces), ends - counts, axis=0) / counts[:, None]
        highest[:] = scores.max(axis=1)
        for person, i in column.items() if owner is not None else ():
            own[owner == person] = scores[owner == person, i]
    for i in np.flatnonzero(highest > threshold - _ROUNDING):
        match = identifier.match(faces[ends[i] - counts[i] : ends[i]])
        uncertain[i] = match.verdict is Verdict.UNCERTAIN
        if match.verdict is Verdict.KNOWN and match.person_id is not None:
            named[i] = at[match.person_id]
    return Answers(named, uncertain, own, highest, np.full(tracks, threshold, np.float32))


# --- checks -----------------------------------------------------------------------------------------------------------


def sign_test(worse: int, better: int) -> float:
    """Return the chance that of worse + better changes, equally likely, at least `worse` are for the worse.

    The exact one-sided McNemar test of paired yes-or-no answers; 1 if nothing changed.
    """
    n = worse + better
    return float(sum(comb(n, k) for k in range(worse, n + 1)) / 2**n)


def _verified_checks(verified: Verified, now: Answers, new: Answers, people: Sequence[str]) -> Iterator[Check]:
    known = verified.owner >= 0
    before, after = (known & (a.named == verified.owner) for a in (now, new))
    lost, won = before & ~after, ~before & after
    said = f"{_some(lost, verified.ids)} of {int(before.sum())} that were right" if lost.any() else "none"
    yield Check(
        "verified faces lost", not lost.any(), said,
        n=int(known.sum()), now=float(before.sum()), new=float(after.sum()), bound=0.0, p=None,
    )  # fmt: skip
    groups = [("", known)] + [(person, verified.owner == i) for i, person in enumerate(people)]
    for person, mine in groups:
        worse, better = int((lost & mine).sum()), int((won & mine).sum())
        p = sign_test(worse, better)
        yield Check(
            "recognised as before", p >= _P, f"{worse} lost, {better} won, p {p:.3f}",
            subject=person, n=int(mine.sum()), now=float(before[mine].sum()), new=float(after[mine].sum()),
            bound=_P, p=p,
        )  # fmt: skip
    wrong = (new.named >= 0) & (new.named != verified.owner)
    fresh = wrong & (new.named != now.named)
    before_wrong = (now.named >= 0) & (now.named != verified.owner)
    yield Check(
        "new wrong names", not fresh.any(), _some(fresh, verified.ids) if fresh.any() else "none",
        n=len(wrong), now=float(before_wrong.sum()), new=float(wrong.sum()), bound=0.0,
    )  # fmt: skip


def _some(which: NDArray[np.bool_], ids: Sequence[str]) -> str:
    first = [ids[int(i)] for i in np.flatnonzero(which)]
    return f"{len(first)} ({', '.join(first[:3])}{', ...' if len(first) > 3 else ''})"


def _stranger_checks(kind: str, now: Answers, new: Answers, target: float) -> Iterator[Check]:
    before, after = now.named >= 0, new.named >= 0
    n, k = len(after), int(after.sum())
    low, high = clopper_pearson(k, n)
    rates = {"n": n, "now": float(before.mean()), "new": k / n}
    said = f"{k} of {n} named (now {int(before.sum())}), at most {high:.2%} (95 %), target {target:.2%}"
    yield Check("strangers named", low <= target, said, subject=kind, bound=high, p=None, **rates)  # type: ignore[arg-type]
    worse, better = int((after & ~before).sum()), int((before & ~after).sum())
    p = sign_test(worse, better)
    said = f"{worse} newly named, {better} no longer, p {p:.3f}"
    yield Check("strangers named more than now", p >= _P, said, subject=kind, bound=_P, p=p, **rates)  # type: ignore[arg-type]


def _look_alike_checks(
    now: Identifier, new: Identifier, verified: Verified, before: Answers, after: Answers
) -> Iterator[Check]:
    pairs = [door.calibration.nearest_pair for door in (now, new)]
    if pairs[0] is not None and pairs[1] is not None:
        over = [
            max(0.0, pair[2] - door.calibration.threshold) for pair, door in zip(pairs, (now, new)) if pair is not None
        ]
        bound = over[0] + _ALIKE_MORE if over[0] > 0 else 0.0
        said = f"the nearest two at {pairs[1][2]:.2f} (now {pairs[0][2]:.2f}), {over[1]:.2f} over the threshold"
        yield Check(
            "look-alikes", over[1] <= bound, said, subject="", n=len(new.people),
            now=pairs[0][2], new=pairs[1][2], bound=bound,
        )  # fmt: skip
    known = verified.owner >= 0
    worse = int((known & after.uncertain & ~before.uncertain).sum())
    better = int((known & before.uncertain & ~after.uncertain).sum())
    p = sign_test(worse, better)
    yield Check(
        "two names told", p >= _P, f"{worse} newly, {better} no longer, p {p:.3f}",
        n=int(known.sum()), now=float((before.uncertain & known).sum()), new=float((after.uncertain & known).sum()),
        bound=_P, p=p,
    )  # fmt: skip


def _cost_checks(now: Version, new: Version, sample: Floats) -> Iterator[Check]:
    same = sorted(now.liveness) == sorted(new.liveness)
    said = "the same nets" if same else f"{', '.join(new.liveness) or 'none'} instead of {', '.join(now.liveness)}"
    yield Check("liveness untouched", same, said, n=len(new.liveness))
    fits = new.head_bytes <= _BYTES_MAX
    yield Check(
        "size", fits, f"{new.head_bytes / 1e6:.1f} MB, at most {_BYTES_MAX / 1e6:.0f}",
        now=float(now.head_bytes), new=float(new.head_bytes), bound=float(_BYTES_MAX),
    )  # fmt: skip
    took = [_milliseconds(version.project, sample) for version in (now, new)]
    bound = took[0] + _MORE_MS
    said = f"{took[1]:.2f} ms a face (now {took[0]:.2f}), at most {bound:.2f}"
    yield Check("time", took[1] <= bound, said, n=_TIMED, now=took[0], new=took[1], bound=bound)


def _milliseconds(project: Project, sample: Floats) -> float:
    """Return the shortest processor time of one projection: what else the box does must not count."""
    best = float("inf")
    for _ in range(_TIMED):
        start = time.process_time()
        project(sample)
        best = min(best, time.process_time() - start)
    return best * 1000.0


def _gain(verified: Verified, now: Answers, new: Answers, met: Mapping[str, Tuple[Answers, Answers]]) -> Check:
    """Return whether anything got measurably better, by faces that took no part in training."""
    fresh = ~verified.learnt & (verified.owner >= 0)
    before, after = (fresh & (a.named == verified.owner) for a in (now, new))
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    rise = (new.own - new.threshold - now.own + now.threshold)[fresh]
    up, down = int((rise > 0).sum()), int((rise < 0).sum())
    fewer = {
        kind: (int(((a.named >= 0) & (b.named < 0)).sum()), int(((a.named < 0) & (b.named >= 0)).sum()))
        for kind, (a, b) in met.items()
    }
    found = []
    if sign_test(won, lost) < _P:
        found.append(f"{won} more confirmed faces are recognised")
    if sign_test(up, down) < _P and float(rise.mean()) >= _HEADROOM_LESS:
        found.append(f"confirmed faces stand {rise.mean():.3f} higher above the threshold")
    for kind, (good, bad) in fewer.items():
        if sign_test(good, bad) < _P:
            found.append(f"{good - bad} fewer {kind} strangers named")
    p = min(sign_test(won, lost), sign_test(up, down), *(sign_test(*pair) for pair in fewer.values()))
    said = "; ".join(found) or f"{won} more recognised, mean rise {rise.mean():+.3f}, p {p:.3f}"
    return Check(
        "gain", bool(found), said, n=int(fresh.sum()), now=float(before.sum()), new=float(after.sum()), bound=_P, p=p
    )
