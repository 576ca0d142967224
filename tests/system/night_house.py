"""A household whose door is dark: real faces, a week of visits, phones that are sometimes silent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from edgecam.capture.photo import read_photo
from edgecam.clock import SystemClock
from edgecam.config import StoreConfig
from edgecam.evaluation.faces import Bench, photos_of
from edgecam.evaluation.night import night_look
from edgecam.evaluation.strangers import half_of, largest_face, padded
from edgecam.store import Store
from edgecam.types import Embeddings, FaceCrop, Floats, Liveness, Sighting, SightingSource, Tracklet, Transition

KEEP = StoreConfig(cluster_unknown=True)
_DAY_S = 86_400.0
_ENROLLED, _VISITORS = 6, 6
_HEARD = 0.85
_CONFIRMED = 2
"""Every second visit of a resident was confirmed by somebody of the house."""


class Past(SystemClock):
    """A clock that stands where it is put."""

    now_s = 0.0

    def wall_s(self) -> float:
        return self.now_s

    def wall_trusted(self) -> bool:
        return True


class House(NamedTuple):
    """What was put into the state folder."""

    people: Tuple[str, ...]
    tracks: int
    confirmed: int


def build(state: Path, data: Path, bench: Bench, wild: int) -> House:
    """Fill an empty state folder: three people, two dark visits for each of `wild` photos, and six strangers."""
    rng = np.random.default_rng(3)
    by_person: Dict[str, List[Path]] = {}
    for name, path in photos_of(data / "lfw_gray"):
        by_person.setdefault(name, []).append(path)
    odd = sorted((p for p in by_person if half_of(p) == "odd"), key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    residents = [p for p in odd if len(by_person[p]) >= 16][:3]
    strangers = [p for p in odd if len(by_person[p]) <= 2][:_VISITORS]
    encoder, clock = bench.encoder, Past()
    visits: List[Tuple[Optional[str], Optional[str], Floats]] = []
    end_s = SystemClock().wall_s()
    clock.now_s = end_s - 6.5 * _DAY_S
    confirmed = 0

    def crops(person: str, count: int) -> List[FaceCrop]:
        found = (largest_face(padded(read_photo(path), 0.25), bench.detector) for path in by_person[person])
        return [crop for crop in found if crop is not None][:count]

    def dark(crop: FaceCrop) -> Floats:
        return encoder.features([night_look(crop, rng) for _ in range(2)])

    with Store.open(state, KEEP, clock=clock) as store:
        for number, resident in enumerate(residents):
            person = store.add_person(resident)
            phone = store.add_device(person.id, "wifi", f"02:00:00:00:00:{number:02x}", consent={"said": "yes"})
            photos = crops(resident, _ENROLLED + wild)
            features = encoder.features(photos[:_ENROLLED])
            vectors = encoder.project(features)
            for i, crop in enumerate(photos[:_ENROLLED]):
                embedding = Embeddings(vectors[i : i + 1], features[i : i + 1], encoder.base)
                store.add_face(person.id, crop, quality=0.8, source=f"{i}.jpg", embedding=embedding)
            visits += [(person.id, phone.id, dark(crop)) for crop in photos[_ENROLLED:] for _ in range(2)]
        visits += [(None, None, dark(crop)) for name in strangers for crop in crops(name, 1)]
        for number, i in enumerate(rng.permutation(len(visits))):
            owner, device, features = visits[int(i)]
            clock.now_s = end_s - 6 * _DAY_S + number * 5.9 * _DAY_S / len(visits)
            visit = f"VISIT{number:03}"
            store.open_visit(visit, "door", "front", clock.now_s)
            qualities = np.array([0.9, 0.8], np.float32)
            seen = Tracklet(visit, 1, "front", encoder.base, 0.0, 4.0, features, qualities, True, Liveness.LIVE)
            track = store.add_tracklet(seen)
            if device is not None and rng.random() < _HEARD:
                sighting = Sighting(device, SightingSource.DHCP, clock.now_s - 20.0, Transition.JOIN, 1.0)
                store.add_sighting(sighting, [(visit, -20.0)])
            if owner is not None and track is not None and number % _CONFIRMED == 0:
                store.is_person(track, owner)
                confirmed += 1
            store.close_visit(visit, clock.now_s + 10.0)
    return House(tuple(residents), len(visits), confirmed)
