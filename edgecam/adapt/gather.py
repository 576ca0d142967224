"""All that a night learns from and is judged by, read through operations of the store, here or in the daemon.

A face that the user has looked at and named, and a third of everybody's enrolment photos, are locked: the night is
judged by them, and they take no part in its training. No machine's label is ever among them.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from itertools import combinations
from typing import Any, Callable, Dict, Iterator, List, Literal, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.adapt.constraints import Constraints, constrain
from edgecam.adapt.gate import Gallery, Verified
from edgecam.adapt.rounds import Material
from edgecam.adapt.samples import Samples, Track
from edgecam.associate import Scene
from edgecam.clock import WALL_TRUSTED_AFTER_S
from edgecam.embed import Encoder
from edgecam.embed.sface import unit
from edgecam.pipeline.household import reembed
from edgecam.pipeline.track import SAME_PICTURE
from edgecam.pipeline.wire import Record, floats_of
from edgecam.presence.sightings import AWAY
from edgecam.types import Floats, Ints, Liveness

Ask = Callable[..., Iterator[Record]]
Project = Callable[[Floats], Floats]
Numbers = NDArray[np.float64]

FACES_A_DAY, FACES_MAX = 20, 5000
"""So many faces of one person and day teach, and so many at all (`algorithms.md` 5A.5)."""
_PHOTOS_MIN, _ONE_OF = 6, 3
"""From so many photos on, one of every three is locked."""
_SURE = 0.5
"""A share from which a track counts to a person's faces of the day."""


class Photo(NamedTuple):
    """An enrolled face."""

    id: str
    person_id: str
    origin: Literal["photo", "visit", "visitor"]
    infrared: bool
    features: Floats
    """(K,) float32."""


@dataclass(frozen=True, eq=False)
class Watched:
    """The faces of the last days, and whose devices were near."""

    tracks: Tuple[Track, ...]
    event: Ints
    """(N,) which event each track belongs to, a visit or a stretch of time; -1 unknown."""

    owners: Tuple[str, ...]
    """Ids of the m people who have a device."""

    heard: Numbers
    """(h, m) whether each person's device was near in an event ..."""

    weight: Numbers
    """... and what that says, 0..1."""

    away: NDArray[np.bool_]
    """(h, m) the person's tracker said they were elsewhere: no face of the event may be called theirs."""

    left_out: int
    """Tracks of another encoder."""

    def scene(self, project: Project, apart: Ints) -> Scene:
        """Return what association is given.

        Args:
            project: a head, (N, K) features to (N, D) unit vectors.
            apart: (C, 2) pairs of tracks of two people.
        """
        return Scene(
            vectors=self.vectors(project),
            events=self.event,
            heard=self.heard,
            weight=self.weight,
            barred=self.away,
            apart=apart,
            verified=np.array([self._said(track) for track in self.tracks], np.int64),
            quality=np.array([track.qualities.max() for track in self.tracks], np.float64),
        )

    def vectors(self, project: Project) -> Floats:
        """Return (N, D) unit vectors of the tracks' means."""
        means = [track.mean for track in self.tracks]
        return project(np.stack(means)) if means else np.zeros((0, 1), np.float32)

    def _said(self, track: Track) -> int:
        """Return what the user said: 1..m, -1 somebody without a device or nobody of the house, 0 not asked."""
        if track.person_id is None:
            return -1 if track.nobody else 0
        return 1 + self.owners.index(track.person_id) if track.person_id in self.owners else -1


