"""The operations on the household's state, as both the daemon and the command line run them."""

from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pytest

from edgecam.clock import SystemClock
from edgecam.config import StoreConfig
from edgecam.daemon.control import ControlServer, Peer
from edgecam.daemon.talk import PART, Uploads, ask
from edgecam.errors import ConfigError, ControlError
from edgecam.pipeline.household import load_household
from edgecam.pipeline.operations import OPERATIONS, changes_devices, changes_people, execute
from edgecam.pipeline.slot import Slot
from edgecam.pipeline.wire import face_crop_of, floats_of, pack_array, pack_face_crop
from edgecam.store import NotStoredError, Store, new_ulid
from edgecam.types import Decision, FaceCrop, Floats, Liveness, Phase, Verdict

MODEL = "test-1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state", StoreConfig(backup_dir=tmp_path / "backups")) as opened:
        yield opened


def run(store: Store, op: str, **params: Any) -> List[Dict[str, Any]]:
    """Through JSON both ways, as over the socket."""
    request = json.loads(json.dumps({"op": op, **params}))
    return [dict(json.loads(json.dumps(record))) for record in execute(store, request, "uid:7")]


def crop(seed: int = 0) -> FaceCrop:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    return FaceCrop(image, np.array([5, 5, 20, 25], np.float32), rng.random((5, 2)).astype(np.float32) * 20, 0.5)


def unit(seed: int, dim: int = 8) -> Floats:
    vector = np.random.default_rng(seed).normal(size=dim)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def face(seed: int, *, embedded: bool = True) -> Dict[str, Any]:
    vectors = [{"model": MODEL, "vector": pack_array(unit(seed)), "features": pack_array(unit(seed, 12))}]
    about = {"quality": 0.5, "yaw_deg": 10.0, "infrared": False, "source": f"photo {seed}"}
    return {**pack_face_crop(crop(seed)), **about, "vectors": vectors if embedded else []}


def visit(store: Store, verdict: Verdict = Verdict.UNKNOWN) -> Tuple[str, Decision]:
    visit_id = new_ulid(1.8e9)
    decision = Decision(
        new_ulid(1.8e9), visit_id, 1, verdict, Phase.FINAL, None, (), 0.2, Liveness.UNPROVEN, "", "front", "door",
        MODEL, 0.0, None, SystemClock().wall_s(), clock_trusted=True,
    )  # fmt: skip
    store.record(decision)
    store.add_visit_picture(visit_id, 1, crop(9), quality=0.7)
    return visit_id, decision


def test_a_face_travels_without_loss() -> None:
    sent = crop(3)
    got = face_crop_of(json.loads(json.dumps(pack_face_crop(sent))))
    assert np.array_equal(got.image, sent.image)
    assert np.array_equal(got.box, sent.box)
    assert np.allclose(got.landmarks, sent.landmarks)
    assert got.scale == sent.scale
    assert np.array_equal(floats_of(pack_array(unit(1))), unit(1))


def test_people_from_enrolment_to_forgetting(store: Store) -> None:
    added = run(store, "faces.add", name="Ann", role="staff", consent={"by": "Ann"}, faces=[face(1), face(2)])[0]
    assert added["created"]
    assert len(added["face_ids"]) == 2
    assert not run(store, "faces.add", name="ann", faces=[face(3)])[0]["created"]
    run(store, "faces.add", name="Ben", faces=[face(4)])
    listed = {p["name"]: p for p in run(store, "people.list")}
    assert (listed["Ann"]["faces"], listed["Ann"]["role"], listed["Ann"]["consent"]) == (3, "staff", {"by": "Ann"})
    items = run(store, "people.show", who="Ann")[0]["items"]
    assert {item["source"] for item in items} == {"photo 1", "photo 2", "photo 3"}
    assert run(store, "people.rename", who="Ben", name="Benno")[0]["name"] == "Benno"
    assert run(store, "people.role", who="Benno", role="blocked")[0]["role"] == "blocked"
    assert run(store, "people.merge", into="Ann", other="Benno")[0]["faces"] == 4
    exported = run(store, "people.export", who="Ann")
    assert [r["type"] for r in exported][:2] == ["person", "face"]
    assert base64.b64decode(exported[1]["png"]).startswith(b"\x89PNG")
    forgotten = run(store, "people.forget", who="Ann")[0]["id"]
    assert run(store, "people.list") == []
    with pytest.raises(NotStoredError):
        run(store, "people.show", who=forgotten)
    actors = {row["actor"] for row in run(store, "audit") if row["action"] in ("export", "delete")}
    assert actors == {"uid:7"}


