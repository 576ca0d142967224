"""What a track leaves for the night: which faces, how many a day, in which bytes; an older database is taken over."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List

import cv2
import numpy as np
import pytest
from test_store_samples import NOW, Watch, all_bytes, crop, known

from edgecam.capture.base import make_source
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig, Config, StoreConfig
from edgecam.errors import ShapeError
from edgecam.identify import Household
from edgecam.nn.registry import ModelRegistry
from edgecam.pipeline.build import IdentifierFactory, make_stages
from edgecam.pipeline.camera import CameraPath, Said, Stages
from edgecam.pipeline.operations import execute
from edgecam.pipeline.track import SAME_PICTURE, TrackRecord, unlike
from edgecam.pipeline.visits import VisitBook
from edgecam.store import Proposal, Store
from edgecam.store.db import migrations
from edgecam.store.records import pack_faces, pack_floats
from edgecam.store.tracklets import FACES_A_TRACK, PERSON_A_DAY, TRACKS_A_DAY, UNKNOWN_A_DAY
from edgecam.track.clothes import WIDTH as CLOTHES_WIDTH
from edgecam.types import FaceCrop, Floats, Frame, Liveness, Quality, Tracklet

ROOT = Path(__file__).resolve().parents[2]
KEEP = StoreConfig(cluster_unknown=True)
DAY_S = 86_400.0
FEATURES = 1920
"""Of the largest encoder."""


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(tmp_path: Path, watch: Watch) -> Iterator[Store]:
    with Store.open(tmp_path / "state", KEEP, clock=watch) as opened:
        yield opened


def tracklet(visit: str, track: int = 1, faces: int = FACES_A_TRACK, seed: int = 0) -> Tracklet:
    rng = np.random.default_rng(seed)
    return Tracklet(
        visit,
        track,
        "front",
        "base",
        1.0,
        3.0,
        np.abs(rng.normal(size=(faces, FEATURES))).astype(np.float32),
        rng.random(faces).astype(np.float32),
        True,
        Liveness.LIVE,
        rng.random(CLOTHES_WIDTH).astype(np.float32),
    )


# What is kept of it.


def test_a_track_comes_back_as_it_was(store: Store) -> None:
    store.open_visit("V1", "door", "front", NOW)
    seen = tracklet("V1")
    store.add_tracklet(seen)
    (row,) = store.tracklets()
    back = row.seen
    assert (back.visit, back.track, back.camera, back.model) == ("V1", 1, "front", "base")
    assert (back.first_s, back.last_s, back.infrared, back.liveness) == (1.0, 3.0, True, Liveness.LIVE)
    np.testing.assert_allclose(back.features, seen.features, rtol=5e-4, atol=1e-6)
    np.testing.assert_allclose(back.qualities, seen.qualities, rtol=5e-4)
    np.testing.assert_allclose(back.clothes, seen.clothes, rtol=5e-4)
    unit = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in (seen.features, back.features)]
    assert np.abs(1.0 - (unit[0] * unit[1]).sum(axis=1)).max() < 1e-6


def test_features_beyond_half_a_float_stay_finite(store: Store) -> None:
    store.open_visit("V1", "door", "front", NOW)
    store.add_tracklet(
        Tracklet("V1", 1, "front", "m", 0.0, 1.0, np.full((1, 4), 1e6, np.float32), np.ones(1, np.float32))
    )
    assert np.isfinite(store.tracklets()[0].seen.features).all()


def test_the_mean_is_by_quality() -> None:
    features = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    seen = Tracklet("V1", 1, "front", "m", 0.0, 1.0, features, np.array([0.9, 0.3], np.float32))
    np.testing.assert_allclose(seen.mean(), [0.75, 0.25])
    assert seen.quality == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("features", "qualities"),
    [
        pytest.param(np.ones(4, np.float32), np.ones(4, np.float32), id="one-row"),
        pytest.param(np.ones((2, 4), np.float32), np.ones(1, np.float32), id="a-quality-lacks"),
        pytest.param(np.ones((0, 4), np.float32), np.ones(0, np.float32), id="no-face"),
    ],
)
def test_a_track_without_a_face_or_a_quality_is_none(features: Floats, qualities: Floats) -> None:
    with pytest.raises(ShapeError):
        Tracklet("V1", 1, "front", "m", 0.0, 1.0, features, qualities)


def test_the_list_has_means_and_on_request_every_face(store: Store) -> None:
    store.open_visit("V1", "door", "front", NOW)
    store.add_tracklet(tracklet("V1", faces=3))
    (plain,) = execute(store, {"op": "tracklets.list"})
    (whole,) = execute(store, {"op": "tracklets.list", "faces": True})
    assert "faces" not in plain
    assert {key: whole[key] for key in plain} == plain
    assert (whole["liveness"], whole["infrared"], whole["place"]) == ("live", True, "door")
    sizes = {key: len(whole[key]) * 3 // 4 // 4 for key in ("features", "faces", "qualities", "clothes")}
    assert sizes == {"features": FEATURES, "faces": 3 * FEATURES, "qualities": 3, "clothes": CLOTHES_WIDTH}


def test_what_is_kept_of_somebody_is_exported(store: Store) -> None:
    ann = store.add_person("Ann")
    for visit, track in (("V1", 1), ("V1", 2), ("V2", 1)):
        store.open_visit(visit, "door", "front", NOW)
        store.add_tracklet(tracklet(visit, track, faces=3))
    rows = {(row.seen.visit, row.seen.track): row.id for row in store.tracklets()}
    store.is_person(rows["V1", 2], ann.id)
    store.propose([Proposal(rows["V2", 1], ann.id, 0.9, 5, 0)])
    lines = [json.loads(json.dumps(line)) for line in execute(store, {"op": "people.export", "who": "Ann"})]
    kept = [line for line in lines if line["type"] == "tracklet"]
    assert sorted((line["visit"], line["track"]) for line in kept) == [("V1", 2), ("V2", 1)]
    assert all(len(line["features"]) * 3 // 4 // 4 == 3 * FEATURES and line["liveness"] == "live" for line in kept)


# How much a day.


def fill(store: Store, taken_for: str, count: int, first: int) -> int:
    """Let somebody be seen so often; return how many tracks were kept."""
    kept = 0
    with store.transaction():
        for i in range(first, first + count):
            store.record(known(f"D{i}", f"V{i:05}", 1, taken_for))
            kept += store.add_tracklet(tracklet(f"V{i:05}", seed=i)) is not None
    return kept


def unknown(store: Store, count: int, first: int) -> int:
    kept = 0
    with store.transaction():
        for i in range(first, first + count):
            store.open_visit(f"V{i:05}", "door", "front", NOW)
            kept += store.add_tracklet(tracklet(f"V{i:05}", seed=i)) is not None
    return kept


def test_a_day_writes_no_more_than_the_documented_bytes(store: Store, watch: Watch, tmp_path: Path) -> None:
    people = [store.add_person(f"P{i}").id for i in range(8)]
    assert unknown(store, UNKNOWN_A_DAY + 5, 0) == UNKNOWN_A_DAY
    assert fill(store, people[0], PERSON_A_DAY + 5, 1000) == PERSON_A_DAY
    kept = sum(fill(store, person, PERSON_A_DAY, 1000 * n) for n, person in enumerate(people[1:], 2))
    assert UNKNOWN_A_DAY + PERSON_A_DAY + kept == TRACKS_A_DAY
    (total,) = store._db.rows("SELECT sum(length(features)) FROM tracklets")[0]
    told = re.search(r"at most\s+([\d.]+) MB a day", (ROOT / "docs/samples.md").read_text("utf-8"))
    assert told is not None
    assert 0.9 * float(told[1]) * 1e6 < total <= float(told[1]) * 1e6

    watch.now_s += DAY_S + 1
    assert fill(store, people[0], PERSON_A_DAY + 5, 100_000) == PERSON_A_DAY


@pytest.mark.slow
def test_what_a_memory_card_has_to_write_in_a_day_at_the_bound(tmp_path: Path) -> None:
    """The eighth day, with as much expiring as coming, a purge every ten minutes; with tracks and without."""

    def written() -> int:
        lines = Path("/proc/self/io").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))

    def a_day(store: Store, watch: Watch, day: int, *, keep: bool, purges: bool) -> None:
        people = [person.id for person in store.people()]
        for i in range(TRACKS_A_DAY):
            visit = f"V{day:02}{i:05}"
            if i < UNKNOWN_A_DAY:
                store.open_visit(visit, "door", "front", watch.now_s)
            else:
                store.record(known(f"D{visit}", visit, 1, people[(i - UNKNOWN_A_DAY) // PERSON_A_DAY]))
            if keep:
                assert store.add_tracklet(tracklet(visit, seed=i)) is not None
            watch.now_s += DAY_S / TRACKS_A_DAY
            if purges and i % 25 < 18:  # 144: one every ten minutes
                store.purge(watch.now_s, trusted=True)

    megabytes = {}
    for keep in (False, True):
        watch = Watch()
        with Store.open(tmp_path / str(keep), KEEP, clock=watch) as store:
            for n in range(7):
                store.add_person(f"P{n}")
            for day in range(8):
                with store.transaction():
                    a_day(store, watch, day, keep=keep, purges=False)
                store.purge(watch.now_s, trusted=True)
            before = written()
            a_day(store, watch, 9, keep=keep, purges=True)
            megabytes[keep] = (written() - before) / 1e6
    size = (tmp_path / "True/edgecam.db").stat().st_size / 1e6
    print(
        f"\n{megabytes[True]:.0f} MB written, {megabytes[False]:.0f} MB without tracks; the database has {size:.0f} MB"
    )
    if not megabytes[False]:
        pytest.skip("the folder of this test is in memory: nothing is written")
    assert megabytes[True] - megabytes[False] < 80


def test_faces_go_four_times_a_day_and_never_late(store: Store, watch: Watch) -> None:
    for i in range(24):
        watch.now_s = NOW + 3600.0 * i
        store.open_visit(f"V{i}", "door", "front", watch.now_s)
        store.add_tracklet(tracklet(f"V{i}", faces=1))
    left = [24]
    for minutes in range(0, 25 * 60, 10):
        watch.now_s = NOW + 6.9 * DAY_S + 60.0 * minutes
        store.purge(watch.now_s, trusted=True)
        left.append(len(store.kept_tracks()))
        oldest = min((track.opened_wall_s for track in store.kept_tracks()), default=watch.now_s)
        assert watch.now_s - oldest <= 7 * DAY_S
    assert left[-1] == 0
    assert 4 <= len(set(left)) - 1 <= 5


def test_more_faces_than_a_track_may_have_are_refused(store: Store) -> None:
    store.open_visit("V1", "door", "front", NOW)
    with pytest.raises(ShapeError, match="at most 8 faces"):
        store.add_tracklet(tracklet("V1", faces=FACES_A_TRACK + 1))
    assert store.tracklets() == []


def test_a_second_word_about_a_track_replaces_the_first(store: Store, tmp_path: Path) -> None:
    store.open_visit("V1", "door", "front", NOW)
    first = store.add_tracklet(tracklet("V1", seed=1))
    store.add_tracklet(tracklet("V1", faces=2, seed=2))
    assert [len(row.seen.features) for row in store.tracklets()] == [2]
    assert not store._db.rows("SELECT 1 FROM keys WHERE owner = ?", (first,))


# An older database.


def old_store(state: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> List[bytes]:
    """Make a database as schema 3 wrote it: Ann, a named track and one proposed to her; return the sealed features."""
    schema = state.parent / "schema"
    schema.mkdir()
    for step in sorted((ROOT / "edgecam/store/schema").glob("00[123]_*.sql")):
        shutil.copy(step, schema)
    sealed = []
    with monkeypatch.context() as patched:
        patched.setattr("edgecam.store.db._SCHEMA", schema)
        with Store.open(state, KEEP, clock=watch) as store:
            assert store._db.rows("PRAGMA user_version") == [(3,)]
            ann = store.add_person("Ann")
            for number, visit in enumerate(("V1", "V2"), 1):
                store.open_visit(visit, "door", "front", NOW)
                store.add_visit_picture(visit, 1, crop(number))
                mean = np.full(FEATURES, number, np.float32)
                row = f"ROW{number}"
                sealed.append(store._new_key(row).seal(f"tracklets:{row}:features", pack_floats(mean)))
                store._db.run(
                    "INSERT INTO tracklets (id, visit, track, camera, model, first_s, last_s, quality, kept_from_s, "
                    "features) VALUES (?, ?, 1, 'front', 'm1', 0, 4, 0.9, ?, ?)",
                    (row, visit, NOW, sealed[-1]),
                )
            store._db.run("INSERT INTO labels VALUES ('V1', 1, ?)", (ann.id,))
            store._db.run("INSERT INTO proposals VALUES ('ROW2', ?, 0.9, 5, 0)", (ann.id,))
    return sealed


def test_rows_of_schema_3_are_one_face_each(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = old_store(tmp_path / "state", watch, monkeypatch)
    with Store.open(tmp_path / "state", KEEP, clock=watch) as store:
        assert store._db.rows("PRAGMA user_version") == [(max(migrations()),)]
        assert store.problems() == []
        (ann,) = store.people()
        one, two = store.tracklets()
        assert (one.person_id, one.grouped, two.person_id) == (ann.id, False, None)
        for number, row in enumerate((one, two), 1):
            np.testing.assert_array_equal(row.seen.features, np.full((1, FEATURES), number, np.float32))
            np.testing.assert_array_equal(row.seen.qualities, np.array([0.9], np.float32))
            assert (row.seen.liveness, row.seen.clothes.size, row.seen.infrared) == (Liveness.UNPROVEN, 0, False)
        assert store.proposals("V2") == [(1, Proposal("ROW2", ann.id, 0.9, 5, 0))]

        person, faces = store.name_visit("V2", 1, "Ann")
        assert (person.id, len(faces)) == (ann.id, 1)
        path = store.backup(tmp_path / "backups")
        store.add_tracklet(tracklet("V2", seed=3))  # a newer word about the same track
        assert sorted(len(row.seen.features) for row in store.tracklets()) == [1, FACES_A_TRACK]
        store.restore(path, "replace")
        assert len(store.tracklets()) == 2
        store.forget(ann.id)
        assert store.tracklets() == []
        path.unlink()
    left = all_bytes(tmp_path)
    assert not any(blob in left for blob in sealed)


def test_a_backup_of_schema_3_is_brought_back(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    old_store(tmp_path / "state", watch, monkeypatch)
    shutil.copy(tmp_path / "state/edgecam.db", tmp_path / "edgecam-old.db")
    with Store.open(tmp_path / "state", KEEP, clock=watch) as store:
        store.purge(NOW + 40 * DAY_S, trusted=True)
        assert store.tracklets() == []
        assert store.restore(tmp_path / "edgecam-old.db").visits == 2
        assert [row.id for row in store.tracklets()] == ["ROW1", "ROW2"]


SLOW = """
import sys
from pathlib import Path
import edgecam.store.db as db
from edgecam.store import Store
steps = db.migrations()
slow = "SELECT count(*) FROM (WITH RECURSIVE n (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT x FROM n);"
db.migrations = lambda: {number: sql + (slow if number == 4 else "") for number, sql in steps.items()}
print("begins", flush=True)
Store.open(Path(sys.argv[1]))
"""


def test_a_kill_amid_the_migration_leaves_the_old_version(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_store(tmp_path / "state", watch, monkeypatch)
    child = python(SLOW, tmp_path / "state")
    assert child.stdout is not None
    assert child.stdout.readline() == "begins\n"
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1.5)  # by now it has begun: opening takes milliseconds, the step after the tables are made for ever
    child.kill()
    child.wait()
    connection = sqlite3.connect(tmp_path / "state/edgecam.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    connection.close()
    with Store.open(tmp_path / "state", KEEP, clock=watch) as store:
        assert [row.id for row in store.tracklets()] == ["ROW1", "ROW2"]
        assert store.problems() == []


BUSY = """
import sys
from pathlib import Path
from edgecam.config import StoreConfig
from edgecam.store import Store
from test_tracklets import tracklet
store = Store.open(Path(sys.argv[1]), StoreConfig(cluster_unknown=True))
first = int(sys.argv[2])
store.add_person("Ann") if store.find_person("Ann") is None else None
for i in range(first, first + 20):
    store.open_visit(f"V{i:05}", "door", "front", 1e9)
    store.add_tracklet(tracklet(f"V{i:05}", seed=i))
    ids = [row.id for row in store.kept_tracks()]
    store.put_visitors([ids[::2], ids[1::2]])
    if i % 4 == 3:
        store.is_person(ids[0], store.find_person("Ann").id)
        store.forget(store.find_person("Ann").id)
        store.add_person("Ann")
    print(i, flush=True)
