"""From kept faces and sighted devices to proposals and questions (`algorithms.md` 8, steps 3 to 8 and 10)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.associate import Association, Scene, associate
from edgecam.pipeline.wire import Record, floats_of
from edgecam.types import Floats, Ints

Ask = Callable[..., Iterable[Record]]


@dataclass(frozen=True)
class Night:
    """The faces of the last days, and what the devices say of them."""

    tracklets: Tuple[str, ...]
    events: int
    """Visits, or stretches of time, of which a face is kept."""

    people: Tuple[str, ...]
    """Ids of those who have a device."""

    named: Tuple[bool, ...]
    """Whether the user has said who each face is."""

    found: Association
    left_out: int
    """Faces of another encoder."""

    def proposals(self) -> List[Record]:
        """Return who each face probably is, as `proposals.put` takes it; faces that have a name are passed over."""
        records = []
        for i, people in enumerate(self.found.candidates()):
            if self.named[i]:
                continue
            for j in people:
                with_device, without_device = (int(n) for n in self.found.together[j])
                records.append(
                    {
                        "tracklet": self.tracklets[i],
                        "person_id": self.people[j],
                        "share": float(self.found.labels[i, 1 + j]),
                        "with_device": with_device,
                        "without_device": without_device,
                    }
                )
        return records

    def questions(self) -> List[Record]:
        """Return what is worth asking, most worth first, as `proposals.put` takes it.

        A question is called by its most typical face, so that a late answer never meets another question.
        """
        return [
            {
                "id": f"q{self.tracklets[question.tracklets[0]][-5:].lower()}",
                "people": [self.people[j] for j in question.persons],
                "tracklets": [self.tracklets[i] for i in question.tracklets],
            }
            for question in self.found.questions
        ]


def look_back(ask: Ask, project: Callable[[Floats], Floats], model: str, slot_h: float = 0.0) -> Night:
    """Read what is kept and associate it.

    Args:
        ask: runs an operation of the store (`pipeline.operations`), here or in the daemon.
        project: the encoder's head, (N, K) features to (N, D) unit vectors.
        model: `Encoder.base`; faces of another encoder are left out.
        slot_h: what is one event: so many hours at a place (an office), or with 0 a visit (a door).
    """
    rows = list(ask("tracklets.list"))
    mine = [row for row in rows if row["model"] == model]
    first, *attended = ask("tracklets.attendance")
    people: List[str] = first["people"]
    seen = {row["visit"] for row in mine}
    events: Dict[Tuple[str, str], List[Record]] = {}
    for row in attended:
        if row["visit"] in seen:
            slot = str(int(row["opened_wall_s"] // (3600.0 * slot_h))) if slot_h else row["visit"]
            events.setdefault((row["place"], slot), []).append(row)
    number = {row["visit"]: k for k, rows_of_event in enumerate(events.values()) for row in rows_of_event}
    heard, weight = _heard([*events.values()], people)
    features = np.stack([floats_of(row["features"]) for row in mine]) if mine else np.zeros((0, 1), np.float32)
    scene = Scene(
        vectors=project(features) if mine else np.zeros((0, 1), np.float32),
        events=np.array([number.get(row["visit"], -1) for row in mine], np.int64),
        heard=heard,
        weight=weight,
        apart=_apart(mine),
        verified=_verified(mine, people),
        quality=np.array([row["quality"] for row in mine], np.float64),
    )
    return Night(
        tracklets=tuple(row["tracklet"] for row in mine),
        events=len(events),
        people=tuple(people),
        named=tuple(bool(row["person_id"]) or row["nobody"] for row in mine),
        found=associate(scene),
        left_out=len(rows) - len(mine),
    )


def _heard(
    events: Sequence[Sequence[Record]], people: Sequence[str]
) -> Tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (h, m) whether each person's device was near, and what that says; a device of two people says nothing."""
    column = {person: j for j, person in enumerate(people)}
    heard = np.zeros((len(events), len(people)))
    weight = np.ones_like(heard)
    for k, event in enumerate(events):
        for one in (near for row in event for near in row["present"]):
            mine = [column[person] for person in one["people"] if person in column]
            sure = len(one["people"]) == 1 and one["weight"] > 0
            for j in mine:
                if not sure:
                    weight[k, j] = min(weight[k, j], heard[k, j])  # unless another visit of the event told
                else:
                    weight[k, j] = max(weight[k, j], one["weight"]) if heard[k, j] else one["weight"]
                    heard[k, j] = 1.0
    return heard, weight


def _apart(rows: Sequence[Mapping[str, Any]]) -> Ints:
    """Return (C, 2) pairs of faces that one camera saw at the same time."""
    by_view: Dict[Tuple[str, str], List[int]] = {}
    for i, row in enumerate(rows):
        by_view.setdefault((row["visit"], row["camera"]), []).append(i)
    pairs = [
        (a, b)
        for group in by_view.values()
        for a, b in combinations(group, 2)
        if min(rows[a]["last_s"], rows[b]["last_s"]) > max(rows[a]["first_s"], rows[b]["first_s"])
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _verified(rows: Sequence[Mapping[str, Any]], people: Sequence[str]) -> Ints:
    """Return (N,) what the user said: 1..m, -1 somebody without a device or nobody of the house, 0 not asked."""
    said = {person: 1 + j for j, person in enumerate(people)}
    words = [said.get(row["person_id"], -1) if row["person_id"] else -1 if row["nobody"] else 0 for row in rows]
    return np.array(words, np.int64)
