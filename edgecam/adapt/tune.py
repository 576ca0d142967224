"""The night, from beginning to end (`algorithms.md` 8): what `edgecam tune` does.

Gather, associate and train in rounds, leave out what looks poisoned, judge, put into service or not. The store is asked
once, in the beginning, so that nobody waits for it; nothing is stored before the end, so a night that is killed leaves
everything as it was; its training is taken up again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from edgecam.adapt.apart import Job, Keep, Limits, Options, Trained, require_torch, train_apart
from edgecam.adapt.gate import GateReport, Strangers, Version, judge
from edgecam.adapt.gather import Ask, Kept, Lesson, gather, material
from edgecam.adapt.linking import link
from edgecam.adapt.night import Night
from edgecam.adapt.quarantine import Evidence, Quarantine, locked_faces, quarantine
from edgecam.adapt.report import Morning
from edgecam.adapt.rounds import adapt
from edgecam.adapt.samples import Samples
from edgecam.associate import Association, associate
from edgecam.config import Config
from edgecam.embed import Encoder
from edgecam.errors import TuneError
from edgecam.identify import Identifier, StrangerModel
from edgecam.pipeline.build import IdentifierFactory
from edgecam.pipeline.household import local_features
from edgecam.pipeline.wanted import news, season_of
from edgecam.pipeline.wire import Record
from edgecam.types import Floats, Ints

NEW = "the new head"
"""What a candidate is called until it is stored."""
_LINK_DRAWS = 1000
_DRAWS = 500
"""Virtual strangers for the training: their mean is what a face is like, whoever it is."""
_DROP = 0.03
"""The household's median similarity above the threshold fell by so much: it is recognised measurably worse."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a night is given besides what the store keeps."""

    config: Config
    encoder: Encoder
    """In service ..."""

    serving: str
    """... and what it is called."""

    head_file: bytes
    """Content of the installed `facenet_head.onnx`; empty if the encoder has none."""

    liveness: Tuple[str, ...]
    """Versions of the nets that tell a person from a picture."""

    strangers: StrangerModel
    """Statistics that fit the encoder."""

    given: Floats
    """(M, K) trunk features of faces that are surely nobody's of the house; M may be 0."""

    keep: Optional[Keep] = None
    today: int = 0
    """Ordinal of the calendar day."""

    train: bool = True


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a night came to; nothing of it is stored yet."""

    night: Night
    visitors: Tuple[Tuple[str, ...], ...]
    """Tracks of each unknown person who came more than once."""

    morning: Morning
    heads: Mapping[str, bytes]
    why: Tuple[str, ...]
    """What is new since the last version."""

    memory: Record
    """What the next night compares itself with."""

    def record(self) -> Record:
        """Return the report as JSON values, as it is signed and kept."""
        return {**self.morning.record(), "why": list(self.why), "memory": self.memory}


class Past(NamedTuple):
    """What the store knows when the night begins."""

    kept: Kept
    local: Floats
    """(S, K) features of strangers seen here."""
    before: Record
    """The last night's memory."""


def read(ask: Ask, plan: Plan) -> Past:
    """Read all that a night needs.

    Args:
        ask: runs an operation of the store (`pipeline.operations`), here or in the daemon.
        plan: encoder and configuration.
    """
    base = plan.encoder.base
    kept = gather(ask, plan.encoder, plan.config.presence.slot_h)
    return Past(kept, local_features(ask, base), _last_memory(ask, base))


