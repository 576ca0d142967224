"""What edgecam says over MQTT (schema 1): topics, payloads, and the check that nothing else gets out.

`docs/mqtt.md` is the reference; a test holds it against this file.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, List, Literal, Mapping, NamedTuple, Optional, Sequence, Tuple, TypedDict

from edgecam.clock import Clock
from edgecam.types import Action, Asked, Decision, Liveness, Phase, Prompt, Verdict

SCHEMA = 1
MAX_PAYLOAD_BYTES = 4096
MAX_NAME = 80
MAX_REASON = 160
MAX_CANDIDATES = 8
_MAX_ID = 80

ON, OFF = "ON", "OFF"
ONLINE, OFFLINE = "online", "offline"
RING = "ring"

_MAC = re.compile(r"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}(?![0-9a-fA-F])")
_ID = re.compile(rf"[A-Za-z0-9_.:+@/-]{{1,{_MAX_ID}}}")
_AT = "_at"
"""Key of a payload still in the outbox: when it was made; `finish` turns it into `age_s`."""


class MessageError(ValueError):
    """A payload breaks the schema and must not leave the box: a bug, or an altered outbox."""


@dataclass(frozen=True)
class Moment:
    """A point in time that survives a clock being set and a restart of the process."""

    wall_s: float
    monotonic_s: float
    boot: str
    """Monotonic seconds compare only within one boot."""

    trusted: bool
    """Whether the wall clock is believed."""


def moment(clock: Clock) -> Moment:
    """Return now."""
    return Moment(clock.wall_s(), clock.monotonic_s(), boot_id(), clock.wall_trusted())


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what tells this boot of the machine from the next; of this process where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:13]
    except (OSError, UnicodeDecodeError):
        return secrets.token_hex(6)


class Alert(NamedTuple):
    """A row for the outbox."""

    topic: str
    payload: bytes
    """Unfinished: `finish` adds the age when it is sent."""

    critical: bool
    """Dropped last when the outbox is full."""


@dataclass(frozen=True)
class Topics:
    """The topics of one box."""

    box: str

    @property
    def available(self) -> str:
        """`online` or `offline`, retained; the last will."""
        return f"edgecam/{self.box}/available"

    @property
    def pause_set(self) -> str:
        """Command: `ON`, `OFF` or a duration."""
        return f"edgecam/{self.box}/pause/set"

    @property
    def pause_state(self) -> str:
        """`ON` or `OFF`, retained."""
        return f"edgecam/{self.box}/pause/state"

    @property
    def night(self) -> str:
        """What a night came to; never retained."""
        return f"edgecam/{self.box}/night"

    def camera_available(self, camera: str) -> str:
        """`online` or `offline`, retained."""
        return f"edgecam/{self.box}/{camera}/available"

    def event(self, camera: str) -> str:
        """Every word about a track; never retained."""
        return f"edgecam/{self.box}/{camera}/event"

    def trigger(self, camera: str) -> str:
        """Once a track and verdict; never retained."""
        return f"edgecam/{self.box}/{camera}/trigger"

    def ring(self, camera: str) -> str:
        """The doorbell button; never retained."""
        return f"edgecam/{self.box}/{camera}/ring"

    def ring_press(self, camera: str) -> str:
        """Command: the button was pressed."""
        return f"edgecam/{self.box}/{camera}/ring/press"

    def prompt(self, camera: str) -> str:
        """What to say to whoever stands there; never retained."""
        return f"edgecam/{self.box}/{camera}/prompt"

    def challenge_ask(self, camera: str) -> str:
        """Command: put a challenge to whoever stands there."""
        return f"edgecam/{self.box}/{camera}/challenge/ask"

    def motion(self, camera: str) -> str:
        """`ON` or `OFF`, retained."""
        return f"edgecam/{self.box}/{camera}/motion"

    def health(self, camera: str) -> str:
        """A camera's health, retained."""
        return f"edgecam/{self.box}/{camera}/health"


class EventMessage(TypedDict):
    """`.../event`, as received."""

    schema: int
    id: str
    visit: str
    track: int
    event_type: str
    phase: str
    person: Optional[str]
    person_id: Optional[str]
    candidates: List[str]
    reason: str
    similarity: float
    liveness: str
    ts: float
    age_s: Optional[float]
    camera: str
    place: str
    model: str
    clock_trusted: bool


class TriggerMessage(TypedDict):
    """`.../trigger`, as received."""

    schema: int
    id: str
    visit: str
    track: int
    type: str
    ts: float
    age_s: Optional[float]


