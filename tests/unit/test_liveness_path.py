"""Liveness on the live path: who is named, when, and who never."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List

import pytest

from edgecam.clock import SystemClock
from edgecam.config import CameraConfig, Config, LivenessConfig
from edgecam.evaluation.presented import frames_of
from edgecam.identify import Household
from edgecam.nn.registry import ModelRegistry
from edgecam.pipeline.build import IdentifierFactory, make_liveness, make_stages
from edgecam.pipeline.camera import CameraPath, Said, Stages
from edgecam.pipeline.still import find_faces
from edgecam.pipeline.visits import VisitBook
from edgecam.types import Decision, Liveness, Phase, Verdict

pytestmark = [pytest.mark.data, pytest.mark.models]
Show = Callable[..., List[Decision]]


@pytest.fixture(scope="module")
def show(registry: ModelRegistry, data_dir: Path) -> Show:
    """Return what is said of a clip by a household of which both people of the clips are members."""
    config, clips = Config(), data_dir / "videos/liveness"
    detector, encoder = make_stages(config, registry)
    factory = IdentifierFactory(encoder, config.embed, config.identify)
    nets = make_liveness(config, registry)
    if nets.passive is None:
        pytest.skip(nets.lacking)
    rows = []
    for person in ("lestari", "wolf"):
        for frame in list(frames_of(clips / f"{person}_real.mp4", "as is", 1.0))[::6]:
            found = find_faces(frame.image, detector, encoder, factory.recognizability, config.quality)
            rows += [(person, face.vector, False) for face in found[:1]]
    identifier = factory.make(Household.of(rows))

    def played(clip: str, condition: str = "as is", policy: str = "announce") -> List[Decision]:
        said: List[Said] = []
        chosen = Config(liveness=LivenessConfig.model_validate({"policy": policy}))
        stages = Stages(detector, encoder, identifier, nets)
        path = CameraPath("door", CameraConfig(url="none"), chosen, stages, VisitBook(), SystemClock(), said.append)
        due_s = 0.0
        for frame in frames_of(clips / f"{clip}.mp4", condition, 1.6):
            path.glimpse(frame)
            if frame.captured_at_s >= due_s:
                due_s += 0.1
                path.perceive(frame, None)
        path.close()
        return [one.decision for one in said]

    return played


@pytest.mark.parametrize("policy", ["announce", "sensitive"])
def test_a_living_resident_is_named_within_a_second_and_ends_live(show: Show, policy: str) -> None:
    named, final = show("wolf_real", policy=policy)
    assert (named.phase, named.person_id) == (Phase.NAMED, "wolf")
    assert named.t_named_s is not None
    assert named.t_named_s - named.t_first_s < 1.0
    assert (final.verdict, final.person_id, final.liveness) == (Verdict.KNOWN, "wolf", Liveness.LIVE)


def test_the_sensitive_policy_names_only_who_is_live_already(show: Show) -> None:
    named = show("lestari_real", policy="sensitive")[0]
    assert (named.phase, named.liveness) == (Phase.NAMED, Liveness.LIVE)


@pytest.mark.parametrize("clip", ["wolf_fake", "lestari_fake"])
def test_a_picture_of_a_resident_is_never_named(show: Show, clip: str) -> None:
    said = show(clip)
    assert all(one.person_id is None and not one.candidates for one in said)
    assert [one.verdict for one in said if one.phase is not Phase.NAMED] == [Verdict.SPOOF]
    assert said[-1].liveness is Liveness.SPOOF


def test_without_colour_a_resident_is_named_unproven_and_only_by_the_announcing_policy(show: Show) -> None:
    final = show("lestari_real", "grey")[-1]
    assert (final.verdict, final.liveness) == (Verdict.KNOWN, Liveness.UNPROVEN)
    assert "infrared" in final.reason
    strict = show("lestari_real", "grey", "sensitive")[-1]
    assert (strict.verdict, strict.person_id, strict.candidates) == (Verdict.UNCERTAIN, None, ())
