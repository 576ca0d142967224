"""What Prometheus reads: the format, the counts, and a socket that no client can hold up."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from edgecam.daemon.metrics import MetricsServer, Tally, exposition
from edgecam.errors import ControlError
from edgecam.types import Decision, Liveness, Phase, Verdict

LINE = re.compile(r'edgecam_[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? [-+0-9.eInf]+')
CAMERA: Dict[str, Any] = {
    "state": "degraded", "problems": {"perception_failing": "a net fails on /secret/path"}, "place": "door",
    "fps": 9.5, "perceived_fps": 4.0, "frames": 120, "perceived": 40, "dropped": 3, "visit_open": True,
    "last_frame_age_s": None,
}  # fmt: skip
STATUS: Dict[str, Any] = {
    "version": "0.1", "model": 'a"b\\c', "up_s": 12.5, "ready": True, "paused": False, "clock_trusted": True,
    "memory_mb": 250.1, "cameras": {"front": CAMERA}, "problems": {"broker_refused": "user ann at 192.168.1.2"},
    "broker": {"link": "refused", "detail": "192.168.1.2 says no to ann", "sent": 7, "denied": 0},
    "config": {"read_wall_s": 1795000000.125, "changed": [], "next_start": ["run.threads: 2 -> 4"], "refused": ""},
    "outbox": 2, "outbox_dropped": 1, "words_waiting": 0, "words_lost": 0, "people": 3, "pid": 4711,
    "night_wanted": ["1 new person"],
}  # fmt: skip


def word(verdict: Verdict, phase: Phase, named_s: Optional[float] = None) -> Decision:
    return Decision(
        id="01J", visit="v", track=1, verdict=verdict, phase=phase, person_id="p-secret", candidates=(), similarity=1.0,
        liveness=Liveness.LIVE, reason="", camera="front", place="door", model="m", t_first_s=10.0, t_named_s=named_s,
        wall_s=0.0, clock_trusted=True,
    )  # fmt: skip


def values(text: str) -> Dict[str, float]:
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
    }


SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def families(text: str) -> Dict[str, Tuple[str, List[Tuple[str, Dict[str, str], float]]]]:
    """Parse as strictly as https://prometheus.io/docs/instrumenting/exposition_formats: name -> kind and samples."""
    found: Dict[str, Tuple[str, List[Tuple[str, Dict[str, str], float]]]] = {}
    name, helped = "", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped, _, said = line[7:].partition(" ")
            assert said.endswith(".")
            assert helped not in found, "each family once, its lines together"
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
            assert name == helped
            assert kind in ("gauge", "counter", "histogram")
            found[name] = (kind, [])
        else:
            parsed = SAMPLE.fullmatch(line)
            assert parsed is not None, line
            kind, samples = found[name]
            ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert parsed[1] in [f"{name}{end}" for end in ends]
            labels = dict(LABEL.findall(parsed[2] or ""))
            assert LABEL.sub("", parsed[2] or "") == "", line
            assert (parsed[1], labels) not in [sample[:2] for sample in samples], "no sample twice"
            samples.append((parsed[1], labels, float(parsed[3])))
    assert text.endswith("\n")
    return found


