"""Who came again: clusters across visits, and where merging stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, List, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecam.adapt.constraints import constrain
from edgecam.adapt.gather import Kept, Project, Watched
from edgecam.adapt.linking import cluster, link, stop_distance
from edgecam.adapt.samples import Track
from edgecam.capture.photo import read_photo
from edgecam.config import Config
from edgecam.embed.sface import unit
from edgecam.evaluation.strangers import padded
from edgecam.nn.registry import ModelRegistry
from edgecam.pipeline.build import IdentifierFactory, make_stages, strangers_of
from edgecam.pipeline.still import find_faces
from edgecam.types import Floats

DIM = 96


def strangers(count: int = 300, seed: int = 1) -> Floats:
    """Return features of people who are not like each other."""
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def kept_of(tracks: Sequence[Track], project: Project = unit) -> Kept:
    none = np.zeros((0, 0))
    watched = Watched(tuple(tracks), np.full(len(tracks), -1, np.int64), (), none, none, none.astype(bool), 0)
    return Kept("m", watched, constrain(tracks, watched.vectors(project)), (), (), np.zeros(0, np.bool_))


class Street:
    """Strangers who come on several days."""

    def __init__(self, seed: int, people: int = 8, visits: int = 4, *, spread: float = 0.5) -> None:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(people, DIM))
        self.tracks: List[Track] = []
        self.who: List[int] = []
        for visit in range(visits):
            for who in range(people):
                faces = centres[who] + spread * rng.normal(size=(int(rng.integers(1, 9)), DIM))
                self.add(f"V{visit}W{who}", 1, who, faces.astype(np.float32))

    def add(self, visit: str, day: int, who: int, faces: Floats, *, first_s: float = 0.0, **said: Any) -> None:
        about = {"taken_for": None, "person_id": None, "nobody": False, "grouped": False, **said}
        self.tracks.append(
            Track(
                f"T{len(self.tracks):03}",
                visit,
                "front",
                "door",
                day,
                first_s,
                first_s + 4.0,
                faces.mean(axis=0),
                faces.astype(np.float16),
                np.ones(len(faces), np.float32),
                infrared=False,
                live=True,
                clothes=np.zeros(0, np.float32),
                **about,
            )
        )
        self.who.append(who)


def nobody_named(tracks: Sequence[Track]) -> NDArray[np.bool_]:
    return np.zeros(len(tracks), np.bool_)


@pytest.mark.parametrize("seed", range(3))
def test_each_stranger_who_came_again_is_one_visitor(seed: int) -> None:
    street = Street(seed)
    linked = link(kept_of(street.tracks), unit, strangers(), nobody_named(street.tracks))
    ids = [track.id for track in street.tracks]
    assert sorted({street.who[ids.index(i)] for i in group} for group in linked.visitors) == [{w} for w in range(8)]
    assert all(len(group) == 4 for group in linked.visitors)


def test_who_came_once_is_no_visitor() -> None:
    street = Street(0, people=3, visits=1)
    street.add("V0W0", 1, 0, street.tracks[0].features.astype(np.float32), first_s=5.0)  # lost, and found again
    linked = link(kept_of(street.tracks), unit, strangers(), nobody_named(street.tracks))
    assert linked.group[3] == linked.group[0]
    assert len(set(linked.group.tolist())) == 3
    assert linked.visitors == ()


def test_whoever_is_linked_with_somebody_known_is_no_visitor() -> None:
    street = Street(1, people=4)
    named = nobody_named(street.tracks)
    named[street.who.index(1)] = True  # by the identifier
    at = street.who.index(2)
    faces = street.tracks[at].features.astype(np.float32)
    street.add("V9", 3, 2, faces, person_id="ann")
    street.add("V9", 3, 3, street.tracks[street.who.index(3)].features.astype(np.float32), nobody=True)
    linked = link(kept_of(street.tracks), unit, strangers(), np.append(named, [False, False]))
    ids = [track.id for track in street.tracks]
    assert [{street.who[ids.index(i)] for i in group} for group in linked.visitors] == [{0}]


def test_two_seen_at_once_never_become_one_however_alike() -> None:
    rng = np.random.default_rng(3)
    centre = rng.normal(size=DIM)
    street = Street(0, people=0)
    for visit in range(6):  # twins, side by side
        for twin in range(2):
            faces = (centre + 0.3 * rng.normal(size=(4, DIM))).astype(np.float32)
            street.add(f"V{visit}", 1, twin, faces)
    linked = link(kept_of(street.tracks), unit, strangers(), nobody_named(street.tracks))
    for a in range(0, 12, 2):
        assert linked.group[a] != linked.group[a + 1]
    assert len(set(linked.group.tolist())) >= 2


def test_two_who_are_kept_apart_do_not_keep_others_from_being_linked() -> None:
    rng = np.random.default_rng(4)
    twins, other = rng.normal(size=DIM), rng.normal(size=DIM)
    street = Street(0, people=0)
    for _ in range(2):
        street.add("V0", 1, 0, (twins + 0.1 * rng.normal(size=(4, DIM))).astype(np.float32))
    for visit in ("V1", "V2"):
        street.add(visit, 1, 1, (other + 0.6 * rng.normal(size=(1, DIM))).astype(np.float32))
    linked = link(kept_of(street.tracks), unit, strangers(), nobody_named(street.tracks))
    assert linked.visitors == (("T002", "T003"),)
    assert len(set(linked.group.tolist())) == 3


def test_who_is_known_to_be_one_person_is_linked_however_unlike() -> None:
    street = Street(5, people=2, visits=1)
    kept = kept_of(street.tracks)
    none = nobody_named(street.tracks)
    assert link(kept, unit, strangers(), none).visitors == ()
    dressed = replace(kept, known=replace(kept.known, group=np.zeros(2, np.int64)))
    assert link(dressed, unit, strangers(), none).visitors == (("T000", "T001"),)


def test_who_is_apart_is_carried_through_merges() -> None:
    # 0 and 1 are nearest, then 1 and 2; 0 and 2 are two people: 2 must stay out of {0, 1}, and merge with 3.
    distances = np.array([[0, 0.1, 0.3, 0.9], [0.1, 0, 0.2, 0.9], [0.3, 0.2, 0, 0.5], [0.9, 0.9, 0.5, 0]], np.float32)
    apart = np.zeros((4, 4), np.bool_)
    apart[0, 2] = apart[2, 0] = True
    assert cluster(distances, np.ones(4, np.int64), apart, 0.6).tolist() == [0, 0, 1, 1]
    assert cluster(distances, np.ones(4, np.int64), np.zeros((4, 4), np.bool_), 0.6).tolist() == [0, 0, 0, 1]
    assert cluster(distances, np.ones(4, np.int64), apart, 0.05).tolist() == [0, 1, 2, 3]
    assert cluster(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), apart[:0, :0], 1.0).tolist() == []


def test_the_distance_of_clusters_is_the_mean_over_all_pairs_of_faces() -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(9, 5)).astype(np.float32))
    parts = [rows[:1], rows[1:4], rows[4:9]]
    faces = np.array([1, 3, 5])
    squared = [[np.mean([[((a - b) ** 2).sum() for b in q] for a in p]) for q in parts] for p in parts]
    distances = np.array(squared, np.float32)
    none = np.zeros((3, 3), np.bool_)
    order = sorted(((0, 1), (0, 2), (1, 2)), key=lambda pair: squared[pair[0]][pair[1]])
    a, b = order[0]
    (c,) = {0, 1, 2} - {a, b}
    both = np.concatenate([parts[a], parts[b]])
    height = np.mean([[((x - y) ** 2).sum() for y in parts[c]] for x in both])
    assert len(set(cluster(distances, faces, none, float(height) - 1e-4).tolist())) == 2
    assert len(set(cluster(distances, faces, none, float(height) + 1e-4).tolist())) == 1


def test_merging_stops_where_strangers_begin() -> None:
    many = unit(strangers(400))
    alone = stop_distance(np.zeros(0, np.float32), many)
    between = 2 - 2 * (many @ many.T)[np.triu_indices(400, 1)]
    assert np.mean(between < alone) == pytest.approx(0.001, abs=2e-4)
    # Look-alikes of this house, seen side by side, are nearer than strangers.
    assert stop_distance(np.full(20, 0.4, np.float32), many) == pytest.approx(0.4)
    assert stop_distance(np.full(19, 0.4, np.float32), many) == alone
    assert stop_distance(np.full(20, 3.0, np.float32), many) == alone


def test_nothing_kept_is_nothing_linked() -> None:
    linked = link(kept_of([]), unit, strangers(), np.zeros(0, np.bool_))
    assert (linked.visitors, linked.group.shape) == ((), (0,))
    assert 0.0 < linked.stop < 4.0


def test_a_week_at_the_bound_fits_a_small_board() -> None:
    import tracemalloc

    street = Street(0, people=200, visits=7)
    kept = kept_of(street.tracks)
    tracemalloc.start()
    linked = link(kept, unit, strangers(), nobody_named(street.tracks))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(linked.visitors) > 180
    assert peak < 60e6


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.models
def test_on_faces_of_the_street_visitors_are_one_person_each(registry: ModelRegistry, data_dir: Path) -> None:
    """Grey crops of 275 people: 25 come in tracks of two photos, 250 in three of one; every photo of another day."""
    config = Config()
    detector, encoder = make_stages(config, registry)
    recognizability = IdentifierFactory(encoder, config.embed, config.identify).recognizability
    folders = {f: sorted(f.glob("*.*")) for f in sorted((data_dir / "lfw_gray").iterdir()) if f.is_dir()}
    often = [f for f in folders if len(folders[f]) >= 20][:25]
    seldom = [f for f in folders if 3 <= len(folders[f]) < 20][:250]
    street = Street(0, people=0)
    for who, folder in enumerate([*often, *seldom]):
        faces = []
        for path in folders[folder][: 20 if folder in often else 3]:
            found = find_faces(padded(read_photo(path), 0.25), detector, encoder, recognizability, config.quality)
            faces += [found[0].features] if found and found[0].quality.ok else []
        step = 2 if folder in often else 1
        for first in range(0, len(faces) - step + 1, step):
            street.add(f"V{len(street.tracks)}", 1, who, np.stack(faces[first : first + step]))
    drawn = strangers_of(config.embed).draw(500, seed=1)
    linked = link(kept_of(street.tracks, encoder.project), encoder.project, drawn, nobody_named(street.tracks))
    true = np.array(street.who)
    left, right = np.triu_indices(len(true), 1)
    said, is_so = linked.group[left] == linked.group[right], true[left] == true[right]
    purity = sum(np.bincount(true[linked.group == g]).max() for g in np.unique(linked.group)) / len(true)
    precision, recall = float(is_so[said].mean()), float(said[is_so].mean())
    clusters = len(np.unique(linked.group))
    print(f"\n{len(true)} tracks of {len(set(street.who))} people: stop {linked.stop:.3f}, {clusters} clusters, "
          f"purity {purity:.4f}, pairs: precision {precision:.4f}, recall {recall:.4f}")  # fmt: skip
    assert purity > 0.99
    assert precision > 0.98
    assert recall > 0.9
