"""`edgecam pad-selftest`: how well your own camera tells a living face from pictures and screens held to it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from edgecam.cli.common import Sub, add_common, backend, config_of, emit, note, state_of

if TYPE_CHECKING:
    from edgecam.config import CameraConfig, Config
    from edgecam.evaluation.pad_selftest import Session
    from edgecam.pipeline.camera import Stages

_HOLD = {
    "live": "stand before the camera yourself, alone",
    "print": "hold a printed photo of a face to the camera",
    "phone": "hold a phone with a photo or clip of a face to the camera",
    "phone-night": "the same phone, its night mode (warm colours) switched on",
    "tablet": "hold a tablet with a photo or clip of a face to the camera",
}


def add_parser(sub: Sub) -> None:
    """Add `pad-selftest`."""
    parser = sub.add_parser("pad-selftest", help="hold pictures and screens to your own camera, and count")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--camera", metavar="ID", help="a configured camera, or an address")
    where.add_argument("--recordings", type=Path, metavar="DIR", help="a folder a kind: live/, print/, phone/ ...")
    parser.add_argument("--species", metavar="A,B", help="kinds of attacks (default: print,phone,phone-night,tablet)")
    parser.add_argument("--attacks", type=int, default=20, metavar="N", help="of each kind (default 20)")
    parser.add_argument("--live", type=int, default=10, metavar="N", help="living people (default 10)")
    parser.add_argument("--seconds", type=float, default=6.0, metavar="S", help="each presentation (default 6)")
    parser.add_argument("--session", type=Path, metavar="FILE", help="goes on with it (default: in the state folder)")
    add_common(parser)
    parser.set_defaults(func=_selftest)


def _selftest(args: argparse.Namespace) -> int:
    from edgecam.errors import ConfigError, ModelError

    if args.attacks < 0 or args.live < 0 or not args.seconds > 0:
        raise ConfigError("--attacks and --live count from 0, --seconds must be above 0")
    config = config_of(args)
    from edgecam.capture.redact import redact_url
    from edgecam.cli.vision import know, open_eyes
    from edgecam.evaluation import pad_selftest

    kinds = list(pad_selftest.SPECIES)
    if args.species is not None:
        kinds = [kind.strip() for kind in args.species.split(",")]
        if not all(kinds):
            raise ConfigError(f"--species {args.species!r}: a kind is empty; print,phone would be two")
    eyes = open_eyes(config)
    if eyes.liveness.passive is None:
        raise ModelError(f"nothing to test: {eyes.liveness.lacking}")
    from edgecam.pipeline.camera import Stages

    asked = {s: args.live if s.startswith(pad_selftest.LIVE) else args.attacks for s in (pad_selftest.LIVE, *kinds)}
    asked = {species: n for species, n in asked.items() if n}
    with backend(args, create=True) as store:
        known = know(store.stream, eyes)
    stages = Stages(eyes.detector, known.encoder, known.identifier, eyes.liveness)
    code = 0
    if args.recordings is not None:
        if not args.species:
            asked = {}
        session = _recorded(args, asked, config, stages)
        source = f"recordings {args.recordings.name}"
    else:
        camera = _camera(args.camera, config)
        source = f"camera {redact_url(args.camera)}"
        path = args.session or state_of(args) / "pad-selftest.jsonl"
        about = {"camera": source, "policy": config.liveness.policy, "seconds": args.seconds}
        session = pad_selftest.Session(path, about)
        if session.done:
            note(f"going on with {len(session.done)} presentations of {path} (delete it to begin anew)")
        try:
            _guided(session, asked, camera, args.seconds, config, stages)
        except KeyboardInterrupt:
            note("interrupted; this was measured:")
            code = 130
    _print(list(pad_selftest.table(session.done, asked, source)), as_json=args.json)
    return code


def _recorded(args: argparse.Namespace, asked: Dict[str, int], config: Config, stages: Stages) -> Session:
    """Show every recording once; counts what is asked of kinds that were not named."""
    from edgecam.config import CameraConfig
    from edgecam.errors import EdgecamError
    from edgecam.evaluation import pad_selftest

    session, every = pad_selftest.Session(None, {}), not asked
    for species, path in pad_selftest.recordings(args.recordings):
        if every:
            asked[species] = args.live if species.startswith(pad_selftest.LIVE) else args.attacks
        elif species not in asked:
            continue
        try:
            one = pad_selftest.present(CameraConfig(url=str(path)), species, config, stages, args.seconds)
        except EdgecamError as err:
            note(f"{species}: not counted: {err}")
            continue
        session.add(one)
        note(f"{species} {path.name}: {one.verdict or 'not counted'} ({one.reason or 'no remark'})")
    return session


def _camera(named: str, config: Config) -> CameraConfig:
    from edgecam.config import CameraConfig
    from edgecam.errors import ConfigError

    if named in config.cameras:
        return config.cameras[named]
    if not any(mark in named for mark in (":", "/")):
        known = ", ".join(config.cameras) or "none"
        raise ConfigError(f"no camera {named!r} in the configuration (there are: {known})")
    return CameraConfig(url=named)


def _guided(
    session: Session, asked: Dict[str, int], camera: CameraConfig, for_s: float, config: Config, stages: Stages
) -> None:
    """Ask for one presentation after the other until all are done or the owner has enough."""
    from edgecam.errors import SourceError
    from edgecam.evaluation.pad_selftest import present

    note("For each: get ready, press Enter, hold it, still or moving, until it has answered. During attacks")
    note("keep your own face out of the picture. Nothing seen is stored. s: skip this kind; q: end, go on another day.")
    for species, n in asked.items():
        while session.count(species) < n:
            note(f"{species} {session.count(species) + 1} of {n}: {_HOLD.get(species, f'present: {species}')}")
            answer = sys.stdin.readline()
            if not answer or answer.strip().lower() == "q":
                return
            if answer.strip().lower() == "s":
                break
            note(f"  looking for {for_s:g} s ...")
            try:
                one = present(camera, species, config, stages, for_s)
            except SourceError as err:
                note(f"  not counted, once more: {err}")
                continue
            session.add(one)
            again = "" if one.verdict else "not counted, once more: "
            note(f"  {again}{one.verdict or ''} {one.reason}{', and a name was told' if one.named else ''}".rstrip())


def _print(rows: List[Dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            emit(row)
        return
    *kinds, summary = rows
    print(f"{'kind':14} {'shown':>9} {'live':>5} {'spoof':>6} {'no answer':>10} {'named':>6}  wrong, 95 %")
    for row in kinds:
        n = row["attacks"] + row["bona_fide"]
        wrong = row["rejected"] if row["bona_fide"] else row["accepted"]
        right = n - wrong - row["no_answer"]
        live, spoof = (right, wrong) if row["bona_fide"] else (wrong, right)
        ci = row["error_ci95"]
        error = "nothing shown" if ci is None else f"{wrong} of {n}: {ci[0]:.1%} to {ci[1]:.1%}"
        left_out = f"; {row['unusable']} not counted" if row["unusable"] else ""
        shown = f"{n} of {row['asked']}"
        print(
            f"{row['species']:14} {shown:>9} {live:5} {spoof:6} {row['no_answer']:10} {row['named']:6}  "
            f"{error}{left_out}"
        )
    if summary["worst_species"] is not None:
        low, high = summary["apcer_ci95"]
        print(f"worst kind: {summary['worst_species']}, {summary['apcer']:.1%} called live ({low:.1%} to {high:.1%})")
    print(f"This is the rate of {summary['scope']}.")
    if summary["short"]:
        lacking = ", ".join(f"{species} {n}" for species, n in summary["short"].items())
        print(f"Fewer than asked for, so the intervals are wide; missing: {lacking}")
