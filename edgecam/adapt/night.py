"""From kept faces and sighted devices to proposals and questions (`algorithms.md` 8, steps 3 to 8 and 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import List, Tuple

from edgecam.adapt.gather import Watched
from edgecam.associate import Association
from edgecam.pipeline.wire import Record


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

    @staticmethod
    def of(watched: Watched, found: Association) -> Night:
        """Return the night of these faces.

        Args:
            watched: T tracks.
            found: of the tracks, and perhaps of faces behind them.
        """
        count = len(watched.tracks)
        return Night(
            tracklets=tuple(track.id for track in watched.tracks),
            events=len(watched.heard),
            people=watched.owners,
            named=tuple(track.person_id is not None or track.nobody for track in watched.tracks),
            found=replace(found, labels=found.labels[:count], vectors=found.vectors[:count]),
            left_out=watched.left_out,
        )

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