"""


def test_killed_amid_anything_the_store_stays_whole(tmp_path: Path) -> None:
    for turn, lines in enumerate((2, 5, 9)):
        child = python(BUSY, tmp_path, 100 * turn)
        assert child.stdout is not None
        for _ in range(lines):
            assert child.stdout.readline()
        time.sleep(0.013 * turn)
        child.kill()
        child.wait()
        with Store.open(tmp_path, KEEP) as store:
            assert store.problems() == []
            ids = {row.id for row in store.tracklets()}
            assert ids == {row.id for row in store.kept_tracks()}
            owners = {row[0] for row in store._db.rows("SELECT owner FROM keys")}
            assert owners == ids | {person.id for person in store.people()}  # no key without its track, none left over
            groups = [track.id for visitor in store.visitors() for track in visitor.tracks]
            assert len(groups) == len(set(groups))
            assert set(groups) <= ids


def python(code: str, *args: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


# Which faces.


def test_faces_unlike_each_other_are_chosen_the_best_first() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=FEATURES)
    views = [base + 0.8 * rng.normal(size=FEATURES) for _ in range(4)]
    rows = np.array([v + 0.02 * rng.normal(size=FEATURES) for v in views for _ in range(5)], np.float32)
    qualities = rng.random(20).astype(np.float32)
    chosen = unlike(rows, qualities, 8)
    assert chosen[0] == qualities.argmax()
    assert sorted(i // 5 for i in chosen) == [0, 1, 2, 3]
    unit = rows[chosen] / np.linalg.norm(rows[chosen], axis=1, keepdims=True)
    assert (unit @ unit.T)[np.triu_indices(4, 1)].max() <= SAME_PICTURE
    assert len(unlike(rows, qualities, 3)) == 3
    assert unlike(rows[:1], qualities[:1], 8).tolist() == [0]
    assert len(unlike(np.zeros((3, 5), np.float32), np.ones(3, np.float32), 8)) <= 3


def test_a_poorer_face_that_shows_more_is_taken_before_a_better_one_that_shows_the_same() -> None:
    rows = np.array([[1.0, 0.0], [0.94, 0.342], [0.2, 0.98]], np.float32)
    assert unlike(rows, np.array([0.9, 0.8, 0.5], np.float32), 2).tolist() == [0, 2]
    assert unlike(rows, np.array([0.9, 0.8, 0.01], np.float32), 2).tolist() == [0, 1]


CROP = FaceCrop(np.zeros((64, 64, 3), np.uint8), np.array([12, 12, 40, 40], np.float32), np.zeros((5, 2), np.float32))


def rated(score: float, *, infrared: bool = False) -> Quality:
    return Quality(score, {}, 0.0, 0.0, 0.0, infrared=infrared, reason=None)


def embedded(record: TrackRecord, seed: int = 0) -> None:
    for look in record.waiting:
        look.vector = np.array([1.0, 0.0], np.float32)
        look.features = np.eye(32, dtype=np.float32)[round(look.at_s)]


def test_a_face_that_made_room_for_a_better_one_may_still_teach() -> None:
    record = TrackRecord(1, 0.0, best_k=2)
    for i in range(4):
        record.add(CROP, rated(0.2 + 0.1 * i), float(i))
        embedded(record)
    assert sorted(round(look.at_s) for look in record.looks) == [2, 3]
    features, qualities, infrared = record.faces(8)
    assert sorted(features.argmax(axis=1).tolist()) == [0, 1, 2, 3]
    assert qualities.argmax() == 0
    assert not infrared
    assert len(record.faces(3)[0]) == 3


def test_faces_beyond_recognition_do_not_teach() -> None:
    record = TrackRecord(1, 0.0, best_k=8)
    record.add(CROP, rated(0.5), 0.0)
    record.add(CROP, rated(0.6), 1.0)
    embedded(record)
    record.looks[1].quality = Quality(0.0, {}, 0.0, 0.0, 0.0, infrared=False, reason="beyond recognition")
    assert record.faces(8)[0].argmax(axis=1).tolist() == [0]
    assert len(TrackRecord(1, 0.0, best_k=8).faces(8)[0]) == 0


def test_a_track_is_infrared_if_most_of_it_is() -> None:
    record = TrackRecord(1, 0.0, best_k=8)
    for i, grey in enumerate((True, True, False)):
        record.add(CROP, rated(0.5, infrared=grey), float(i))
    embedded(record)
    assert record.faces(8)[2]


@pytest.mark.data
@pytest.mark.models
@pytest.mark.parametrize("grey", [False, True])
def test_a_camera_leaves_faces_and_clothes_but_no_colours_of_the_night(
    registry: ModelRegistry, data_dir: Path, grey: bool
) -> None:
    config = Config()
    detector, encoder = make_stages(config, registry)
    factory = IdentifierFactory(encoder, config.embed, config.identify)
    said: List[Said] = []
    camera = CameraConfig(url=str(data_dir / "videos/liveness/lestari_real.mp4"))
    stages = Stages(detector, encoder, factory.make(Household.of([])))
    path = CameraPath("front", camera, config, stages, VisitBook(), SystemClock(), said.append)
    source = make_source(camera, "front", SystemClock())
    source.open()
    while (frame := source.read()) is not None and frame.captured_at_s < 2.5:
        image = frame.image
        if grey:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        path.perceive(Frame(image, frame.captured_at_s, "front"), None)
    source.close()
    path.close()
    (kept,) = [word.tracklet for word in said if word.tracklet is not None]
    assert (kept.model, kept.infrared, kept.liveness) == (encoder.base, grey, Liveness.UNPROVEN)
    assert kept.clothes.size in ((0,) if grey else (0, CLOTHES_WIDTH))
    assert 1 <= len(kept.features) <= FACES_A_TRACK
    unit = kept.features / np.linalg.norm(kept.features, axis=1, keepdims=True)
    assert (unit @ unit.T - 2 * np.eye(len(unit))).max() <= SAME_PICTURE
    vectors = encoder.project(kept.features)
    assert (vectors @ vectors.T).min() > 0.4  # one person
    assert len(pack_faces(kept)) < 35_000
