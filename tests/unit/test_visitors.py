"""Unknown visitors who came again: their numbers, their names, and that they end with their tracks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pytest
from test_store_samples import NOW, Watch, crop

from edgecam.__main__ import main
from edgecam.config import StoreConfig
from edgecam.errors import ConfigError
from edgecam.pipeline.operations import changes_people, execute
from edgecam.store import NotStoredError, Store
from edgecam.types import Tracklet

KEEP = StoreConfig(cluster_unknown=True)
DAY_S = 86_400.0


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(tmp_path: Path, watch: Watch) -> Iterator[Store]:
    with Store.open(tmp_path / "state", KEEP, clock=watch) as opened:
        yield opened


def come(store: Store, count: int, first: int = 0, *, picture: bool = True) -> List[str]:
    """Let unknown faces be seen in as many visits; return the ids of what is kept of them."""
    rows = []
    for i in range(first, first + count):
        visit = f"V{i:03}"
        store.open_visit(visit, "door", "front", NOW + 60.0 * i)
        one = store.add_tracklet(
            Tracklet(visit, 1, "front", "m", 0.0, 1.0, np.ones((1, 4), np.float32), np.ones(1, np.float32))
        )
        assert one is not None
        rows.append(one)
        if picture:
            store.add_visit_picture(visit, 1, crop(i))
    return rows


def groups(store: Store) -> Dict[int, Tuple[str, ...]]:
    return {one.number: tuple(track.id for track in one.tracks) for one in store.visitors()}


def test_a_visitor_keeps_the_number_from_night_to_night(store: Store) -> None:
    a, b, c, d, e, f = come(store, 6)
    assert store.put_visitors([[a, b, c], [d, e]]) == [1, 2]
    # The next night sees one more, finds that c belongs to the second, and a third visitor.
    (g, h) = come(store, 2, 6)
    assert store.put_visitors([[c, d, e], [a, b, g], [f, h]]) == [2, 1, 3]
    assert groups(store) == {1: (a, b, g), 2: (c, d, e), 3: (f, h)}
    # Who is not found again is no more, and the number is not given to somebody else.
    store.put_visitors([[a, b]])
    assert store.put_visitors([[a, b], [f, h]]) == [1, 4]


def test_the_greater_share_has_the_number_when_a_visitor_is_split(store: Store) -> None:
    a, b, c, d, e = come(store, 5)
    store.put_visitors([[a, b, c, d, e]])
    assert store.put_visitors([[a, b], [c, d, e]]) == [2, 1]


def test_a_face_in_two_groups_is_refused_and_the_old_ones_stay(store: Store) -> None:
    a, b, c = come(store, 3)
    store.put_visitors([[a, b]])
    with pytest.raises(ConfigError, match="in two groups"):
        store.put_visitors([[a, c], [c, b]])
    assert groups(store) == {1: (a, b)}


def test_a_write_that_breaks_off_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c, d = come(store, 4)
    store.put_visitors([[a, b], [c, d]])
    run_many = store._db.run_many

    def broken(sql: str, rows: List[Any]) -> None:
        run_many(sql, rows)
        if rows and rows[0][0] == c:
            raise KeyboardInterrupt

    monkeypatch.setattr(store._db, "run_many", broken)
    with pytest.raises(KeyboardInterrupt):
        store.put_visitors([[a, d], [c, b]])
    assert groups(store) == {1: (a, b), 2: (c, d)}


def test_what_was_said_meanwhile_holds(store: Store) -> None:
    a, b, c, d = come(store, 4)
    ann = store.add_person("Ann")
    store.put_visitors([[a, b, c, d]])
    store.is_person(b, ann.id)
    store.is_nobody(c)
    assert groups(store) == {1: (a, d)}
    assert store.put_visitors([[b, c], [a, d], ["GONE"]]) == [0, 1, 0]
    assert groups(store) == {1: (a, d)}


def test_naming_a_visitor_names_each_track_with_a_picture(store: Store) -> None:
    a, b = come(store, 2)
    (c,) = come(store, 1, 2, picture=False)
    store.put_visitors([[a, b, c]])
    person, faces = store.name_visitor(1, "Ann")
    assert (person.name, person.faces, len(faces)) == ("Ann", 2, 2)
    assert {row.id: row.person_id for row in store.tracklets()} == {a: person.id, b: person.id, c: None}
    # Nobody looked at each of them: none of it is proof of who it is.
    assert [row.grouped for row in store.tracklets()] == [True, True, False]
    assert {face.origin for face in store.faces(person.id)} == {"visitor"}
    assert store.visitors() == []
    with pytest.raises(NotStoredError, match="no visitor 1"):
        store.name_visitor(1, "Ann")

    # Said of this very face it is proof, and no picture is enrolled twice.
    store.name_visit("V000", 1, "Ann")
    assert store.person(person.id).faces == 2
    assert [row.grouped for row in store.tracklets()] == [False, True, False]


def test_a_visitor_without_a_picture_cannot_be_named(store: Store) -> None:
    rows = come(store, 2, picture=False)
    store.put_visitors([rows])
    with pytest.raises(NotStoredError, match="no picture of visitor 1"):
        store.name_visitor(1, "Ann")
    assert store.people() == []
    assert groups(store) == {1: tuple(rows)}


def test_a_visitor_ends_with_the_last_track(store: Store, watch: Watch) -> None:
    a, b = come(store, 2)
    watch.now_s += 5 * DAY_S
    (c,) = come(store, 1, 2)
    store.put_visitors([[a, b, c]])
    store.purge(NOW + 8 * DAY_S, trusted=True)
    assert groups(store) == {1: (c,)}
    store.purge(NOW + 13 * DAY_S, trusted=True)
    assert store.visitors() == []
    assert store._db.rows("SELECT count(*) FROM visitors") == [(0,)]


def test_forgetting_takes_the_tracks_out_of_visitors(store: Store) -> None:
    a, b, c = come(store, 3)
    store.put_visitors([[a, b, c]])
    person, _ = store.name_visit("V001", 1, "Ann")
    store.forget(person.id)
    assert groups(store) == {1: (a, c)}


def test_a_restored_backup_brings_no_wrong_visitor(store: Store, tmp_path: Path) -> None:
    a, b, c, d = come(store, 4)
    store.put_visitors([[a, b], [c, d]])
    path = store.backup(tmp_path / "backups")
    store.put_visitors([[a, c], [b, d]])
    here = groups(store)
    store.restore(path)
    assert groups(store) == here  # merged: what the last night found holds
    store.restore(path, "replace")
    assert groups(store) == {1: (a, b), 2: (c, d)}

    store.restore(path, "replace")
    person, _ = store.name_visitor(1, "Ann")
    store.forget(person.id)
    store.restore(path)
    assert groups(store) == {2: (c, d)}
    assert store.problems() == []


# Operations and command.


def ask(store: Store, op: str, **params: Any) -> List[Dict[str, Any]]:
    return list(execute(store, {"op": op, **params}))


def test_visits_say_which_visitor_it_was(store: Store) -> None:
    a, b, c, d = come(store, 4)
    assert ask(store, "visitors.put", visitors=[[a, b], [c, d]]) == [{"visitors": [1, 2]}]
    shown = {v["visit"]: [t["visitor"] for t in v["tracks"]] for v in ask(store, "visits.list")}
    assert shown == {"V000": [1], "V001": [1], "V002": [2], "V003": [2]}
    (visitor,) = ask(store, "visitors.show", visitor=2)
    assert [(t["visit"], t["picture"]) for t in visitor["tracks"]] == [("V003", True), ("V002", True)]

    ask(store, "visitors.ignore", visitor=2)
    assert [one["visitor"] for one in ask(store, "visitors.list")] == [1]
    assert ask(store, "visits.show", visit="V002")[0]["tracks"][0]["visitor"] is None
    assert ask(store, "visitors.put", visitors=[[c, d], [a, b]]) == [{"visitors": [2, 1]}]
    assert [one["visitor"] for one in ask(store, "visitors.list", ignored=True) if one["ignored"]] == [2]
    ask(store, "visitors.ignore", visitor=2, ignored=False)
    assert len(ask(store, "visitors.list")) == 2

    (named,) = ask(store, "visitors.name", visitor=1, name="Ann", role="staff")
    assert (named["person"]["name"], named["person"]["role"], len(named["face_ids"])) == ("Ann", "staff", 2)
    assert changes_people("visitors.name")
    assert ask(store, "visits.show", visit="V000")[0]["tracks"][0]["named"] == "Ann"


@pytest.mark.parametrize("wrong", [3, ["x", {}], [["x"], 3]])
def test_what_is_no_list_of_groups_is_refused(store: Store, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="visitors"):
        ask(store, "visitors.put", visitors=wrong)


def test_a_visitor_is_shown_named_and_ignored_by_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def edgecam(*args: str) -> Tuple[int, str, str]:
        code = main(["visits", *args, "--state", str(state)])
        return (code, *capfd.readouterr())

    state = tmp_path / "state"
    with Store.open(state, KEEP) as store:
        a, b, c, d = come(store, 4)
        store.put_visitors([[a, b], [c, d]])
    _, out, _ = edgecam("list", "--json")
    assert [json.loads(line)["tracks"][0]["visitor"] for line in out.splitlines()] == [2, 2, 1, 1]
    code, out, _ = edgecam("show", "visitor 2", "--image", str(tmp_path / "face.png"))
    assert code == 0
    assert out.startswith("visitor 2: came 2 times\n")
    assert out.count("picture kept") == 2
    assert (tmp_path / "face.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = edgecam("name", "Visitor-2", "Ann")
    assert (code, out) == (0, "Ann (known): 2 new faces, 2 in all\n")
    assert edgecam("ignore", "visitor 1")[:2] == (0, "ignored\n")
    code, out, err = edgecam("show", "visitor 2")
    assert (code, out) == (1, "")
    assert "there is no visitor 2 (any more)" in err
    assert "Traceback" not in err
    code, _, err = edgecam("show", "visitor 1", "--track", "2")
    assert code == 2
    assert "--track belongs to a visit" in err
    with Store.open(state, KEEP) as store:
        assert [one.ignored for one in store.visitors()] == [True]
        assert [person.name for person in store.people()] == ["Ann"]
