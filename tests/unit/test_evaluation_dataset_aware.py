"""Several datasets: who is in which, what is known to be apart, what the losses do there, and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecam.__main__ import main
from edgecam.embed.sface import unit
from edgecam.evaluation import dataset_aware as aware
from edgecam.evaluation.dataset_aware import METHODS, Cell, Pool, Tuning, classes_of, draw, tune
from edgecam.evaluation.head import Head

PEOPLE, PHOTOS, LOOKS, WIDTH = 16, 6, 2, 64
SHORT = Tuning(steps=60, rate=1e-2)


def pool(datasets: int = 2) -> Pool:
    """Return features that show the person and, about as strongly, the dataset."""
    rng = np.random.default_rng(0)
    rows = np.arange(PEOPLE * PHOTOS * datasets * LOOKS).reshape(PEOPLE, PHOTOS, datasets, LOOKS)
    features = rng.normal(0, 0.15, (rows.size, WIDTH))
    for who in range(PEOPLE):
        features[rows[who].reshape(-1), who] += 1.0
    for k in range(datasets):
        features[rows[:, :, k].reshape(-1), 40 + k] += 0.7
    return Pool(features.astype(np.float32), tuple(rows))


def start() -> Head:
    return Head(np.eye(WIDTH, dtype=np.float32), np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32))


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("datasets", [2, 3])
def test_the_overlap_is_in_every_dataset_from_other_photos(overlap: float, datasets: int) -> None:
    bed = pool(datasets)
    drawn = draw(bed, overlap, datasets, 0)
    assert len(drawn.unseen) == 4
    assert not set(drawn.unseen) & set(drawn.person)
    in_each = {who: set(drawn.dataset[drawn.person == who]) for who in set(drawn.person.tolist())}
    assert sum(len(own) == datasets for own in in_each.values()) == round(overlap * 12)
    assert all(len(own) in (1, datasets) for own in in_each.values())
    assert {who for who, own in in_each.items() if len(own) > 1} == set(drawn.shared)
    assert len(drawn.confirmed) == round(len(drawn.shared) / 2)
    assert set(drawn.confirmed) <= set(drawn.shared)
    assert drawn.share == overlap
    assert set(drawn.dataset) == set(range(datasets))
    photo = drawn.rows // (datasets * LOOKS)
    for who, own in in_each.items():
        shown = [p for k in own for p in set(photo[(drawn.person == who) & (drawn.dataset == k)])]
        assert len(set(shown)) == len(shown)
        assert all(p // PHOTOS == who for p in shown)


def test_labels_are_of_a_dataset_merged_where_confirmed_or_true() -> None:
    drawn = draw(pool(), 0.5, 2, 0)
    split, merged, true = (classes_of(drawn, labels) for labels in ("dataset", "merged", "true"))
    assert (len(split.dataset), len(merged.dataset), len(true.dataset)) == (18, 15, 12)
    both = np.stack([drawn.person, drawn.dataset])
    assert len(np.unique(np.concatenate([both, split.label[None]]), axis=1).T) == 18
    for who in drawn.confirmed:
        assert len(set(merged.label[drawn.person == who])) == 1
    for who in set(drawn.shared) - set(drawn.confirmed):
        assert len(set(merged.label[drawn.person == who])) == 2
    assert np.array_equal(split.dataset[split.label], drawn.dataset)


def test_two_are_known_apart_only_if_one_dataset_has_both() -> None:
    drawn = draw(pool(), 0.5, 2, 0)
    for labels in ("dataset", "merged"):
        classes = classes_of(drawn, labels)
        for a in range(len(classes.dataset)):
            for b in range(len(classes.dataset)):
                mine, yours = (set(drawn.dataset[classes.label == c]) for c in (a, b))
                assert classes.apart[a, b] == (a != b and bool(mine & yours))
                if classes.apart[a, b]:  # and never one person
                    assert not set(drawn.person[classes.label == a]) & set(drawn.person[classes.label == b])


def test_naive_tears_apart_who_is_in_both_and_the_mask_does_not() -> None:
    bed = pool()
    drawn = draw(bed, 1.0, 2, 0)
    features = bed.features[drawn.rows]

    def centre(name: str) -> float:
        head = tune(start(), features, drawn, METHODS[name], 0, SHORT)
        found = aware._apart(head.project(features), drawn)
        assert found is not None
        return found

    naive, da, merge, oracle = map(centre, ("naive", "da", "merge", "oracle"))
    assert da > naive + 0.05
    assert merge > naive + 0.05
    assert oracle > max(da, merge)


def test_reversal_hides_the_dataset_in_the_second_stage() -> None:
    bed = pool()
    drawn = draw(bed, 1.0, 2, 0)
    features = bed.features[drawn.rows]
    plain, hidden, off = (
        aware.judged(bed, drawn, tune(start(), features, drawn, METHODS[name], 0, tuning), 2, 0)
        for name, tuning in (
            ("da", SHORT),
            ("da+grl", replace(SHORT, reversal=0.3)),
            ("da+grl", replace(SHORT, reversal=0.0)),
        )
    )
    assert hidden.probe < plain.probe
    assert plain.centre is not None
    assert hidden.centre is not None
    assert hidden.centre > plain.centre + 0.005
    assert off.probe == plain.probe


def test_nothing_is_reversed_below_the_shared_minimum() -> None:
    bed = pool()
    drawn = draw(bed, 0.25, 2, 0)
    features = bed.features[drawn.rows]
    da, grl = (tune(start(), features, drawn, METHODS[name], 0, SHORT) for name in ("da", "da+grl"))
    assert np.allclose(da.weight, grl.weight)


def test_the_papers_chance_drops_nothing_here_and_two_negatives_do() -> None:
    bed = pool()
    drawn = draw(bed, 1.0, 2, 0)
    features = bed.features[drawn.rows]
    short = replace(SHORT, steps=9)
    grl, hardly, two = (
        tune(start(), features, drawn, METHODS[name], 0, short).weight
        for name in ("da+grl", "da+grl+cd1e-4", "da+grl+cd2")
    )
    assert np.abs(two - grl).max() > 10 * np.abs(hardly - grl).max()


def test_one_dataset_alone_is_trained_on_it_alone() -> None:
    drawn = draw(pool(), 0.5, 2, 0)
    rng = np.random.default_rng(0)
    for name, wanted in (("a-only", {0}), ("b-only", {1}), ("naive", {0, 1})):
        batches = list(aware._batches(drawn, METHODS[name], rng, replace(SHORT, steps=3)))
        assert all(set(drawn.dataset[batch]) == wanted for batch in batches)
        assert all(len(batch) == 64 for batch in batches)
        assert set(np.bincount(drawn.dataset[batches[0]])) - {0} == {64 // len(wanted)}


@pytest.mark.parametrize("kind", aware.MARGINS)
def test_every_margin_trains(kind: aware.Kind) -> None:
    bed = pool()
    drawn = draw(bed, 0.5, 2, 0)
    features = bed.features[drawn.rows]
    head = tune(start(), features, drawn, METHODS["da"], 0, replace(SHORT, kind=kind, steps=30))
    centres = unit(aware._centres(head.project(features), drawn.person, PEOPLE))
    before = unit(aware._centres(start().project(features), drawn.person, PEOPLE))

    def right(vectors: Any, centres: Any) -> float:
        cosines = vectors @ centres.T
        return float(cosines[np.arange(len(drawn.person)), drawn.person].mean() - np.sort(cosines)[:, -2].mean())

    assert right(head.project(features), centres) > right(start().project(features), before)


def test_pairs_are_of_different_photos_and_half_of_one_person() -> None:
    person, photo = np.repeat(np.arange(5), 8), np.tile(np.repeat(np.arange(4), 2), 5)
    pairs = aware._pairs(person, photo, np.ones((40, 40), bool), np.random.default_rng(0))
    same = person[pairs[:, 0]] == person[pairs[:, 1]]
    assert same.mean() == 0.5
    assert (photo[pairs[same, 0]] != photo[pairs[same, 1]]).all()
    assert same.sum() == 5 * (28 - 4)


def test_the_interval_lies_around_the_mean() -> None:
    rng = np.random.default_rng(0)
    who = rng.integers(0, 12, (4000, 2))
    who[:2000, 1] = who[:2000, 0]
    right = rng.random(4000) < np.where(np.arange(4000) < 2000, 0.5, 0.9)  # worse where it is one person
    outcome = aware.Outcome((0.0,), 0.0, 0.0, 0.0, None, right, who)
    low, high = aware._interval([outcome]) or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(right.mean(), abs=0.02)
    assert 0.005 < high - low < 0.1


def test_the_probe_tells_datasets_that_show_and_guesses_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    person, dataset = np.repeat(np.arange(6), 40), np.tile([0, 1], 120)
    vectors = rng.normal(0, 1, (240, 5)).astype(np.float32)
    assert aware._probe(vectors, person, dataset) == pytest.approx(0.5, abs=0.1)
    assert aware._probe(vectors + 6 * dataset[:, None].astype(np.float32), person, dataset) > 0.97


def test_the_grid() -> None:
    quick, full = (list(aware.cells(aware.Plan(Path("x"), full))) for full in (False, True))
    assert [cell.overlap for cell in quick] == [0.0, 0.5, 1.0]
    assert set(quick) <= set(full)
    assert {cell.kind for cell in full} == set(aware.MARGINS)
    assert {cell.datasets for cell in full} == {2, 3}
    assert all(m.against in {*METHODS, "frozen"} for m in METHODS.values())


@pytest.mark.data
@pytest.mark.models
def test_a_few_real_people(
    data_dir: Path, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    folder = tmp_path / "people"
    for n in range(1, 8):
        shutil.copytree(data_dir / "orl_faces" / f"s{n}", folder / f"s{n}")
        for photo in sorted((folder / f"s{n}").iterdir())[4:]:
            photo.unlink()
    monkeypatch.setattr(aware, "Tuning", partial(Tuning, steps=100))
    monkeypatch.setattr(aware, "cells", lambda plan: iter([Cell(0.5, methods=("merge", "naive", "da"))]))
    assert main(["eval", "dataset-aware", "--data", str(folder), "--seeds", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert "7 people instead of the protocol's 40: 2 are kept for judging" in err
    assert [row["method"] for row in rows] == ["frozen", "merge", "naive", "da"]
    for row in rows:
        assert list(row)[:5] == ["method", "overlap", "within", "cross", "probe"]
        assert 0.5 < row["cross"] <= 1
        assert row["ci95"][0] <= row["cross"] <= row["ci95"][1]
    assert rows[3]["against"] == "naive"
    assert rows[3]["gain"] == pytest.approx(rows[3]["cross"] - rows[2]["cross"], abs=1e-3)
    assert rows[3]["centre"] > rows[2]["centre"]


def test_no_seeds_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "dataset-aware", "--data", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds 0" in capsys.readouterr().err
