from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store_samples import DAY, HOUR, NOW, Watch, all_bytes, crop, decision, known

from edgecam.config import StoreConfig
from edgecam.store import NotStoredError, Purged, Store
from edgecam.types import Phase, Role, Verdict


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(tmp_path: Path, watch: Watch) -> Iterator[Store]:
    with Store.open(tmp_path / "state", StoreConfig(local_strangers=True), clock=watch, outbox_max=5) as opened:
        yield opened


def message(text: str, *, critical: bool = False) -> Tuple[str, bytes, bool]:
    return ("edgecam/box/front/event", text.encode(), critical)


def payloads(store: Store) -> List[str]:
    return [row.payload.decode() for row in store.outbox_peek()]


def test_a_decision_and_its_alert_are_stored_once(store: Store) -> None:
    store.open_visit("v1", "door", "front", NOW)
    assert store.record(decision("d1"), [message("one", critical=True), message("two")])
    assert not store.record(decision("d1"), [message("again")])
    assert payloads(store) == ["one", "two"]
    first, second = store.outbox_peek()
    assert (first.topic, first.created_wall_s, first.critical, second.critical) == (
        "edgecam/box/front/event",
        NOW,
        True,
        False,
    )
    assert store.visit("v1").decisions == (decision("d1"),)


def test_a_failing_message_takes_its_decision_along(store: Store) -> None:
    with pytest.raises(TypeError):
        store.record(decision("d1"), [message("one"), ("topic", "not bytes", False)])  # type: ignore[list-item]
    assert (store.visits(), store.outbox_peek()) == ([], [])


def test_a_visit_from_opening_to_closing(store: Store) -> None:
    store.open_visit("v1", "door", "front", NOW)
    store.open_visit("v1", "elsewhere", "back", NOW + 9)
    store.record(decision("d1", track=1, phase=Phase.NAMED))
    store.record(decision("d2", track=1, phase=Phase.FINAL))
    store.add_visit_picture("v1", 2, crop())
    (visit,) = store.interrupted_visits()
    assert (visit.id, visit.place, visit.camera, visit.opened_wall_s) == ("v1", "door", "front", NOW)
    assert visit.tracks == (1, 2)
    assert {track: word.phase for track, word in visit.latest.items()} == {1: Phase.FINAL}
    store.close_visit("v1", NOW + 5, {"faces": 2})
    assert store.interrupted_visits() == []
    visit = store.visit("v1")
    assert (visit.closed_wall_s, visit.summary, visit.pictured) == (NOW + 5, {"faces": 2}, (2,))


