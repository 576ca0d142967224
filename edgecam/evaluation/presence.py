"""How well devices in the air tell of people in a room, against the count somebody took, by threshold and window.

Data: captures of probe requests (`DAY.pcap`) with, for the room, `DAY.csv` (semicolons; columns `idx`, the frame's
number in the capture, `datetime` and `occupancy`), and in a README the addresses of machines that belong to the room;
captures without a table hold one phone each. The frames are read by the helper's own code.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from edgecam.errors import InputError
from edgecam.presence.frames import READERS, is_random, parse_address, sender
from edgecam.presence.pcap import Capture
from edgecam.presence.sightings import MIN_FRAMES

THRESHOLDS_DBM = tuple(range(-95, -34, 10))
WINDOWS_S = (300,)
_FULL_THRESHOLDS_DBM = tuple(range(-95, -34, 5))
_FULL_WINDOWS_S = (60, 300, 900)
_PROBE_REQUEST = 0x40


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path
    full: bool = False


@dataclass(frozen=True)
class _Air:
    """A capture: who sent what, when, how strong."""

    times_s: NDArray[np.float64]
    senders: NDArray[np.int64]
    rssi_dbm: NDArray[np.int64]
    index: NDArray[np.int64]
    addresses: Tuple[bytes, ...]
    probes_only: bool


def run(options: Options) -> Iterator[Dict[str, Any]]:
    """Yield the rows, file by file; method `ours` first.

    Raises:
        InputError: no captures there.
    """
    captures = sorted(path for path in options.data.rglob("*.pcap") if "malformed" not in path.parts)
    if not captures:
        raise InputError(f"{options.data}: no captures (*.pcap) in it")
    found = 0
    for path in captures:
        table = path.with_suffix(".csv")
        try:
            rows = list(_day(path, table, options) if table.exists() else _phone(path))
        except InputError:
            if table.exists():
                raise
            continue  # of another kind: not for this table
        found += len(rows)
        yield from rows
    if not found:
        raise InputError(f"{options.data}: no probe requests with their strength in its captures")


def _day(path: Path, table: Path, options: Options) -> Iterator[Dict[str, Any]]:
    """Count devices against people, window by window."""
    air = _read(path, drop=_room_machines(path.parent))
    when, people, index = _people(table)
    order = np.argsort(index)
    numbers, place = np.unique(index[order], return_index=True)
    both, ours, theirs = np.intersect1d(air.index, numbers, return_indices=True)
    # The table has the clock of the wall, the capture UTC: a frame that is in both tells how far they are apart.
    shift_s = float(np.median(when[order][place][theirs] - air.times_s[ours])) if len(both) else 0.0
    air = replace(air, times_s=air.times_s + shift_s)
    for window_s in _FULL_WINDOWS_S if options.full else WINDOWS_S:
        truth = _by_window(when, people, window_s)
        empty = truth == 0
        common = {"file": path.name, "window_s": window_s}
        sizes = {"windows": len(truth), "empty_windows": int(empty.sum())}
        start = int(when[0] // window_s)
        for method, frames, thresholds in (
            ("ours", MIN_FRAMES, _FULL_THRESHOLDS_DBM if options.full else THRESHOLDS_DBM),
            ("one frame", 1, _FULL_THRESHOLDS_DBM if options.full else THRESHOLDS_DBM),
            ("no threshold", 1, (None,)),
        ):
            for threshold in thresholds:
                counts = _devices(air, threshold, frames, window_s, start, len(truth))
                yield {
                    **common,
                    "method": method,
                    "threshold_dbm": threshold,
                    "correlation": _correlation(counts, truth),
                    "false_presence": _share(counts[empty] > 0),
                    "missed": _share(counts[~empty] == 0),
                    **sizes,
                }
        # Whoever always says the same ranks nothing, and is wrong whenever nobody is there.
        always = {"threshold_dbm": None, "correlation": None}
        wrong = {"false_presence": 1.0 if empty.any() else None, "missed": 0.0 if (~empty).any() else None}
        yield {**common, "method": "constant", **always, **wrong, **sizes}


def _phone(path: Path) -> Iterator[Dict[str, Any]]:
    """Count the addresses of one phone, and how far any one of them would tell of it."""
    air = _read(path, drop=set())
    if not len(air.times_s) or not air.probes_only:
        return
    window_s = WINDOWS_S[0]
    windows = ((air.times_s - air.times_s[0]) // window_s).astype(np.int64)
    commonest = Counter(air.senders.tolist()).most_common(1)[0][0]
    yield {
        "file": path.name,
        "method": "one phone",
        "threshold_dbm": None,
        "window_s": window_s,
        "correlation": None,
        "false_presence": None,
        "frames": len(air.times_s),
        "addresses": len(air.addresses),
        "random_addresses": sum(map(is_random, air.addresses)),
        "windows": len(np.unique(windows)),
        "windows_of_commonest_address": len(np.unique(windows[air.senders == commonest])),
    }


def _read(path: Path, drop: Set[bytes]) -> _Air:
    rows: List[Tuple[float, int, int, int]] = []
    known: Dict[bytes, int] = {}
    kinds: Set[int] = set()
    for index, packet in enumerate(Capture(path)):
        reader = READERS.get(packet.link)
        if reader is None:
            raise InputError(f"{path} has no 802.11 frames")
        read = reader(packet.data)
        frame = sender(packet.data, read[0]) if read else None
        if read is None or frame is None or read[1].rssi_dbm is None or frame.address in drop:
            continue
        kinds.add(frame.kind)
        rows.append((packet.wall_s, known.setdefault(frame.address, len(known)), read[1].rssi_dbm, index))
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return _Air(
        columns[0],
        columns[1].astype(np.int64),
        columns[2].astype(np.int64),
        columns[3].astype(np.int64),
        tuple(known),
        kinds <= {_PROBE_REQUEST},
    )


def _people(table: Path) -> Tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return (N,) seconds of the wall clock, (N,) people in the room, (N,) frame numbers, in the order of time."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [
                (_seconds(row["datetime"]), float(row["occupancy"]), int(row["idx"]))
                for row in csv.DictReader(file, delimiter=";")
                if row["occupancy"]
            ]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as err:
        raise InputError(f"{table} is not a table with idx, datetime and occupancy, separated by semicolons") from err
    if not rows:
        raise InputError(f"{table}: nobody counted the people")
    when, people, index = np.array(sorted(rows), np.float64).T
    return when, people, index.astype(np.int64)


def _seconds(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc).timestamp()


def _by_window(when: NDArray[np.float64], people: NDArray[np.float64], window_s: int) -> NDArray[np.float64]:
    """Return the people of each window: the median of its counts; of a silent one, the last count before."""
    index = (when // window_s).astype(np.int64)
    index -= index[0]
    truth = np.empty(int(index[-1]) + 1, np.float64)
    last = people[0]
    for window in range(len(truth)):
        counted = people[index == window]
        truth[window] = np.median(counted) if len(counted) else last
        last = counted[-1] if len(counted) else last
    return truth


def _devices(
    air: _Air, threshold: Optional[int], frames: int, window_s: int, start: int, windows: int
) -> NDArray[np.int64]:
    """Return how many senders each window has with so many frames at or above the threshold."""
    kept = np.ones(len(air.times_s), bool) if threshold is None else air.rssi_dbm >= threshold
    index = (air.times_s[kept] // window_s).astype(np.int64) - start
    counts = Counter(zip(index.tolist(), air.senders[kept].tolist()))
    found = np.zeros(windows, np.int64)
    for (window, _), number in counts.items():
        if number >= frames and 0 <= window < windows:
            found[window] += 1
    return found


def _correlation(counts: NDArray[np.int64], truth: NDArray[np.float64]) -> Optional[float]:
    """Return Spearman's rank correlation; None where one of both never changes."""
    if len(counts) < 3 or np.ptp(counts) == 0 or np.ptp(truth) == 0:
        return None
    return round(float(np.corrcoef(rankdata(counts), rankdata(truth))[0, 1]), 4)


def _share(wrong: NDArray[np.bool_]) -> Optional[float]:
    return round(float(wrong.mean()), 4) if len(wrong) else None


def _room_machines(folder: Path) -> Set[bytes]:
    """Return the addresses named in the folder's README: machines that stand in the room."""
    texts: Sequence[str] = [path.read_text("utf-8", "replace") for path in sorted(folder.glob("README*"))]
    found = {parse_address(text) for text in re.findall(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", "\n".join(texts))}
    return {address for address in found if address is not None}
