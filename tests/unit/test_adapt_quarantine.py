"""Labels that look poisoned are taken out, by the rule that fits; honest ones stay."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np
import pytest

from edgecam.adapt.gate import Verified
from edgecam.adapt.quarantine import Evidence, Quarantine, locked_faces, quarantine
from edgecam.adapt.samples import Samples
from edgecam.config import IdentifyConfig
from edgecam.embed.sface import unit
from edgecam.errors import ShapeError
from edgecam.identify import Household, Identifier, Recognizability
from edgecam.types import Floats

DIM = 64
AXES = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0].astype(np.float32)
ANN, BEN, OTHER = AXES[0], AXES[1], AXES[2]
PEOPLE = ("ann", "ben")
USUAL = np.full(2, np.nan, np.float32)


def face(towards: Floats, cosine: float, other: Floats = AXES[3]) -> Floats:
    """Return a vector at this cosine from one direction, the rest towards another."""
    vector: Floats = (cosine * towards + np.sqrt(1.0 - cosine**2) * other).astype(np.float32)
    return vector


def near(centre: Floats, cosine: float, count: int, seed: int) -> List[Floats]:
    """Return vectors at this cosine from a direction, in random directions otherwise (away from the named ones)."""
    rng = np.random.default_rng(seed)
    away = AXES[8:].T @ rng.normal(size=(DIM - 8, count))
    return [face(centre, cosine, a) for a in (away / np.linalg.norm(away, axis=0)).T]


ENROLLED = [*near(ANN, 0.9, 5, 1), *near(BEN, 0.9, 5, 2)]


@pytest.fixture(scope="module")
def identifier() -> Identifier:
    household = Household.of([(PEOPLE[i // 5], v, False) for i, v in enumerate(ENROLLED)])
    strangers = unit(np.random.default_rng(9).normal(size=(4000, DIM)).astype(np.float32))
    return Identifier(household, [strangers], IdentifyConfig(), Recognizability(AXES[-1]))


Label = Tuple[Floats, int, int]
"""A group of one face: vector, index of the person it is labelled as, day."""


def run(
    identifier: Identifier,
    labels: Sequence[Label],
    apart: Sequence[Tuple[int, int]] = (),
    verified: Sequence[int] = (),
    usual: float = float("nan"),
    confirmed: Sequence[Tuple[Floats, int]] = (),
) -> Quarantine:
    """Return the quarantine of groups 2.. (0 and 1 are the enrolment photos); `verified` are groups the user
    named, `confirmed` faces in the locked set with their owners."""
    count = len(labels)
    samples = Samples(
        features=np.stack([*ENROLLED, *(v for v, _, _ in labels)]),
        group=np.concatenate([np.repeat([0, 1], 5), 2 + np.arange(count)]),
        shares=np.eye(2, dtype=np.float32)[[0, 1, *(p for _, p, _ in labels)]],
        people=PEOPLE,
        apart=np.array(apart, np.int64).reshape(-1, 2),
        domain=np.zeros(10 + count, np.int64),
        enrolled=np.arange(10 + count) < 10,
    )
    asked = np.full(2 + count, -1, np.int64)
    asked[list(verified)] = samples.shares.argmax(axis=1)[list(verified)]
    locked = np.stack([v for v, _ in confirmed]) if confirmed else None
    locked_owner = np.array([p for _, p in confirmed], np.int64)
    days = np.array([0, 0, *(d for _, _, d in labels)], np.int64)
    return quarantine(
        samples, Evidence(asked, days, np.full(2, usual, np.float32), locked, locked_owner), identifier, unit
    )


def rules(found: Quarantine) -> List[Tuple[int, str]]:
    return [(one.group, one.rule) for one in found.taken]


HONEST = [(v, 0, n % 7) for n, v in enumerate(near(ANN, 0.8, 8, 3))] + [
    (v, 1, n % 7) for n, v in enumerate(near(BEN, 0.8, 8, 4))
]


def test_honest_labels_stay(identifier: Identifier) -> None:
    found = run(identifier, HONEST)
    assert rules(found) == []
    assert len(found.samples.features) == 10 + 16
    assert found.kept.tolist() == list(range(18))


def test_another_resident_under_anns_name_is_taken_out(identifier: Identifier) -> None:
    found = run(identifier, [*HONEST, (near(BEN, 0.8, 1, 5)[0], 0, 1)])
    assert rules(found) == [(18, "other")]
    assert found.taken[0].person == "ann"
    assert found.counts() == {"ann": {"other": 1}}


def test_a_strangers_face_under_anns_name_is_taken_out(identifier: Identifier) -> None:
    assert rules(run(identifier, [*HONEST, (near(OTHER, 0.9, 1, 6)[0], 0, 1)])) == [(18, "stranger")]


def test_faces_that_resemble_each_other_and_not_ann_are_taken_out(identifier: Identifier) -> None:
    """Too like Ann to be surely a stranger's; but like one another far more."""
    alike = [(face(ANN, 0.34, OTHER), 0, day) for day in (0, 1, 2, 3)]
    assert rules(run(identifier, [*HONEST, *alike])) == [(18 + n, "unlike") for n in range(4)]


