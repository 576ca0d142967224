"""Foreign weights -> ONNX files (opset 13, IR 8) with numpy and onnx alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from edgecam.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

FULL_BITS: Final = 8
REDUCED_BITS: Final = 7
"""For x86 processors whose 8-bit products saturate."""


def convert(key: str, data: bytes, ranges: Path | None, weight_bits: int = FULL_BITS) -> bytes:
    """Return the installed form of an original weight file.

    Args:
        key: `convert` of the manifest row.
        data: the original file, verified by the caller.
        ranges: activation ranges for the `_int8` keys.
        weight_bits: of the `_int8` keys.

    Raises:
        ModelError: the file is not what the converter expects, or the key is unknown.
    """
    # onnx takes a third of a second to import, which a plain `edgecam` must not pay.
    from edgecam.nn.convert import facenet, minifasnet, mtcnn, opencv_zoo, quantise

    builders = {
        "facenet_trunk": facenet.trunk,
        "facenet_head": facenet.head,
        "mtcnn_pnet": mtcnn.pnet,
        "mtcnn_rnet": mtcnn.rnet,
        "mtcnn_onet": mtcnn.onet,
        "minifasnet": minifasnet.net,
        "yunet": opencv_zoo.yunet,
        "sface": opencv_zoo.sface,
    }
    if key == "none":
        return data
    base, _, form = key.partition("+")
    if base not in builders or form not in ("", "int8", "fp16"):
        raise ModelError(f"unknown converter {key!r}: the manifest is newer than this edgecam")
    model = builders[base](data)
    if form == "int8":
        model = quantise.quantise(model, _spans(ranges), weight_bits)
    elif form == "fp16":
        model = quantise.half_precision(model)
    return bytes(model.SerializeToString())


def is_quantised(key: str) -> bool:
    """Return whether the key makes an 8-bit net."""
    return key.endswith("+int8")


def _spans(path: Path | None) -> dict[str, tuple[float, float]]:
    if path is None:
        raise ModelError("an 8-bit net needs activation ranges")
    try:
        spans = json.loads(path.read_text(encoding="utf-8"))
        return {name: (float(low), float(high)) for name, (low, high) in spans.items()}
    except (OSError, ValueError, TypeError, AttributeError) as err:
        raise ModelError(f"{path}: not activation ranges: {err}") from err