@dataclass(frozen=True, eq=False)
class Kept:
    """All that a night needs."""

    base: str
    """`Encoder.base` of all features."""

    watched: Watched
    known: Constraints
    people: Tuple[str, ...]
    """Ids of all P enrolled people."""

    photos: Tuple[Photo, ...]
    locked: NDArray[np.bool_]
    """(len(photos),) which of them take no part in training."""

    @property
    def tracks(self) -> Tuple[Track, ...]:
        """The kept tracks."""
        return self.watched.tracks

    def scene(self, project: Project) -> Scene:
        """Return what association is given; see `Watched.scene`."""
        return self.watched.scene(project, self.known.apart)

    def shares(self, labels: Numbers) -> Floats:
        """Return (N, P) shares by `people` of the association's (N, m + 1) labels by those with a device."""
        out = np.zeros((len(self.tracks), len(self.people)), np.float32)
        for j, person in enumerate(self.watched.owners):
            if person in self.people:
                out[:, self.people.index(person)] = labels[:, 1 + j]
        return out

    def gallery(self) -> Gallery:
        """Return the enrolled faces that are not locked, and of somebody all of whose are, all."""
        mine = [photo for photo, shown in zip(self.photos, self._shown()) if shown]
        people = tuple(sorted({photo.person_id for photo in mine}))
        return Gallery(
            people=people,
            owner=np.array([people.index(photo.person_id) for photo in mine], np.int64),
            features=stacked([photo.features for photo in mine]),
            infrared=np.array([photo.infrared for photo in mine], np.bool_),
            face_ids=tuple(photo.id for photo in mine),
        )

    def verified(self) -> Verified:
        """Return the locked set: what the user named, and the locked photos; no face nearly the same as the gallery's.

        A photo is a track of its own, unless its very face is kept as one. Who has no photo is left out.
        """
        people = self.gallery().people
        shown = [photo.features for photo, one in zip(self.photos, self._shown()) if one]
        named = [(t.id, t.person_id, t.features.astype(np.float32)) for t in self.tracks if t.verified]
        seen = [*shown, *(row for _, _, rows in named for row in rows)]
        photos = [(p.id, p.person_id, p.features[None]) for p, locked in zip(self.photos, self.locked) if locked]
        parts = [
            (name, person, rows[~_same_picture(rows, others)])
            for those, others in ((named, unit(stacked(shown))), (photos, unit(stacked(seen))))
            for name, person, rows in those
        ]
        found = [
            (name, -1 if person is None else people.index(person), rows)
            for name, person, rows in parts
            if len(rows) and (person is None or person in people)
        ]
        return Verified(
            features=stacked([row for _, _, rows in found for row in rows]),
            track=np.repeat(np.arange(len(found)), [len(rows) for *_, rows in found]),
            owner=np.array([owner for _, owner, _ in found], np.int64),
            learnt=np.zeros(len(found), np.bool_),
            ids=tuple(name for name, *_ in found),
        )

    def locked_pictures(self) -> Floats:
        """Return (L, K) float32 every face that must not teach, rows of length 1."""
        photos = [photo.features for photo, locked in zip(self.photos, self.locked) if locked]
        tracks = [row.astype(np.float32) for track in self.tracks if track.verified for row in track.features]
        return unit(stacked([*photos, *tracks]))

    def _shown(self) -> NDArray[np.bool_]:
        """Return which photos the gallery has."""
        free = {photo.person_id for photo, locked in zip(self.photos, self.locked) if not locked}
        return np.array([photo.person_id not in free for photo in self.photos], np.bool_) | ~self.locked


class Lesson(NamedTuple):
    """What a night may learn, and where it comes from."""

    samples: Samples
    """Its first groups are of tracks, some without a face that teaches; behind them one for each person's photos."""

    group: Ints
    """(N,) group of each kept track."""

    day: Ints
    """(G,) the first day of each group; -1 for photos, and where the clock was not set."""

    said: Ints
    """(G,) index into the people of whom a person has said the group is (photos, named visitors); -1 not asked."""

    unproven: int
    """Tracks left out because nothing proves that a living face was there."""


def gather(ask: Ask, encoder: Encoder, slot_h: float = 0.0) -> Kept:
    """Read all that a night needs.

    Args:
        ask: runs an operation of the store (`pipeline.operations`), here or in the daemon.
        encoder: with the head in service; photos without features of its base are embedded first.
        slot_h: as for `watch`.
    """
    reembed(ask, encoder.installed)
    watched = watch(ask, encoder.base, slot_h, faces=True)
    photos = tuple(
        Photo(row["face_id"], row["person_id"], row["origin"], row["infrared"], floats_of(row["features"], "features"))
        for row in ask("tracklets.enrolled", model=encoder.base)
    )
    people = tuple(sorted(row["id"] for row in ask("people.list")))
    known = constrain(watched.tracks, watched.vectors(encoder.project))
    return Kept(encoder.base, watched, known, people, photos, _locked(photos))


