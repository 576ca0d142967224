"""One camera's path, top to bottom: motion, faces, tracks, quality, liveness, vectors, a word to the house."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgecam import align, quality
from edgecam.clock import Clock
from edgecam.config import CameraConfig, Config
from edgecam.decide import Evidence, Outcome, conclude, may_name
from edgecam.detect import Detector
from edgecam.embed import Encoder, as_installed, embed
from edgecam.identify import Identifier
from edgecam.liveness import LivenessNets, LivenessWatch
from edgecam.liveness.challenge import Answer, proven
from edgecam.liveness.vote import Standing
from edgecam.pipeline.asking import Asker, Proof, Seen, TellPrompt
from edgecam.pipeline.track import Look, TrackRecord
from edgecam.pipeline.visits import Visit, VisitBook
from edgecam.store import FACES_A_TRACK, new_ulid
from edgecam.track import Tracker, appearance, clothes, mean_clothes, still
from edgecam.types import Asked, Decision, FaceCrop, Floats, Frame, Liveness, Phase, Tracklet, Verdict

_GLIMPSE_S = 0.4
_GLIMPSE_FACES = 3
"""A track shorter than both is a glimpse: alone in a visit it counts, beside others it is dropped as noise."""
_REGION_PAD = 0.1
"""Tracked faces are searched for in their predicted box and this share of it around; the detector adds its own."""
_LEARNT = (Verdict.KNOWN, Verdict.UNKNOWN, Verdict.UNCERTAIN)
_NO_FACE_MOTION_S = 1.0
"""Motion shorter than this with no face is a passing shadow, not somebody."""
_STUCK = "the camera's picture stands still"


class Stages:
    """The nets and the household, shared by all cameras.

    Args:
        detector: finds faces.
        encoder: with the head in service.
        identifier: of the same head.
        liveness: tells people from pictures.
    """

    def __init__(
        self, detector: Detector, encoder: Encoder, identifier: Identifier, liveness: Optional[LivenessNets] = None
    ) -> None:
        self.detector, self.liveness = detector, liveness or LivenessNets()
        self.now: Tuple[Encoder, Identifier] = (encoder, identifier)
        """Replaced as one when people or head change: vectors and thresholds of two versions never meet."""

    @property
    def encoder(self) -> Encoder:
        """The encoder in service."""
        return self.now[0]

    @property
    def identifier(self) -> Identifier:
        """The identifier in service."""
        return self.now[1]


@dataclass(frozen=True)
class Said:
    """A decision and the picture that goes with it (for the local store only)."""

    decision: Decision
    picture: Optional[FaceCrop]
    tracklet: Optional[Tracklet] = None
    """What the night may learn from, with the last word about a usable face."""


Sink = Callable[[Said], None]


class CameraPath:
    """Perception of one camera, frame by frame, within visits.

    Args:
        camera: camera id.
        camera_config: its section.
        config: the stages' sections are taken from it.
        stages: shared nets.
        visits: shared by the cameras of a place.
        clock: for the wall time of decisions.
        sink: receives every word.
        prompt: receives what is to be said to whoever stands there, where challenges are switched on.
    """

    def __init__(
        self,
        camera: str,
        camera_config: CameraConfig,
        config: Config,
        stages: Stages,
        visits: VisitBook,
        clock: Clock,
        sink: Sink,
        prompt: TellPrompt = lambda _: None,
    ) -> None:
        self._camera, self._place = camera, camera_config.place
        self._detect, self._quality, self._liveness = config.detect, config.quality, config.liveness
        self._stages, self._visits, self._clock, self._sink = stages, visits, clock, sink
        self._tracker = Tracker(config.track)
        self._records: Dict[int, TrackRecord] = {}
        self._alive = LivenessWatch(stages.liveness)
        self.asker = Asker(camera, config.liveness, clock, prompt)
        """May be told to ask from any thread."""
        self.visit: Optional[Visit] = None
        self._last_full_s = -1e9
        self._last_motion_s: Optional[float] = None
        self.frames = 0
        """Frames perceived since the start."""

    def open(self) -> Visit:
        """Begin, or join, the place's visit."""
        if self.visit is None:
            self.visit = self._visits.join(self._place, self._camera, self._clock.wall_s())
            self._last_full_s, self._last_motion_s = -1e9, None
        return self.visit

    def glimpse(self, frame: Frame) -> None:
        """Follow the eyes of tracked faces through a frame whether it will be perceived or not; from any one thread."""
        self._alive.glimpse(frame)

    def perceive(self, frame: Frame, moving: Optional[Floats] = None, *, active: bool = True) -> int:
        """Look at one frame of an open visit.

        Args:
            frame: the picture.
            moving: (N, 4) boxes of motion; None searches the whole frame.
            active: whether there is motion now.

        Returns:
            How many faces were seen (a face keeps the visit open).
        """
        visit = self.open()
        self.frames += 1
        self._count_motion(visit, frame.captured_at_s, active=active)
        faces = self._stages.detector(frame.image, self._regions(frame, moving))
        tracks = self._tracker.update(faces, frame.captured_at_s, appearance(frame.image, faces))
        visit.faces_seen += len(tracks.ids)
        fresh: List[Look] = []
        seen: List[Seen] = []
        for track_id, box, landmarks in zip(tracks.ids, tracks.faces.boxes, tracks.faces.landmarks):
            record = self._record(int(track_id), visit, frame.captured_at_s)
            crop = align.make_crop(frame.image, box, landmarks)
            rated = quality.assess(crop, self._quality)
            self._alive.see(frame, record.track_id, box, landmarks, rated)
            if record.add(crop, rated, frame.captured_at_s) and not self._alive.is_spoof(record.track_id):
                fresh.append(record.looks[-1])
                if not rated.infrared:
                    record.clothes.append(clothes(frame.image, box))
            seen.append(Seen(record, crop, box, landmarks, rated))
        self._alive.watch(tracks.ids.tolist())
        self._embed(fresh)
        self._challenge(frame, visit, seen)
        for one in seen:
            if one.quality.ok:
                self._name(one.record, visit, frame.captured_at_s)
        for track_id in tracks.ended:
            self._end(track_id, visit)
        for track_id in tracks.still:
            # A poster is nobody: it gets no decision, and only explains a visit in which there was nothing else.
            self._alive.forget(track_id)
            poster = self._records.pop(track_id, None)
            if poster is not None:
                visit.complaint = _STUCK if self._alive.repeats(frame) else still.REASON
                self.asker.leave(poster, visit.complaint)
        return len(tracks.ids)

    def close(self) -> Optional[Visit]:
        """End this camera's part of the visit; return the visit if that closed it for its place."""
        visit, self.visit = self.visit, None
        if visit is None:
            return None
        alone = not visit.decisions
        for track_id in sorted(self._records):
            self._end(track_id, visit, last_chance=alone)
        self._settle()
        self.asker.reset(visit)
        self._tracker.reset()
        self._alive.reset()
        if not self._visits.leave(visit, self._camera):
            return None
        if not visit.decisions and (visit.faces_seen or visit.motion_s >= _NO_FACE_MOTION_S):
            verdict = Verdict.POOR if visit.faces_seen else Verdict.NO_FACE
            reason = visit.complaint or ("no usable face" if visit.faces_seen else "somebody, but no face was seen")
            self._say(visit, None, Outcome(verdict, None, (), -1.0, reason), Phase.FINAL)
        return visit

    def _count_motion(self, visit: Visit, at_s: float, *, active: bool) -> None:
        if active and self._last_motion_s is not None:
            visit.motion_s += max(0.0, min(at_s - self._last_motion_s, 1.0))
        self._last_motion_s = at_s if active else None

    def _regions(self, frame: Frame, moving: Optional[Floats]) -> Optional[Floats]:
        """Return what to search, or None for the whole frame."""
        if moving is None or frame.captured_at_s - self._last_full_s >= self._detect.full_frame_every_s:
            self._last_full_s = frame.captured_at_s
            return None
        tracked = self._tracker.predicted_boxes(frame.captured_at_s)
        pad = tracked[:, 2:] * _REGION_PAD
        around = np.concatenate([tracked[:, :2] - pad, tracked[:, 2:] + 2 * pad], axis=1)
        regions: Floats = np.concatenate([moving, around]).astype(np.float32)
        return regions

    def _record(self, track_id: int, visit: Visit, at_s: float) -> TrackRecord:
        if track_id not in self._records:
            self._records[track_id] = TrackRecord(
                self._visits.number(visit), at_s, self._quality.best_k, track_id=track_id
            )
        return self._records[track_id]

    def _embed(self, looks: List[Look]) -> None:
        if not looks:
            return
        encoder, identifier = self._stages.now
        embeddings = embed(encoder, [look.crop for look in looks])
        plain_vectors = as_installed(encoder, embeddings)
        for look, vector, features, plain in zip(looks, embeddings.vectors, embeddings.features, plain_vectors):
            look.vector, look.features, look.model = vector, features, embeddings.model
            look.quality = identifier.recognizability.rate(look.quality, plain)

    def _judge(self, record: TrackRecord) -> Tuple[Evidence, Standing]:
        """Return what is known of a track; its liveness holds for the person of the match, and for nobody else."""
        encoder, identifier = self._stages.now
        vectors, weights = record.evidence(encoder)
        match = identifier.match(vectors, weights) if len(vectors) else None
        sure = match is not None and identifier.sure(match)
        alive = self._alive.standing(record.track_id)
        person_id = None if match is None else match.person_id
        if record.answer is not None and (record.answer.state is not Asked.PASSED or record.answered_as == person_id):
            alive = proven(alive, record.answer)
        evidence = Evidence(
            match,
            sure,
            len(vectors),
            record.seen,
            record.complaint,
            alive.verdict,
            alive.doubt,
            alive.waiting,
            alive.note,
        )
        return evidence, alive

    # Challenges.

    def _challenge(self, frame: Frame, visit: Visit, seen: Sequence[Seen]) -> None:
        """Follow a challenge that runs; put one to somebody if it is time."""
        if self._liveness.challenge == "off":
            return
        at_s = frame.captured_at_s
        self.asker.watch(frame, seen, self._alive.blinks, still=self._alive.repeats(frame))
        for one in seen:
            if self._alive.is_spoof(one.record.track_id):
                self.asker.leave(one.record, "it is a picture")
        self._settle()
        wanted = self.asker.wanted(visit, seen, at_s)
        for one in seen:
            evidence, _ = self._judge(one.record)
            if one is wanted or self.asker.due(evidence, one.record, at_s):
                person_id = None if evidence.match is None else evidence.match.person_id
                self.asker.ask(visit, one.record, person_id, at_s, self._alive.blinks(one.record.track_id))
                return

    def _settle(self) -> None:
        """Take over the answer to a challenge that has ended."""
        proof = self.asker.take()
        if proof is None:
            return
        answer = proof.answer
        if answer.state is Asked.PASSED and not self._of_the_same(proof):
            answer = Answer(Asked.FAILED, "another face answered, or one too poor to tell")
        proof.record.answer, proof.record.answered_as = answer, proof.person_id
        self.asker.close(answer)

    def _of_the_same(self, proof: Proof) -> bool:
        """Return whether the faces that gave the answer are those of the person it was asked of.

        A photo may be named, and its bearer turn his own head on the same spot.
        """
        if proof.person_id is None:
            return True
        if not proof.crops:
            return False
        encoder, identifier = self._stages.now
        vectors = embed(encoder, proof.crops).vectors
        match = identifier.match(vectors, np.ones(len(vectors), np.float32))
        return match.person_id == proof.person_id

    def _name(self, record: TrackRecord, visit: Visit, at_s: float) -> None:
        """Announce a name as soon as the evidence suffices, once a track."""
        if record.named is not None:
            return
        evidence, alive = self._judge(record)
        if may_name(evidence, self._liveness):
            outcome = conclude(evidence, self._liveness)
            record.named, record.named_s = outcome.person_id, at_s
            self._say(visit, record, outcome, Phase.NAMED, alive)

    def _end(self, track_id: int, visit: Visit, *, last_chance: bool = False) -> None:
        record = self._records.pop(track_id, None)
        if record is None:
            return
        if not self._alive.is_spoof(track_id):
            self._embed(record.waiting)
        self.asker.leave(record, "the face left the picture")
        self._settle()
        evidence, alive = self._judge(record)
        visit.complaint = record.complaint or visit.complaint
        glimpse = record.seen < _GLIMPSE_FACES and record.last_s - record.first_s < _GLIMPSE_S
        if glimpse and record.named is None and not (last_chance and evidence.match is not None):
            self._alive.forget(track_id)
            return
        outcome = conclude(evidence, self._liveness)
        changed = record.named is not None and outcome.person_id != record.named
        self._say(visit, record, outcome, Phase.CORRECTED if changed else Phase.FINAL, alive)
        self._alive.forget(track_id)

    def _say(
        self,
        visit: Visit,
        record: Optional[TrackRecord],
        outcome: Outcome,
        phase: Phase,
        alive: Optional[Standing] = None,
    ) -> None:
        visit.decisions += 1
        decision = Decision(
            id=new_ulid(self._clock.wall_s()),
            visit=visit.id,
            track=record.number if record else 0,
            verdict=outcome.verdict,
            phase=phase,
            person_id=outcome.person_id,
            candidates=outcome.candidates,
            similarity=outcome.similarity,
            liveness=alive.verdict if alive else Liveness.UNPROVEN,
            reason=outcome.reason or (alive.note if alive else ""),
            camera=self._camera,
            place=self._place,
            model=self._stages.encoder.version,
            t_first_s=record.first_s if record else 0.0,
            t_named_s=record.named_s if record else None,
            wall_s=self._clock.wall_s(),
            clock_trusted=self._clock.wall_trusted(),
            blinks_s=self._alive.blinks(record.track_id).blinks_s if record else (),
        )
        tracklet = self._tracklet(record, decision) if record and phase is not Phase.NAMED else None
        self._sink(Said(decision, record.picture if record else None, tracklet))

    def _tracklet(self, record: TrackRecord, decision: Decision) -> Optional[Tracklet]:
        features, qualities, infrared = record.faces(FACES_A_TRACK)
        if not len(features) or decision.verdict not in _LEARNT or decision.liveness is Liveness.SPOOF:
            return None
        return Tracklet(
            decision.visit,
            decision.track,
            decision.camera,
            self._stages.encoder.base,
            record.first_s,
            record.last_s,
            features,
            qualities,
            infrared,
            decision.liveness,
            mean_clothes(record.clothes),
        )