def spend_night(past: Past, plan: Plan, say: Callable[[str], None]) -> Outcome:
    """Do the night's work.

    Args:
        past: what was read.
        plan: encoder, configuration, limits.
        say: told what is being done.

    Raises:
        TuneError: training was ended; it goes on next time.
    """
    encoder, (kept, local, before) = plan.encoder, past
    door = _door(plan, kept, local)
    memory = _memory(plan, kept, door)
    why = tuple(_what_is_new(before, memory))
    grey = plan.config.tune.infrared
    night, taught = material(kept, encoder.installed.project, len(before.get("nights", [])), grey=grey)
    reason = _why_not(plan, kept, before, memory)
    if reason:
        say(f"no training: {reason}")
        found = associate(replace(night.scene, vectors=encoder.project(night.features)))
        nothing = np.zeros(0, np.int64)
        empty = Quarantine(taught.samples.of_groups(nothing), nothing, ())
        return _outcome(kept, found, plan, Morning(empty, None, reason), {}, why, memory)

    say(f"{len(taught.samples.features)} faces may teach; associating and training")
    quarantined: List[Quarantine] = []
    train = _trainer(plan, kept, taught, door, before, quarantined)

    def project(heads: Mapping[str, bytes], features: Floats) -> Floats:
        return (encoder.installed.with_heads(heads, "new") if heads else encoder.installed).project(features)

    adapted = adapt(night, partial(train, True), project, sketch=partial(train, False))
    trained, clean = adapted.trained, quarantined[-1]
    memory["usual"] = _usual(clean, taught, before)
    if not trained.heads:
        morning = Morning(clean, None, trained.reason or "nothing was tuned")
        return _outcome(kept, adapted.found, plan, morning, {}, why, memory)
    say("judging the new head against the one in service")
    new = encoder.installed.with_heads(trained.heads, "new")
    report = _judge(plan, kept, local, new, sum(map(len, trained.heads.values())))
    vectors = encoder.project(clean.samples.features), new.project(clean.samples.features)
    morning = Morning(clean, report, vectors=vectors)
    heads = trained.heads if report.accepted else {}
    return _outcome(kept, adapted.found, plan, morning, heads, why, memory)


# --- whether to train -------------------------------------------------------------------------------------------------


def _why_not(plan: Plan, kept: Kept, before: Record, memory: Record) -> str:
    """Return why there is no training tonight; empty if there is."""
    grey = plan.config.tune.infrared
    teaching = any((track.live or (grey and track.infrared)) and not track.verified for track in kept.tracks)
    reasons = (
        (not plan.train, "no training was asked for"),
        (plan.config.embed.kind == "insightface", "the owner's own recogniser has no head that could be tuned"),
        (not kept.people, "nobody is enrolled"),
        (not kept.tracks, "no face of the last days is kept yet"),
        (not teaching, "no face at the door was proven live and may teach (infrared ones: tune.infrared)"),
        (before.get("digest") == memory["digest"], "nothing is new since the last night"),
    )
    for true, said in reasons:
        if true:
            return said
    try:
        require_torch()
    except TuneError as err:
        return str(err)
    return ""


def _memory(plan: Plan, kept: Kept, door: Identifier) -> Record:
    """Return what tonight is compared with by the next night: ids, counts and one similarity, nothing of a face."""
    parts = [[track.id, track.person_id, track.nobody, track.live] for track in kept.tracks]
    digest = hashlib.sha256(
        json.dumps([parts, sorted(photo.id for photo in kept.photos), kept.people, plan.encoder.base]).encode()
    )
    return {
        "digest": digest.hexdigest(),
        "people": sorted({photo.person_id for photo in kept.photos}),
        "cameras": sorted({track.camera for track in kept.tracks}),
        "season": season_of(date.fromordinal(max(plan.today, 1))),
        "headroom": _headroom(kept, plan.encoder, door),
        "usual": {},
    }


def _headroom(kept: Kept, encoder: Encoder, door: Identifier) -> Optional[float]:
    """Return the median similarity above the threshold of the tracks that were taken for somebody; None without any."""
    at = {person: i for i, person in enumerate(door.people)}
    mine = [(track.mean, at[track.taken_for]) for track in kept.tracks if track.taken_for in at]
    if not mine:
        return None
    scores = door.scores(encoder.project(np.stack([mean for mean, _ in mine])))
    own = scores[np.arange(len(mine)), [person for _, person in mine]]
    return round(float(np.median(own)) - door.calibration.threshold, 4)


def _what_is_new(before: Record, now: Record) -> List[str]:
    """Return what speaks for tuning: since the last version, or at all."""
    if not before:
        return ["no night has been judged yet"]
    found = news(before, now)
    was, is_now = before.get("headroom"), now["headroom"]
    if was is not None and is_now is not None and is_now < was - _DROP:
        found.append(f"the household is recognised less surely: {is_now:+.3f} above the threshold, it was {was:+.3f}")
    return found or ["new faces"]