def test_the_gallery_has_everybody_and_says_what_is_missing(store: Store) -> None:
    run(store, "faces.add", name="Ann", faces=[face(1), face(2)])
    bare = run(store, "faces.add", name="Ben", faces=[face(3, embedded=False)])[0]["face_ids"]
    ann, ben, missing, end = run(store, "gallery", model=MODEL)
    assert (ann["name"], ben["name"], ben["face_ids"]) == ("Ann", "Ben", [])
    assert np.array_equal(floats_of(ann["vectors"], columns=ann["dim"]), np.stack([unit(1), unit(2)]))
    assert missing["missing"] == bare
    assert (end["people"], end["faces"]) == (2, 2)
    sent = run(store, "faces.crops", face_ids=bare)[0]
    assert np.array_equal(face_crop_of(sent).image, crop(3).image)
    row = {"face_id": bare[0], "vector": pack_array(unit(3)), "features": pack_array(unit(3, 12))}
    run(store, "faces.put_vectors", model=MODEL, vectors=[row])
    *people, after = run(store, "gallery", model=MODEL)
    assert len(people) == 2
    assert after["generation"] > end["generation"]


def test_the_gallery_says_whom_cameras_saw_in_infrared_alone(store: Store) -> None:
    here, file = "camera at 1.5 s", "night.jpg at 1.5 s"
    visited = "visit 01ABC picture 01DEF"
    for name, seen in (
        ("Ann", [(here, True), (visited, True)]),
        ("Ben", [(f"visitor, {visited}", True)]),
        ("Cleo", [(here, True), (file, True)]),
        ("Dan", [(here, True), (here, False)]),
        ("Eve", [(file, True)]),
    ):
        faces = [{**face(n), "source": source, "infrared": grey} for n, (source, grey) in enumerate(seen)]
        run(store, "faces.add", name=name, faces=faces)
    told = {row["name"]: row["by_night"] for row in run(store, "gallery", model=MODEL) if "name" in row}
    assert told == {"Ann": True, "Ben": True, "Cleo": False, "Dan": False, "Eve": False}
    nothing_to_embed: Any = SimpleNamespace(version=MODEL, base=MODEL, installed=SimpleNamespace(version=MODEL))
    household, names = load_household(partial(run, store), nothing_to_embed)
    assert sorted(names[person] for person in household.by_night) == ["Ann", "Ben"]


def test_faces_are_added_all_or_none(store: Store) -> None:
    before = store.generation()
    wrong: List[Any] = [
        {**face(2), "png": "AAAA"},
        {**face(2), "box": [1]},
        {"box": []},
        {**face(2), "vectors": [{}]},
        7,
    ]
    for broken in wrong:
        with pytest.raises(ConfigError):
            run(store, "faces.add", name="Ann", faces=[face(1), broken])
    long_vector = [{"model": MODEL, "vector": pack_array(unit(1) * 3), "features": ""}]
    with pytest.raises(ConfigError, match="length 1"):
        run(store, "faces.add", name="Ann", faces=[face(1), {**face(2), "vectors": long_vector}])
    assert run(store, "people.list") == []
    assert store.generation() == before


def test_visits_are_listed_named_and_ignored(store: Store) -> None:
    visit_id, _ = visit(store)
    other, _ = visit(store, Verdict.POOR)
    assert [v["visit"] for v in run(store, "visits.list")] == [other, visit_id]
    assert [v["visit"] for v in run(store, "visits.list", verdict="unknown")] == [visit_id]
    assert run(store, "visits.show", visit=visit_id[-6:])[0]["tracks"][0]["verdict"] == "unknown"
    picture = run(store, "visits.picture", visit=visit_id)[0]
    assert np.array_equal(face_crop_of(picture).image, crop(9).image)
    assert run(store, "audit")[0] | {"wall_s": 0} == {
        "wall_s": 0, "actor": "uid:7", "action": "view", "target": f"{visit_id}/1",
    }  # fmt: skip
    named = run(store, "visits.name", visit=visit_id, name="Cleo")[0]
    assert (named["person"]["name"], named["person"]["role"], len(named["face_ids"])) == ("Cleo", "known", 1)
    assert run(store, "visits.show", visit=visit_id)[0]["tracks"][0]["named"] == "Cleo"
    run(store, "visits.ignore", visit="last")
    assert [v["visit"] for v in run(store, "visits.list")] == [visit_id]
    assert len(run(store, "visits.list", ignored=True)) == 2
    assert run(store, "visits.erase")[0]["visits"] == 2
    assert run(store, "visits.list", ignored=True) == []
    assert len(run(store, "people.list")) == 1