def test_open_visits_survive_a_restart(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.open_visit("v1", "door", "front", NOW)
        store.record(decision("d1", phase=Phase.NAMED), [message("named")])
    with Store.open(tmp_path) as store:
        assert [(v.id, v.latest[1].phase) for v in store.interrupted_visits()] == [("v1", Phase.NAMED)]
        assert payloads(store) == ["named"]


def test_visits_are_listed_newest_first_and_filtered(store: Store) -> None:
    for number in range(4):
        store.open_visit(f"v{number}", "door", "front", NOW + number)
    store.record(decision("d0", "v0", 1, verdict=Verdict.UNKNOWN))
    store.record(known("d1", "v1", 1, "P", phase=Phase.NAMED))
    store.record(decision("d2", "v1", 1, verdict=Verdict.UNKNOWN, phase=Phase.CORRECTED))
    store.record(decision("d3", "v2", 1, verdict=Verdict.UNKNOWN, phase=Phase.NAMED))
    store.record(known("d4", "v2", 1, "P"))
    store.ignore_visit("v3")
    assert [visit.id for visit in store.visits()] == ["v2", "v1", "v0"]
    assert [visit.id for visit in store.visits(ignored=True)] == ["v3", "v2", "v1", "v0"]
    assert [visit.id for visit in store.visits(limit=1)] == ["v2"]
    assert [visit.id for visit in store.visits(since_wall_s=NOW + 1)] == ["v2", "v1"]
    assert [visit.id for visit in store.visits(verdict=Verdict.UNKNOWN)] == ["v1", "v0"]
    assert [visit.id for visit in store.visits(verdict=Verdict.KNOWN)] == ["v2"]
    store.ignore_visit("v3", ignored=False)
    assert store.visits(limit=1)[0].id == "v3"


def test_naming_a_visit_enrols_its_pictures(store: Store) -> None:
    store.open_visit("v1", "door", "front", NOW)
    store.record(decision("d1", "v1", 1))
    for seed, track in ((1, 1), (2, 1), (3, 2)):
        store.add_visit_picture("v1", track, crop(seed), quality=seed / 10, infrared=True, yaw_deg=5.0)
    person, faces = store.name_visit("v1", 1, "Ann", Role.STAFF)
    assert (person.name, person.role, person.faces, len(faces)) == ("Ann", Role.STAFF, 2, 2)
    assert np.array_equal(store.crop(faces[0]).image, crop(2).image)  # the best first
    assert [(f.quality, f.infrared, f.yaw_deg) for f in store.faces(person.id)] == [(0.2, True, 5.0), (0.1, True, 5.0)]
    assert store.missing("m1") == faces
    assert store.visits(verdict=Verdict.UNKNOWN) == []
    assert store.visit("v1").named == {1: person.id}
    again, added = store.name_visit("v1", 1, "ann")
    assert (again.id, added) == (person.id, [])
    with pytest.raises(NotStoredError, match="no picture of visit v1, track 9"):
        store.name_visit("v1", 9, "Ben")
    assert store.find_person("Ben") is None


def test_looking_at_a_picture_is_noted(store: Store) -> None:
    store.open_visit("v1", "door", "front", NOW)
    store.add_visit_picture("v1", 1, crop(1), quality=0.1)
    store.add_visit_picture("v1", 1, crop(2), quality=0.9)
    assert np.array_equal(store.picture("v1", 1, actor="ann").image, crop(2).image)
    assert [row[1:] for row in store.audit_log()] == [("ann", "view", "v1/1")]


def test_the_outbox_is_read_in_order_and_emptied_by_number(store: Store) -> None:
    store.outbox_put([message("ring", critical=True), message("health")])
    store.outbox_put([message("more")])
    rows = store.outbox_peek(2)
    assert [row.payload for row in rows] == [b"ring", b"health"]
    assert [row.payload for row in store.outbox_peek(after=rows[-1].seq)] == [b"more"]
    store.outbox_delete([rows[0].seq, 12345])
    assert payloads(store) == ["health", "more"]
    assert store.outbox_size() == 2


def test_numbers_are_never_used_again(store: Store) -> None:
    """A late acknowledgement must not delete another message."""
    store.outbox_put([message("a")])
    (row,) = store.outbox_peek()
    store.outbox_delete([row.seq])
    store.outbox_put([message("b")])
    assert store.outbox_peek()[0].seq > row.seq


def test_a_full_outbox_drops_the_oldest_that_is_not_critical(store: Store) -> None:
    store.outbox_put([message("c1", critical=True)])
    store.outbox_put([message(f"m{i}") for i in range(4)])
    assert store.outbox_dropped() == 0
    store.record(decision("d1"), [message("c2", critical=True)])
    assert payloads(store) == ["c1", "m1", "m2", "m3", "c2"]
    store.outbox_put([message(f"c{i}", critical=True) for i in range(3, 9)])
    assert payloads(store) == ["c4", "c5", "c6", "c7", "c8"]
    assert store.outbox_dropped() == 7


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=4), max_size=8))
def test_the_outbox_never_exceeds_its_bound_nor_loses_silently(batches: List[List[bool]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder), outbox_max=5) as store:
        for batch in batches:
            store.outbox_put([message("x", critical=critical) for critical in batch])
            assert store.outbox_size() <= 5
        total = sum(map(len, batches))
        assert store.outbox_size() + store.outbox_dropped() == total
        waiting = sum(row.critical for row in store.outbox_peek())
        assert waiting == min(5, sum(critical for batch in batches for critical in batch))


def fill(store: Store, watch: Watch) -> None:
    store.open_visit("v1", "door", "front", watch.now_s)
    store.record(decision("d1"))
    store.add_visit_picture("v1", 1, crop(1))
    store.close_visit("v1", watch.now_s)
    store.add_stranger_features("m1", np.ones((1, 3), np.float32))


