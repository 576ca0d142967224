"""`edgecam replay`: the whole pipeline on a recording."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecam.cli.common import Sub, add_common, backend, config_of, emit, note

if TYPE_CHECKING:
    from edgecam.pipeline.camera import Said
    from edgecam.types import Prompt


def add_parser(sub: Sub) -> None:
    """Add `replay`."""
    parser = sub.add_parser("replay", help="the whole pipeline on a recording: who comes, when, and how sure")
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a clip, a GIF, or a folder of frames")
    parser.add_argument("--fast", action="store_true", help="as fast as it goes (default: in real time)")
    add_common(parser)
    parser.set_defaults(func=_replay)


def _replay(args: argparse.Namespace) -> int:
    from edgecam.errors import InputError

    if not args.video.exists():
        raise InputError(f"{args.video}: no such file or folder")
    config = config_of(args)
    from edgecam.cli.vision import know, open_eyes

    eyes = open_eyes(config)
    from edgecam.clock import SystemClock
    from edgecam.config import CameraConfig
    from edgecam.pipeline.camera import Stages
    from edgecam.pipeline.replay import replay

    with backend(args, create=True) as store:
        known = know(store.stream, eyes)
    verdicts: Counter[str] = Counter()

    def tell(said: Said) -> None:
        row = _row(said, known)
        if row["phase"] != "named":
            verdicts[row["verdict"]] += 1
        if args.json and row["phase"] != "named":
            emit({k: v for k, v in row.items() if k != "phase"})
        elif not args.json:
            print(_words(row), flush=True)

    def ask(prompt: Prompt) -> None:
        if args.json:
            emit(_asked(prompt))
        else:
            print(
                f"           track {prompt.track:<3} {prompt.state.value:9} {prompt.reason or prompt.text}", flush=True
            )

    started = time.perf_counter()
    stages = Stages(eyes.detector, known.encoder, known.identifier, eyes.liveness)
    counts = replay(
        CameraConfig(url=str(args.video)), config, stages, SystemClock(), tell, paced=not args.fast, prompt=ask
    )
    took = time.perf_counter() - started
    summary = {
        "type": "summary",
        "frames": counts.frames,
        "perceived": counts.perceived,
        "duration_s": round(counts.duration_s, 3),
        "took_s": round(took, 3),
        "visits": counts.visits,
        "decisions": dict(verdicts),
        "model": known.encoder.version,
    }
    if args.json:
        emit(summary)
    else:
        looked = f"{counts.perceived} of {counts.frames} frames looked at"
        note(f"{looked}, {counts.duration_s:.1f} s of video in {took:.1f} s")
    return 0


def _asked(prompt: Prompt) -> dict[str, Any]:
    return {
        "type": "prompt",
        "visit": prompt.visit,
        "track": prompt.track,
        "state": prompt.state.value,
        "action": None if prompt.action is None else prompt.action.value,
        "text": prompt.text,
        "reason": prompt.reason,
    }


def _row(said: Said, known: Any) -> dict[str, Any]:
    d = said.decision
    return {
        "type": "decision",
        "visit": d.visit,
        "track": d.track,
        "phase": d.phase.value,
        "verdict": d.verdict.value,
        "person": known.name(d.person_id),
        "candidates": [known.name(p) for p in d.candidates],
        "t_first_s": round(d.t_first_s, 3),
        "t_named_s": None if d.t_named_s is None else round(d.t_named_s, 3),
        "similarity": round(d.similarity, 4),
        "liveness": d.liveness.value,
        "blinks": [round(at, 3) for at in d.blinks_s],
        "reason": d.reason,
    }


def _words(row: dict[str, Any]) -> str:
    who = row["person"] or " or ".join(row["candidates"]) or row["verdict"]
    when = row["t_named_s"] if row["phase"] == "named" else row["t_first_s"]
    reason = f", {row['reason']}" if row["reason"] else ""
    return f"{when:7.2f} s  track {row['track']:<3} {row['phase']:9} {who} ({row['similarity']:.2f}{reason})"
