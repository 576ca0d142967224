"""The policy: evidence about one track in, a verdict out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from edgecam.config import LivenessConfig
from edgecam.types import Liveness, Match, Verdict

NAMED_AFTER_FACES = 2
"""A name needs this many usable faces before the track ends; one blink of luck is not evidence."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one track so far."""

    match: Optional[Match]
    """Fused over the track's usable faces; None if there are none."""

    sure: bool
    """The match also holds at the stricter early threshold."""

    usable_faces: int
    seen_faces: int
    complaint: str
    """Why faces were not usable (the commonest reason), empty if all were."""

    liveness: Liveness
    doubt: str = ""
    """Why it may be a picture although that is not certain; such a face is not named."""

    waiting: bool = False
    """Liveness is still being looked at: an early name should wait for it."""

    note: str = ""
    """Why it is not proven to be alive, in words."""


@dataclass(frozen=True)
class Outcome:
    """A verdict with its reason."""

    verdict: Verdict
    person_id: Optional[str]
    candidates: Tuple[str, ...]
    similarity: float
    reason: str


def conclude(evidence: Evidence, config: LivenessConfig) -> Outcome:
    """Return the verdict for a track that has ended, or would end now.

    Liveness only denies: it turns a name into something less, never the reverse.
    """
    match = evidence.match
    if evidence.liveness is Liveness.SPOOF:
        similarity = match.similarity if match else -1.0
        return Outcome(Verdict.SPOOF, None, (), similarity, "shown to the camera, not standing before it")
    if match is None:
        return Outcome(Verdict.POOR, None, (), -1.0, evidence.complaint or "no usable face")
    unproven = config.policy == "sensitive" and evidence.liveness is not Liveness.LIVE
    if match.verdict is Verdict.KNOWN and (evidence.doubt or unproven):
        # Not even as a candidate: a photo must not find out whom it would pass for.
        return Outcome(
            Verdict.UNCERTAIN, None, (), match.similarity, evidence.doubt or evidence.note or "not proven to be alive"
        )
    return Outcome(match.verdict, match.person_id, match.candidates, match.similarity, match.reason)


def may_name(evidence: Evidence, config: LivenessConfig) -> bool:
    """Whether a name may be announced before the track ends.

    Looking at every new face is a repeated test: each look of its own would multiply the false accepts, so an early
    name has to pass the stricter threshold and rest on several faces (Wald's sequential test in its simplest form).
    """
    known = conclude(evidence, config).verdict is Verdict.KNOWN
    return known and evidence.sure and not evidence.waiting and evidence.usable_faces >= NAMED_AFTER_FACES
