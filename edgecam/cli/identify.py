"""`edgecam identify`: who is on these photos?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgecam.cli.common import add_common, backend, config_of, emit, note


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `identify`."""
    parser = sub.add_parser("identify", help="who is on these photos?")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="photos, or folders of photos")
    add_common(parser)
    parser.set_defaults(func=_identify)


def _identify(args: argparse.Namespace) -> int:
    config = config_of(args)
    from edgecam.cli.vision import know, open_eyes

    eyes = open_eyes(config)
    from edgecam.capture.photo import read_photo
    from edgecam.errors import InputError
    from edgecam.pipeline.enrol import expand
    from edgecam.pipeline.still import find_faces

    with backend(args, create=True) as store:
        known = know(store.stream, eyes)
    failed = 0
    files = expand(args.paths)
    if not files:
        note("no photo in there")
    for path in files:
        try:
            faces = find_faces(
                read_photo(path), eyes.detector, known.encoder, eyes.factory.recognizability, config.quality
            )
        except InputError as err:
            failed += 1
            note(f"edgecam: {err}")
            continue
        rows = [_row(face, known) for face in faces]
        if args.json:
            emit({"path": str(path), "faces": rows})
        else:
            print(f"{path}: {'; '.join(map(_words, rows)) or 'no face'}", flush=True)
    return 1 if failed else 0


def _row(face: Any, known: Any) -> dict[str, Any]:
    match = known.identifier.match(face.vector[None])
    verdict, reason = match.verdict.value, match.reason
    if not face.quality.ok:
        # A poor face may still be plainly somebody: then the stricter threshold decides.
        lost = face.quality.parts["recognizability"] == 0
        verdict = "known" if known.identifier.sure(match) and not lost else "poor"
        reason = face.quality.reason
    return {
        "box": [round(float(v), 1) for v in face.box],
        "verdict": verdict,
        "person": known.name(match.person_id) if verdict == "known" else None,
        "nearest": known.name(match.nearest_id),
        "similarity": round(match.similarity, 4),
        "quality": round(face.quality.score, 3),
        "reason": reason,
        "candidates": [known.name(p) for p in match.candidates],
    }


def _words(row: dict[str, Any]) -> str:
    who = row["person"] or " or ".join(row["candidates"]) or row["verdict"]
    return f"{who} ({row['similarity']:.2f}{', ' + row['reason'] if row['reason'] else ''})"
