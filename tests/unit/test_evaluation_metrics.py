"""Rates, ROC and intervals against values worked out by hand or by another library."""

from __future__ import annotations

import numpy as np
import pytest

from edgecam.metrics import auc, bootstrap, fold_accuracy, share, threshold_at


@pytest.mark.parametrize(
    ("rate", "passed"),
    [pytest.param(0.0, 0, id="none"), pytest.param(0.1, 1, id="one-of-ten"), pytest.param(0.25, 2, id="rounded-down")],
)
def test_at_most_the_rate_of_impostors_pass(rate: float, passed: int) -> None:
    impostor = np.arange(10) / 10
    assert np.sum(impostor > threshold_at(impostor, rate)) == passed


def test_ties_never_exceed_the_rate() -> None:
    impostor = np.array([0.5] * 5 + [0.1] * 5)
    assert np.mean(impostor > threshold_at(impostor, 0.3)) <= 0.3


def test_weights_count_like_copies() -> None:
    rng = np.random.default_rng(0)
    impostor, copies = rng.normal(size=50), rng.integers(0, 4, 50)
    assert threshold_at(impostor, 0.1, copies.astype(float)) == threshold_at(np.repeat(impostor, copies), 0.1)


def test_auc_agrees_with_sklearn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    genuine, impostor = rng.normal(1, 1, 80).round(1), rng.normal(0, 1, 120).round(1)
    truth = np.concatenate([np.ones(80), np.zeros(120)])
    assert auc(genuine, impostor) == pytest.approx(roc_auc_score(truth, np.concatenate([genuine, impostor])))


def test_folds_are_judged_at_the_others_threshold() -> None:
    scores = np.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.95])
    same = np.array([True, False, True, False, True, False])
    folds = np.array([0, 0, 1, 1, 2, 2])
    assert fold_accuracy(scores, same, folds)[2] == 0.0  # the last fold is upside down
    assert fold_accuracy(scores[:4], same[:4], folds[:4]).tolist() == [1.0, 1.0]


def test_interval_holds_the_value_and_narrows_with_people() -> None:
    rng = np.random.default_rng(2)

    def width(people: int) -> float:
        hits = rng.random(people) < 0.3
        interval = bootstrap(people, lambda w: share(hits, w))
        assert interval is not None
        assert interval[0] <= hits.mean() <= interval[1]
        return interval[1] - interval[0]

    assert width(1000) < width(50) / 2


def test_an_interval_of_nothing_is_none() -> None:
    assert bootstrap(3, lambda w: share(np.zeros(3, bool), w * 0)) is None