def test_a_strict_reader_understands_all_of_it_and_the_names_follow_the_conventions(tmp_path: Path) -> None:
    tally = Tally()
    for named_s in (10.1, 30.0):
        tally.note(word(Verdict.KNOWN, Phase.NAMED, named_s))
    found = families(exposition(STATUS, tally, tmp_path))
    for name, (kind, samples) in found.items():
        assert name.startswith("edgecam_")
        assert (kind == "counter") == name.endswith("_total"), f"{name}: counters, and they alone, end so"
        assert samples
        assert all(value >= 0 for _, _, value in samples)
    assert found["edgecam_info"][1][0][1] == {"version": "0.1", "model": 'a\\"b\\\\c'}
    assert found["edgecam_config_last_reload_timestamp_seconds"][1] == [
        ("edgecam_config_last_reload_timestamp_seconds", {}, 1795000000.125)
    ]
    assert found["edgecam_config_waiting_keys"][1][0][2] == 1
    kind, samples = found["edgecam_time_to_name_seconds"]
    assert kind == "histogram"
    buckets = [value for name, _, value in samples if name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert samples[-1][2] == buckets[-1] == 2
    wanted = {
        "camera_fps",
        "camera_dropped_frames_total",
        "time_to_name_seconds",
        "decisions_total",
        "outbox_alerts",
        "info",
    }
    assert {f"edgecam_{name}" for name in wanted} <= set(found)


def test_every_line_has_the_format_and_every_family_its_type_once(tmp_path: Path) -> None:
    zone = tmp_path / "thermal_zone0"
    zone.mkdir()
    (zone / "type").write_text("CPU-therm\n")
    (zone / "temp").write_text("41500\n")
    (tmp_path / "thermal_zone1").mkdir()  # one that cannot be read
    text = exposition(STATUS, Tally(), tmp_path)
    lines = text.splitlines()
    assert text.endswith("\n")
    assert [line for line in lines if line[0] != "#" and not LINE.fullmatch(line)] == []
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(typed) == len(set(typed))
    found = values(text)
    assert found['edgecam_temperature_celsius{zone="CPU-therm"}'] == 41.5
    assert found['edgecam_info{version="0.1",model="a\\"b\\\\c"}'] == 1
    assert found['edgecam_camera_state{camera="front",state="degraded"}'] == 1
    assert found['edgecam_camera_state{camera="front",state="ok"}'] == 0
    assert found['edgecam_camera_dropped_frames_total{camera="front"}'] == 3
    assert found['edgecam_broker_link{state="refused"}'] == 1
    assert found['edgecam_problem{camera="",problem="broker_refused"}'] == 1
    assert (found["edgecam_outbox_alerts"], found["edgecam_outbox_dropped_total"]) == (2, 1)
    assert "edgecam_camera_last_frame_age_seconds" not in text


def test_every_family_is_documented() -> None:
    told = re.findall(r"^# TYPE edgecam_(\w+) ", exposition(STATUS, Tally()), re.MULTILINE)
    page = (Path(__file__).resolve().parents[2] / "docs/operation.md").read_text(encoding="utf-8")
    section = page.partition("## Metrics")[2].partition("\n## ")[0]
    assert set(told) <= set(re.findall(r"`(\w+)`", section))


def test_no_detail_no_person_no_address_is_told() -> None:
    tally = Tally()
    tally.note(word(Verdict.KNOWN, Phase.NAMED, 10.4))
    text = exposition(STATUS, tally)
    for secret in ("ann", "192.168", "/secret", "p-secret", "01J", "4711", "door"):
        assert secret not in text


def test_counts_words_and_how_soon_names_came() -> None:
    tally = Tally()
    for named_s in (10.1, 10.25, 10.9, 30.0):
        tally.note(word(Verdict.KNOWN, Phase.NAMED, named_s))
    tally.note(word(Verdict.KNOWN, Phase.FINAL, 10.1))  # the same name, confirmed
    tally.note(replace(word(Verdict.UNKNOWN, Phase.FINAL), track=2))
    found = values(exposition(STATUS, tally))
    assert found['edgecam_decisions_total{verdict="known",phase="named"}'] == 4
    assert found['edgecam_decisions_total{verdict="unknown",phase="final"}'] == 1
    assert found['edgecam_decisions_total{verdict="spoof",phase="final"}'] == 0
    buckets = [
        found[f'edgecam_time_to_name_seconds_bucket{{le="{upper}"}}'] for upper in ("0.25", "0.5", "1", "8", "+Inf")
    ]
    assert buckets == [2, 2, 3, 3, 4]
    assert found["edgecam_time_to_name_seconds_count"] == 4
    assert found["edgecam_time_to_name_seconds_sum"] == pytest.approx(0.1 + 0.25 + 0.9 + 20.0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Tuple[Path, List[str]]]:
    texts = ["edgecam_ready 1\n"]
    server = MetricsServer(tmp_path / "m.sock", lambda: texts[0] if texts else texts[1])
    server.start()
    yield tmp_path / "m.sock", texts
    server.stop()
    assert not (tmp_path / "m.sock").exists()


def ask(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(request)
        with sock.makefile("rb") as answer:
            return answer.read()


def test_serves_one_after_the_other(served: Tuple[Path, List[str]]) -> None:
    path, texts = served
    assert path.stat().st_mode & 0o777 == 0o660
    assert ask(path, b"GET /metrics HTTP/1.1\r\n\r\n").endswith(b"Content-Length: 16\r\n\r\nedgecam_ready 1\n")
    assert ask(path, b"POST / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 400 ")
    with contextlib.suppress(ConnectionResetError):  # what was not read is thrown away with the connection
        assert ask(path, b"x" * 20_000).startswith(b"HTTP/1.0 400 ")
    texts.clear()
    assert ask(path, b"GET / HTTP/1.0\r\n").startswith(b"HTTP/1.0 500 ")
    texts.append("a 1\n")
    assert ask(path, b"GET / HTTP/1.0\r\n").endswith(b"a 1\n")


def test_a_client_that_says_nothing_is_dropped(served: Tuple[Path, List[str]]) -> None:
    path, _ = served
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as gone:
        silent.connect(str(path))
        gone.connect(str(path))
        gone.close()
        assert ask(path, b"GET / HTTP/1.0\r\n").endswith(b"edgecam_ready 1\n")


def test_a_second_server_is_refused(served: Tuple[Path, List[str]]) -> None:
    path, _ = served
    with pytest.raises(ControlError, match="another edgecam daemon"):
        MetricsServer(path, str).start()


def test_notes_from_many_threads_are_all_counted() -> None:
    tally = Tally()

    def count() -> None:
        for _ in range(500):
            tally.note(word(Verdict.POOR, Phase.FINAL))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ({"verdict": "poor", "phase": "final"}, 2000) in tally.words()