class RingMessage(TypedDict):
    """`.../ring`, as received."""

    schema: int
    id: str
    event_type: str
    source: str
    ts: float
    age_s: Optional[float]
    clock_trusted: bool


class PromptMessage(TypedDict):
    """`.../prompt`, as received."""

    schema: int
    id: str
    visit: str
    track: int
    state: str
    action: Optional[str]
    text: str
    reason: str
    limit_s: float
    ts: float


class NightMessage(TypedDict):
    """`.../night`, as received."""

    schema: int
    id: str
    state: str
    version: str
    reason: str
    people: int
    faces: int
    taken_out: int
    questions: int
    visitors: int
    ts: float
    age_s: Optional[float]
    clock_trusted: bool


class HealthState(str, Enum):
    """How a camera's path is."""

    OK = "ok"
    DEGRADED = "degraded"
    """Works, but something needs attention."""

    FAULT = "fault"
    """Nobody at this door would be noticed."""

    PAUSED = "paused"


class HealthMessage(TypedDict):
    """`.../health`, as received."""

    schema: int
    state: str
    problems: List[str]
    fps: float
    dropped: int
    outbox: int
    model: str
    ts: float


def event_payload(
    decision: Decision,
    person_name: Optional[str],
    candidate_names: Sequence[str],
    *,
    names: bool,
    now: Moment,
) -> bytes:
    """Return the outbox payload of a decision.

    Args:
        decision: what to tell.
        person_name: name of `decision.person_id`, if it has one.
        candidate_names: names of `decision.candidates`, in their order.
        names: False keeps every name in the house: ids only.
        now: when it is put into the outbox.
    """
    ids = ((decision.person_id, person_name), *zip(decision.candidates, candidate_names))
    shown = [_name(name) or _id(who) for who, name in zip(decision.candidates, candidate_names)]
    reason = decision.reason
    if not names:
        shown = [_id(who) for who in decision.candidates]
        for who, name in sorted(((w, n) for w, n in ids if w and n), key=lambda pair: -len(pair[1])):
            reason = reason.replace(name, _id(who))
    similarity = decision.similarity if math.isfinite(decision.similarity) else -1.0
    message: EventMessage = {
        "schema": SCHEMA,
        "id": _id(decision.id),
        "visit": _id(decision.visit),
        "track": decision.track,
        "event_type": decision.verdict.value,
        "phase": decision.phase.value,
        "person": (_name(person_name) or None) if names and person_name else None,
        "person_id": _id(decision.person_id) if decision.person_id else None,
        "candidates": shown[:MAX_CANDIDATES],
        "reason": _text(reason, MAX_REASON),
        "similarity": round(max(-1.0, min(1.0, similarity)), 4),
        "liveness": decision.liveness.value,
        "ts": round(decision.wall_s, 3),
        "age_s": None,
        "camera": decision.camera,
        "place": decision.place,
        "model": _id(decision.model) if decision.model else "",
        "clock_trusted": decision.clock_trusted,
    }
    return _unfinished("event", dict(message), now)


def trigger_payload(decision: Decision, *, now: Moment) -> bytes:
    """Return the outbox payload that fires a device trigger for a decision."""
    message: TriggerMessage = {
        "schema": SCHEMA,
        "id": _id(decision.id),
        "visit": _id(decision.visit),
        "track": decision.track,
        "type": decision.verdict.value,
        "ts": round(decision.wall_s, 3),
        "age_s": None,
    }
    return _unfinished("trigger", dict(message), now)


RingSource = Literal["mqtt", "gpio"]


def ring_alert(topics: Topics, camera: str, ring_id: str, source: RingSource, *, now: Moment) -> Alert:
    """Return the outbox row of a pressed doorbell; no rule and no quiet hour holds a ring back."""
    message: RingMessage = {
        "schema": SCHEMA,
        "id": _id(ring_id),
        "event_type": RING,
        "source": source,
        "ts": round(now.wall_s, 3),
        "age_s": None,
        "clock_trusted": now.trusted,
    }
    return Alert(topics.ring(camera), _unfinished("ring", dict(message), now), critical=True)


