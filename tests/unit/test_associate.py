"""Who is who by the devices that were there: small offices with known truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Optional, Tuple

import numpy as np
import pytest

from edgecam.associate import Association, Options, Scene, associate, attendance, cluster, tell, vote
from edgecam.associate.assign import evidence, nearest_owners, owners, posterior
from edgecam.errors import ShapeError

DIM = 48
Office = Tuple[Scene, "np.ndarray[Any, Any]"]


def office(
    persons: int = 6,
    strangers: int = 0,
    events: int = 40,
    missed: float = 0.0,
    seed: int = 0,
    noise: float = 0.5,
    twins: int = 0,
) -> Office:
    """Return a scene and the true person of each tracklet; strangers from `persons` on."""
    rng = np.random.default_rng(seed)
    faces = rng.normal(size=(persons + strangers, DIM))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    there = rng.random((events, persons + strangers)) < np.where(np.arange(persons + strangers) < persons, 0.35, 0.1)
    for k in range(twins):
        there[:, 2 * k + 1] = there[:, 2 * k]
    there[0] = True
    heard = (there[:, :persons] & (rng.random((events, persons)) >= missed)).astype(np.float64)
    for k in range(twins):
        heard[:, 2 * k + 1] = heard[:, 2 * k]
    rows: List[Tuple[int, int]] = [(int(k), int(j)) for k, j in np.argwhere(there) for _ in range(2)]
    truth = np.array([j for _, j in rows])
    vectors = faces[truth] + noise * rng.normal(size=(len(rows), DIM)) / np.sqrt(DIM)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Scene(vectors.astype(np.float32), np.array([k for k, _ in rows]), heard), truth


def right(found: Association, truth: np.ndarray[Any, Any]) -> float:
    return float((found.named() == truth).mean())


def changed(scene: Scene, **parts: Any) -> Scene:
    return replace(scene, **parts)


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["plain", "paper", "code", "prior"])
def test_joint_distances_are_the_formulas(mode: Any) -> None:
    scene, _ = office(events=6)
    u, beta = np.random.default_rng(1).random((6, 6)), 0.3
    got = cluster.joint_distances(scene.vectors, scene.events, u, mode, beta, scene.apart)
    n, at = len(scene.vectors), 0
    for i in range(n):
        for j in range(i + 1, n):
            d = float(np.linalg.norm(scene.vectors[i] - scene.vectors[j]))
            a, b = u[scene.events[i]], u[scene.events[j]]
            want = {
                "plain": d,
                "paper": d - beta * (np.minimum(a, b).sum() - np.maximum(a, b).sum()),
                "code": np.sqrt(d * d + ((beta * (a - b)) ** 2).sum()),
                "prior": d - beta * np.log(0.01 + (a / a.sum()) @ (b / b.sum())),
            }[mode]
            assert got[at] == pytest.approx(want, abs=1e-3)
            at += 1
    assert at == len(got)


def test_the_same_face_twice_with_the_same_phone_is_no_distance_apart() -> None:
    faces = np.tile(np.eye(8, dtype=np.float32)[:2], (3, 1))
    events = np.arange(6)
    heard = np.eye(2)[events % 2]
    distances = cluster.joint_distances(faces, events, heard, "prior", 0.1, np.zeros((0, 2), np.int64))
    assert distances.min() == 0.0
    assert cluster.cut(cluster.grow(distances), 2).tolist() in ([0, 1] * 3, [1, 0] * 3)


def test_faces_seen_at_once_are_put_apart_in_either_order() -> None:
    scene, _ = office(events=6)
    got = cluster.joint_distances(scene.vectors, scene.events, scene.heard, "plain", 0.0, np.array([[3, 1]]))
    plain = cluster.joint_distances(scene.vectors, scene.events, scene.heard, "plain", 0.0, scene.apart)
    n = len(scene.vectors)
    at = 1 * n - 1 + 3 - 1 - 1
    assert got[at] > 2.0 >= plain[at]
    assert np.array_equal(np.delete(got, at), np.delete(plain, at))


def test_cuts_of_one_tree_nest_and_sizes_follow_the_persons() -> None:
    scene, _ = office()
    tree = cluster.grow(cluster.joint_distances(scene.vectors, scene.events, scene.heard, "plain", 0.0, scene.apart))
    coarse, fine = cluster.cut(tree, 6), cluster.cut(tree, 12)
    assert len(np.unique(coarse)) == 6
    assert all(len(np.unique(coarse[fine == c])) == 1 for c in np.unique(fine))
    assert cluster.cut_sizes(30, 5000)[0] == 60
    assert cluster.cut_sizes(30, 5000)[-1] == 150
    assert len(cluster.cut_sizes(30, 5000)) == 31
    assert cluster.cut_sizes(3, 500)[-1] == 23
    assert max(cluster.cut_sizes(30, 40)) == 40


def test_a_silent_device_costs_less_than_a_wrong_one() -> None:
    """The paper's cost cannot tell the two; the likelihood can: seen ten times, heard five times, by a quiet phone."""
    heard = np.zeros((40, 2))
    heard[:5, 0] = 1  # its owner was there ten times, it was silent in five
    heard[:, 1] = 1  # always on
    heard[10, 1] = 0
    seen = np.zeros((1, 40))
    seen[0, :10] = 1
    scores = evidence(seen, heard, np.ones(heard.shape), 0.1).scores
    assert scores[0, 0] > 0
    assert scores[0, 0] > scores[0, 1]