def test_what_the_user_confirmed_is_never_taken_out(identifier: Identifier) -> None:
    """A mask: unlike Ann, but she said so; and then the next ones are like a confirmed face."""
    alike = [(face(ANN, 0.34, OTHER), 0, day) for day in (0, 1, 2, 3)]
    assert rules(run(identifier, [*HONEST, *alike], verified=[18, 19, 20])) == []


def test_a_doubtful_face_like_those_taken_out_follows_them(identifier: Identifier) -> None:
    """Two are surely a stranger's; the third is a little more like them than like Ann."""
    strangers = [(v, 0, 2) for v in near(OTHER, 0.95, 2, 6)]
    third = (unit((0.36 * ANN + 0.47 * OTHER + 0.8 * AXES[40])[None])[0], 0, 2)
    hers = (face(ANN, 0.34, AXES[41]), 0, 2)
    found = run(identifier, [*HONEST, *strangers, third, hers])
    assert rules(found) == [(18, "stranger"), (19, "stranger"), (20, "unlike")]
    assert "taken out" in found.taken[-1].said
    assert rules(run(identifier, [*HONEST, third, hers])) == []


PALE = [(face(ANN, 0.2, AXES[30 + n]), 0) for n in range(10)]


def test_where_confirmed_faces_are_pale_labels_may_be(identifier: Identifier) -> None:
    """The light is to blame, not somebody else."""
    labels = [(face(ANN, 0.23, AXES[10 + n]), 0, n) for n in range(14)]
    assert {rule for _, rule in rules(run(identifier, labels))} >= {"stranger"}
    assert rules(run(identifier, labels, confirmed=PALE)) == []
    assert {rule for _, rule in rules(run(identifier, labels, confirmed=PALE[:9]))} >= {"stranger"}


def test_the_like_of_a_pale_face_tell_more_than_itself(identifier: Identifier) -> None:
    """Each might be Ann in bad light; the mean of five is surely not."""
    labels = [(unit((0.12 * ANN + 0.5 * OTHER + 0.86 * AXES[20 + n])[None])[0], 0, n) for n in range(6)]
    found = run(identifier, labels, confirmed=[(v, 0) for v in near(ANN, 0.1, 10, 24)])
    assert {rule for _, rule in rules(found)} == {"stranger"}
    assert all("with its like" in one.said for one in found.taken)


def test_what_is_more_like_anothers_confirmed_faces_is_taken_out(identifier: Identifier) -> None:
    label = (unit((0.3 * ANN + 0.35 * BEN + 0.88 * AXES[20])[None])[0], 0, 1)
    assert rules(run(identifier, [label], confirmed=PALE)) == [(2, "young")]
    found = run(identifier, [label], confirmed=[*PALE, *((v, 1) for v in near(BEN, 0.5, 3, 23))])
    assert rules(found) == [(2, "other")]
    assert "another's confirmed faces" in found.taken[-1].said


def test_the_locked_set_is_renumbered_for_the_samples() -> None:
    verified = Verified(
        np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 1, 2]), np.array([1, -1, 0]),
        np.zeros(3, np.bool_), ("a", "b", "c"),
    )  # fmt: skip
    faces, owner = locked_faces(verified, ("cyd", "ann"), ("ann", "ben"))
    assert faces.tolist() == [[0, 1], [2, 3], [6, 7]]
    assert owner.tolist() == [0, -1, -1]


def appearance(days: Sequence[int]) -> List[Label]:
    """Return faces of Ann in a look of its own: not recognised, and a little more like one another than like her."""
    return [(unit((0.34 * ANN + 0.5 * AXES[6] + 0.78 * AXES[10 + n])[None])[0], 0, day) for n, day in enumerate(days)]


