"""`edgecam calibrate`: what the thresholds are and what they rest on."""

from __future__ import annotations

import argparse

from edgecam.cli.common import add_common, backend, config_of, emit


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `calibrate`."""
    parser = sub.add_parser("calibrate", help="the thresholds of this household and what they rest on")
    parser.add_argument("--target", type=float, metavar="SHARE", help="try another share of strangers named (0..0.5)")
    add_common(parser)
    parser.set_defaults(func=_calibrate)


def _calibrate(args: argparse.Namespace) -> int:
    config = config_of(args)
    if args.target is not None:
        from edgecam.config import parse_config

        config = parse_config({**config.model_dump(), "identify": {"target_fpir": args.target}}, "--target")
    from edgecam.cli.vision import know, open_eyes

    eyes = open_eyes(config)
    with backend(args, create=True) as store:
        known = know(store.stream, eyes)
    found = known.identifier.calibration
    pair = found.nearest_pair
    radius = {known.name(person): round(value, 4) for person, value in found.radius.items()}
    by_night = [known.name(person) for person in found.by_night]
    record = {
        "people": len(known.identifier.people),
        "target_fpir": found.target_fpir,
        "threshold": round(found.threshold, 4),
        "early_threshold": round(found.early_threshold, 4),
        "virtual_strangers": found.virtual_strangers,
        "local_strangers": found.local_strangers,
        "local_fpir_ci95": found.local_fpir,
        "radius": radius,
        "nearest_pair": None if pair is None else [known.name(pair[0]), known.name(pair[1]), round(pair[2], 4)],
        "by_night": by_night,
        "model": known.encoder.version,
    }
    if args.json:
        emit(record)
        return 0
    print(f"{record['people']} people enrolled; encoder {record['model']}")
    print(f"known from similarity {found.threshold:.3f}; an early name from {found.early_threshold:.3f}")
    print(f"  so that {found.target_fpir:.2%} of strangers are named, by {found.virtual_strangers} virtual strangers")
    if found.local_fpir is not None:
        low, high = found.local_fpir
        print(f"  and by {found.local_strangers} strangers seen here: {low:.2%} to {high:.2%} of them would be named")
    for name, cosine in radius.items():
        print(f"  {name:24} cosine {cosine:.3f}")
    if pair is not None:
        print(f"most alike: {known.name(pair[0])} and {known.name(pair[1])}, {pair[2]:.3f}")
        if pair[2] >= found.threshold:
            print("  they look alike enough to be told as `A or B`; enrol more photos of both")
    for name in by_night:
        print(f"{name} has infrared or grey faces alone: enrol colour ones by day (docs/recognition.md)")
    return 0