def watch(ask: Ask, base: str, slot_h: float = 0.0, *, faces: bool = False) -> Watched:
    """Read the kept tracks and whose devices were near.

    Args:
        ask: as for `gather`.
        base: tracks of another encoder are left out.
        slot_h: what is one event: so many hours at a place (an office), or with 0 a visit (a door).
        faces: with each single face (and the clothes), not only the mean.
    """
    tracks: List[Track] = []
    left_out = 0
    for row in ask("tracklets.list", faces=faces):
        if row["model"] == base:
            tracks.append(_track(row))
        else:
            left_out += 1
    first, *attended = ask("tracklets.attendance")
    owners: Tuple[str, ...] = tuple(first["people"])
    seen = {track.visit for track in tracks}
    events: Dict[Tuple[str, str], List[Record]] = {}
    for row in attended:
        if row["visit"] in seen:
            slot = str(int(row["opened_wall_s"] // (3600.0 * slot_h))) if slot_h else row["visit"]
            events.setdefault((row["place"], slot), []).append(row)
    number = {row["visit"]: k for k, rows in enumerate(events.values()) for row in rows}
    event = np.array([number.get(track.visit, -1) for track in tracks], np.int64)
    return Watched(tuple(tracks), event, owners, *_heard([*events.values()], owners), left_out)


def material(kept: Kept, project: Project, night: int = 0, *, grey: bool = False) -> Tuple[Material, Lesson]:
    """Return what the rounds of a night work on, before anything is associated, and where it comes from.

    Enrolled photos stand beside the tracks as faces that a person has named, of no event: a device never overrides
    them, and who has no device is nobody else.

    Args:
        kept: what was gathered.
        project: of the installed head.
        night: as in `Material`.
        grey: as for `lesson`.
    """
    taught = lesson(kept, grey=grey)
    scene, samples, owners = kept.scene(project), taught.samples, kept.watched.owners
    features = [track.mean for track in kept.tracks]
    groups, days = [int(g) for g in taught.group], [track.day for track in kept.tracks]
    said: List[int] = [] if scene.verified is None else scene.verified.tolist()
    for group in np.unique(samples.group[samples.enrolled]).tolist():
        person = samples.people[int(taught.said[group])]
        features.append(samples.features[samples.enrolled & (samples.group == group)].mean(axis=0))
        groups.append(group)
        days.append(-1)
        said.append(1 + owners.index(person) if person in owners else -1)
    extra = len(features) - len(kept.tracks)
    quality = np.ones(len(kept.tracks)) if scene.quality is None else scene.quality
    rows = stacked(features) if features else samples.features[:0]
    whole = replace(
        scene,
        vectors=project(rows),
        events=np.concatenate([scene.events, np.full(extra, -1, np.int64)]),
        verified=np.array(said, np.int64),
        quality=np.concatenate([quality, np.ones(extra)]),
    )
    at = np.array(groups, np.int64), rows, owners, np.array(days, np.int64)
    return Material(samples, whole, *at, night=night), taught


def lesson(kept: Kept, shares: Optional[Floats] = None, *, grey: bool = False) -> Lesson:
    """Choose the faces that may teach.

    Only tracks proven live do, and no face that is nearly the same picture as a locked one. Of a person and day (and of
    nobody's faces together) twenty teach, the best of each track first; five thousand in all, of which enrolment photos
    take at most half. Tracks known to be one person are one group.

    Args:
        kept: what was gathered.
        shares: (N, P) how far each kept track is each of `kept.people`, rows of at most 1. Where a person's tracker was
            away theirs counts nothing; what the user said of a whole visitor counts in its place. None: nobody's yet;
            twenty faces are then of a day and of whom the track was taken for, or of a group of tracks.
        grey: take unproven infrared tracks, too: the anti-spoof nets cannot judge these, so photos may be among them.
    """
    at = {person: i for i, person in enumerate(kept.people)}
    said = np.array([at.get(track.person_id or "", -1) for track in kept.tracks], np.int64)
    mine = np.zeros((len(said), len(at)), np.float32) if shares is None else np.where(_away(kept), 0.0, shares)
    mine[said >= 0] = np.eye(len(at), dtype=np.float32)[said[said >= 0]]
    unsure = np.full((len(said), 1), _SURE - 1e-6)
    whose = np.concatenate([unsure, mine], axis=1).argmax(axis=1) - 1
    if shares is None:
        taken = np.array([at.get(track.taken_for or "", -1) for track in kept.tracks], np.int64)
        whose = np.where(whose >= 0, whose, np.where(taken >= 0, taken, len(at) + kept.known.group))
    free = np.array([not track.verified for track in kept.tracks], np.bool_)
    proven = np.array([track.live or (grey and track.infrared) for track in kept.tracks], np.bool_)
    locked = kept.locked_pictures()
    photos = [i for i, one in enumerate(kept.photos) if not kept.locked[i]]
    fresh = ~_same_picture(stacked([kept.photos[i].features for i in photos]), locked)
    photos = _photos_in_turn([i for i, one in zip(photos, fresh) if one], kept.photos)[: FACES_MAX // 2]
    faces = _faces_in_turn(kept.tracks, whose, np.flatnonzero(free & proven), locked)[: FACES_MAX - len(photos)]
    return _lesson(kept, mine.astype(np.float32), said, photos, faces, int(np.sum(free & ~proven)))


def _same_picture(rows: Floats, others: Floats) -> NDArray[np.bool_]:
    """Return (N,) which of (N, K) faces are nearly the same picture as one of (M, K) others, given with length 1."""
    if not len(rows) or not len(others):
        return np.zeros(len(rows), np.bool_)
    found: NDArray[np.bool_] = (unit(rows) @ others.T).max(axis=1) > SAME_PICTURE
    return found


def _photos_in_turn(rows: Sequence[int], photos: Sequence[Photo]) -> List[int]:
    """Return the photos so that everybody has one before anybody has two."""
    turn: Counter[str] = Counter()
    order = []
    for i in rows:
        order.append((turn[photos[i].person_id], i))
        turn[photos[i].person_id] += 1
    return [i for _, i in sorted(order)]


def _faces_in_turn(tracks: Sequence[Track], whose: Ints, rows: Ints, locked: Floats) -> List[Tuple[int, int]]:
    """Return (track, face) within the quota of one and the same and day; each track's best before any one's second."""
    turns: Dict[Tuple[int, int], List[Tuple[int, float, int, int]]] = {}
    for i in rows.tolist():
        new = np.flatnonzero(~_same_picture(tracks[i].features.astype(np.float32), locked))
        turns.setdefault((int(whose[i]), tracks[i].day), []).extend(
            (turn, -float(tracks[i].qualities[face]), i, int(face)) for turn, face in enumerate(new)
        )
    chosen = [(turn, -day, i, face) for (_, day), of in turns.items() for turn, _, i, face in sorted(of)[:FACES_A_DAY]]
    return [(i, face) for _, _, i, face in sorted(chosen)]


def _lesson(
    kept: Kept, shares: Floats, said: Ints, photos: Sequence[int], faces: Sequence[Tuple[int, int]], unproven: int
) -> Lesson:
    """Put the chosen photos and faces together."""
    tracks, people, group = kept.tracks, kept.people, kept.known.group
    first = int(group.max()) + 1 if len(group) else 0
    shown = sorted({people.index(kept.photos[i].person_id) for i in photos})
    group_of = {person: first + n for n, person in enumerate(shown)}
    taught = np.zeros((first + len(shown), len(people)), np.float32)
    day, told = np.full(len(taught), -1, np.int64), np.full(len(taught), -1, np.int64)
    for g in range(first):
        mine = np.flatnonzero((group == g) & [not track.verified for track in tracks])
        if len(mine):
            taught[g] = shares[mine].mean(axis=0)
            day[g], told[g] = min(tracks[i].day for i in mine), said[mine].max()
    for person, g in group_of.items():
        taught[g, person], told[g] = 1.0, person
    apart = {(min(a, b), max(a, b)) for a, b in group[kept.known.apart].tolist()}
    apart |= set(combinations(group_of.values(), 2))
    domains = sorted({(tracks[i].camera, tracks[i].infrared) for i, _ in faces})
    grey = 1 + len(domains)
    samples = Samples(
        features=stacked(
            [*(tracks[i].features[n].astype(np.float32) for i, n in faces), *(kept.photos[i].features for i in photos)]
        ),
        group=np.array(
            [*(group[i] for i, _ in faces), *(group_of[people.index(kept.photos[i].person_id)] for i in photos)],
            np.int64,
        ),
        shares=taught,
        people=people,
        apart=np.array(sorted(apart), np.int64).reshape(-1, 2),
        domain=np.array(
            [
                *(1 + domains.index((tracks[i].camera, tracks[i].infrared)) for i, _ in faces),
                *(grey if kept.photos[i].infrared else 0 for i in photos),
            ],
            np.int64,
        ),
        enrolled=np.repeat([False, True], [len(faces), len(photos)]),
    )
    return Lesson(samples, group, day, told, unproven)


def _away(kept: Kept) -> NDArray[np.bool_]:
    """Return (N, P) whose tracker was elsewhere when each track was seen."""
    out = np.zeros((len(kept.tracks), len(kept.people)), np.bool_)
    timed = kept.watched.event >= 0
    for j, person in enumerate(kept.watched.owners):
        if person in kept.people:
            out[timed, kept.people.index(person)] = kept.watched.away[kept.watched.event[timed], j]
    return out


def _locked(photos: Sequence[Photo]) -> NDArray[np.bool_]:
    """Return which photos take no part in training.

    Those named at the door, and one of every three others in the order in which they came, by a hash of its id: a
    photo that comes later changes nothing for those before it, but for the last one or two. None of those that were
    named with a whole visitor: nobody has looked at each of them.
    """
    locked = np.array([photo.origin == "visit" for photo in photos], np.bool_)
    plain: Dict[str, List[int]] = {}
    for i in sorted(range(len(photos)), key=lambda i: photos[i].id):
        if photos[i].origin == "photo":
            plain.setdefault(photos[i].person_id, []).append(i)
    for mine in plain.values():
        for start in range(0, len(mine) - _ONE_OF + 1, _ONE_OF) if len(mine) >= _PHOTOS_MIN else ():
            three = mine[start : start + _ONE_OF]
            locked[min(three, key=lambda i: hashlib.sha256(photos[i].id.encode()).digest())] = True
    return locked


def _track(row: Mapping[str, Any]) -> Track:
    mean = floats_of(row["features"], "features")
    qualities = floats_of(row["qualities"], "qualities") if "faces" in row else np.array([row["quality"]], np.float32)
    faces = floats_of(row["faces"], "faces", len(mean)) if "faces" in row else mean[None]
    opened_s = row["opened_wall_s"]
    return Track(
        id=row["tracklet"],
        visit=row["visit"],
        camera=row["camera"],
        place=row["place"],
        day=_day(opened_s) if opened_s >= WALL_TRUSTED_AFTER_S else -1,
        first_s=row["first_s"],
        last_s=row["last_s"],
        mean=mean,
        features=faces.astype(np.float16),
        qualities=qualities,
        infrared=row["infrared"],
        live=row["liveness"] == Liveness.LIVE.value,
        clothes=floats_of(row["clothes"], "clothes") if "faces" in row else np.zeros(0, np.float32),
        taken_for=row["taken_for"],
        person_id=row["person_id"],
        nobody=row["nobody"],
        grouped=row["grouped"],
    )


def _day(wall_s: float) -> int:
    """Return the local calendar day, as a running number."""
    there = time.localtime(wall_s)
    return date(there.tm_year, there.tm_mon, there.tm_mday).toordinal()


def _heard(events: Sequence[Sequence[Record]], people: Sequence[str]) -> Tuple[Numbers, Numbers, NDArray[np.bool_]]:
    """Return (h, m) whether each person's device was near, what that says, and whether their tracker was elsewhere.

    A device of two people says nothing.
    """
    column = {person: j for j, person in enumerate(people)}
    heard = np.zeros((len(events), len(people)))
    weight = np.ones_like(heard)
    away = np.zeros(heard.shape, np.bool_)
    for k, event in enumerate(events):
        for one in (near for row in event for near in row["present"]):
            mine = [column[person] for person in one["people"] if person in column]
            sure = len(one["people"]) == 1 and one["weight"] > 0
            for j in mine:
                away[k, j] |= one["reason"] == AWAY
                if not sure:
                    weight[k, j] = min(weight[k, j], heard[k, j])  # unless another visit of the event told
                else:
                    weight[k, j] = max(weight[k, j], one["weight"]) if heard[k, j] else one["weight"]
                    heard[k, j] = 1.0
    return heard, weight, away & (heard == 0)


def stacked(rows: Sequence[Floats]) -> Floats:
    """Return (N, K) of N rows; (0, 0) of none."""
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)
