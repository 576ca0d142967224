"""The pulled nets on real faces: what the synthetic self-test cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import cv2
import numpy as np
import pytest

from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.nn.session import Session

pytestmark = [pytest.mark.models, pytest.mark.data]

Array = np.ndarray[Any, Any]
PEOPLE, PICTURES = 6, 4


def session(name: str) -> Session:
    registry = ModelRegistry(default_folder())
    if not registry.available(name):
        pytest.skip(f"{name} is not in {default_folder()}; run: edgecam models pull")
    return Session.load(registry.path(name), threads=2)


@pytest.fixture(scope="module")
def faces(data_dir: Path) -> Tuple[Array, Array]:
    """Return (N,250,250,3) BGR pictures with the face in the middle, and (N,) people."""
    folder = data_dir / "lfw_colour_10x10"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    people = sorted(p for p in folder.iterdir() if p.is_dir())[:PEOPLE]
    files = [(i, f) for i, person in enumerate(people) for f in sorted(person.glob("*.jpg"))[:PICTURES]]
    pictures = [cv2.resize(cv2.imread(str(f), cv2.IMREAD_COLOR), (250, 250)) for _, f in files]
    return np.array(pictures), np.array([i for i, _ in files])


def blob(pictures: Array, side: int) -> Array:
    """Return the middle of the pictures as RGB planes, 0..255."""
    crops = [cv2.resize(p[55:195, 60:190], (side, side), interpolation=cv2.INTER_AREA) for p in pictures]
    return np.ascontiguousarray(np.array(crops)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32))


def facenet(trunk: str, pictures: Array) -> Array:
    features = session(trunk).run({"input": (blob(pictures, 160) - 127.5) / 128})[0]
    return session("facenet_head").run({"features": features})[0]


def separation(vectors: Array, people: Array) -> Tuple[float, float]:
    """Return the mean cosine of the same person and of different people."""
    cosines, same = vectors @ vectors.T, people[:, None] == people
    pairs = ~np.eye(len(people), dtype=bool)
    return float(cosines[same & pairs].mean()), float(cosines[~same].mean())


def test_int8_trunk_keeps_the_embedding(faces: Tuple[Array, Array]) -> None:
    pictures, _ = faces
    cosines = (facenet("facenet_trunk", pictures) * facenet("facenet_trunk_int8", pictures)).sum(1)
    print(f"cosine of int8 to fp32 over {len(cosines)} faces: min {cosines.min():.5f} median {np.median(cosines):.5f}")
    assert cosines.min() > 0.995
    assert np.median(cosines) > 0.998


@pytest.mark.parametrize("trunk", ["facenet_trunk", "facenet_trunk_int8"])
def test_facenet_tells_people_apart(faces: Tuple[Array, Array], trunk: str) -> None:
    pictures, people = faces
    same, different = separation(facenet(trunk, pictures), people)
    print(f"{trunk}: mean cosine same {same:.3f} different {different:.3f}")
    assert same > 0.6
    assert different < 0.25


def test_sface_tells_people_apart_even_unaligned(faces: Tuple[Array, Array]) -> None:
    pictures, people = faces
    vectors = session("sface").run({"input": blob(pictures, 112)})[0]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)
    same, different = separation(vectors, people)
    print(f"sface: mean cosine same {same:.3f} different {different:.3f}")
    assert same - different > 0.2


def test_onet_finds_eyes_above_the_mouth(faces: Tuple[Array, Array]) -> None:
    pictures, _ = faces
    outputs = session("mtcnn_onet").run_named({"input": (blob(pictures, 48) - 127.5) / 128})
    sure = outputs["prob"][:, 1] > 0.9
    assert sure.mean() > 0.9
    points = outputs["points"][sure].reshape(-1, 2, 5)
    assert np.all(points[:, 1, :2].mean(1) < points[:, 1, 3:].mean(1))
    assert np.all(points[:, 0, 0] < points[:, 0, 1])


def test_yunet_finds_the_face_in_the_middle(faces: Tuple[Array, Array]) -> None:
    """Best cell of stride 8, 16 or 32 lies on the face, which is in the middle."""
    pictures, _ = faces
    net = session("yunet")
    for picture in pictures[::PICTURES]:
        image = cv2.resize(picture, (256, 256))
        outputs = net.run_named({"input": image.transpose(2, 0, 1)[None].astype(np.float32)})
        best = max(
            (float(score.max()), stride, int(score.argmax()))
            for stride in (8, 16, 32)
            for score in [np.sqrt(outputs[f"cls_{stride}"] * outputs[f"obj_{stride}"])[0, :, 0]]
        )
        score, stride, cell = best
        x, y = (cell % (256 // stride) + 0.5) * stride, (cell // (256 // stride) + 0.5) * stride
        assert score > 0.8
        assert abs(x - 128) < 45
        assert abs(y - 128) < 45
