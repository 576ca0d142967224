"""`edgecam eval blink`: blinks found in clips against what was counted by eye, and in synthetic traces at any rate.

The data folder holds clips and, where somebody counted, GROUND_TRUTH.csv: file, first and last closed frame, `blink` or
`long_closure`; `#` begins a remark. `glasses.txt` (`presented.worn`) adds rows for those with and without glasses.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from edgecam import detect
from edgecam.config import Config, LivenessConfig
from edgecam.detect import Detector
from edgecam.errors import InputError
from edgecam.evaluation.presented import CONDITIONS, PERCEIVED_EVERY_S, exact_interval, follow, frames_of, worn
from edgecam.liveness import EyeEstimator, LivenessNets, make
from edgecam.liveness.blink import EyeSeries
from edgecam.liveness.eyes import cut, view
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.types import Image

_CLIPS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
_QUICK_S = 20.0
_QUICK = ("as is", "grey", "15 fps", "5 fps")
_BY_EYE_FRAMES = 4
"""Frames were looked at in steps of four: so uncertain is the truth, and so close to a change no frame has a label."""
_TRACE_HZ = (30.0, 15.0, 10.0, 5.0, 2.0, 0.5)
_TRACE_S = 60.0
_TRACES = 20


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: Path
    full: bool = False
    estimators: Tuple[str, ...] = ("net",)


@dataclass(frozen=True)
class Truth:
    """What was counted in one clip, in seconds."""

    blinks: Tuple[Tuple[float, float], ...]
    closures: Tuple[Tuple[float, float], ...]
    slack_s: float


def run(options: Options) -> Iterator[Dict[str, Any]]:
    """Yield a row a clip, estimator and condition; eye state by frames; synthetic traces by rate.

    Raises:
        InputError: no clips there.
    """
    clips = [p for p in sorted(options.data.iterdir()) if p.suffix.lower() in _CLIPS] if options.data.is_dir() else []
    if not clips:
        raise InputError(f"{options.data}: no clips")
    registry = ModelRegistry(default_folder())
    detector = detect.make(Config().detect, registry)
    truths, glasses = read_truth(options.data), worn(options.data)
    until_s = None if options.full else _QUICK_S
    for name in options.estimators:
        slices: Dict[Tuple[str, str], List[Dict[str, Any]]] = {}
        nets = make(LivenessConfig(passive=False, eyes="dlib" if name == "dlib" else "net"), registry)
        for clip in clips:
            truth = truths.get(clip.name)
            for condition in CONDITIONS if options.full else _QUICK:
                row = {**_clip_row(clip, condition, until_s, truth, detector, nets), "estimator": name}
                for slice_ in glasses.slice_of(clip):
                    slices.setdefault((slice_, condition), []).append(row)
                yield row
            if truth is not None and nets.eyes is not None:
                yield {**_state_row(clip, truth, detector, nets.eyes), "estimator": name}
        for (slice_, condition), rows in slices.items():
            yield {**_slice_row(slice_, condition, rows), "estimator": name}
    for rate in _TRACE_HZ:
        yield _trace_row(rate)


def _clip_row(
    clip: Path,
    condition: str,
    until_s: Optional[float],
    truth: Optional[Truth],
    detector: Detector,
    nets: LivenessNets,
) -> Dict[str, Any]:
    tracks = follow(frames_of(clip, condition, until_s), detector, nets)
    found = [at for one in tracks for at in one.blinks.blinks_s]
    row: Dict[str, Any] = {
        "clip": clip.name,
        "precision": None,
        "recall": None,
        "events": len(found),
        "condition": condition,
        "watched_s": round(sum(one.blinks.watched_s for one in tracks), 1),
        "reason": tracks[0].blinks.reason if tracks else "no face",
        "blinks": [round(at, 2) for at in found],
    }
    if truth is not None:
        hits = matched(found, truth.blinks, truth.slack_s)
        called = sum(any(a - truth.slack_s <= at <= b + truth.slack_s for at in found) for a, b in truth.closures)
        row["recall"] = hits / len(truth.blinks) if truth.blinks else None
        row["precision"] = hits / len(found) if found else None
        row["truth"] = len(truth.blinks)
        row["hits"] = hits
        row["recall_ci95"] = exact_interval(hits, len(truth.blinks))
        row["long_closures"] = len(truth.closures)
        row["long_closures_called_blinks"] = called
    return row


def _slice_row(slice_: str, condition: str, rows: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """Return the sum over clips: recall and precision where blinks were counted; clips in which none was found."""
    counted = [row for row in rows if "hits" in row]
    hits, truth, found = (sum(row[key] for row in counted) for key in ("hits", "truth", "events"))
    silent = sum(not row["events"] for row in rows)
    return {
        "clip": slice_,
        "precision": hits / found if found else None,
        "recall": hits / truth if truth else None,
        "events": sum(row["events"] for row in rows),
        "condition": condition,
        "clips": len(rows),
        "watched_s": round(sum(row["watched_s"] for row in rows), 1),
        "no_blink": silent,
        "no_blink_ci95": exact_interval(silent, len(rows)),
    }


def matched(found: Sequence[float], spans: Sequence[Tuple[float, float]], slack_s: float) -> int:
    """Return how many spans have a found time within them and the slack, each time used once."""
    left = sorted(found)
    hits = 0
    for start, end in sorted(spans):
        at = next((t for t in left if start - slack_s <= t <= end + slack_s), None)
        if at is not None:
            left.remove(at)
            hits += 1
    return hits


def read_truth(data: Path) -> Dict[str, Truth]:
    """Return what was counted, by file name; empty if nobody did."""
    path = data / "GROUND_TRUTH.csv"
    if not path.is_file():
        return {}
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    spans: Dict[str, List[Tuple[str, int, int]]] = {}
    for row in csv.DictReader(lines):
        first, last = int(row["first_closed_frame_approx"]), int(row["last_closed_frame_approx"])
        spans.setdefault(row["file"], []).append((row["kind"], first, last))
    return {name: _in_seconds(data / name, rows) for name, rows in spans.items()}


def _in_seconds(clip: Path, rows: Sequence[Tuple[str, int, int]]) -> Truth:
    capture = cv2.VideoCapture(str(clip))
    fps = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
    capture.release()
    blinks = tuple((a / fps, b / fps) for kind, a, b in rows if kind == "blink")
    closures = tuple((a / fps, b / fps) for kind, a, b in rows if kind != "blink")
    return Truth(blinks, closures, _BY_EYE_FRAMES / fps)


def _state_row(clip: Path, truth: Truth, detector: Detector, eyes: EyeEstimator) -> Dict[str, Any]:
    """Return how many single frames the estimator gets right, away from the changes; the middle of blinks included."""
    opened: List[float] = []
    closed: List[float] = []
    looked_s = -np.inf
    for frame in frames_of(clip, "as is", None):
        at, slack = frame.captured_at_s, truth.slack_s
        inside = any(a + slack / 2 <= at <= b - slack / 2 for a, b in truth.closures)
        near = any(a - slack <= at <= b + slack for a, b in (*truth.blinks, *truth.closures))
        if at - looked_s < PERCEIVED_EVERY_S or (near and not inside):
            continue
        looked_s = at
        openness = _openness(frame.image, detector, eyes)
        if openness is not None:
            (closed if inside else opened).append(openness)
    level = eyes.closed_below * float(np.percentile(opened + closed, 80)) if opened + closed else 0.0
    right = int(sum(o >= level for o in opened)), int(sum(o < level for o in closed))
    rates = [k / n for k, n in zip(right, (len(opened), len(closed))) if n]
    return {
        "clip": clip.name,
        "precision": None,
        "recall": None,
        "events": len(truth.blinks),
        "condition": "eye state by frame",
        "open_right": right[0],
        "open": len(opened),
        "closed_right": right[1],
        "closed": len(closed),
        "balanced": float(np.mean(rates)) if rates else None,
        "open_ci95": exact_interval(right[0], len(opened)),
        "closed_ci95": exact_interval(right[1], len(closed)),
    }


def _openness(image: Image, detector: Detector, eyes: EyeEstimator) -> Optional[float]:
    faces = detector(image)
    if not len(faces):
        return None
    best = int(np.argmax(faces.boxes[:, 2]))
    area = cut(image, faces.boxes[best])
    seen = None if area is None else view(area, faces.boxes[best], faces.landmarks[best])
    return None if seen is None else float(eyes([seen])[0])


def _trace_row(rate_hz: float) -> Dict[str, Any]:
    """Return recall and precision on traces of an open eye with blinks of 100 to 400 ms and closures of 1 to 2 s."""
    hits = events = found = 0
    for seed in range(_TRACES):
        rng = np.random.default_rng(seed)
        spans, openness = trace(rng, rate_hz)
        series = EyeSeries(0.5, 0.5)
        for at_s, value in openness:
            series.add(at_s, value)
        blinks = series.find().blinks_s
        hits += matched(blinks, spans, 0.05)
        events, found = events + len(spans), found + len(blinks)
    return {
        "clip": "synthetic",
        "precision": hits / found if found else None,
        "recall": hits / events,
        "events": found,
        "condition": f"{rate_hz:g} fps",
        "truth": events,
        "hits": hits,
        "recall_ci95": exact_interval(hits, events),
    }


def trace(rng: np.random.Generator, rate_hz: float) -> Tuple[List[Tuple[float, float]], List[Tuple[float, float]]]:
    """Return the blinks (from, to) and the sampled (seconds, openness) of a synthetic minute."""
    at, blinks, closed = 1.0, [], []
    while at < _TRACE_S - 3:
        long = rng.random() < 0.15
        lasts = float(rng.uniform(1.0, 2.0) if long else rng.uniform(0.1, 0.4))
        closed.append((at, at + lasts))
        if not long:
            blinks.append((at, at + lasts))
        at += lasts + float(rng.uniform(1.0, 5.0))
    times = np.arange(0, _TRACE_S, 1 / rate_hz) + rng.uniform(-0.1, 0.1, int(np.ceil(_TRACE_S * rate_hz))) / rate_hz
    samples = []
    for time in times:
        shut = any(a <= time <= b for a, b in closed)
        samples.append((float(time), float(np.clip((0.1 if shut else 0.92) + rng.normal(0, 0.05), 0, 1))))
    return blinks, samples
