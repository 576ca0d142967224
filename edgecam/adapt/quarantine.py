"""Labels that look poisoned are taken out before a night learns from them (`algorithms.md` 5A.5-6).

Held against a label are the faces that a person has confirmed and the identifier in service, never a device. What is
taken out teaches nothing, neither as this person nor as somebody else, and is reported (docs/gate.md).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import exp
from typing import Callable, Dict, Iterator, List, Literal, Optional, Sequence, Tuple

import numpy as np

from edgecam.adapt.gate import Verified
from edgecam.adapt.samples import Samples
from edgecam.embed.sface import unit
from edgecam.errors import ShapeError
from edgecam.identify import Identifier
from edgecam.identify.identifier import _MEAN, _SPREAD  # what a typical stranger's similarity is
from edgecam.types import Floats, Ints, Verdict

Rule = Literal["apart", "other", "stranger", "unlike", "young", "share", "drift"]

_STRANGER = _MEAN + 2.0 * _SPREAD
"""Under this a face is surely not the person's: 19 of 20 strangers are, and one in a hundred of its own at dusk ..."""
_LOWEST, _LOWEST_FROM = 0.05, 10
"""... but not where so many of the confirmed ones, of ten at least, are lower: there the light is to blame."""
_AROUND = 5
"""A face at night says little; the mean of so many of its label that are most like it says much more."""
_UNLIKE = 0.10
"""Cosine by which unrecognised faces may resemble one another more than the person."""
_NEAREST = 3
_DAYS_MIN = 3
"""A new appearance must have come on so many days before it teaches."""
_DRIFT = 0.15
"""Cosine distance that a person's mean may move in a week."""
_MORE, _MORE_MIN, _MORE_P = 3.0, 10, 1e-3
"""Suddenly far more: over three times as many as used to be, ten at least, and no chance of it."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of the G groups besides their labels."""

    verified: Ints
    """(G,) int64 index into the samples' people of whom a person has said the group is; -1 not asked."""

    day: Ints
    """(G,) int64 day on which the group was seen, -1 if the clock was not set; of enrolment photos any."""

    usual: Floats
    """(P,) groups a day that each person used to teach, NaN if there is no history."""

    locked: Optional[Floats] = None
    """(C, K) a face of each track of the locked set: how these people look here; they teach nothing."""

    locked_owner: Optional[Ints] = None
    """(C,) int64 index into the samples' people, -1 nobody of them."""


def locked_faces(verified: Verified, gallery: Sequence[str], people: Sequence[str]) -> Tuple[Floats, Ints]:
    """Return `locked` and `locked_owner` of `Evidence`: the first face of each track of the locked set.

    Args:
        verified: its owners are numbers of the gallery's people.
        gallery: the ids of these.
        people: the samples'.
    """
    _, first = np.unique(verified.track, return_index=True)
    at = {person: i for i, person in enumerate(people)}
    owner = np.array([at.get(gallery[i], -1) if i >= 0 else -1 for i in verified.owner], np.int64)
    return verified.features[first], owner


@dataclass(frozen=True)
class Taken:
    """A label that was taken out."""

    group: int
    """Of the samples given."""

    person: str
    rule: Rule
    said: str
    """One line with the numbers; without names."""


@dataclass(frozen=True, eq=False)
class Quarantine:
    """What is left to learn from, and what is not."""

    samples: Samples
    kept: Ints
    """(G',) which group of the samples given each group is."""

    taken: Tuple[Taken, ...]

    def counts(self) -> Dict[str, Dict[str, int]]:
        """Return how many labels of each person each rule took out."""
        out: Dict[str, Dict[str, int]] = {}
        for (person, rule), count in sorted(Counter((one.person, one.rule) for one in self.taken).items()):
            out.setdefault(person, {})[rule] = count
        return out


def quarantine(
    samples: Samples, evidence: Evidence, identifier: Identifier, project: Callable[[Floats], Floats]
) -> Quarantine:
    """Take out the labels that look poisoned.

    Args:
        samples: of the night; a group's label is the person with the largest share.
        evidence: of the same groups.
        identifier: in service.
        project: of the head in service.
    """
    look = _Look(samples, evidence, identifier, project)
    for rule in (look.apart, look.other, look.stranger, look.unlike, look.tainted, look.young, look.share, look.drift):
        for group, name, said in list(rule()):  # each rule sees what those before it have left
            look.taken[group] = Taken(group, samples.people[look.label[group]], name, said)
    kept = np.array([g for g in range(len(samples.shares)) if g not in look.taken], np.int64)
    return Quarantine(samples.of_groups(kept), kept, tuple(look.taken[g] for g in sorted(look.taken)))


Found = Iterator[Tuple[int, Rule, str]]