def _last_memory(ask: Ask, base: str) -> Record:
    """Return the newest night's memory for this encoder, with the names of all of its nights."""
    nights = [row for row in ask("versions.list") if row["base"] == base]
    if not nights:
        return {}
    last = next(iter(ask("versions.show", version=nights[0]["version"])))
    memory = last["record"].get("report", {}).get("memory", {}) if last["record"] else {}
    return {**memory, "nights": [row["version"] for row in nights]}


# --- what is worked on ------------------------------------------------------------------------------------------------


def _trainer(
    plan: Plan, kept: Kept, taught: Lesson, door: Identifier, before: Record, done: List[Quarantine]
) -> Callable[[bool, Samples, Ints], Trained]:
    """Return how a round trains, the last or another one: on what the quarantine leaves of it."""
    limits, gallery = plan.config.tune, kept.gallery().people
    locked, locked_owner = locked_faces(kept.verified(), gallery, taught.samples.people)
    usual = before.get("usual", {})

    def train(last: bool, samples: Samples, groups: Ints) -> Trained:
        evidence = Evidence(
            verified=taught.said[groups],
            day=taught.day[groups],
            usual=np.array([usual.get(person, np.nan) for person in samples.people], np.float32),
            locked=locked,
            locked_owner=locked_owner,
        )
        clean = quarantine(samples, evidence, door, plan.encoder.project)
        done.append(replace(clean, kept=groups[clean.kept]))
        kind = plan.config.embed.kind
        if kind == "insightface":
            raise TuneError("the owner's own recogniser has no head that could be tuned")
        return train_apart(
            Job(kind, plan.head_file, clean.samples, plan.strangers.draw(_DRAWS), Options().of(last=last)),
            Limits(limits.minutes * 60.0, limits.memory_mb, limits.max_celsius, limits.on_battery),
            plan.keep,
        )

    return train


def _usual(clean: Quarantine, taught: Lesson, before: Record) -> Dict[str, float]:
    """Return how many groups a day each person taught; people of whom there was none tonight keep what they had."""
    counts: Counter[str] = Counter()
    days = {int(day) for day in taught.day[clean.kept] if day >= 0}
    for shares, day in zip(clean.samples.shares, taught.day[clean.kept]):
        if day >= 0 and shares.max(initial=0.0) > 0:
            counts[clean.samples.people[int(shares.argmax())]] += 1
    fresh = {person: round(count / max(len(days), 1), 3) for person, count in counts.items()}
    return {**before.get("usual", {}), **fresh}


# --- judging ----------------------------------------------------------------------------------------------------------


def _door(plan: Plan, kept: Kept, local: Floats) -> Identifier:
    """Return the identifier in service, as far as its enrolment photos are not locked."""
    encoder, gallery = plan.encoder, kept.gallery()
    factory = IdentifierFactory(encoder.installed, plan.config.embed, plan.config.identify)
    household = gallery.household(encoder.project(gallery.features), np.ones(len(gallery.owner), np.bool_))
    return factory.make(household, encoder.project(local) if len(local) else None, encoder)


def _judge(plan: Plan, kept: Kept, local: Floats, new: Encoder, size: int) -> GateReport:
    encoder = plan.encoder
    return judge(
        Version(plan.serving, encoder.project, plan.liveness),
        Version(NEW, new.project, plan.liveness, size),
        kept.gallery(),
        kept.verified(),
        Strangers(plan.strangers, local, plan.given),
        plan.config.identify,
    )


# --- what comes of it -------------------------------------------------------------------------------------------------


def _outcome(
    kept: Kept,
    found: Association,
    plan: Plan,
    morning: Morning,
    heads: Mapping[str, bytes],
    why: Tuple[str, ...],
    memory: Record,
) -> Outcome:
    tracks = kept.tracks
    proposed = found.named()[: len(tracks)] >= 0
    taken = np.array([track.taken_for is not None for track in tracks], np.bool_)
    strangers = plan.strangers.draw(_LINK_DRAWS, seed=1)
    linked = link(kept, plan.encoder.project, strangers, proposed | taken)
    return Outcome(Night.of(kept.watched, found), linked.visitors, morning, heads, why, memory)