def test_the_missed_rate_is_found() -> None:
    for missed in (0.0, 0.5):
        scene, truth = office(events=200, missed=missed, seed=3)
        found = evidence(scene.seen(truth, 6), scene.heard, scene.told(), 0.1)
        assert found.missed == pytest.approx(missed, abs=0.06)
        assert np.array_equal(found.scores.argmax(axis=1), np.arange(6))


def test_one_to_one_with_dummies() -> None:
    scores = np.array([[5.0, 4.0], [4.5, -1.0], [3.0, -2.0]])
    assert list(owners(scores)) == [1, 0, -1]
    assert list(owners(-scores.clip(min=1))) == [-1, -1, -1]
    seen = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]])
    heard = np.array([[0.0, 1], [0, 1], [1, 0], [1, 0]])
    for rule in ("squared", "norm"):
        assert list(nearest_owners(seen, heard, rule)) == [1, 0, -1]
    assert list(nearest_owners(seen[:1], heard, "squared")) == [1]


def test_posterior_keeps_a_place_for_nobody() -> None:
    chances = posterior(np.array([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0], [-9.0, -9.0, -9.0]]), 0.1)
    assert chances.sum(axis=1) == pytest.approx(1.0)
    assert chances[0] == pytest.approx([0.1, 0.3, 0.3, 0.3])
    assert chances[1, 1] > 0.99
    assert chances[2, 0] > 0.99


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missed", "least"), [(0.0, 0.98), (0.3, 0.95), (0.5, 0.85)])
def test_people_get_their_names(missed: float, least: float) -> None:
    scene, truth = office(events=60, missed=missed)
    found = associate(scene)
    assert right(found, truth) >= least
    assert found.labels.sum(axis=1) == pytest.approx(1.0)
    assert found.reason == ""


def test_strangers_stay_unknown() -> None:
    scene, truth = office(strangers=4, events=60)
    found = associate(scene)
    assert (found.named()[truth >= 6] == -1).mean() >= 0.95
    assert right(found, np.where(truth < 6, truth, -1)) >= 0.95


def test_all_faces_strangers_gives_no_name() -> None:
    scene, truth = office(strangers=6, events=80)
    only = truth >= 6
    found = associate(changed(scene, vectors=scene.vectors[only], events=scene.events[only]))
    assert (found.named() == -1).mean() >= 0.95


def test_the_same_input_gives_the_same_answer_and_is_left_alone() -> None:
    scene, _ = office(missed=0.2)
    vectors, heard = scene.vectors.copy(), scene.heard.copy()
    one, two = associate(scene), associate(scene)
    assert np.array_equal(one.labels, two.labels)
    assert one.questions == two.questions
    assert np.array_equal(scene.vectors, vectors)
    assert np.array_equal(scene.heard, heard)


def test_the_order_of_tracklets_does_not_matter() -> None:
    scene, _ = office(missed=0.2)
    order = np.random.default_rng(5).permutation(len(scene.events))
    mixed = associate(changed(scene, vectors=scene.vectors[order], events=scene.events[order]))
    assert np.array_equal(mixed.named(), associate(scene).named()[order])


