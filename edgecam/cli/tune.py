"""`edgecam tune`: the night's work by hand."""

from __future__ import annotations

import argparse
import base64
import importlib.util
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Tuple

from edgecam.cli.common import Backend, Record, Sub, add_common, backend, config_of, emit, note, state_of
from edgecam.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from edgecam.adapt.apart import Keep
    from edgecam.adapt.night import Night
    from edgecam.adapt.report import Morning
    from edgecam.adapt.tune import Outcome, Plan
    from edgecam.config import Config
    from edgecam.embed import Encoder
    from edgecam.nn.registry import ModelRegistry
    from edgecam.types import Floats

_AHEAD_S = 2 * 86_400.0


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("tune", help="learn from the last days: whose face comes with whose phone, a better head")
    parser.add_argument("--dry-run", action="store_true", help="do it all, keep nothing of it")
    parser.add_argument("--proposals", action="store_true", help="no training: only propose and ask")
    parser.add_argument("--strangers", type=Path, metavar="DIR", help="photos of people who are surely not enrolled")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the night into this folder (needs matplotlib)")
    add_common(parser)
    parser.set_defaults(func=_tune)


def _tune(args: argparse.Namespace) -> int:
    config = config_of(args)
    if not config.store.cluster_unknown:
        raise ConfigError("nothing is kept to learn from: set store.cluster_unknown = true (docs/night.md)")
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    _want_plots(args.plots)
    from edgecam import embed
    from edgecam.daemon.health import spare_memory

    spare_memory()
    from edgecam.adapt.tune import read, spend_night
    from edgecam.nn.registry import ModelRegistry, default_folder
    from edgecam.pipeline.household import in_service

    registry = ModelRegistry(default_folder())
    given = _given(args.strangers, config, registry)
    installed = embed.make(config.embed, registry, config.run.threads, late=True)
    with _alone(args):
        # Twice and not throughout: without a daemon the store is this command's as long as it is open.
        with backend(args) as state:
            encoder = in_service(state.stream, installed)
            keep = None if args.dry_run or args.proposals else _keep(args, state)
            plan = _plan(state, config, registry, encoder, given, keep, train=not args.proposals)
            note("reading the faces of the last days")
            knew, past = state.one("night.outlook"), read(state.stream, plan)
            knew["model"] = state.one("versions.heads", base=encoder.base)["model"]
        outcome = spend_night(past, plan, note)
        with backend(args) as state:
            names = {row["id"]: row["name"] for row in state.stream("people.list")}
            version = None if args.dry_run else _store(state, plan, outcome, knew)
        if keep is not None:
            _done(keep.folder)
    paths = _draw(outcome, names, args.plots)
    if args.json:
        _emit(outcome, names, version)
        return 0
    _print_night(outcome.night, names, len(outcome.night.questions()), dry_run=args.dry_run)
    if outcome.visitors:
        print(f"{len(outcome.visitors)} unknown people came more than once: edgecam visits list")
    print(f"\n{_named(outcome.morning, version).text(names)}")
    for path in paths:
        print(path)
    if args.dry_run:
        print("nothing was kept")
    return 0


# --- what the night is given ------------------------------------------------------------------------------------------


def _plan(
    state: Backend,
    config: Config,
    registry: ModelRegistry,
    encoder: Encoder,
    given: Floats,
    keep: Optional[Keep],
    *,
    train: bool,
) -> Plan:
    import datetime as dt

    from edgecam.adapt.tune import Plan
    from edgecam.pipeline.build import strangers_of

    head = registry.path("facenet_head").read_bytes() if config.embed.kind in ("facenet", "fused") else b""
    nets = ("minifasnet_v2", "minifasnet_v1se")
    versions = tuple(registry.version(name) for name in nets)
    today = dt.datetime.now().astimezone().date().toordinal()
    tuned = encoder.version != encoder.base
    serving = _serving(state) if tuned else "the installed head"
    strangers = strangers_of(config.embed)
    return Plan(config, encoder, serving, head, versions, strangers, given, keep, today, train)


