"""`edgecam eval presence` on captures made here, whose truth is known, and on the real ones."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from radiotap import BEACON, dot11, tapped

from edgecam.errors import InputError
from edgecam.evaluation.presence import Options, run

HOUR = 3600
PC = "dc:fb:48:00:00:01"


def capture(path: Path, frames: List[Tuple[float, bytes]]) -> None:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 127)
    records = (struct.pack("<IIII", int(at), 0, len(data), len(data)) + data for at, data in frames)
    path.write_bytes(head + b"".join(records))


def phone(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def day(folder: Path, shift_s: int = 0) -> None:
    """Ten windows of five minutes: n people for n = 0..4, 4..0, each heard three times; a weak passer-by, a machine."""
    frames: List[Tuple[float, bytes]] = []
    rows = ["datetime;idx;occupancy"]
    for window, people in enumerate([0, 1, 2, 3, 4, 4, 3, 2, 1, 0]):
        start = 1_700_000_100 + 300 * window
        sent = [(phone(n), -50) for n in range(people) for _ in range(3)]
        sent += [(phone(200 + window), -90)] * 3 + [(PC, -30)] * 3
        for number, (who, rssi) in enumerate(sent):
            at = start + 5 * number
            minutes, seconds = divmod(at - 1_700_000_100 + shift_s, 60)
            rows.append(f"2023-11-14 {22 + minutes // 60:02}:{minutes % 60:02}:{seconds:02};{len(frames)};{people}.0")
            frames.append((float(at), tapped(dot11(who), rssi)))
    capture(folder / "day.pcap", frames)
    (folder / "day.csv").write_text("\n".join(rows) + "\n")
    (folder / "README.md").write_text(f"machines of the room:\n{PC}\n")


def table(folder: Path) -> Dict[Tuple[str, Any], Dict[str, Any]]:
    return {(row["method"], row["threshold_dbm"]): row for row in run(Options(folder))}


@pytest.mark.parametrize("shift_s", [0, HOUR])
def test_counts_people_whatever_time_zone_the_table_has(tmp_path: Path, shift_s: int) -> None:
    day(tmp_path, shift_s)
    rows = table(tmp_path)
    ours = rows["ours", -55]
    assert (ours["correlation"], ours["false_presence"], ours["missed"]) == (1.0, 0.0, 0.0)
    assert (ours["windows"], ours["empty_windows"], ours["window_s"], ours["file"]) == (10, 2, 300, "day.pcap")
    assert rows["ours", -35]["missed"] == 1.0
    assert rows["ours", -35]["correlation"] is None
    assert rows["ours", -95]["false_presence"] == 1.0
    assert rows["no threshold", None]["false_presence"] == 1.0
    assert (rows["constant", None]["correlation"], rows["constant", None]["false_presence"]) == (None, 1.0)


def test_without_its_readme_the_rooms_machine_is_taken_for_somebody(tmp_path: Path) -> None:
    day(tmp_path)
    (tmp_path / "README.md").unlink()
    assert table(tmp_path)["ours", -55]["false_presence"] == 1.0


def test_one_phone_many_addresses(tmp_path: Path) -> None:
    frames = [(1_700_000_000.0 + 300 * n, tapped(dot11(phone(n // 2)))) for n in range(5)]
    capture(tmp_path / "phone.pcap", frames)
    capture(tmp_path / "other.pcap", [*frames, (1_700_002_000.0, tapped(dot11(phone(9), BEACON)))])
    (row,) = run(Options(tmp_path))
    assert (row["file"], row["addresses"], row["random_addresses"], row["frames"]) == ("phone.pcap", 3, 3, 5)
    assert (row["windows"], row["windows_of_commonest_address"]) == (5, 2)


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no captures"):
        list(run(Options(tmp_path)))
    day(tmp_path)
    (tmp_path / "day.csv").write_text("a;b\n1;2\n")
    with pytest.raises(InputError, match="not a table with idx"):
        list(run(Options(tmp_path)))
    (tmp_path / "day.csv").unlink()
    capture(tmp_path / "day.pcap", [])
    with pytest.raises(InputError, match="no probe requests"):
        list(run(Options(tmp_path)))


@pytest.mark.data
def test_a_threshold_beats_none_where_people_were_counted(data_dir: Path) -> None:
    rows = list(run(Options(data_dir / "wifi_occupancy")))
    assert len({row["file"] for row in rows}) == 4
    for file in ("2024-03-15_pos1.pcap", "2024-03-15_pos2.pcap"):
        mine = [row for row in rows if row["file"] == file]
        best = max(row["correlation"] or 0.0 for row in mine if row["method"] == "ours")
        (none,) = (row for row in mine if row["method"] == "no threshold")
        assert best > none["correlation"] + 0.2
        assert none["false_presence"] > 0.9
        falling = [row["false_presence"] for row in mine if row["method"] == "ours"]
        assert falling == sorted(falling, reverse=True)


@pytest.mark.data
def test_no_phone_keeps_one_address_while_it_searches(data_dir: Path) -> None:
    rows = list(run(Options(data_dir / "wifi_labelled_probes")))
    assert len(rows) == 6
    for row in rows:
        assert row["addresses"] > 20
        assert row["windows_of_commonest_address"] == 1 < row["windows"]
