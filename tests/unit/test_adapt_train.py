"""Training: what it does to faces, that it never depends on being left alone, and what stops it."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgecam.adapt import train as training  # noqa: E402
from edgecam.adapt.apart import Job, Keep, Limits, Options, Trained, train_apart  # noqa: E402
from edgecam.adapt.heads import run_files  # noqa: E402
from edgecam.adapt.samples import Samples  # noqa: E402
from edgecam.adapt.train import train  # noqa: E402
from edgecam.embed.sface import unit  # noqa: E402
from edgecam.errors import TuneError  # noqa: E402

if TYPE_CHECKING:
    from typing import Callable

    from edgecam.types import Floats, Ints

PEOPLE, FACES = 4, 4
AT_ONCE = Limits(niceness=0)
"""The tests themselves may be niced; ten more on top, and on a busy machine they never end."""


def faces(seed: int, groups: int = 40) -> tuple[Floats, Ints]:
    """Return faces of four people, a few a group, and the person of each group; half of the space is noise."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((PEOPLE, 128))
    who = np.arange(groups) % PEOPLE
    rows = centres[np.repeat(who, FACES)] + rng.standard_normal((groups * FACES, 128)) * np.repeat([0.3, 3.0], 64)
    return rows.astype(np.float32), who


def samples(groups: int = 40, unnamed: int = 0) -> Samples:
    """Return samples of which the first group of everybody is enrolled, and the last ones are nobody's."""
    rows, who = faces(1, groups)
    shares = np.eye(PEOPLE, dtype=np.float32)[who]
    shares[groups - unnamed :] = 0.0
    enrolled = np.arange(len(rows)) < PEOPLE * FACES
    none = np.zeros((0, 2), np.int64)
    group = np.repeat(np.arange(groups), FACES)
    return Samples(rows, group, shares, ("a", "b", "c", "d"), none, enrolled.astype(np.int64), enrolled)


def job(epochs: int = 6, groups: int = 40, **options: float) -> Job:
    strangers = np.random.default_rng(5).standard_normal((20, 128)).astype(np.float32)
    return Job("sface", b"", samples(groups), strangers, Options(epochs=epochs, **options))  # type: ignore[arg-type]


def gap(vectors: Floats, who: Ints) -> float:
    """Return how much more alike faces of one person are than those of two."""
    same = np.repeat(who, FACES)[:, None] == np.repeat(who, FACES)[None]
    cosines = vectors @ vectors.T
    return float(cosines[same].mean() - cosines[~same].mean())


def same_heads(one: Trained, other: Trained) -> bool:
    return dict(one.heads) == dict(other.heads) and one.losses == other.losses


# --- what is learnt ---------------------------------------------------------------------------------------------------


def test_faces_it_never_saw_are_told_apart_better() -> None:
    trained = train(job(epochs=10))
    rows, who = faces(2)
    assert gap(run_files(trained.heads, rows), who) > gap(unit(rows), who) + 0.05
    assert trained.moved > 1e-3
    assert trained.differs < 1e-5


def test_blend_zero_is_the_base_head() -> None:
    rows, _ = faces(2)
    assert np.abs(run_files(train(job(epochs=2, blend=0.0)).heads, rows) - unit(rows)).max() < 1e-6


def test_each_pull_holds_the_head_nearer_to_the_base() -> None:
    free = train(job(stay=0.0)).moved
    assert train(job(stay=100.0)).moved < 0.8 * free
    assert train(job(stay=0.0, like_base=20.0)).moved < 0.98 * free


def test_it_stops_when_validation_no_longer_improves() -> None:
    trained = train(job(epochs=20, adapter_rate=0.3, patience=3))
    assert trained.stopped_early
    assert trained.epochs < 20
    assert min(trained.losses) == trained.losses[-4], "three epochs without a better one"


def test_the_same_job_ends_in_the_same_bits() -> None:
    assert same_heads(train(job()), train(job()))
    assert not same_heads(train(job()), train(job(seed=1)))