def _serving(state: Backend) -> str:
    return next((row["version"] for row in state.stream("versions.list") if row["state"] == "active"), "installed")


@contextmanager
def _alone(args: argparse.Namespace) -> Iterator[None]:
    """Hold off a second night that would train for keeps.

    Raises:
        StoreError: there is one.
    """
    if args.dry_run or args.proposals:
        yield
        return
    from edgecam.store.db import Lock

    folder = state_of(args)
    if not folder.is_dir():  # `backend` says what is missing
        yield
        return
    lock = Lock(folder / "night.lock", 0.0, "another night is at work here (process {pid}): let it end")
    try:
        yield
    finally:
        lock.close()


def _keep(args: argparse.Namespace, state: Backend) -> Keep:
    """Return where an unfinished training waits, sealed with a key of the box's."""
    from edgecam.adapt.apart import Keep
    from edgecam.store.db import hand_over
    from edgecam.store.vault import Sealer

    sealer, folder = Sealer(base64.b64decode(state.one("night.key")["key"])), state_of(args) / "night"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as err:
        raise StoreError(f"{folder}: the training cannot be kept there ({err.strerror})") from err
    hand_over(folder)  # root's night may be killed, and the service's goes on
    return Keep(folder, partial(sealer.seal, "night"), partial(sealer.open, "night"))


def _done(folder: Path) -> None:
    """Remove what was kept of the training: the night is over."""
    for path in folder.glob("*"):
        path.unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()


def _given(folder: Optional[Path], config: Config, registry: ModelRegistry) -> Floats:
    """Return (M, K) features of the largest face of each photo in a folder.

    Raises:
        ConfigError: there is none.
    """
    import numpy as np

    if folder is None:
        return np.zeros((0, 1), np.float32)
    from edgecam import detect, embed
    from edgecam.capture.photo import read_photo
    from edgecam.errors import InputError
    from edgecam.pipeline.build import IdentifierFactory
    from edgecam.pipeline.enrol import expand
    from edgecam.pipeline.still import find_faces

    detector = detect.make(config.detect, registry, config.run.threads)
    encoder = embed.make(config.embed, registry, config.run.threads)
    rates = IdentifierFactory(encoder, config.embed, config.identify).recognizability
    rows = []
    files = expand([folder])
    for i, path in enumerate(files, 1):
        try:
            faces = find_faces(read_photo(path), detector, encoder, rates, config.quality)
        except InputError as err:
            note(f"edgecam: {err}")
            continue
        rows += [face.features for face in faces[:1] if face.quality.ok]
        if i % 100 == 0 or i == len(files):
            note(f"strangers: {i} of {len(files)} photos, {len(rows)} faces")
    if not rows:
        raise ConfigError(f"{folder}: no usable face in there")
    return np.stack(rows)


# --- what comes of it -------------------------------------------------------------------------------------------------


def _store(state: Backend, plan: Plan, outcome: Outcome, knew: Record) -> Record:
    """Store the night and tell of it; return the version, empty if it came to no candidate."""
    night, morning, encoder = outcome.night, outcome.morning, plan.encoder
    questions = night.questions()
    state.one("proposals.put", proposals=night.proposals(), questions=questions)
    state.one("visitors.put", visitors=[list(group) for group in outcome.visitors])
    _expire(state, knew)
    told = {
        "state": "promoted" if morning.promoted else "unchanged" if morning.gate is None else "refused",
        "version": _serving(state),
        "reason": morning.reasons[0] if morning.reasons else "",
        "people": sum(1 for _ in state.stream("people.list")),
        "faces": len(morning.quarantine.samples.features),
        "taken_out": len(morning.quarantine.taken),
        "questions": len(questions),
        "visitors": len(outcome.visitors),
    }
    tell: Record = {"box": plan.config.alerts.box, "told": told, "knew": knew if plan.train else None}
    if morning.gate is None:
        state.one("night.tell", **tell)
        return {}
    version: Record = state.one(
        "versions.put",
        base=encoder.base,
        heads={name: base64.b64encode(data).decode() for name, data in outcome.heads.items()},
        people=list(morning.quarantine.samples.people),
        report=outcome.record(),
        accepted=morning.promoted,
        instead_of=knew["model"],
        **tell,
    )
    return version


