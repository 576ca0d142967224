"""Pictures and screens held to the owner's own camera, counted as the daemon would judge them (`edgecam pad-selftest`).

Each presentation is a visit of its own through the camera's path: same nets, same vote, same policy. Of what was seen
nothing is kept: a session file has the kind, the verdict and whether a name was told, no picture, vector or name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, DefaultDict, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from edgecam.capture.base import make_source
from edgecam.capture.photo import is_photo
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig, Config
from edgecam.errors import InputError
from edgecam.evaluation.pad import CLIPS, Count, row_of
from edgecam.evaluation.presented import PERCEIVED_EVERY_S
from edgecam.pipeline.camera import CameraPath, Said, Stages
from edgecam.pipeline.visits import VisitBook
from edgecam.types import Liveness, Phase, Verdict

LIVE = "live"
"""Kinds that begin so are living people (`live`, `live-glasses`), all others attacks."""
SPECIES = ("print", "phone", "phone-night", "tablet")
_WORST: Mapping[bool, Tuple[Liveness, ...]] = {
    True: (Liveness.SPOOF, Liveness.UNPROVEN, Liveness.LIVE),
    False: (Liveness.LIVE, Liveness.UNPROVEN, Liveness.SPOOF),
}
"""Which verdict counts where a face was lost and found again, for living people and for attacks."""
_CROWDED = 3
"""Two faces in so many pictures: nobody knows which of them was meant."""


@dataclass(frozen=True)
class Presentation:
    """What one presentation came to."""

    species: str
    verdict: Optional[str]
    """`live`, `spoof`, `unproven`; None if there was nothing to judge."""

    named: bool
    """A name was told, early or at the end."""

    reason: str = ""
    """For the eyes of whoever tests; it may hold a name, so it is not kept."""


def present(camera: CameraConfig, species: str, config: Config, stages: Stages, for_s: float) -> Presentation:
    """Watch a camera, or a recording, for so many seconds as one visit.

    Raises:
        SourceError: the camera fails.
        InputError: the recording cannot be played.
        ConfigError: no kind of source has such an address.
    """
    clock, said = SystemClock(), list[Said]()
    path = CameraPath("selftest", camera, config, stages, VisitBook(), clock, said.append)
    source = make_source(camera, "selftest", clock)
    source.open()
    start_s: Optional[float] = None
    looked_s, crowded = float("-inf"), 0
    try:
        while (frame := source.read()) is not None:
            at_s = frame.captured_at_s
            start_s = at_s if start_s is None else start_s
            if at_s - start_s > for_s:
                break
            path.glimpse(frame)
            if at_s - looked_s >= PERCEIVED_EVERY_S:
                looked_s = at_s
                crowded += path.perceive(frame) > 1
    finally:
        source.close()
    path.close()
    return _judged(species, [one.decision for one in said], crowded >= _CROWDED)


def _judged(species: str, decisions: Sequence[Any], crowded: bool) -> Presentation:
    named = any(d.verdict is Verdict.KNOWN for d in decisions)
    if crowded:
        return Presentation(species, None, named, "more than one face in the picture")
    tracks = [d for d in decisions if d.track and d.phase is not Phase.NAMED]
    if not tracks:
        return Presentation(species, None, named, decisions[-1].reason if decisions else "no face was seen")
    worst = _WORST[species.startswith(LIVE)]
    told = min(tracks, key=lambda d: worst.index(d.liveness))
    return Presentation(species, told.liveness.value, named, told.reason)


def recordings(folder: Path) -> List[Tuple[str, Path]]:
    """Return (kind, file) of a folder with one folder a kind.

    Raises:
        InputError: none there.
    """
    folders = [f for f in sorted(folder.iterdir()) if f.is_dir()] if folder.is_dir() else []
    found = [(f.name, p) for f in folders for p in sorted(f.iterdir()) if p.suffix.lower() in CLIPS or is_photo(p)]
    if not found:
        raise InputError(f"{folder}: want folders {LIVE}/, print/, phone/ ... with a recording for each presentation")
    return found


class Session:
    """The presentations so far; with a file, kept from one run to the next.

    Args:
        path: JSON lines; None keeps nothing.
        about: what all of them share (camera, policy); another is another session.

    Raises:
        InputError: the file is of another session, or no session at all.
    """

    def __init__(self, path: Optional[Path], about: Mapping[str, Any]) -> None:
        self._path, self.done = path, list[Presentation]()
        if path is None:
            return
        if path.exists():
            try:
                first, *rest = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
                self.done = [Presentation(**one) for one in rest]
            except (ValueError, TypeError) as err:
                raise InputError(f"{path}: not a self-test session; give another --session") from err
            if first != dict(about):
                raise InputError(f"{path} was begun with {first}, not {dict(about)}; give another --session")
        else:
            path.touch(mode=0o600)
            self._write(about)

    def add(self, one: Presentation) -> None:
        """Keep one more."""
        self.done.append(one)
        self._write({"species": one.species, "verdict": one.verdict, "named": one.named})

    def count(self, species: str) -> int:
        """Return how many presentations of a kind could be judged."""
        return sum(one.species == species and one.verdict is not None for one in self.done)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def table(done: Sequence[Presentation], asked: Mapping[str, int], source: str) -> Iterator[Dict[str, Any]]:
    """Yield a row a kind, as `eval pad` does, and a summary with the worst kind's error."""
    counts: DefaultDict[str, Count] = defaultdict(Count)
    for one in done:
        if one.verdict is not None:
            counts[one.species].add(Liveness(one.verdict))
    rows = []
    for species in dict.fromkeys([*asked, *(one.species for one in done)]):
        real = species.startswith(LIVE)
        row = row_of("presentation", source, species, "as presented", counts[species], real=real)
        mine = [one for one in done if one.species == species]
        row["named"] = sum(one.named for one in mine if one.verdict is not None)
        row["unusable"] = sum(one.verdict is None for one in mine)
        row["asked"] = asked.get(species, 0)
        rows.append(row)
        yield row
    attacks = [row for row in rows if row["attacks"]]
    worst = max(attacks, key=lambda row: (row["accepted"] / row["attacks"], -row["attacks"]), default=None)
    people = [row for row in rows if row["bona_fide"]]
    yield {
        "type": "summary",
        "scope": f"{source} only, as it stands: no general rate",
        "worst_species": None if worst is None else worst["species"],
        "apcer": None if worst is None else worst["accepted"] / worst["attacks"],
        "apcer_ci95": None if worst is None else worst["error_ci95"],
        "bpcer": sum(r["rejected"] for r in people) / sum(r["bona_fide"] for r in people) if people else None,
        "short": {r["species"]: r["asked"] - n for r in rows if (n := r["attacks"] + r["bona_fide"]) < r["asked"]},
    }
