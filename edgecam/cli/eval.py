"""`edgecam eval`: the tables of docs/{recognition,liveness,representation,tracking}.md."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

from edgecam.cli.common import Sub, emit, note
from edgecam.errors import ConfigError

_DATA = "one folder of photos a person"


def add_parser(sub: Sub) -> None:
    """Add `eval lfw / doorbell / pad / blink`."""
    parser = sub.add_parser("eval", help="measure recognition and liveness on your own data")
    names = parser.add_subparsers(dest="evaluation", metavar="NAME", required=True)
    lfw = names.add_parser("lfw", help="verification, households against strangers, look-alikes, virtual strangers")
    lfw.add_argument(
        "--half",
        choices=("odd", "even", "all"),
        default="odd",
        help="which people are tested, by the sha256 of their names (default odd; the even ones set the constants)",
    )
    lfw.add_argument("--strangers", type=Path, metavar="DIR", help="people to be shown as strangers besides")
    doorbell = names.add_parser("doorbell", help="the report's three approaches and the product, two known people")
    doorbell.add_argument("--strength", type=float, default=1.0, help="of the degradation, 1 as in the protocol")
    _add_liveness(names)
    _add_autotune(names)
    _add_representation(names)
    _add_track(names)
    _add_night(names)
    _add_poison(names)
    presence = names.add_parser("presence", help="devices in the air against people in a room, by threshold")
    presence.add_argument("--data", type=Path, required=True, metavar="DIR", help="captures, and who was there as .csv")
    presence.add_argument("--full", action="store_true", help="more thresholds and windows")
    presence.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
    presence.set_defaults(func=_presence)
    doorbell.add_argument("--tuned", action="store_true", help="also the product after a night's training (PyTorch)")
    for one, func in ((lfw, _lfw), (doorbell, _doorbell)):
        one.add_argument("--data", type=Path, required=True, metavar="DIR", help=_DATA)
        one.add_argument("--full", action="store_true", help="the whole grid; the default takes under ten minutes")
        one.add_argument("--pad", type=float, default=0.25, help="border put around tight crops, share of their height")
        one.add_argument("--cache", type=Path, metavar="FILE.npz", help="keep the faces' features here between runs")
        one.add_argument("--seed", type=int, default=0)
        one.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
        one.set_defaults(func=func)


def _add_liveness(names: Sub) -> None:
    pad = names.add_parser("pad", help="pictures and screens held to the camera, counted by clip and condition")
    blink = names.add_parser("blink", help="blinks in clips and synthetic traces, eye state by frame")
    blink.add_argument("--dlib", action="store_true", help="measure dlib's landmarks, too (mind their licence)")
    pad_data = "clips NAME_real.* / NAME_fake.*, or pictures in real/ and fake/"
    blink_data = "clips, and GROUND_TRUTH.csv where blinks were counted"
    for one, func, data in ((pad, _pad, pad_data), (blink, _blink, blink_data)):
        one.add_argument("--data", type=Path, required=True, metavar="DIR", help=data)
        one.add_argument("--full", action="store_true", help="whole clips, all conditions; takes many times as long")
        one.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
        one.set_defaults(func=func)


def _add_autotune(names: Sub) -> None:
    autotune = names.add_parser("autotune", help="names from device presence in a composed office, and its rivals")
    autotune.add_argument("--data", type=Path, required=True, metavar="DIR", help=_DATA)
    autotune.add_argument(
        "--full", action="store_true", help="all rates, rivals and sweeps, 168 pictures a person: hours"
    )
    autotune.add_argument("--rivals", action="store_true", help="every rival in the usual grid, and harder pictures")
    autotune.add_argument(
        "--pad", type=float, default=0.25, help="border put around tight crops, share of their height"
    )
    autotune.add_argument("--seeds", type=int, default=5, help="offices drawn per row (default 5)")
    autotune.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first of them (default 0)")
    autotune.add_argument(
        "--figures", type=Path, metavar="DIR", help="draw figures into this folder (needs matplotlib)"
    )
    autotune.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
    autotune.set_defaults(func=_autotune)


def _add_night(names: Sub) -> None:
    night = names.add_parser("night", help="households at a dark door, before and after a night's tuning")
    night.add_argument("--data", type=Path, required=True, metavar="DIR", help=_DATA)
    night.add_argument("--encoder", choices=("fused", "facenet", "sface"), default="fused", help="which is tuned")
    night.add_argument("--full", action="store_true", help="five seeds; the default is one")
    night.add_argument("--households", type=int, default=20, help="per seed (default 20)")
    night.add_argument("--seeds", type=int, help="how often households and visits are drawn")
    night.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first of them (default 0)")
    night.add_argument("--pad", type=float, default=0.25, help="border put around tight crops, share of their height")
    night.add_argument("--cache", type=Path, metavar="FILE.npz", help="keep the faces' features here between runs")
    night.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
    night.set_defaults(func=_night)


def _add_poison(names: Sub) -> None:
    poison = names.add_parser("poison", help="wrong labels and strangers with a resident's phone, by protection")
    poison.add_argument("--data", type=Path, required=True, metavar="DIR", help=_DATA)
    poison.add_argument("--encoder", choices=("fused", "facenet", "sface"), default="fused", help="which is tuned")
    poison.add_argument("--full", action="store_true", help="60 nights an attack; the default is 12")
    poison.add_argument("--pad", type=float, default=0.25, help="border put around tight crops, share of their height")
    poison.add_argument("--cache", type=Path, metavar="FILE.npz", help="keep the faces' features here between runs")
    poison.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
    poison.set_defaults(func=_poison)


def _poison(args: argparse.Namespace) -> int:
    from edgecam.adapt.apart import require_torch
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    require_torch()
    from edgecam.evaluation import poison

    options = poison.Options(args.data, args.full, args.pad, args.cache, args.encoder)
    first = ("attack", "protection", "seeds", "refused", "harmless", "harmful", "named", "tpir")
    return _print(poison.run(options), first, as_json=args.json)


def _night(args: argparse.Namespace) -> int:
    from edgecam.adapt.apart import require_torch
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    require_torch()
    from edgecam.evaluation import night

    for name in ("households", "seeds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}: at least 1")
    if args.first_seed < 0:
        raise ConfigError(f"--first-seed {args.first_seed}: at least 0")
    options = night.Options(
        args.data, args.full, args.pad, args.cache, args.encoder, args.seeds, args.households, args.first_seed
    )
    first = ("household", "seed", "domain", "tuned", "tpir", "fpir", "ci95")
    return _print(night.run(options), first, as_json=args.json)


def _autotune(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam.evaluation import autotune

    if args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds}: at least 1")
    if args.first_seed < 0:
        raise ConfigError(f"--first-seed {args.first_seed}: at least 0")
    plan = autotune.Plan(
        args.data, args.full, args.pad, args.seeds, args.figures, rivals=args.rivals, first_seed=args.first_seed
    )
    first = ("noise", "level", "method", "f1", "f1_poi", "coverage", "leak", "iterations", "seeds")
    return _print(autotune.run(plan), first, as_json=args.json)


def _add_representation(names: Sub) -> None:
    purity = names.add_parser("purity", help="one person's tracks as one cluster, tuned on what is known for free")
    aware = names.add_parser("dataset-aware", help="one head for several cameras whose people are partly the same")
    for one, func in ((purity, _purity), (aware, _dataset_aware)):
        one.add_argument("--data", type=Path, required=True, metavar="DIR", help=_DATA)
        one.add_argument("--full", action="store_true", help="the whole grid, more pictures: hours")
        one.add_argument("--pad", type=float, default=0.25, help="border put around tight crops, share of their height")
        one.add_argument("--seeds", type=int, default=5, help="how often everything is drawn (default 5)")
        one.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
        one.set_defaults(func=func)


def _add_track(names: Sub) -> None:
    track = names.add_parser("track", help="who is followed and known again at a composed door, and two ablations")
    data = "clips of one face (or in DIR/videos), and one folder of photos a person (or in DIR/lfw_colour_10x10)"
    track.add_argument("--data", type=Path, required=True, metavar="DIR", help=data)
    track.add_argument("--full", action="store_true", help="ten households, twice the visits, also on a slow box")
    track.add_argument("--seeds", type=int, help="households drawn (default 3, with --full 10)")
    track.add_argument("--json", action="store_true", help="one JSON object a line on stdout, nothing else")
    track.set_defaults(func=_track)


def _track(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam.evaluation import tracking

    if args.seeds is not None and args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds}: at least 1")
    first = ("method", "recall", "precision", "f1", "idf1", "mota", "ids", "frag")
    return _print(tracking.run(tracking.Plan(args.data, args.full, args.seeds)), first, as_json=args.json)


def _ready_to_tune(seeds: int) -> None:
    from edgecam.adapt.apart import require_torch
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    require_torch()
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least 1")


def _purity(args: argparse.Namespace) -> int:
    _ready_to_tune(args.seeds)
    from edgecam.evaluation import purity

    first = ("method", "people", "single", "purity", "pairwise_f1", "ci95")
    return _print(purity.run(purity.Plan(args.data, args.full, args.pad, args.seeds)), first, as_json=args.json)


def _dataset_aware(args: argparse.Namespace) -> int:
    _ready_to_tune(args.seeds)
    from edgecam.evaluation import dataset_aware

    plan = dataset_aware.Plan(args.data, args.full, args.pad, args.seeds)
    first = ("method", "overlap", "within", "cross", "probe", "ci95")
    return _print(dataset_aware.run(plan), first, as_json=args.json)


def _pad(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam.evaluation import pad

    _remark(args.data)
    first = ("source", "species", "condition", "attacks", "accepted", "bona_fide", "rejected", "no_answer")
    return _print(pad.run(pad.Options(args.data, args.full)), first, as_json=args.json)


def _blink(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam.evaluation import blink

    _remark(args.data)
    options = blink.Options(args.data, args.full, ("net", "dlib") if args.dlib else ("net",))
    return _print(blink.run(options), ("clip", "condition", "precision", "recall", "events"), as_json=args.json)


def _remark(data: Path) -> None:
    if not (data / "glasses.txt").is_file():
        note(f"{data} has no glasses.txt: no rows for people with and without glasses")


def _presence(args: argparse.Namespace) -> int:
    from edgecam.evaluation import presence

    first = ("file", "method", "threshold_dbm", "window_s", "correlation", "false_presence", "missed")
    return _print(presence.run(presence.Options(args.data, args.full)), first, as_json=args.json)


def _lfw(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam.evaluation import lfw

    half = None if args.half == "all" else args.half
    options = lfw.Options(args.data, args.full, args.pad, args.cache, half, args.strangers, args.seed)
    return _print(lfw.run(options), ("encoder", "metric", "value", "ci95"), as_json=args.json)


def _doorbell(args: argparse.Namespace) -> int:
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam.evaluation import doorbell

    options = doorbell.Options(args.data, args.full, args.pad, args.cache, args.strength, args.seed, args.tuned)
    first = ("approach", "mode", "unit", "fnir", "fpir", "fnir_at_equal_fpir", "misidentified", "ci95")
    return _print(doorbell.run(options), first, as_json=args.json)


def _print(rows: Iterator[Dict[str, Any]], first: tuple[str, ...], *, as_json: bool) -> int:
    start, table = time.monotonic(), []
    for row in rows:
        if as_json:
            emit(row)
        else:
            table.append([_cell(row.get(key)) for key in first] + [_rest(row, first)])
    if not as_json:
        _table([[*first, ""], *table])
    note(f"{time.monotonic() - start:.0f} s")
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value))}]"
    if isinstance(value, dict):
        return " ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    return "-" if value is None else str(value)


def _rest(row: Dict[str, Any], first: tuple[str, ...]) -> str:
    return " ".join(f"{key}={_cell(value)}" for key, value in row.items() if key not in first)


def _table(lines: List[List[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