def _expire(state: Backend, knew: Record) -> None:
    """Drop what is due, unless a daemon does or the clock is far ahead of the last visit: that may be wrong."""
    last = next(iter(state.call("visits.list", limit=1)), None)
    if not state.live and (last is None or knew["wall_s"] - last["opened_wall_s"] < _AHEAD_S):
        state.one("purge")


def _want_plots(folder: Optional[Path]) -> None:
    """Raise ConfigError, before the night's work, if no plot could be drawn after it."""
    if folder is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plots needs matplotlib: pip install matplotlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise ConfigError(f"{folder}: no plots can be written there ({err.strerror})") from err


def _draw(outcome: Outcome, names: Dict[str, str], folder: Optional[Path]) -> Tuple[Path, ...]:
    if folder is None:
        return ()
    from edgecam.adapt.report import draw

    try:
        return tuple(draw(outcome.morning, names, folder))
    except OSError as err:
        raise StoreError(f"{folder}: the plots cannot be written ({err.strerror}); the night is kept") from err


def _named(morning: Morning, version: Optional[Record]) -> Morning:
    """Return the report with the name that the candidate was stored under."""
    if morning.gate is None or not version:
        return morning
    return replace(morning, gate=replace(morning.gate, new=version["version"]))


def _emit(outcome: Outcome, names: Dict[str, str], version: Optional[Record]) -> None:
    night = outcome.night
    proposals = night.proposals()
    for row in proposals:
        emit({"type": "proposal", **row, "person": names.get(row["person_id"])})
    emit({"type": "night", **outcome.record(), "version": (version or {}).get("version")})
    emit(
        {
            "type": "summary",
            **_summary(night),
            "proposals": len(proposals),
            "questions": len(night.questions()),
            "visitors": len(outcome.visitors),
            "promoted": outcome.morning.promoted,
        }
    )


def _summary(night: Night) -> Dict[str, Any]:
    return {
        "faces": len(night.tracklets),
        "left_out": night.left_out,
        "events": night.events,
        "people": len(night.people),
        "coverage": round(night.found.coverage, 4),
        "not_told_apart": [[night.people[j] for j in group] for group in night.found.groups],
        "reason": night.found.reason,
    }


def _print_night(night: Night, names: Dict[str, str], questions: int, *, dry_run: bool) -> None:
    name: Callable[[int], str] = lambda j: names.get(night.people[j], "?")  # noqa: E731 - one expression, used often
    print(f"{len(night.tracklets)} faces of {night.events} events; {len(night.people)} people with devices")
    if night.left_out:
        print(f"  {night.left_out} faces of another encoder are left out")
    if night.found.reason:
        print(f"  {night.found.reason}")
        return
    told = Counter(int(person) for person in night.found.named())
    for j in range(len(night.people)):
        together, apart = night.found.together[j]
        print(f"  {name(j):24} {told[j]:4} faces; {together} events with their device, {apart} without")
    for group in night.found.groups:
        print(f"  cannot be told apart by their devices: {' and '.join(map(name, group))}")
    for j in night.found.contested:
        print(f"  two faces come with the device of {name(j)}: nobody is proposed for it")
    print(f"  {told[-1]:29} faces are nobody's, as far as the devices say")
    if questions:
        print(f"{questions} question{'s' if questions > 1 else ''}: {'not kept' if dry_run else 'edgecam review'}")
