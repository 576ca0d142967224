"""`edgecam tune`: the night's work by hand."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Dict

from edgecam.cli.common import Sub, add_common, backend, config_of, emit, note
from edgecam.errors import ConfigError

if TYPE_CHECKING:
    from edgecam.adapt.night import Night


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("tune", help="what the last days taught: whose phone comes with which face (proposals)")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, only say what would be proposed")
    add_common(parser)
    parser.set_defaults(func=_tune)


def _tune(args: argparse.Namespace) -> int:
    config = config_of(args)
    if not config.store.cluster_unknown:
        raise ConfigError("nothing is kept to learn from: set store.cluster_unknown = true (docs/association.md)")
    from edgecam.cli.vision import quiet_libraries

    quiet_libraries()
    from edgecam import embed
    from edgecam.adapt.night import look_back
    from edgecam.nn.registry import ModelRegistry, default_folder

    encoder = embed.make(config.embed, ModelRegistry(default_folder()), config.run.threads)
    with backend(args) as state:
        note("reading the faces of the last days")
        night = look_back(state.stream, encoder.project, encoder.base, config.presence.slot_h)
        names = {row["id"]: row["name"] for row in state.stream("people.list")}
        proposals, questions = night.proposals(), night.questions()
        if not args.dry_run:
            state.one("proposals.put", proposals=proposals, questions=questions)
    if args.json:
        for row in proposals:
            emit({"type": "proposal", **row, "person": names.get(row["person_id"])})
        emit({"type": "summary", **_summary(night), "proposals": len(proposals), "questions": len(questions)})
        return 0
    _print(night, names, len(questions), dry_run=args.dry_run)
    return 0


def _summary(night: Night) -> Dict[str, object]:
    return {
        "faces": len(night.tracklets),
        "left_out": night.left_out,
        "events": night.events,
        "people": len(night.people),
        "coverage": round(night.found.coverage, 4),
        "not_told_apart": [[night.people[j] for j in group] for group in night.found.groups],
        "reason": night.found.reason,
    }


def _print(night: Night, names: Dict[str, str], questions: int, *, dry_run: bool) -> None:
    print(f"{len(night.tracklets)} faces of {night.events} events; {len(night.people)} people with devices")
    if night.left_out:
        print(f"  {night.left_out} faces of another encoder are left out")
    if night.found.reason:
        print(f"  {night.found.reason}")
        return
    told = Counter(int(person) for person in night.found.named())
    for j, person in enumerate(night.people):
        together, apart = night.found.together[j]
        print(
            f"  {names.get(person, person):24} {told[j]:4} faces; {together} events with their device, {apart} without"
        )
    for group in night.found.groups:
        print(
            f"  cannot be told apart by their devices: {' and '.join(names.get(night.people[j], '?') for j in group)}"
        )
    for j in night.found.contested:
        print(f"  two faces come with the device of {names.get(night.people[j], '?')}: nobody is proposed for it")
    print(f"  {told[-1]:29} faces are nobody's, as far as the devices say")
    if questions:
        print(f"{questions} question{'s' if questions > 1 else ''}: {'not kept' if dry_run else 'edgecam review'}")
    print("nothing was changed" if dry_run else "proposals are kept; they name nobody and teach nothing yet")