def night_alert(topics: Topics, night_id: str, told: Mapping[str, Any], *, now: Moment) -> Alert:
    """Return the outbox row of a night's outcome.

    Args:
        topics: of the box.
        night_id: to drop duplicates by.
        told: `state`, `version`, `reason` and the counts; without names of people.
        now: when it is put into the outbox.

    Raises:
        MessageError: something else is in it.
    """
    message: NightMessage = {
        "schema": SCHEMA,
        "id": _id(night_id),
        "state": str(told.get("state")),
        "version": str(told.get("version")),
        "reason": _text(str(told.get("reason", "")), MAX_REASON),
        "people": told.get("people", -1),
        "faces": told.get("faces", -1),
        "taken_out": told.get("taken_out", -1),
        "questions": told.get("questions", -1),
        "visitors": told.get("visitors", -1),
        "ts": round(now.wall_s, 3),
        "age_s": None,
        "clock_trusted": now.trusted,
    }
    return Alert(topics.night, _unfinished("night", dict(message), now), critical=False)


def prompt_payload(prompt: Prompt) -> bytes:
    """Return a prompt, ready to send: it is said at once or not at all, so it has no age."""
    message: PromptMessage = {
        "schema": SCHEMA,
        "id": _id(prompt.id),
        "visit": _id(prompt.visit) if prompt.visit else "",
        "track": prompt.track,
        "state": prompt.state.value,
        "action": None if prompt.action is None else prompt.action.value,
        "text": _text(prompt.text, MAX_REASON),
        "reason": _text(prompt.reason, MAX_REASON),
        "limit_s": prompt.limit_s,
        "ts": round(prompt.wall_s, 3),
    }
    return _dump(check("prompt", dict(message)))


def health_payload(
    state: HealthState,
    *,
    problems: Sequence[str] = (),
    fps: float = 0.0,
    dropped: int = 0,
    outbox: int = 0,
    model: str = "",
    wall_s: float,
) -> bytes:
    """Return a health message, ready to send.

    Args:
        state: in one word.
        problems: short codes (`camera_lost`, `disk_full`), at most 8.
        fps: perceived frames a second.
        dropped: frames dropped since the start.
        outbox: alerts waiting.
        model: model version in use.
        wall_s: now.
    """
    message: HealthMessage = {
        "schema": SCHEMA,
        "state": state.value,
        "problems": [_id(problem) for problem in problems][:MAX_CANDIDATES],
        "fps": round(fps, 1) if math.isfinite(fps) else 0.0,
        "dropped": dropped,
        "outbox": outbox,
        "model": _id(model) if model else "",
        "ts": round(wall_s, 3),
    }
    return _dump(check("health", dict(message)))