def test_one_person() -> None:
    scene, truth = office(persons=1, strangers=3, events=60)
    found = associate(scene)
    assert (found.named()[truth == 0] == 0).mean() > 0.9
    assert (found.named()[truth > 0] == 0).mean() < 0.05


@pytest.mark.parametrize(
    ("what", "word"),
    [("devices", "no device"), ("faces", "no faces"), ("silence", "no device was heard"), ("events", "needed")],
)
def test_cannot_tell(what: str, word: str) -> None:
    scene, _ = office(events=12 if what == "events" else 40)
    if what == "devices":
        scene = changed(scene, heard=np.zeros((40, 0)))
    elif what == "faces":
        scene = changed(scene, vectors=scene.vectors[:0], events=scene.events[:0])
    elif what == "silence":
        scene = changed(scene, heard=np.zeros((40, 6)))
    found = associate(scene)
    assert found.reason.startswith("cannot tell")
    assert word in found.reason
    assert len(found.labels) == len(scene.events)
    assert (found.labels[:, 0] == 1).all()
    assert (found.named() == -1).all()


def test_faces_of_an_untrusted_time_are_kept_and_named_by_face_alone() -> None:
    scene, truth = office(events=60)
    events = scene.events.copy()
    events[::7] = -1
    found = associate(changed(scene, events=events))
    assert len(found.labels) == len(truth)
    assert (found.named()[::7] == truth[::7]).mean() > 0.9


def test_a_wrong_shape_is_said() -> None:
    scene, _ = office()
    with pytest.raises(ShapeError, match="events"):
        changed(scene, events=scene.events[1:])
    with pytest.raises(ShapeError, match="events"):
        changed(scene, events=scene.events + 40)


# --- what must not happen ---------------------------------------------------------------------------------------------


def test_a_device_never_overrides_two_faces_at_once() -> None:
    scene, _ = office()
    a, b = (int(i) for i in np.flatnonzero(scene.events == 0)[:2])  # two pictures of one person, said to be two
    found = associate(changed(scene, apart=np.array([[a, b]])))
    assert np.minimum(found.labels[a, 1:], found.labels[b, 1:]).max() == 0


def test_a_cloned_device_does_not_make_the_visitor_a_resident() -> None:
    """A stranger comes with person 0's address whenever she is out, as often as she is in; her face is confirmed."""
    scene, truth = office(strangers=1, events=60, seed=2)
    stranger = truth == 6
    heard = scene.heard.copy()
    heard[scene.events[stranger], 0] = 1
    verified = np.zeros(len(truth), np.int64)
    verified[np.flatnonzero(truth == 0)[:3]] = 1
    found = associate(changed(scene, heard=heard, verified=verified))
    assert not (found.named()[stranger] == 0).any()
    assert (found.named()[truth == 0] == 0).mean() > 0.9


def test_a_device_that_two_people_carry_names_neither() -> None:
    scene, truth = office(persons=6, strangers=1, events=80, seed=4)
    rng = np.random.default_rng(0)
    heard = scene.heard.copy()
    visitor = truth == 6
    events = rng.integers(0, 80, int(visitor.sum()))
    moved = scene.events.copy()
    moved[visitor] = events
    heard[:, 0] = np.isin(np.arange(80), np.concatenate([scene.events[truth == 0][::2], events])).astype(float)
    rows = ~((truth == 0) & ~np.isin(scene.events, scene.events[truth == 0][::2]))
    found = associate(Scene(scene.vectors[rows], moved[rows], heard), Options(min_events=20))
    assert found.contested == (0,)
    assert not (found.named() == 0).any()
    assert any(0 in question.persons for question in found.questions)
    others = (truth[rows] > 0) & (truth[rows] < 6)
    assert (found.named()[others] == truth[rows][others]).mean() > 0.9


def test_the_users_word_stands() -> None:
    scene, truth = office()
    verified = np.zeros(len(truth), np.int64)
    verified[5], verified[9] = 1 + (truth[5] + 1) % 6, -1
    named = associate(changed(scene, verified=verified)).named()
    assert named[5] == (truth[5] + 1) % 6
    assert named[9] == -1


