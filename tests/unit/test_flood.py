"""A log that nothing can fill: first lines pass, the rest is counted, kinds are kept apart, nothing grows."""

from __future__ import annotations

import io
import logging
import threading
from typing import Iterator, List, Optional

import pytest

from edgecam.daemon import flood
from edgecam.daemon.flood import EVENTS, FAULTS, PLACE, Flood
from edgecam.daemon.health import Problems

LOG = logging.getLogger("edgecam.test_flood")


class Kept(logging.Handler):
    """Keeps what would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: List[str] = []
        self.now_s = 0.0
        self.flood = Flood(self, lambda: self.now_s)
        self.addFilter(self.flood)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def take(self) -> List[str]:
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    root = logging.getLogger("edgecam")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)
    if handler.flood._timer is not None:
        handler.flood._timer.cancel()


def warn(text: str, times: int = 1, exc: Optional[Exception] = None) -> None:
    for _ in range(times):
        LOG.warning("presence: %s", text, exc_info=exc)


def test_the_first_pass_the_rest_is_counted_and_told(kept: Kept) -> None:
    warn("no route", 436)
    assert kept.take() == ["presence: no route"] * FAULTS.burst
    kept.now_s = FAULTS.every_s
    warn("no route")
    assert kept.take() == ["presence: no route (… 431 more like this)"]
    warn("no route", 10)
    assert kept.take() == []
    kept.now_s *= 2
    assert kept.flood.tell() is False
    assert kept.take() == ["… 10 more like this in 600 s: presence: no route"]
    assert kept.flood.tell(all_of_it=True) is False
    assert kept.take() == []


def test_after_quiet_times_everything_passes_again(kept: Kept) -> None:
    for day in range(3):
        kept.now_s = day * 86_400.0
        warn("no route", FAULTS.burst)
        assert len(kept.take()) == FAULTS.burst


def test_numbers_and_ids_make_no_other_kind_but_words_do(kept: Kept) -> None:
    for i in range(50):
        warn(f"visit 01JQ8Z5T6W{i:016d} at 10:0{i % 10}: {i * 0.37:.2f} s, row 0x{i:x}")
    assert len(kept.take()) == FAULTS.burst
    for word in ("lost", "refused", "untrusted"):
        warn(word)
    assert len(kept.take()) == 3


def test_errors_of_different_kinds_are_not_mixed(kept: Kept) -> None:
    for err in (ValueError("x"), KeyError("x")):
        warn("failed", 20, err)
    assert len(kept.take()) == 2 * FAULTS.burst
    problems = Problems()
    for _ in range(100):
        for camera in ("front", "back"):
            problems.begin(camera, "camera_lost", "timed out")
            problems.end(camera, "camera_lost")
    lines = kept.take()
    assert lines.count("camera front: camera_lost: timed out") == FAULTS.burst
    assert lines.count("camera back: camera_lost is over") == EVENTS.burst
    problems.begin("front", "perception_failing", "a net fails")
    assert kept.take() == ["camera front: perception_failing: a net fails"]


def test_texts_that_are_always_new_do_not_fill_it_either(kept: Kept) -> None:
    for i in range(5000):
        warn("".join(chr(97 + int(d)) for d in str(i)))
    assert len(kept.take()) == PLACE.burst
    assert len(kept.flood._kinds) == PLACE.burst
    LOG.warning("from elsewhere")
    assert kept.take() == ["from elsewhere"]
    kept.flood.tell(all_of_it=True)
    assert [line.split(":")[0] for line in kept.take()] == [f"… {5000 - PLACE.burst} more like this in 0 s"]


def test_what_it_knows_stays_small_and_no_count_is_lost(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "_KINDS", 8)
    warn("first", 9)
    for i in range(40):
        kept.now_s += PLACE.every_s
        warn("x" * (i + 1))
    assert len(kept.flood._kinds) == 8
    assert [line for line in kept.take() if "more like this" in line] == ["… 4 more like this in 80 s: presence: first"]


def test_details_that_were_asked_for_all_pass(kept: Kept) -> None:
    for _ in range(100):
        LOG.debug("frame")
    assert len(kept.take()) == 100


def test_a_wrong_format_string_is_left_to_the_handler(kept: Kept) -> None:
    record = logging.makeLogRecord({"msg": "%d", "args": ("x",), "levelno": logging.ERROR})
    assert kept.flood.filter(record)


def test_the_end_is_told_by_a_clock_of_its_own(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "_AGAIN_S", 0.01)
    told = threading.Event()
    monkeypatch.setattr(kept, "emit", lambda record: told.set() if "3 more" in record.getMessage() else None)
    kept.flood._now = lambda: 1.0 if threading.current_thread().name == "log-counts" else 0.0
    warn("no route", FAULTS.burst + 3)
    assert told.wait(10.0)


def test_the_real_log_is_set_up_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecam.daemon.notify import setup_logging

    root = logging.getLogger()
    before, level, stream = root.handlers[:], root.level, io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    try:
        handler = setup_logging()
        for i in range(100):
            LOG.warning("device aa:bb:cc:dd:ee:%02x is rtsp://u:%d@cam/", i, i)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    (counting,) = [one for one in handler.filters if isinstance(one, Flood)]
    counting.tell(all_of_it=True)
    lines = stream.getvalue().splitlines()
    assert len(lines) == FAULTS.burst + 1
    assert "95 more like this" in lines[-1]
    assert not any("aa:bb" in line or "u:" in line for line in lines)