def finish(topic: str, payload: bytes, now: Moment) -> bytes:
    """Return a stored payload as it is sent: `age_s` filled in and the schema checked once more.

    The age is None where nobody can know it (decided before the clock was set, sent after another boot).

    Raises:
        MessageError: it is not a message of ours.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as err:
        raise MessageError("not JSON") from err
    if not isinstance(message, dict):
        raise MessageError("not an object")
    message["age_s"] = _age(message.pop(_AT, None), message.get("ts"), now)
    return _dump(check(topic.rpartition("/")[2], message))


def check(kind: str, message: Dict[str, Any]) -> Dict[str, Any]:
    """Return the message if it holds exactly the keys of its kind, each plausible, and no MAC address.

    Raises:
        MessageError: names the first wrong key (never its value).
    """
    rules = RULES.get(kind)
    if rules is None:
        raise MessageError(f"no such kind of message: {kind[:20]!r}")
    if odd := set(message) ^ set(rules):
        raise MessageError(f"{kind}: keys missing or too many: {', '.join(sorted(key[:20] for key in odd))}")
    for key, rule in rules.items():
        if not rule(message[key]):
            raise MessageError(f"{kind}: {key} is not what it may be")
    if len(_dump(message)) > MAX_PAYLOAD_BYTES:
        raise MessageError(f"{kind}: longer than {MAX_PAYLOAD_BYTES} bytes")
    return message


Rule = Callable[[Any], bool]


def _is_text(limit: int) -> Rule:
    return lambda value: isinstance(value, str) and len(value) <= limit and not _MAC.search(value)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None and not _MAC.search(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _one_of(*values: str) -> Rule:
    return lambda value: isinstance(value, str) and value in values


def _maybe(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _list_of(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and len(value) <= MAX_CANDIDATES and all(map(rule, value))


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and _is_number(value) and -1.0 <= value <= 1.0


def _is_age(value: object) -> bool:
    return isinstance(value, (int, float)) and _is_number(value) and value >= 0.0


def _is_schema(value: object) -> bool:
    return _is_count(value) and value == SCHEMA


def _is_id_or_empty(value: object) -> bool:
    return value == "" or _is_id(value)


TRIGGERS: Tuple[Verdict, ...] = (Verdict.KNOWN, Verdict.UNKNOWN, Verdict.SPOOF)
"""Verdicts that fire a device trigger."""

RULES: Mapping[str, Mapping[str, Rule]] = {
    "event": {
        "schema": _is_schema,
        "id": _is_id,
        "visit": _is_id,
        "track": _is_count,
        "event_type": _one_of(*(verdict.value for verdict in Verdict)),
        "phase": _one_of(*(phase.value for phase in Phase)),
        "person": _maybe(_is_text(MAX_NAME)),
        "person_id": _maybe(_is_id),
        "candidates": _list_of(_is_text(MAX_NAME)),
        "reason": _is_text(MAX_REASON),
        "similarity": _is_share,
        "liveness": _one_of(*(liveness.value for liveness in Liveness)),
        "ts": _is_number,
        "age_s": _maybe(_is_age),
        "camera": _is_id,
        "place": _is_id,
        "model": _is_id_or_empty,
        "clock_trusted": _is_bool,
    },
    "trigger": {
        "schema": _is_schema,
        "id": _is_id,
        "visit": _is_id,
        "track": _is_count,
        "type": _one_of(*(verdict.value for verdict in TRIGGERS)),
        "ts": _is_number,
        "age_s": _maybe(_is_age),
    },
    "ring": {
        "schema": _is_schema,
        "id": _is_id,
        "event_type": _one_of(RING),
        "source": _one_of("mqtt", "gpio"),
        "ts": _is_number,
        "age_s": _maybe(_is_age),
        "clock_trusted": _is_bool,
    },
    "night": {
        "schema": _is_schema,
        "id": _is_id,
        "state": _one_of("promoted", "refused", "unchanged", "wanted"),
        "version": _is_id,
        "reason": _is_text(MAX_REASON),
        "people": _is_count,
        "faces": _is_count,
        "taken_out": _is_count,
        "questions": _is_count,
        "visitors": _is_count,
        "ts": _is_number,
        "age_s": _maybe(_is_age),
        "clock_trusted": _is_bool,
    },
    "prompt": {
        "schema": _is_schema,
        "id": _is_id,
        "visit": _is_id_or_empty,
        "track": _is_count,
        "state": _one_of(*(state.value for state in Asked)),
        "action": _maybe(_one_of(*(action.value for action in Action))),
        "text": _is_text(MAX_REASON),
        "reason": _is_text(MAX_REASON),
        "limit_s": _is_age,
        "ts": _is_number,
    },
    "health": {
        "schema": _is_schema,
        "state": _one_of(*(state.value for state in HealthState)),
        "problems": _list_of(_is_id),
        "fps": _is_age,
        "dropped": _is_count,
        "outbox": _is_count,
        "model": _is_id_or_empty,
        "ts": _is_number,
    },
}
"""Every kind of JSON message, its keys, and what each may hold."""


def _unfinished(kind: str, message: Dict[str, Any], now: Moment) -> bytes:
    check(kind, message)
    return _dump({**message, _AT: [now.boot, round(now.monotonic_s, 3), now.trusted]})


def _age(at: Any, ts: Any, now: Moment) -> Optional[float]:
    if not (isinstance(at, list) and len(at) == 3 and _is_number(at[1]) and _is_number(ts)):
        return None
    boot, made_s, trusted = at
    same_boot_s, wall_s = now.monotonic_s - float(made_s), now.wall_s - float(ts)
    if boot == now.boot and same_boot_s >= 0:
        return round(same_boot_s, 1)
    return round(wall_s, 1) if trusted is True and now.trusted and wall_s >= 0 else None


def _dump(message: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(message, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
            "utf-8"
        )
    except (ValueError, TypeError) as err:  # NaN, a lone surrogate, a type JSON does not know
        raise MessageError("cannot be written as JSON") from err


def _text(text: str, limit: int) -> str:
    """Return one printable line of at most `limit` characters without a MAC address."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = _MAC.sub("(address)", line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _name(name: str) -> str:
    return "" if _MAC.search(name) else _text(name, MAX_NAME)


def _id(value: str) -> str:
    """Return an id that the schema accepts; a foreign character must not cost an alert."""
    clean = re.sub(r"[^A-Za-z0-9_.:+@/-]", "_", _MAC.sub("_", value))[:_MAX_ID]
    return clean or "_"
