"""How two constants were chosen, on the calibration half alone: `python -m edgecam.evaluation.choices`.

The even people are halved once more. Statistics of strangers are fitted on one part and judged on the other, both ways:
the share of FaceNet in the fused score by what it identifies, and the tail factor by how much higher real strangers
reach than drawn ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.embed import FaceNet
from edgecam.embed.fused import Fused
from edgecam.evaluation.faces import Album, Bench, open_bench, photos_of, read_album
from edgecam.evaluation.lfw import Home, homes_of
from edgecam.evaluation.strangers import half_of
from edgecam.identify import fit_strangers
from edgecam.metrics import threshold_at
from edgecam.types import Floats

Rows = Callable[[Path, float, Optional[Path]], Iterator[Dict[str, Any]]]

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
RATES = (0.01, 0.003, 0.001)
_DRAWS, _CHUNK = 8000, 1000
_HOUSEHOLDS = 60
_TAIL_SHARE = 0.2
"""The tail is judged at the share that was chosen."""


def quarter_of(name: str) -> int:
    """Return 0 or 1: which part of its half a person belongs to."""
    return hashlib.sha256(name.encode()).digest()[-2] % 2


def rows(data: Path, pad: float, cache: Optional[Path]) -> Iterator[Dict[str, Any]]:
    """Yield TPIR by share and enrolled photos, and what tail factor would have been right."""
    bench = open_bench()
    photos = [p for p in photos_of(data) if half_of(p[0]) == "even"]
    album = read_album(photos, bench, pad, cache)
    for share in SHARES:
        fused = Fused(bench.kinds["facenet"], bench.kinds["sface"], FaceNet.width, share)
        vectors = _project(fused, album)
        for enroll in (10, 3, 1):
            found = [_tpir(album, vectors, _homes(album, part), enroll) for part in (0, 1)]
            for n, rate in enumerate(RATES):
                values = [round(float(f[n]), 4) for f in found]
                yield {"facenet_share": share, "enroll": enroll, "fpir": rate, "tpir": values}
    yield from _tails(album, bench)


def _project(encoder: Fused, album: Album) -> Floats:
    out: Floats = np.zeros((len(album.people), encoder.dim), np.float32)
    for start in range(0, len(out), _CHUNK):
        out[start : start + _CHUNK] = encoder.project(album.features[start : start + _CHUNK])
    return out


def _homes(album: Album, part: int) -> List[Home]:
    return homes_of(album, {p for p in album.people if quarter_of(p) == part}, _HOUSEHOLDS, part)[0]


def _prototypes(vectors: Floats, good: NDArray[np.bool_], home: Home, enroll: int) -> Floats:
    means = np.stack([vectors[[i for i in photos if good[i]][:enroll]].mean(axis=0) for photos in home.enrol])
    result: Floats = means / np.linalg.norm(means, axis=1, keepdims=True)
    return result


def _tpir(album: Album, vectors: Floats, homes: List[Home], enroll: int) -> List[float]:
    """Return the TPIR at each of RATES of plain prototypes: the share is to be judged, not the calibration."""
    mate: List[Floats] = []
    met: List[Floats] = []
    for home in homes:
        prototypes = _prototypes(vectors, album.good, home, enroll)
        probes, owner = (np.array(column) for column in zip(*home.probes))
        cosines = vectors[probes] @ prototypes.T
        mate.append(np.where(cosines.argmax(axis=1) == owner, cosines.max(axis=1), -1.0))
        met.append((vectors[list(home.strangers)] @ prototypes.T).max(axis=1))
    scores, strangers = np.concatenate(mate), np.concatenate(met)
    return [float(np.mean(scores > threshold_at(strangers, rate))) for rate in RATES]


def _tails(album: Album, bench: Bench) -> Iterator[Dict[str, Any]]:
    encoder = Fused(bench.kinds["facenet"], bench.kinds["sface"], FaceNet.width, _TAIL_SHARE)
    vectors = _project(encoder, album)
    part = np.array([quarter_of(p) for p in album.people])
    ids = np.unique(np.array(album.people), return_inverse=True)[1]
    groups = {0: FaceNet.width, FaceNet.width: album.features.shape[1]}
    for fitted in (0, 1):
        keep = (part == fitted) & album.found
        model = fit_strangers(album.features[keep], ids[keep], album.features[keep][:8], groups, rooted=FaceNet.width)
        drawn = [encoder.project(model.draw(_CHUNK, seed)) for seed in range(_DRAWS // _CHUNK)]
        for enroll in (10, 3, 1):
            reached = _reached(album, vectors, np.concatenate(drawn), _homes(album, 1 - fitted), enroll)
            for rate, (virtual, real) in zip(RATES, reached):
                numbers = {
                    "virtual": round(virtual, 3),
                    "real": round(real, 3),
                    "tail_factor": round(real / virtual, 3),
                }
                yield {"fitted_on": fitted, "enroll": enroll, "fpir": rate, **numbers}


def _reached(album: Album, vectors: Floats, drawn: Floats, homes: List[Home], enroll: int) -> List[Tuple[float, float]]:
    """Return the standardised scores that drawn and real strangers exceed at each of RATES."""
    virtual: List[List[float]] = []
    met: List[Floats] = []
    for home in homes:
        prototypes = _prototypes(vectors, album.good, home, enroll)
        cosines = drawn @ prototypes.T
        mean, sd = cosines.mean(axis=0), cosines.std(axis=0)
        highest = ((cosines - mean) / sd).max(axis=1)
        virtual.append([threshold_at(highest, rate) for rate in RATES])
        strangers = [i for i in home.strangers if album.good[i]]
        met.append(((vectors[strangers] @ prototypes.T - mean) / sd).max(axis=1))
    real = np.concatenate(met)
    expected = np.array(virtual).mean(axis=0)
    return [(float(v), threshold_at(real, rate)) for v, rate in zip(expected, RATES)]


def command(about: Optional[str], data: str, rows: Rows) -> int:
    """Print one JSON object a line: the command line of `choices` and `leak`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, required=True, help=data)
    parser.add_argument("--pad", type=float, default=0.25, help="border replicated around tight crops")
    parser.add_argument("--cache", type=Path, help="an .npz for the faces' features")
    args = parser.parse_args()
    for row in rows(args.data, args.pad, args.cache):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(command(__doc__, "one folder of photos a person", rows))