@dataclass(eq=False)
class _Look:
    """The groups as the head in service sees them, and the rules."""

    samples: Samples
    evidence: Evidence
    identifier: Identifier
    project: Callable[[Floats], Floats]
    taken: Dict[int, Taken] = field(default_factory=dict)

    def __post_init__(self) -> None:
        samples, evidence = self.samples, self.evidence
        groups, people = samples.shares.shape
        if not evidence.verified.shape == evidence.day.shape == (groups,) or evidence.usual.shape != (people,):
            raise ShapeError(f"want {groups} verified and days, {people} usual numbers")
        vectors = self.project(samples.features)
        self.tracks = [vectors[samples.group == g] for g in range(groups)]
        self.mean = unit(np.stack([t.mean(axis=0) for t in self.tracks])) if groups else vectors
        labelled = samples.shares.max(axis=1, initial=0.0) > 0
        self.label = np.where(labelled, samples.shares.argmax(axis=1) if people else 0, -1)
        enrolled = np.zeros(groups, np.bool_)
        enrolled[samples.group[samples.enrolled]] = True
        self.trusted = labelled & (enrolled | (evidence.verified == self.label))
        self.own = self._similarity(self.mean, self.label)
        self.recognised = self.trusted | (self.own >= self.identifier.calibration.threshold)
        self.around = self._surroundings()
        locked, owner = evidence.locked, evidence.locked_owner
        if locked is None or owner is None or not len(locked):
            locked, owner = samples.features[:0], np.zeros(0, np.int64)
        if owner.shape != (len(locked),):
            raise ShapeError(f"want {len(locked)} owners of the locked set")
        self.locked, self.locked_owner = self.project(locked) if len(locked) else self.mean[:0], owner
        lows = np.sort(self._similarity(self.locked, owner)[owner >= 0])
        self.owners = [i for i in range(people) if np.any(owner == i)]
        self.confirmed = [unit(self.locked[owner == i].mean(axis=0)[None])[0] for i in self.owners]
        self.least = self.least_around = _STRANGER
        if len(lows) >= _LOWEST_FROM:
            means = self._similarity(np.stack(self.confirmed), np.array(self.owners))
            self.least = min(_STRANGER, float(lows[int(_LOWEST * len(lows))]))
            self.least_around = min(_STRANGER, float(means.min()))

    def _similarity(self, vectors: Floats, person: Ints) -> Floats:
        """Return (N,) how much each vector looks like its person, to the identifier in service; -1 like nobody."""
        out = np.full(len(vectors), -1.0, np.float32)
        column = {name: i for i, name in enumerate(self.identifier.people)}
        known = np.array([column.get(self.samples.people[p], -1) if p >= 0 else -1 for p in person], np.int64)
        rows = np.flatnonzero(known >= 0)
        if len(rows):
            out[rows] = self.identifier.scores(vectors[rows])[np.arange(len(rows)), known[rows]]
        return out

    def _surroundings(self) -> Floats:
        """Return (G, D) the mean of each doubted group and those of its label that are most like it."""
        around = self.mean.copy()
        for _, mine in self._of_each():
            cosines = self.mean[mine] @ self.mean[mine].T
            nearest = np.argsort(-cosines, axis=1)[:, :_AROUND]
            around[mine] = unit(self.mean[np.array(mine)[nearest]].mean(axis=1))
        return around

    def _doubted(self) -> List[int]:
        """Return the groups that a machine labelled and no rule has taken out."""
        return [int(g) for g in np.flatnonzero((self.label >= 0) & ~self.trusted) if int(g) not in self.taken]

    def _of_each(self) -> Iterator[Tuple[int, List[int]]]:
        doubted = self._doubted()
        for person in range(len(self.samples.people)):
            mine = [g for g in doubted if self.label[g] == person]
            if mine:
                yield person, mine

    def apart(self) -> Found:
        """Two faces seen at once are two people: no device makes them one."""
        for a, b in self.samples.apart:
            if self.label[a] < 0 or self.label[a] != self.label[b]:
                continue
            doubted = [int(g) for g in (a, b) if not self.trusted[g]]
            if len(doubted) == 2 and self.recognised[a] != self.recognised[b]:
                doubted = [int(b) if self.recognised[a] else int(a)]
            for g in doubted:
                yield g, "apart", "seen together with this very person"

    def other(self) -> Found:
        """The identifier in service knows the face as somebody else, or its like resemble another's confirmed faces."""
        for g in self._doubted():
            match = self.identifier.match(self.tracks[g])
            if match.verdict is Verdict.KNOWN and match.person_id != self.samples.people[self.label[g]]:
                yield g, "other", f"recognised as another at {match.similarity:.2f}"
            elif self.label[g] in self.owners and not self.recognised[g]:
                cosines = np.stack(self.confirmed) @ self.around[g]
                own = float(cosines[self.owners.index(int(self.label[g]))])
                if cosines.max() > own:
                    yield (
                        g,
                        "other",
                        f"cosine {cosines.max():.2f} to another's confirmed faces, {own:.2f} to the person's",
                    )

    def stranger(self) -> Found:
        """The face is surely not this person's, nor are those most like it."""
        scores = self._similarity(self.around, self.label)
        for g in self._doubted():
            if self.own[g] < self.least:
                yield g, "stranger", f"similarity {self.own[g]:.2f}, at least {self.least:.2f} is needed"
            elif scores[g] < self.least_around and not self.recognised[g]:
                yield g, "stranger", f"with its like {scores[g]:.2f}, at least {self.least_around:.2f} is needed"

    def unlike(self) -> Found:
        """Unrecognised faces resemble one another and not the person: another's, or a mask that nobody confirmed."""
        for g, among, to_person, _ in self._appearances():
            if among > to_person + _UNLIKE:
                yield g, "unlike", f"cosine {among:.2f} to other unrecognised faces, {to_person:.2f} to the person"

    def tainted(self) -> Found:
        """The face is more like those of this label that were taken out than like the person."""
        out = np.array(sorted(self.taken), np.int64)
        for g, _, to_person, _ in self._appearances():
            to_them = _closest(self.mean[out[self.label[out] == self.label[g]]] @ self.mean[g])
            if to_them > to_person:
                yield g, "unlike", f"cosine {to_them:.2f} to faces that were taken out, {to_person:.2f} to the person"

    def young(self) -> Found:
        """A new appearance, more like other unrecognised faces than like the person, waits for its third day."""
        for g, among, to_person, days in self._appearances():
            if days < _DAYS_MIN and not -1.0 < among <= to_person:
                yield g, "young", f"a new appearance, seen on {days} days, {_DAYS_MIN} are needed"

    def _appearances(self) -> Iterator[Tuple[int, float, float, int]]:
        """Yield (group, cosine to other unrecognised ones, to the person, days of those) of what is not recognised.

        Those already taken out count as company, or the last of a poisoned dozen would stand alone.
        """
        for person, doubted in self._of_each():
            same, locked = self.label == person, self.locked[self.locked_owner == person]
            known = np.concatenate([self.mean[self.recognised & same], locked])
            sure = np.concatenate([self.mean[self.trusted & same], locked])
            radius = self.identifier.calibration.radius.get(self.samples.people[person], 1.0)
            unknown = np.flatnonzero(same & ~self.recognised)
            for g in doubted if len(known) else ():
                if self.recognised[g] or (sure @ self.mean[g]).max(initial=-1.0) >= radius:
                    continue  # recognised, or in a look that a person has confirmed
                company = unknown[unknown != g]
                cosines = self.mean[company] @ self.mean[g]
                to_person = _closest(known @ self.mean[g])
                near = [*company[cosines >= to_person], g]
                yield g, _closest(cosines), to_person, self._days(near)

    def _days(self, groups: Sequence[int]) -> int:
        return len({int(day) for day in self.evidence.day[groups] if day >= 0})

    def share(self) -> Found:
        """A person who suddenly has far more labels than ever teaches only what is recognised anyway."""
        for person, mine in self._of_each():
            days = max(1, self._days(self._doubted()))
            usual = float(self.evidence.usual[person]) * days
            if np.isnan(usual) or len(mine) < _MORE_MIN or len(mine) <= _MORE * usual:
                continue
            if _at_least(len(mine), usual) < _MORE_P:
                for g in mine:
                    if not self.recognised[g]:
                        yield g, "share", f"{len(mine)} labels in {days} days, {usual:.1f} are usual"

    def drift(self) -> Found:
        """A person's mean must not move far in a week, were the night to count as much as all that is confirmed."""
        for person, mine in self._of_each():
            locked = self.locked[self.locked_owner == person]
            sure = np.concatenate([self.mean[self.trusted & (self.label == person)], locked])
            if not len(sure):
                continue
            before, night = unit(np.stack([sure.mean(axis=0), self.mean[mine].mean(axis=0)]))
            moved = 1.0 - float(before @ unit((before + night)[None])[0])
            known = self.evidence.day[mine][self.evidence.day[mine] >= 0]
            weeks = float(known.max() - known.min() + 1) / 7.0 if len(known) else 1.0
            allowed = _DRIFT * max(1.0, weeks)
            if moved > allowed:
                for g in mine:
                    yield g, "drift", f"the person's mean would move by {moved:.2f}, {allowed:.2f} are allowed"


def _closest(cosines: Floats) -> float:
    """Return the mean of the highest few cosines, -1 without any."""
    return float(np.sort(cosines)[::-1][:_NEAREST].mean()) if len(cosines) else -1.0


def _at_least(count: int, expected: float) -> float:
    """Return the Poisson chance of so many or more."""
    term, below = exp(-expected), 0.0
    for k in range(count):
        below += term
        term *= expected / (k + 1)
    return max(0.0, 1.0 - below)
