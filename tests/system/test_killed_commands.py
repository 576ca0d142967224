"""kill -9 at any step of the commands themselves: enroll, key, backup, versions, run with somebody there, tune."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

import pytest
from box import COMMAND, cut, enrol, events
from broker import Broker, Listener, mosquitto, until
from conftest import lacking
from heads import turned
from ledger import FILES
from night_house import build
from writes import compiler, read_journal, watched

from edgecam.config import StoreConfig
from edgecam.evaluation.faces import open_bench
from edgecam.nn.registry import ModelRegistry
from edgecam.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.data, pytest.mark.models, pytest.mark.machine, pytest.mark.timeout(1800)]

CONFIG = '[store]\nbackup_dir = "{folder}/b"\ncluster_unknown = true\n'


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if compiler() is None:
        lacking("machine", "no C compiler, which the watching of writes needs")


class Commands:
    """Commands on one state, killed at drawn steps.

    Args:
        folder: state and configuration go here.
        config: the configuration's text.
    """

    def __init__(self, folder: Path, config: str, seed: int) -> None:
        self.state, self._folder, self._rng = folder / "s", folder, random.Random(seed)
        self._config = folder / "edgecam.toml"
        self._config.write_text(config)
        self._steps: Dict[str, int] = {}
        self.kills = 0

    def run(self, *arguments: str, at: int = 0) -> Tuple[int, str]:
        """Run a command, to its step `at` at most; return its exit code and words."""
        journal = self._folder / "journal"
        journal.unlink(missing_ok=True)
        options: Dict[str, object] = {"kill_at": at} if at else {"journal": journal, "heads": 1}
        done = subprocess.run(
            [*COMMAND, *arguments, "--state", str(self.state), "--config", str(self._config)],
            env=watched(self._folder, **options),
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        assert done.returncode in (0, -9), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        self.kills += done.returncode == -9
        if not at:
            self._steps[arguments[0]] = sum(step.what != "A" for step in read_journal(journal))
        return done.returncode, done.stdout

    def kill(self, *arguments: str) -> bool:
        """Run a command to a drawn one of its steps (as many as it had when it was last run to its end)."""
        return self.run(*arguments, at=self._rng.randint(1, self._steps[arguments[0]]))[0] == -9

    def faults(self, config: StoreConfig) -> List[str]:
        """Start as the box would; return what is wrong."""
        with Store.open(self.state, config) as store:
            found = store.problems()
            left = {path.name for path in self.state.iterdir()} - FILES - {"edgecam.db-wal", "edgecam.db-shm", "night"}
        return [*found, *(f"left over: {name}" for name in left)]


def test_commands_killed_at_any_step(tmp_path: Path, data_dir: Path, registry: ModelRegistry) -> None:
    """Enrolled or not, rotated or not, backed up or not: never half."""
    photos = sorted((data_dir / "lfw_colour_10x10/Tony_Blair").glob("*.jpg"))[:3]
    box = Commands(tmp_path, CONFIG.format(folder=tmp_path), 3)
    keep = StoreConfig(backup_dir=tmp_path / "b", cluster_unknown=True)
    files = [str(path) for path in photos]
    assert box.run("enroll", "P0", *files)[0] == 0
    with Store.open(box.state, keep) as store:
        whole = store.people()[0].faces
        store.put_version("base", turned(registry), (), {}, accepted=True)
        store.put_version("base", turned(registry), (), {}, accepted=True)
    for command in (("key", "rotate"), ("backup",), ("versions", "rollback", "v1")):
        assert box.run(*command)[0] == 0, command
    counts: Dict[str, int] = {}
    may: Dict[str, Set[int]] = {"P0": {whole}}
    for turn in range(44):
        kind = ("enroll", "key", "backup", "versions")[turn % 4]
        if kind == "enroll":
            name = f"P{turn}"
            died = box.kill("enroll", name, *files)
            may[name] = {0, whole} if died else {whole}
        elif kind == "key":
            died = box.kill("key", "rotate")
        elif kind == "backup":
            died = box.kill("backup")
        else:
            died = box.kill("versions", "rollback", f"v{1 + turn // 4 % 2}")
        counts[kind] = counts.get(kind, 0) + died
        assert box.faults(keep) == [], (turn, kind)
        with Store.open(box.state, keep) as store:
            there = {person.name: person.faces for person in store.people()}
            assert all(there.get(name, 0) in faces for name, faces in may.items()), (there, may)
            may = {name: {there.get(name, 0)} for name in may}
            assert sum(version.state == "active" for version in store.versions()) == 1
            names = {path.name for path in (tmp_path / "b").iterdir()}
            assert all(name.endswith(".db") for name in names)
    copies = sorted((tmp_path / "b").glob("*.db"))
    assert box.run("key", "rotate")[0] == 0, "what was begun is ended"
    with Store.open(box.state, keep) as store:
        assert all(store.look(path).opens for path in copies)
        store.restore(copies[-1], "replace")
        assert store.problems() == []
    print(f"{counts}: {box.kills} kills of commands, {len(copies)} backups")


WATCH = """
[liveness]
passive = false
[motion]
burst_s = 1.0
[alerts]
host = "127.0.0.1"
port = {port}
tls = false
cooldown_s = 0.0
rules = {{ resident = "always", known = "always", uncertain = "always", poor = "always", no_face = "always" }}
"""


@pytest.mark.broker
@pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")
def test_the_daemon_killed_at_any_step(tmp_path: Path, data_dir: Path, models_dir: Path) -> None:
    """Every word that was stored is heard by a client of the broker that keeps its session, in the end."""
    clips = data_dir / "videos/liveness"
    enrolled = enrol(tmp_path, clips / "jomariya_real.mp4", 5.0)
    films = [
        cut(clips / "jomariya_real.mp4", 8.0, 11.0, tmp_path / "ann.mp4"),
        cut(clips / "tranvan_real.mp4", 2.0, 5.0, tmp_path / "stranger.mp4"),
    ]
    with Broker(tmp_path / "broker", persistent=True) as broker:
        box = Commands(tmp_path, WATCH.format(port=broker.port), 4)
        assert box.state == enrolled
        with Listener(broker, "edgecam/+/+/event", client_id="house") as listener:

            def heard() -> Dict[str, Any]:
                mark = f"mark-{len(listener.heard)}"
                listener.say("edgecam/test/mark/event", json.dumps({"id": mark, "camera": ""}))
                until(lambda: mark in str(listener.heard[-50:]), "the mark")
                return {event["id"]: event for event in events(listener.heard) if event["camera"]}

            assert box.run("run", "--camera", f"front={films[0]}", "--once")[0] == 0
            survived = 0
            while box.kills < 24 and survived < 10:
                if not box.kill("run", "--camera", f"front={films[box.kills % 2]}", "--once"):
                    survived += 1
                with Store.open(box.state) as store:
                    assert store.problems() == []
                    words = {word.id for visit in store.visits(10_000) for word in visit.decisions}
                    waiting = {row[0] for row in store._db.rows("SELECT decision FROM outbox")}
                    told = set(heard())
                    assert words <= told | waiting, "nobody hears of it"
                    assert told <= words, "told, and not stored"
            assert box.run("run", "--camera", f"front={films[0]}", "--once")[0] == 0
            with Store.open(box.state) as store:
                assert store.outbox_size() == store.outbox_dropped() == 0
                visits = store.visits(10_000)
                assert all(visit.closed_wall_s for visit in visits)
                words = {word.id for visit in visits for word in visit.decisions}
            assert words == set(heard())
            again = len(events(listener.heard)) - len(words)
            cut_short = sum(event["reason"] == "interrupted" for event in heard().values())
    print(
        f"run: {box.kills} kills, {len(visits)} visits, {len(words)} words, all heard, {cut_short} interrupted; {again}"
    )


def test_a_night_killed_at_any_step(tmp_path: Path, data_dir: Path, registry: ModelRegistry) -> None:
    """Nothing of it is kept, or all; what it trained before is taken up again."""
    box = Commands(tmp_path, CONFIG.format(folder=tmp_path), 5)
    build(box.state, data_dir, open_bench(), wild=6)
    shutil.copytree(box.state, tmp_path / "fresh")
    keep, began = StoreConfig(cluster_unknown=True), time.monotonic()
    assert box.run("tune")[0] == 0
    whole_s, versions = time.monotonic() - began, 0
    shutil.rmtree(box.state)
    shutil.copytree(tmp_path / "fresh", box.state)
    while box.kills < 12:
        died = box.kill("tune")
        assert box.faults(keep) == []
        with Store.open(box.state, keep) as store:
            stored = len(store.versions())
            told = sum(row.topic.endswith("/night") for row in store.outbox_peek())
        assert died or (stored, told) == (1, 1)
        if stored:
            versions += 1
            shutil.rmtree(box.state)
            shutil.copytree(tmp_path / "fresh", box.state)
    print(
        f"tune: {box.kills} kills, {versions} of them after the version was stored; a whole night takes {whole_s:.0f} s"
    )
