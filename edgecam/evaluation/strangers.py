"""Make the statistics of strangers from a folder of public people: `python -m edgecam.evaluation.strangers`."""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecam import align, embed
from edgecam.capture.photo import read_photo
from edgecam.config import Config, EmbedConfig
from edgecam.detect import Detector
from edgecam.errors import InputError
from edgecam.identify import fit_strangers
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.pipeline.build import make_stages
from edgecam.types import FaceCrop, Floats, Image

_RUINED_PX = (6, 12)
"""Faces scaled down to so few pixels, then blurred and noised, are beyond recognition."""
_RUIN_EVERY = 8


@dataclass(frozen=True, eq=False)
class PublicFaces:
    """Trunk features of a folder of people."""

    people: Tuple[str, ...]
    """(N,) folder name of each row."""

    features: Floats
    """(N, K) float32."""

    ruined: Floats
    """(R, K) float32 of every few faces, degraded beyond recognition."""

    missed: Tuple[Path, ...]
    """Photos in which no face was found."""


def half_of(name: str) -> str:
    """Return `even` (calibration) or `odd` (test) for a person's name, by its sha256."""
    return "odd" if hashlib.sha256(name.encode()).digest()[-1] % 2 else "even"


def padded(image: Image, share: float) -> Image:
    """Return a tight crop with its border replicated by `share` of its height on every side."""
    pad = int(share * image.shape[0])
    out: Image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    return out


def largest_face(image: Image, detector: Detector) -> Optional[FaceCrop]:
    """Return the crop of the largest face, if any."""
    faces = detector(image)
    if not len(faces):
        return None
    i = int(np.argmax(faces.boxes[:, 2] * faces.boxes[:, 3]))
    return align.make_crop(image, faces.boxes[i], faces.landmarks[i])


def photos(data: Path, half: Optional[str]) -> Iterator[Tuple[str, Path]]:
    """Yield (person, photo) of a folder of one folder a person."""
    for folder in sorted(p for p in data.iterdir() if p.is_dir()):
        if half is None or half_of(folder.name) == half:
            yield from ((folder.name, path) for path in sorted(folder.iterdir()) if path.is_file())


def public_faces(
    data: Path, half: Optional[str], pad: float, detector: Detector, encoder: embed.Encoder
) -> PublicFaces:
    """Find and encode the largest face of every photo; progress goes to stderr."""
    rng = np.random.default_rng(0)
    people: List[str] = []
    rows: List[Floats] = []
    ruined: List[Floats] = []
    missed: List[Path] = []
    for count, (name, path) in enumerate(photos(data, half)):
        if count % 100 == 0:
            print(f"\r{count} photos", end="", file=sys.stderr, flush=True)
        try:
            crop = largest_face(padded(read_photo(path), pad), detector)
        except InputError:
            continue
        if crop is None:
            missed.append(path)
            continue
        people.append(name)
        rows.append(encoder.features([crop]))
        if len(rows) % _RUIN_EVERY == 0:
            ruined.append(encoder.features([_ruin(crop, rng)]))
    print(f"\r{len(rows)} faces, {len(missed)} photos without one", file=sys.stderr)
    return PublicFaces(tuple(people), np.concatenate(rows), np.concatenate(ruined), tuple(missed))


def _ruin(crop: FaceCrop, rng: np.random.Generator) -> FaceCrop:
    height, width = crop.image.shape[:2]
    small = int(rng.integers(*_RUINED_PX)) / float(crop.box[2])
    tiny = cv2.resize(crop.image, None, fx=small, fy=small, interpolation=cv2.INTER_AREA)
    noisy = np.clip(tiny + rng.normal(0, 20, tiny.shape), 0, 255).astype(np.uint8)
    back = cv2.GaussianBlur(cv2.resize(noisy, (width, height)), (0, 0), width / 60)
    return FaceCrop(back, crop.box, crop.landmarks, crop.scale)


def main() -> int:
    """Write the statistics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="one folder of photos a person")
    parser.add_argument("--half", choices=("even", "odd"), help="only people whose name's sha256 is even or odd")
    parser.add_argument("--pad", type=float, default=0.25, help="border replicated around tight crops")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--insightface", type=Path, help="an encoder of your own instead of FaceNet + SFace")
    args = parser.parse_args()
    own = args.insightface
    config = Config(embed=EmbedConfig(kind="insightface", insightface_model=own) if own else EmbedConfig(kind="fused"))
    detector, encoder = make_stages(config, ModelRegistry(default_folder()))
    faces = public_faces(args.data, args.half, args.pad, detector, encoder)
    width = faces.features.shape[1]
    split = 0 if own else embed.FaceNet.width
    ids: NDArray[np.int64] = np.unique(np.array(faces.people), return_inverse=True)[1]
    groups = {0: split, split: width} if split else {0: width}
    model = fit_strangers(faces.features, ids, faces.ruined, groups, rooted=split)
    model.save(args.out)
    print(f"{args.out}: {model.people} people, {model.photos} photos, rank {model.basis.shape[1]}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
