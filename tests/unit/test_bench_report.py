"""The benchmark's rows, and the small sums behind its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Dict, List

import numpy as np
import pytest

from edgecam.bench.naming import _rank
from edgecam.bench.report import Figure, Row, Skipped, line_of, markdown
from edgecam.bench.soak import slope_with_ci

ABOUT = {
    "date": "2026-01-02 03:04 UTC",
    "command": "edgecam bench",
    "load": 0.1,
    "cores": 2,
    "processor": "some",
    "python": "3.11",
    "onnxruntime": "1",
    "opencv": "4",
    "numpy": "2",
    "encoder": "fused",
}


@pytest.mark.parametrize(
    ("value", "target", "sense", "met"),
    [
        (4.9, 5.0, "most", True),
        (5.0, 5.0, "most", True),
        (5.1, 5.0, "most", False),
        (9.9, 10.0, "least", False),
        (10.0, 10.0, "least", True),
        (None, 1.0, "most", False),
        (None, 1.0, "least", False),
        (3.0, None, "most", None),
    ],
)
def test_a_target_is_met_at_its_bound_and_never_by_what_did_not_happen(
    value: Any, target: Any, sense: Any, met: Any
) -> None:
    assert Figure("x", value, "s", target, sense).met is met


def test_rows_as_json() -> None:
    row = Figure("ready", 3.14159, "s", 4.0, detail={"n": 5}).record()
    assert json.loads(json.dumps(row)) == {
        "type": "figure",
        "name": "ready",
        "value": 3.142,
        "unit": "s",
        "target": 4.0,
        "sense": "most",
        "met": True,
        "detail": {"n": 5},
    }
    assert Skipped("peer", "why").record() == {"type": "skipped", "name": "peer", "reason": "why"}


def test_a_miss_a_skip_and_a_never_are_loud_in_every_form() -> None:
    rows: List[Row] = [
        Figure("slow", 9.0, "s", 4.0),
        Figure("name", None, "s", 1.0),
        Skipped("peer", "not installed"),
    ]
    assert ["MISSED" in line_of(rows[0]), "never" in line_of(rows[1]), "SKIPPED" in line_of(rows[2])] == [True] * 3
    table = markdown(ABOUT, rows)
    assert table.count("**missed**") == 2
    assert "skipped | not installed" in table
    assert "2026-01-02" in table
    assert "`edgecam bench`" in table


def test_ranks_count_those_who_were_never_named() -> None:
    values = [0.1] * 94 + [float("inf")] * 6
    assert _rank(values, 0.5) == 0.1
    assert _rank(values, 0.95) == float("inf")
    assert _rank([], 0.5) is None
    assert _rank([2.0], 0.95) == 2.0


def test_slope_has_an_interval_that_holds_the_truth() -> None:
    rng = np.random.default_rng(3)
    hours = np.linspace(0, 1, 60)
    slope, low, high = slope_with_ci(hours, 200 + 3.0 * hours + rng.normal(0, 0.5, 60))
    assert low < 3.0 < high
    assert low < slope < high
    assert high - low < 2.0


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecam", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def test_bench_prints_json_rows_and_nothing_else_on_stdout() -> None:
    done = _bench("--json", "--quick", "--only", "idle")
    assert done.returncode == 0, done.stderr
    rows: List[Dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [rows[0]["type"], rows[-1]["type"]] == ["environment", "summary"]
    assert {"load", "cores", "command", "python", "onnxruntime", "opencv", "numpy"} <= set(rows[0])
    figures = [row for row in rows if row["type"] == "figure"]
    assert {row["name"] for row in figures} == {"idle_share_of_core", "decode_share_of_core"}
    for row in figures:
        assert set(row) == {"type", "name", "value", "unit", "target", "sense", "met", "detail"}
        assert 0.0 < row["value"] < 100.0
        assert row["detail"]["load"] >= 0.0
    assert rows[-1]["figures"] == 2
    assert "-- idle" in done.stderr


def test_an_unknown_part_is_wrong_usage() -> None:
    done = _bench("--only", "nonsense")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert "no part nonsense" in done.stderr
    assert "Traceback" not in done.stderr