def test_state_operations(store: Store, tmp_path: Path) -> None:
    run(store, "faces.add", name="Ann", faces=[face(1)])
    copy = run(store, "backup", folder=str(tmp_path / "copies"))[0]
    run(store, "faces.add", name="Ben", faces=[face(2)])
    assert run(store, "restore", path=copy["path"], mode="replace")[0]["people"] == 1
    assert [p["name"] for p in run(store, "people.list")] == ["Ann"]
    run(store, "settings.put", key="a", value={"b": [1]})
    assert run(store, "settings.get", key="a")[0]["value"] == {"b": [1]}
    assert run(store, "pause", seconds=60)[0]["paused"]
    status = run(store, "status")[0]
    assert (status["people"], status["faces"], status["paused"], status["running"]) == (1, 1, True, False)
    assert not run(store, "pause", seconds=0)[0]["paused"]
    assert run(store, "purge")[0]["pictures"] == 0
    assert run(store, "strangers", model=MODEL)[0]["count"] == 0
    assert run(store, "check") == [{"problems": [], "damaged": []}]


def test_wrong_requests_are_refused_in_words(store: Store) -> None:
    wrong: List[Dict[str, Any]] = [
        {},
        {"op": 3},
        {"op": "people.destroy"},
        {"op": "people.show"},
        {"op": "people.role", "who": "x", "role": "king"},
        {"op": "faces.crops"},
        {"op": "visits.list", "limit": "many"},
        {"op": "visits.list", "verdict": "odd"},
        {"op": "pause", "seconds": -1},
        {"op": "restore", "path": "x", "mode": "half"},
        {"op": "visits.show", "visit": "AB"},
    ]
    for request in wrong:
        with pytest.raises((ConfigError, NotStoredError)):
            list(execute(store, request))
    assert all(callable(operation) for operation in OPERATIONS.values())
    assert changes_people("faces.add")
    assert not changes_people("visits.list")
    assert changes_devices("people.forget")
    assert not changes_devices("devices.list")


def test_the_latest_frame_wins_and_kept_ones_stay_in_order() -> None:
    slot: Slot[str] = Slot()
    slot.keep(["early 1", "early 2"])
    for number in range(5):
        slot.put(f"live {number}")
    slot.mark("end")
    slot.mark("end")
    slot.put("live 9")
    taken = iter(lambda: slot.take(0.0), None)
    assert list(taken) == ["early 1", "early 2", "live 4", "end", "live 9"]
    assert slot.dropped == 4


def test_a_slot_nobody_empties_stays_small() -> None:
    slot: Slot[int] = Slot()
    for number in range(500):
        slot.keep([number])
        slot.mark(-1)
    assert len(slot) < 140
    assert slot.clear() > 0
    assert slot.take(0.0) is None


def test_a_request_of_any_size_reaches_the_daemon(tmp_path: Path) -> None:
    uploads = Uploads()

    def answer(request: Dict[str, Any], peer: Peer) -> Iterator[Dict[str, Any]]:
        whole = uploads.add(request, peer) if request["op"] == PART else request
        return iter([{"length": len(whole["text"]), "op": whole["op"]}] if whole else [])

    server = ControlServer(tmp_path / "control.sock", answer)
    server.start()
    try:
        for length in (10, 70_000, 1_000_000):
            assert list(ask(tmp_path / "control.sock", {"op": "x", "text": "ü" * length})) == [
                {"length": length, "op": "x"}
            ]
    finally:
        server.stop()


def test_an_upload_belongs_to_who_began_it() -> None:
    uploads, first, second = Uploads(), Peer(1, 1, 1), Peer(2, 2, 2)
    assert uploads.add({"upload": "a", "text": "{"}, first) == {}
    with pytest.raises(ControlError):
        uploads.add({"upload": "a", "text": "}", "last": True}, second)
    for name in "abcd":
        uploads.add({"upload": name, "text": "[1"}, first)
    with pytest.raises(ControlError, match="too many"):
        uploads.add({"upload": "e", "text": "[1"}, first)
    with pytest.raises(ConfigError):
        uploads.add({"upload": "a", "text": "]", "last": True}, first)
    with pytest.raises(ConfigError):
        uploads.add({"upload": "b"}, first)