@pytest.mark.parametrize(
    ("shares", "apart", "word"),
    [
        (np.zeros((3, 2), np.float32), [], "no face has a name"),
        (np.array([[1, 0], [1, 0], [1, 0]], np.float32), [], "no negatives"),
        (np.array([[1, 0], [0, 1], [0, 0]], np.float32), [], ""),
        (np.array([[1, 0], [1, 0], [0, 0]], np.float32), [], ""),
        (np.array([[1, 0], [1, 0], [0.9, 0]], np.float32), [(0, 2)], ""),
    ],
    ids=["nobody named", "one person", "two people", "one and a stranger", "two seen at once"],
)
def test_without_negatives_it_switches_itself_off(shares: Floats, apart: list[tuple[int, int]], word: str) -> None:
    rows = np.random.default_rng(0).standard_normal((6, 128)).astype(np.float32)
    pairs = np.array(apart, np.int64).reshape(-1, 2)
    zeros = np.zeros(6, np.int64)
    material = Samples(rows, np.repeat(np.arange(3), 2), shares, ("a", "b"), pairs, zeros, zeros.astype(bool))
    trained = train(Job("sface", b"", material, rows[:0], Options(epochs=1)))
    assert (word in trained.reason) if word else not trained.reason
    assert bool(trained.heads) == (not word)


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_an_epoch_has_few_faces_a_track_and_replays_everybody_alike() -> None:
    rows = np.zeros((60, 1), np.float32)
    group = np.repeat([0, 1, 2], [3, 1, 56])  # enrolled: three photos of a, one of b; one long track of a
    enrolled = np.arange(60) < 4
    shares = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    material = Samples(rows, group, shares, ("a", "b"), np.zeros((0, 2), np.int64), group, enrolled)
    order = training._order(material, np.arange(60), np.random.default_rng(0))
    assert (order >= 4).sum() == training.FACES_A_GROUP
    assert ((order < 3).sum(), (order == 3).sum()) == (4, 4)


def test_whole_tracks_are_held_back_and_never_an_enrolment_photo() -> None:
    material = samples()
    learn, check = training._split(material, 0)
    assert len(check) == PEOPLE * FACES
    assert not material.enrolled[check].any()
    assert not set(material.group[check]) & set(material.group[learn])
    assert len(learn) + len(check) == len(material.features)


def test_triplets_are_of_one_person_and_of_one_known_to_be_another() -> None:
    material = samples(unnamed=2)
    material = replace(material, apart=np.array([[38, 39]]))
    relations = training._Relations.of(material)
    person = np.repeat(np.where(material.shares.any(axis=1), material.shares.argmax(axis=1), -1), FACES)
    kinds = set()
    for seed in range(20):
        k, l, m = relations.draw(unit(material.features), np.random.default_rng(seed))  # noqa: E741
        assert (k != l).all()
        assert ((person[k] == person[l]) & ((person[k] >= 0) | (material.group[k] == material.group[l]))).all()
        assert ((person[k] != person[m]) | ((person[k] == -1) & (material.group[k] != material.group[m]))).all()
        kinds |= {(int(a >= 0), int(b >= 0)) for a, b in zip(person[k], person[m])}
    assert kinds == {(1, 1), (1, 0), (0, 0)}, "a person against another, against a stranger; two seen at once"


def test_unsure_groups_that_nothing_sets_apart_are_in_no_triplet() -> None:
    material = replace(samples(), shares=np.full((40, PEOPLE), 0.25, np.float32))
    assert training._Relations.of(material).draw(unit(material.features), np.random.default_rng(0)).shape == (3, 0)


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3, 6])
def test_it_goes_on_from_any_epoch_to_the_same_bits(at: int) -> None:
    kept: list[bytes] = []
    whole = train(job(), after_epoch=lambda _epoch, _loss, state: kept.append(state()))
    done: list[int] = []
    again = train(job(), kept[at - 1], lambda epoch, _loss, _state: done.append(epoch))
    assert same_heads(whole, again)
    assert done == list(range(at + 1, 7)), "nothing is done twice"


