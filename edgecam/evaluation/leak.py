"""Can anybody be read from the statistics of strangers? `python -m edgecam.evaluation.leak`.

Every direction stored in `models/strangers.npz` is turned into face vectors and compared with the people whose photos
went in (even) and with people whose photos did not (odd). If the file remembered anybody, those who went in would be
nearer to its vectors, or likelier under its model, than those who did not: an AUC of 0.5 is no memory at all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import numpy as np

from edgecam.embed import Encoder
from edgecam.evaluation.choices import command
from edgecam.evaluation.faces import open_bench, photos_of, read_album
from edgecam.evaluation.strangers import half_of
from edgecam.identify import StrangerModel, load_strangers
from edgecam.identify.strangers import backward, forward
from edgecam.metrics import auc, bootstrap
from edgecam.nn.registry import models_dir
from edgecam.types import Floats

_STEPS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
"""Standard deviations walked along each stored direction."""


def faces_in(model: StrangerModel, encoder: Encoder) -> Floats:
    """Return (V, D) unit vectors of what the file holds: the mean, the ruin, and walks along its directions."""
    rows = [model.mean, model.unrecognisable]
    sd = np.sqrt(np.square(model.between).sum(axis=1) + np.square(model.within).sum(axis=1))
    for i in range(model.basis.shape[1]):
        rows += [model.mean + step * sd[i] * model.basis[:, i] for step in _STEPS]
    for factor in (model.between, model.within):
        rows += [model.mean + step * model.basis @ column for column in factor.T for step in _STEPS]
    rows += [model.mean + step * model.residual for step in _STEPS]
    return encoder.project(backward(np.stack(rows).astype(np.float32), model.scale, model.rooted))


def surprise(model: StrangerModel, features: Floats) -> Floats:
    """Return (N,) how unlikely faces are under the model: squared Mahalanobis distance in the basis and out of it."""
    rows = forward(features, model.scale, model.rooted) - model.mean
    inside = rows @ model.basis
    covariance = model.between @ model.between.T + model.within @ model.within.T
    near = np.einsum("nr,nr->n", inside, np.linalg.solve(covariance, inside.T).T)
    outside = rows - inside @ model.basis.T
    far = np.square(outside / np.maximum(model.residual, 1e-6)).sum(axis=1)
    return np.asarray(near + far, np.float32)


def rows(data: Path, pad: float, cache: Optional[Path]) -> Iterator[Dict[str, Any]]:
    """Yield what the file's vectors and its likelihood say about those who went in and those who did not."""
    bench, model = open_bench(), load_strangers(models_dir() / "strangers.npz")
    album = read_album(photos_of(data), bench, pad, cache)
    vectors, keys = album.vectors(bench, "fused"), faces_in(model, bench.encoder)
    people = [p for p, photos in album.by_person().items() if any(album.found[i] for i in photos)]
    photos = album.by_person()
    within = np.array([half_of(p) == "even" for p in people])
    unlikely = surprise(model, album.features)
    first = np.array([next(i for i in photos[p] if album.found[i]) for p in people])
    nearest = np.array([max((vectors[i] @ keys.T).max() for i in photos[p] if album.found[i]) for p in people])
    measured = {"nearest_vector": (vectors[first] @ keys.T).max(axis=1), "likelihood": -unlikely[first]}
    numbers = sum(np.asarray(getattr(model, n)).size for n in ("mean", "basis", "between", "within", "residual"))
    yield {
        "numbers_in_file": int(numbers),
        "numbers_that_went_in": model.photos * len(model.mean),
        "people": model.people,
        "vectors": len(keys),
        "highest_cosine_went_in": round(float(nearest[within].max()), 4),
        "highest_cosine_did_not": round(float(nearest[~within].max()), 4),
    }
    for name, values in measured.items():
        interval = bootstrap(len(people), lambda w, v=values: _auc(v, within, w), 100)  # type: ignore[misc]
        ci95 = None if interval is None else [round(v, 4) for v in interval]
        yield {"attack": name, "membership_auc": round(auc(values[within], values[~within]), 4), "ci95": ci95}


def _auc(values: Floats, within: Any, w: Any) -> float:
    copies = np.repeat(np.arange(len(values)), w.astype(int))
    return auc(values[copies][within[copies]], values[copies][~within[copies]])


if __name__ == "__main__":
    sys.exit(command(__doc__, "the folder the statistics were made from", rows))
