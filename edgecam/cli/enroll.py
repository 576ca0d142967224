"""`edgecam enroll`: teach the box a person, from photos, clips or in front of the camera."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from edgecam.cli.common import Record, add_common, backend, config_of, emit, note

_ROLES = ("resident", "known", "staff", "blocked")


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `enroll`."""
    parser = sub.add_parser("enroll", help="teach the box a person, from photos, clips or in front of the camera")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="photos, clips, or folders of them")
    parser.add_argument("--camera", metavar="ID", help="a guided session in front of this camera (or a camera URL)")
    parser.add_argument("--role", choices=_ROLES, default="resident")
    parser.add_argument("--face", type=int, metavar="N", help="which face of a picture with several; 1 is the leftmost")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest guided session (default: 60)")
    add_common(parser)
    parser.set_defaults(func=_enroll)


def _enroll(args: argparse.Namespace) -> int:
    from edgecam.errors import ConfigError, EnrolmentError

    if not args.paths and args.camera is None:
        raise ConfigError("enroll needs photos, clips or folders, or --camera ID")
    if args.face is not None and args.face < 1:
        raise ConfigError("--face counts from 1, the leftmost")
    config = config_of(args)
    from edgecam.cli.vision import know, open_eyes
    from edgecam.store import clean_name

    name = clean_name(args.name)
    eyes = open_eyes(config)
    from edgecam.clock import SystemClock
    from edgecam.pipeline import enrol

    with backend(args, create=True) as store:
        known = know(store.stream, eyes, installed=True)
    if args.camera is not None:
        report = _guided(args, config, eyes)
    else:
        tell = (lambda _: None) if args.json else note
        files, own = enrol.expand(args.paths), eyes.factory.recognizability
        report = enrol.gather(files, eyes.detector, eyes.encoder, own, config, SystemClock(), args.face, tell)
    enrol.drop_strangers(report, enrol.same_person_at(known.identifier))
    if not report.kept:
        _tell_refused(report)
        raise EnrolmentError(f"nothing usable for {name}: {_why(report)}")
    owner = next((p for p, n in known.names.items() if n.casefold() == name.casefold()), None)
    enrol.warn(report, known.identifier, owner, known.names)
    faces = [_face(candidate, eyes.encoder.version) for candidate in report.kept]
    consent = {"given_wall_s": time.time(), "by": "enrolled at the box's own command line", "scope": "recognition here"}
    with backend(args, create=True) as store:
        answer = store.one("faces.add", name=name, role=args.role, consent=consent, faces=faces)
    _print(args, report, answer)
    return 0


def _face(candidate: Any, model: str) -> Record:
    from edgecam.pipeline.wire import pack_array, pack_face_crop

    return {
        **pack_face_crop(candidate.crop),
        "quality": candidate.quality.score,
        "yaw_deg": candidate.quality.yaw_deg,
        "infrared": candidate.quality.infrared,
        "source": candidate.source,
        "vectors": [
            {"model": model, "vector": pack_array(candidate.vector), "features": pack_array(candidate.features)}
        ],
    }


def _guided(args: argparse.Namespace, config: Any, eyes: Any) -> Any:
    from edgecam.capture.base import make_source
    from edgecam.clock import SystemClock
    from edgecam.config import CameraConfig
    from edgecam.errors import ConfigError
    from edgecam.pipeline.enrol import Guide

    camera = config.cameras.get(args.camera)
    if camera is None and not any(mark in args.camera for mark in (":", "/")):
        known = ", ".join(config.cameras) or "none"
        raise ConfigError(f"no camera {args.camera!r} in the configuration (there are: {known})")
    camera = camera or CameraConfig(url=args.camera)
    guide = Guide(eyes.detector, eyes.encoder, config)
    source = make_source(camera, args.camera if args.camera in config.cameras else "camera", SystemClock(), paced=True)
    source.open()
    note("Stand alone before the camera, about an arm's length to two metres away. Ctrl-C ends the session.")
    end, said = time.monotonic() + args.seconds, ""
    try:
        while time.monotonic() < end and not guide.done:
            frame = source.read()
            if frame is None:
                break
            word = guide.look(frame)
            if word != said:
                said = word
                note(f"  [{guide.coverage()}] {word}")
    except KeyboardInterrupt:
        note("  stopped; keeping what was seen")
    finally:
        source.close()
    return guide.report()


def _print(args: argparse.Namespace, report: Any, answer: Record) -> None:
    person, angles = answer["person"], report.angles()
    if args.json:
        emit(
            {
                "person": person["name"],
                "id": person["id"],
                "created": answer["created"],
                "kept": [{"source": c.source, "quality": round(c.quality.score, 3)} for c in report.kept],
                "refused": [{"source": source, "reason": reason} for source, reason in report.refused],
                "angles": angles,
                "warnings": report.warnings,
                "faces": person["faces"],
            }
        )
        return
    _tell_refused(report)
    for warning in report.warnings:
        note(f"  warning: {warning}")
    seen = ", ".join(f"{angle} {count}" for angle, count in angles.items() if count)
    print(f"{person['name']}: kept {len(report.kept)} faces ({seen}); {person['faces']} in all")


def _tell_refused(report: Any) -> None:
    for source, reason in report.refused:
        note(f"  not kept: {source}: {reason}")


def _why(report: Any) -> str:
    reasons = list(dict.fromkeys(reason for _, reason in report.refused))
    return "; ".join(reasons[:3]) if reasons else "no picture was given"
