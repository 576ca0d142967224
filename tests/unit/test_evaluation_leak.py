"""Nobody can be read from the statistics of strangers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import pytest

from edgecam.evaluation.faces import open_bench, read_album
from edgecam.evaluation.leak import faces_in, surprise
from edgecam.evaluation.strangers import half_of
from edgecam.identify import fit_strangers, load_strangers

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "models/strangers.npz"


def test_the_file_is_far_too_small_to_hold_the_people() -> None:
    model = load_strangers(FILE)
    assert model.people >= 1000
    assert model.basis.shape[1] < model.people / 20
    assert np.allclose(model.basis.T @ model.basis, np.eye(model.basis.shape[1]), atol=0.02)
    with np.load(FILE) as data:
        width = len(model.mean)
        assert all(a.shape in ((), (width,), (width, 64), (64, 64)) for a in (data[k] for k in data.files))
        assert sum(data[k].size for k in data.files) < model.photos * width / 30


def test_the_card_says_what_the_file_is() -> None:
    text, model = (ROOT / "models/strangers.md").read_text(encoding="utf-8"), load_strangers(FILE)
    said = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", text)]
    assert {model.people, model.photos, len(model.mean), int(model.dof)} <= set(said)


def test_a_person_who_is_remembered_would_be_found() -> None:
    """The attack itself works: of three people with as many directions as photos nothing is lost."""
    rng = np.random.default_rng(0)
    rows = rng.gamma(2.0, 1.0, (6, 40)).astype(np.float32)
    owner = np.repeat([0, 1, 2], 2)
    model = fit_strangers(rows, owner, rows[:1], {0: 40}, rooted=40, rank=5)
    others = rng.gamma(2.0, 1.0, (6, 40)).astype(np.float32)
    assert surprise(model, rows).max() < surprise(model, others).min()


@pytest.mark.data
@pytest.mark.models
def test_the_files_vectors_are_nobodys_face(data_dir: Path, models_dir: Path) -> None:
    photos: Dict[str, List[Tuple[str, Path]]] = {"even": [], "odd": []}
    for folder in sorted((data_dir / "lfw_gray").iterdir()):
        part = photos[half_of(folder.name)] if folder.is_dir() else []
        if folder.is_dir() and len(part) < 25:
            part.append((folder.name, min(folder.iterdir())))
    bench = open_bench()
    keys = faces_in(load_strangers(FILE), bench.encoder)
    nearest = {
        half: (read_album(chosen, bench, 0.25).vectors(bench, "fused") @ keys.T).max(axis=1)
        for half, chosen in photos.items()
    }
    # Two photos of one person have 0.7 and more; those who went in are no nearer than those who did not.
    assert nearest["even"].max() < 0.65
    assert nearest["even"].max() < nearest["odd"].max() + 0.1