def test_who_is_elsewhere_is_not_at_the_door() -> None:
    scene, truth = office()
    barred = np.zeros(scene.heard.shape, np.bool_)
    event = int(scene.events[np.flatnonzero(truth == 2)[0]])
    barred[event, 2] = True
    found = associate(changed(scene, barred=barred))
    assert found.labels[scene.events == event, 3].max() == 0
    assert (found.named()[(truth == 2) & (scene.events != event)] == 2).mean() > 0.9


def test_couples_are_one_group_and_one_question_not_a_guess() -> None:
    scene, truth = office(events=60, twins=2)
    found = associate(scene)
    assert found.groups == ((0, 1), (2, 3))
    assert not (np.isin(truth, [0, 1, 2, 3]) & (found.named() >= 0)).any()
    assert (found.named()[truth < 4] == -2).mean() > 0.9
    assert (found.named()[truth >= 4] == truth[truth >= 4]).mean() > 0.9
    assert found.labels[:, 1] == pytest.approx(found.labels[:, 2])
    assert {q.persons for q in found.questions} <= {(0, 1), (2, 3)}
    assert found.questions


def test_one_answer_tells_a_couple_apart() -> None:
    scene, truth = office(events=60, twins=1)
    verified = np.zeros(len(truth), np.int64)
    for j in (0, 1):
        verified[np.flatnonzero(truth == j)[:2]] = j + 1
    found = associate(changed(scene, verified=verified))
    assert found.groups == ()
    assert right(found, truth) > 0.9


def test_the_counts_say_why() -> None:
    scene, truth = office(events=60, missed=0.3)
    found = associate(scene)
    for j in range(6):
        events = np.unique(scene.events[truth == j])
        heard = int(scene.heard[events, j].sum())
        assert found.together[j] == pytest.approx([heard, len(events) - heard], abs=2)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_the_tuner_is_used_until_nothing_moves() -> None:
    scene, truth = office(noise=2.2, events=60)
    calls: List[float] = []

    def better(labels: np.ndarray[Any, Any]) -> Any:
        calls.append(float(labels[:, 0].mean()))
        mean = np.stack([scene.vectors[truth == j].mean(axis=0) for j in range(6)])[truth]
        out = scene.vectors + mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)

    plain, tuned = associate(scene), associate(scene, None, better)
    assert right(tuned, truth) > right(plain, truth) + 0.05
    assert len(plain.rounds) == 1
    assert len(tuned.rounds) == len(calls) + 1 <= 7
    last = tuned.rounds[-1]
    assert last.churn < 0.01 or last.rms <= 0.01
    assert not np.array_equal(tuned.vectors, scene.vectors)


def test_never_more_iterations_than_asked() -> None:
    scene, _ = office(noise=3.0)
    rng = np.random.default_rng(0)

    def rubbish(labels: np.ndarray[Any, Any]) -> Any:
        out = rng.normal(size=(len(labels), DIM))
        return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)

    assert len(associate(scene, Options(iterations=3, calm_churn=0, calm_rms=0), rubbish).rounds) == 3


def test_attendance_moves_towards_what_was_seen() -> None:
    scene, truth = office(events=60, missed=0.4)
    attended = np.zeros(scene.heard.shape)
    attended[scene.events, truth] = 1
    labels = np.eye(7)[truth + 1]
    belief = attendance.update(scene, scene.heard, labels, Options())
    assert attendance.brier(belief, attended) < attendance.brier(scene.heard, attended)
    missed = (attended == 1) & (scene.heard == 0)
    assert belief[missed] == pytest.approx(0.1, abs=0.01)
    for _ in range(200):
        belief = attendance.update(scene, belief, np.eye(7)[np.zeros(len(truth), int)], Options())
    assert belief[scene.heard == 1].min() == pytest.approx(0.2)
    assert belief[scene.heard == 0].max() < 0.01


def test_events_without_faces_keep_their_attendance() -> None:
    scene, truth = office()
    heard = np.concatenate([scene.heard, np.ones((1, 6))])
    belief = attendance.update(changed(scene, heard=heard), heard, np.eye(7)[truth + 1], Options())
    assert (belief[-1] == 1).all()


def test_paper_update_is_equation_6() -> None:
    scene, truth = office()
    labels = np.eye(7)[truth + 1]
    options = Options(update="paper", gamma_up=0.05)
    mean = labels[scene.events == 3, 1:].mean(axis=0)
    want = scene.heard[3] - 0.05 * (scene.heard[3] - mean)
    assert attendance.update(scene, scene.heard, labels, options)[3] == pytest.approx(want)