@pytest.mark.parametrize(
    ("days", "stay"),
    [((0, 0, 0, 0), False), ((0, 1, 1, 0), False), ((0, 1, -1, -1), False), ((0, 1, 2, 2), True)],
)
def test_a_new_appearance_teaches_from_its_third_day(identifier: Identifier, days: Tuple[int, ...], stay: bool) -> None:
    """A day of an unset clock (-1) is none."""
    assert rules(run(identifier, appearance(days))) == ([] if stay else [(2 + n, "young") for n in range(4)])


def test_a_device_never_overrides_two_faces_in_one_picture(identifier: Identifier) -> None:
    """Both are labelled Ann; one was seen beside a confirmed Ann, one beside a recognised, two beside each other."""
    pale = [(v, 0, n) for n, v in enumerate(near(ANN, 0.37, 4, 11))]
    labels = [*HONEST, *pale]
    assert rules(run(identifier, labels, apart=[(18, 2)], verified=[2]))[:1] == [(18, "apart")]
    assert (18, "apart") in rules(run(identifier, labels, apart=[(2, 18)]))
    assert (2, "apart") not in rules(run(identifier, labels, apart=[(2, 18)]))
    both = rules(run(identifier, labels, apart=[(18, 19)]))
    assert (18, "apart") in both
    assert (19, "apart") in both
    assert rules(run(identifier, HONEST, apart=[(2, 0)], verified=[2])) == []  # a person has said both
    different = rules(run(identifier, HONEST, apart=[(2, 10)]))  # Ann beside Ben
    assert different == []


def test_suddenly_far_more_than_ever_teaches_only_what_is_recognised(identifier: Identifier) -> None:
    pale = [(v, 0, n % 4) for n, v in enumerate(near(ANN, 0.37, 12, 12))]
    assert {rule for _, rule in rules(run(identifier, [*HONEST, *pale]))} <= {"young"}
    calm = run(identifier, [*HONEST, *pale], usual=4.0)
    assert "share" not in {rule for _, rule in rules(calm)}
    sudden = run(identifier, [*HONEST, *pale], usual=0.5)
    taken = [group for group, rule in rules(sudden) if rule == "share"]
    assert taken
    assert min(taken) >= 18  # the pale ones, none of the recognised
    assert all(one.person == "ann" for one in sudden.taken)


def test_a_mean_that_would_move_far_in_a_week_is_held(identifier: Identifier) -> None:
    """Each face passes for Ann; together they would carry her away."""
    labels = [(face(ANN, 0.41, OTHER), 0, day) for day in range(6)]
    assert rules(run(identifier, labels)) == [(2 + n, "drift") for n in range(6)]
    slowly = [(v, p, day * 3) for v, p, day in labels]
    assert rules(run(identifier, slowly)) == []


def test_what_is_taken_out_is_gone_with_its_faces_and_its_links(identifier: Identifier) -> None:
    bad = (near(OTHER, 0.9, 1, 6)[0], 0, 1)
    found = run(identifier, [HONEST[0], bad, HONEST[8]], apart=[(3, 4), (2, 4)])
    assert rules(found) == [(3, "stranger")]
    assert found.kept.tolist() == [0, 1, 2, 4]
    assert found.samples.group.tolist() == [*([0] * 5), *([1] * 5), 2, 3]
    np.testing.assert_array_equal(found.samples.features[-1], HONEST[8][0])
    np.testing.assert_array_equal(found.samples.shares[3], [0, 1])
    assert found.samples.apart.tolist() == [[2, 3]]


def test_nothing_labelled_is_nothing_taken(identifier: Identifier) -> None:
    found = run(identifier, [])
    assert rules(found) == []
    empty = found.samples.of_groups(np.zeros(0, np.int64))
    assert len(empty.features) == len(empty.shares) == 0
    nobody = quarantine(empty, Evidence(np.zeros(0, np.int64), np.zeros(0, np.int64), USUAL), identifier, unit)
    assert nobody.taken == ()


def test_evidence_of_other_groups_is_refused(identifier: Identifier) -> None:
    samples = run(identifier, []).samples
    with pytest.raises(ShapeError, match="want 2 verified"):
        quarantine(
            samples,
            Evidence(np.zeros(3, np.int64), np.zeros(2, np.int64), USUAL),
            identifier,
            unit,
        )