def left(store: Store) -> Tuple[int, int, int, int]:
    tables = ("pictures", "visits", "strangers", "keys")
    a, b, c, d = (
        store._db.rows(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608
        for table in tables
    )
    return a, b, c, d


@pytest.mark.parametrize(
    ("after_s", "purged", "kept"),
    [
        pytest.param(23.9 * HOUR, Purged(0, 0, 0), (1, 1, 1, 1), id="nothing-yet"),
        pytest.param(24 * HOUR, Purged(1, 0, 0), (0, 1, 1, 0), id="pictures-after-a-day"),
        pytest.param(29.9 * DAY, Purged(1, 0, 0), (0, 1, 1, 0), id="decisions-stay"),
        pytest.param(30 * DAY, Purged(1, 1, 1), (0, 0, 0, 0), id="all-after-30-days"),
    ],
)
def test_what_expires_when(
    store: Store, watch: Watch, after_s: float, purged: Purged, kept: Tuple[int, int, int, int]
) -> None:
    fill(store, watch)
    assert store.purge(NOW + 365 * DAY, trusted=False) == Purged(0, 0, 0)
    assert left(store) == (1, 1, 1, 1)
    assert store.purge(NOW + after_s, trusted=True) == purged
    assert left(store) == kept


def test_expired_pictures_and_keys_are_gone_from_the_disk(store: Store, watch: Watch) -> None:
    store.put("stays", "x")
    fill(store, watch)
    ((wrapped,),) = store._db.rows("SELECT wrapped FROM keys")
    ((blob,),) = store._db.rows("SELECT crop FROM pictures")
    size = len(all_bytes(store.path.parent))
    assert wrapped in all_bytes(store.path.parent)
    assert blob[:64] in all_bytes(store.path.parent)
    store.purge(NOW + 2 * DAY, trusted=True)
    found = all_bytes(store.path.parent)
    assert wrapped not in found
    assert wrapped[12:28] not in found
    assert all(blob[start : start + 16] not in found for start in range(0, len(blob) - 16, 500))
    assert len(found) < size
    assert store._db.rows("PRAGMA freelist_count") == [(0,)]
    with pytest.raises(NotStoredError, match="no picture"):
        store.picture("v1", 1)
    assert store.visit("v1").decisions


@pytest.mark.parametrize("stored_at_s", [0.0, 1_000_000.0, NOW + 300 * DAY])
def test_what_was_stored_at_a_wrong_time_counts_from_the_first_purge(
    store: Store, watch: Watch, stored_at_s: float
) -> None:
    """A board without a battery wakes in 1970; its first right purge must not empty the store."""
    watch.now_s = stored_at_s
    fill(store, watch)
    assert store.purge(NOW, trusted=True) == Purged(0, 0, 0)
    assert store.visit("v1").opened_wall_s == stored_at_s
    assert store.purge(NOW + 23 * HOUR, trusted=True) == Purged(0, 0, 0)
    assert store.purge(NOW + 25 * HOUR, trusted=True) == Purged(1, 0, 0)


def test_clustering_keeps_unknown_visitors_for_a_week(tmp_path: Path, watch: Watch) -> None:
    with Store.open(tmp_path, StoreConfig(cluster_unknown=True), clock=watch) as store:
        fill(store, watch)
        assert store.purge(NOW + 6.9 * DAY, trusted=True).pictures == 0
        assert store.purge(NOW + 7 * DAY, trusted=True).pictures == 1


def test_people_never_expire(store: Store, watch: Watch) -> None:
    ann = store.add_person("Ann")
    face = store.add_face(ann.id, crop(), quality=1.0, source="")
    fill(store, watch)
    store.purge(NOW + 3650 * DAY, trusted=True)
    assert np.array_equal(store.crop(face).image, crop().image)


def test_many_expired_keys_leave_no_copy_behind(store: Store, watch: Watch) -> None:
    """Rows move between pages as tables grow and shrink; a purge writes no whole new file as `forget` does."""
    wrapped = {}
    for number in range(150):
        visit = f"v{number}"
        store.open_visit(visit, "door", "front", watch.now_s)
        store.add_visit_picture(visit, 1, crop(number, 8, 8))
        ((wrapped[visit],),) = store._db.rows("SELECT wrapped FROM keys WHERE owner = ?", (visit,))
        watch.now_s += HOUR
        if number % 10 == 9:
            store.purge(watch.now_s, trusted=True)
    kept = {row[0] for row in store._db.rows("SELECT DISTINCT visit FROM pictures")}
    found = all_bytes(store.path.parent)
    assert 0 < len(kept) < 30
    assert {visit for visit in wrapped if wrapped[visit][12:28] in found} == kept


@pytest.mark.parametrize(("hours", "room"), [(24.0, 8), (72.0, 8), (6.0, 2)])
def test_so_many_pictures_are_written_a_day_and_words_without_end(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, hours: float, room: int
) -> None:
    monkeypatch.setattr("edgecam.store.visits.PICTURES_A_DAY", 8)
    with Store.open(tmp_path / "busy", StoreConfig(unknown_visitors_h=hours), clock=watch) as store:
        kept = []
        for number in range(12):
            assert store.record(decision(f"d{number}", f"v{number}"))
            kept.append(store.add_visit_picture(f"v{number}", 1, crop(number, 8, 8)))
        assert [bool(one) for one in kept] == [True] * room + [False] * (12 - room)
        watch.sleep(min(hours, 24.0) * HOUR + 1.0)
        store.record(decision("e", "w"))
        assert store.add_visit_picture("w", 1, crop(0, 8, 8)) is not None
