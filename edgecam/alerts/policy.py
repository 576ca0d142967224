"""What is announced, and why something is not: merging, cooldown, quiet hours, rules by role. Pure.

A track is announced as a whole: once its first word was sent, every later word about it is sent too, above all a
correction, whatever the hour and the rules. Rules, cooldown and quiet hours hold back tracks that were not announced.
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from dataclasses import dataclass
from typing import Iterable, Optional, Sequence, Tuple

from edgecam.alerts.message import TRIGGERS, Alert, Moment, Topics, event_payload, trigger_payload
from edgecam.config import AlertRule, AlertsConfig, QuietHours
from edgecam.types import Decision, Phase, Role, Verdict

REMEMBERED = 512
"""Tracks kept in mind; a day at a busy door has fewer."""

_CRITICAL_KINDS = frozenset({Verdict.UNKNOWN.value, Verdict.SPOOF.value, Role.BLOCKED.value})


@dataclass(frozen=True)
class Announcement:
    """What became of one decision."""

    alerts: Tuple[Alert, ...]
    """Rows for the outbox, to be written in the decision's own transaction."""

    held_back: str
    """Why nothing is announced; empty if it is."""


@dataclass(frozen=True)
class _Word:
    """The last word about a track."""

    place: str
    subject: str
    visit: str
    wall_s: float
    sent: bool


def within(hours: QuietHours, local: dt.time) -> bool:
    """Whether a local time lies between two others, over midnight if need be; equal ends are a whole day."""
    start, end, now = _minutes(hours.start), _minutes(hours.end), local.hour * 60 + local.minute
    return start <= now < end if start < end else now >= start or now < end


class AlertPolicy:
    """Decide about announcements in the order of the decisions.

    Args:
        config: rules, cooldown, quiet hours, names.

    The memory is a function of the decisions alone: after a restart, `recall` what the store kept of the last hour.
    """

    def __init__(self, config: AlertsConfig) -> None:
        self._config = config
        self._topics = Topics(config.box)
        self._words: OrderedDict[Tuple[str, int], _Word] = OrderedDict()

    def announce(
        self,
        decision: Decision,
        *,
        role: Optional[Role],
        person_name: Optional[str],
        candidate_names: Sequence[str] = (),
        local: Optional[dt.time],
        now: Moment,
    ) -> Announcement:
        """Return what to send about a decision.

        Args:
            decision: the next one.
            role: of the known person; None if nobody is known (or the person is gone: then `known`).
            person_name: name of `decision.person_id`.
            candidate_names: names of `decision.candidates`, in their order.
            local: time of day; None while the clock is not trusted, then no hour is quiet.
            now: when the row is written.
        """
        kind = _kind(decision, role)
        before = self._words.get((decision.visit, decision.track))
        held_back = self._judge(decision, kind, before, local)
        self._remember(decision, sent=not held_back)
        if held_back:
            return Announcement((), held_back)
        critical = kind in _CRITICAL_KINDS or decision.phase is Phase.CORRECTED
        payload = event_payload(decision, person_name, candidate_names, names=self._config.names, now=now)
        alerts = [Alert(self._topics.event(decision.camera), payload, critical)]
        news = before is None or not before.sent or before.subject != _subject(decision)
        if news and decision.verdict in TRIGGERS:
            trigger = trigger_payload(decision, now=now)
            alerts.append(Alert(self._topics.trigger(decision.camera), trigger, critical))
        return Announcement(tuple(alerts), "")

    def recall(self, decisions: Iterable[Tuple[Decision, Optional[Role], Optional[dt.time]]]) -> None:
        """Rebuild the memory from decisions (oldest first) with role and local time of each; nothing is sent."""
        for decision, role, local in decisions:
            before = self._words.get((decision.visit, decision.track))
            held_back = self._judge(decision, _kind(decision, role), before, local)
            self._remember(decision, sent=not held_back)

    def _judge(self, decision: Decision, kind: str, before: Optional[_Word], local: Optional[dt.time]) -> str:
        """Return why a decision is not announced, empty if it is."""
        subject = _subject(decision)
        if before is not None and before.sent:
            return ""
        rule: AlertRule = self._config.rules[kind]
        if rule == "never":
            return f"rule: {kind} is never announced"
        if local is not None and any(
            within(hours, local) and kind not in hours.let_through and decision.verdict.value not in hours.let_through
            for hours in self._config.quiet_hours
        ):
            return "quiet hours"
        if rule == "always":
            return ""
        if before is not None and before.subject == subject:
            return "merged: this track was held back before"
        return self._merged(decision, subject)

    def _merged(self, decision: Decision, subject: str) -> str:
        for word in self._words.values():
            if not word.sent or (word.place, word.subject) != (decision.place, subject):
                continue
            if word.visit == decision.visit:
                return "merged: announced in this visit"
            # A clock that was set back makes the difference negative: rather one announcement too many.
            if 0.0 <= decision.wall_s - word.wall_s < self._config.cooldown_s:
                return "cooldown"
        return ""

    def _remember(self, decision: Decision, *, sent: bool) -> None:
        key = (decision.visit, decision.track)
        self._words[key] = _Word(decision.place, _subject(decision), decision.visit, decision.wall_s, sent)
        self._words.move_to_end(key)
        while len(self._words) > REMEMBERED:
            self._words.popitem(last=False)


def _kind(decision: Decision, role: Optional[Role]) -> str:
    """Return the key of the rule: the role of a known person, else the verdict."""
    if decision.verdict is not Verdict.KNOWN:
        return str(decision.verdict.value)
    return (role or Role.KNOWN).value


def _subject(decision: Decision) -> str:
    """Return who or what a decision is about, for merging."""
    if decision.verdict is Verdict.KNOWN:
        return f"person {decision.person_id}"
    return " ".join((decision.verdict.value, *sorted(decision.candidates)))


def _minutes(clock: str) -> int:
    hour, minute = clock.split(":")
    return int(hour) * 60 + int(minute)