@pytest.mark.parametrize(
    ("mode", "rule", "update"), [("paper", "squared", "paper"), ("code", "norm", "code"), ("prior", "squared", "ours")]
)
def test_the_papers_own_ways(mode: Any, rule: Any, update: Any) -> None:
    scene, truth = office()
    options = Options(mode, 0.02, rule=rule, update=update, complete=False, name_from=1e-9)
    found = associate(scene, options)
    named = found.named()
    assert (named[named >= 0] == truth[named >= 0]).mean() > 0.9
    voted = found.labels[:, 1:].sum(axis=1)
    assert np.all(np.isclose(voted, 1.0) | (voted == 0))
    assert voted.any()


# --- teaching and asking ----------------------------------------------------------------------------------------------


def test_the_sure_teach_first_and_no_day_teaches_too_much() -> None:
    labels = np.array([[0.15, 0.85, 0], [0.3, 0.7, 0], [0.4, 0, 0.6], [0.45, 0.55, 0]])
    days, quality = np.zeros(4, np.int64), np.ones(4)
    assert list(tell.admit(labels, days, 0, quality)) == [True, False, False, False]
    assert list(tell.admit(labels, days, 2, quality)) == [True, True, False, False]
    assert list(tell.admit(labels, days, 9, quality)) == [True, True, True, False]
    many = np.tile([[0.0, 1.0]], (50, 1))
    quality = np.linspace(0, 1, 50)
    admitted = tell.admit(many, np.repeat([0, 1], 25), 0, quality)
    assert admitted[:25].sum() == admitted[25:].sum() == 20
    assert admitted[5:25].all()


def test_at_most_three_questions_the_most_useful_first() -> None:
    scene, _ = office(persons=8, events=60, twins=4)
    found = associate(scene)
    assert len(found.groups) == 4
    assert len(found.questions) == 3
    worth = [q.worth for q in found.questions]
    assert worth == sorted(worth, reverse=True)
    assert all(q.tracklets for q in found.questions)


def test_swap_regret_is_the_cost_of_swapping() -> None:
    rng = np.random.default_rng(0)
    seen, heard = (rng.random((3, 20)) < 0.4).astype(float), (rng.random((20, 3)) < 0.4).astype(float)
    scene = Scene(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), heard)

    def cost(i: int, j: int) -> float:
        return float(((seen[i] - heard[:, j]) ** 2).sum())

    got = tell.swap_regret(seen, scene)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert got[i, j] == pytest.approx(cost(i, j) + cost(j, i) - cost(i, i) - cost(j, j))


def test_a_face_is_completed_unless_it_is_far_or_a_double() -> None:
    scene, truth = office(events=60)
    labels = np.eye(7)[truth + 1]
    labels[0] = np.eye(7)[0]
    alike = vote.measure(scene.vectors, labels)
    assert alike is not None
    centre = vote.centres(scene.vectors, labels[:, 1:])[truth[0]]
    across = np.random.default_rng(9).normal(size=DIM)
    across -= (across @ centre) * centre
    cosine = alike.radius - 0.1
    odd = scene.vectors.copy()
    odd[0] = cosine * centre + np.sqrt(1 - cosine**2) * across / np.linalg.norm(across)
    silent, loud = np.zeros((len(truth), 6)), np.zeros((len(truth), 6))
    silent[0], loud[0] = -30.0, 30.0
    for vectors, ratios, named in (
        (scene.vectors, np.zeros_like(loud), True),
        (odd, loud, False),  # just beyond the radius, whatever device was there
        (scene.vectors, silent, False),  # always came without it
    ):
        done = vote.complete(labels, ratios, changed(scene, vectors=vectors), Options())
        assert bool(done[0, 0] < 0.5) is named


def test_too_few_faces_measure_nothing() -> None:
    scene, truth = office(events=60)
    few: Optional[vote.Likeness] = vote.measure(scene.vectors[:5], np.eye(7)[truth[:5] + 1])
    assert few is None
    alike = vote.measure(scene.vectors, np.eye(7)[truth + 1])
    assert alike is not None
    assert alike.other < alike.radius < alike.own