def test_a_damaged_checkpoint_costs_time_alone(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[bytes] = []
    whole = train(job(), after_epoch=lambda _epoch, _loss, state: kept.append(state()))
    with caplog.at_level(logging.WARNING):
        assert same_heads(whole, train(job(), kept[0][: len(kept[0]) // 2]))
        assert same_heads(whole, train(job(), b"rubbish"))
    assert caplog.text.count("training begins anew") == 2


def upside_down(content: bytes) -> bytes:
    return content[::-1]


def keep_in(folder: Path) -> Keep:
    return Keep(folder, upside_down, upside_down, every_s=0.0)


def test_apart_it_computes_the_same_and_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep = keep_in(tmp_path / "kept")
    apart = train_apart(job(), AT_ONCE, keep)
    assert same_heads(apart, train(job()))
    (file,) = keep.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"head_" not in file.read_bytes(), "sealed"
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert same_heads(train_apart(job(), AT_ONCE, keep), apart)
    with pytest.raises(TuneError, match="cannot be started"):
        train_apart(job(seed=2), AT_ONCE, keep)

    def no(_: bytes) -> bytes:
        raise ValueError("not ours")

    with caplog.at_level(logging.WARNING), pytest.raises(TuneError, match="cannot be started"):
        train_apart(job(), AT_ONCE, replace(keep, open=no))
    assert "cannot be read (not ours); training begins anew" in caplog.text


_PARENT = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_adapt_train import AT_ONCE, job, keep_in
from edgecam.adapt.apart import train_apart
train_apart(job(epochs=60, patience=60), AT_ONCE, keep_in(Path({folder!r})))
"""


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("victim", ["child", pytest.param("parent", marks=pytest.mark.slow)])
def test_killed_it_leaves_nothing_running_and_goes_on_next_time(tmp_path: Path, victim: str) -> None:
    keep = keep_in(tmp_path)
    script = _PARENT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as parent:
        wait_for(lambda: any(tmp_path.glob("*.training")))
        (child,) = children(parent.pid)
        os.kill(child if victim == "child" else parent.pid, signal.SIGKILL)
        _, words = parent.communicate(timeout=60)
        wait_for(lambda: not running(child))
    if victim == "child":
        assert parent.returncode == 1
        assert words.strip().endswith("training was killed, perhaps for want of memory; it goes on next time")
    checkpoint = upside_down(next(tmp_path.glob("*.training")).read_bytes())
    assert checkpoint[:1] == b"C"
    done = len(torch.load(io.BytesIO(checkpoint[1:]), weights_only=True)["history"])
    assert done < 60
    whole = job(epochs=60, patience=60)
    rest: list[int] = []
    again = train(whole, checkpoint[1:], lambda epoch, _loss, _state: rest.append(epoch))
    assert rest[0] == done + 1
    assert same_heads(train_apart(whole, AT_ONCE, keep), again)
    assert same_heads(again, train(whole))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(true: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (Limits(seconds=0.0, niceness=0), "after 0 s"),
        (Limits(megabytes=1.0, niceness=0), "MB of memory, its limit is 1"),
    ],
    ids=["time", "memory"],
)
def test_limits_end_it_with_one_line(limits: Limits, word: str) -> None:
    with pytest.raises(TuneError, match=word):
        train_apart(job(), limits)


def test_not_on_the_battery(tmp_path: Path) -> None:
    supply = tmp_path / "power_supply" / "AC"
    supply.mkdir(parents=True)
    (supply / "type").write_text("Mains\n")
    (supply / "online").write_text("0\n")
    limits = Limits(sysfs=str(tmp_path), niceness=0)
    with pytest.raises(TuneError, match="on its battery"):
        train_apart(job(), limits)
    training.wait_until_allowed(replace(limits, on_battery=True))
    (supply / "online").write_text("1\n")
    training.wait_until_allowed(limits)


def test_it_waits_until_the_box_is_cooler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zones = [tmp_path / "thermal" / f"thermal_zone{n}" / "temp" for n in range(3)]
    for zone, text in zip(zones, ("40000\n", "85000\n", "off\n")):
        zone.parent.mkdir(parents=True)
        zone.write_text(text)
    slept, sleep = threading.Event(), time.sleep

    def wait(_: float) -> None:
        slept.set()
        sleep(0.01)

    monkeypatch.setattr("edgecam.adapt.train.time.sleep", wait)
    waiting = threading.Thread(target=training.wait_until_allowed, args=(Limits(sysfs=str(tmp_path)),))
    waiting.start()

    def heat(text: str) -> None:
        fresh = zones[1].with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(zones[1])  # never to be read half written

    for above in ("85000", "79000", "76000"):
        heat(above)
        for _ in range(2):  # the second time it has read what was written here
            slept.clear()
            assert slept.wait(10), "5 degrees of distance, or it would stop and go"
    heat("74000")
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_full_disk_is_said_in_one_line(small_disk: Path, fill_disk: Callable[[], None]) -> None:
    folder = small_disk / "kept"
    folder.mkdir()
    fill_disk()
    with pytest.raises(TuneError, match="cannot be kept: No space left") as caught:
        train_apart(job(epochs=2), AT_ONCE, keep_in(folder))
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir()), "no half of a file stays"


def test_without_pytorch_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(TuneError, match="make train"):
        train_apart(job())


def test_a_job_survives_the_way_through_a_pipe() -> None:
    one = job()
    other = Job.unpack(one.pack())
    assert other.pack() == one.pack()
    assert (other.kind, other.options, other.samples.people) == (one.kind, one.options, one.samples.people)
    assert np.array_equal(other.samples.shares, one.samples.shares)
    assert job(seed=1).pack() != one.pack()
