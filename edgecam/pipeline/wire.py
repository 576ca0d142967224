"""Arrays, pictures and faces as JSON values, and back: what passes through the control socket."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Dict, Mapping, Tuple

import cv2
import numpy as np

from edgecam.errors import ConfigError, ShapeError
from edgecam.types import Embeddings, FaceCrop, Floats, Image

Record = Dict[str, Any]

_MAX_CROP_PX = 256


def pack_array(values: Floats) -> str:
    """Return float32 values as base64 of their little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def floats_of(text: Any, what: str = "array", columns: int = 0) -> Floats:
    """Return the (N,) or, with `columns`, (N, columns) float32 array of `pack_array`'s text.

    Raises:
        ConfigError: not such a text, or not finite.
    """
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except (binascii.Error, TypeError, ValueError) as err:
        raise ConfigError(f"{what} is not base64 of float32 values") from err
    if not np.all(np.isfinite(values)):
        raise ConfigError(f"{what} has values that are not finite")
    return values.reshape(-1, columns) if columns else values


def pack_face_crop(crop: FaceCrop) -> Record:
    """Return a crop as JSON values; the picture is lossless."""
    return {
        "png": base64.b64encode(png_of(crop.image)).decode("ascii"),
        "box": crop.box.tolist(),
        "landmarks": crop.landmarks.tolist(),
        "scale": crop.scale,
    }


def png_of(image: Image) -> bytes:
    """Return a picture as PNG."""
    written, data = cv2.imencode(".png", image)
    if not written:
        raise ShapeError("a picture cannot be encoded as PNG")
    return bytes(data.tobytes())


def face_crop_of(item: Mapping[str, Any], what: str = "face") -> FaceCrop:
    """Return the crop of `pack_face_crop`'s values.

    Raises:
        ConfigError: not such values.
    """
    try:
        data = np.frombuffer(base64.b64decode(want(item, "png"), validate=True), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if image is None or max(image.shape[:2]) > _MAX_CROP_PX:
            raise ConfigError(f"{what}: png is not a picture of at most {_MAX_CROP_PX} pixels a side")
        box = np.array(want(item, "box"), np.float32)
        landmarks = np.array(want(item, "landmarks"), np.float32)
        scale = float(item.get("scale", 1.0))
        if not (np.all(np.isfinite(box)) and np.all(np.isfinite(landmarks)) and 0.0 < scale <= 1.0):
            raise ConfigError(f"{what}: box, landmarks or scale are not plausible")
        return FaceCrop(np.asarray(image, np.uint8), box, landmarks, scale)
    except (ShapeError, ValueError, TypeError, cv2.error) as err:
        raise ConfigError(f"{what}: not a face ({err})") from err


def enrolled_face_of(item: Any, what: str) -> Tuple[FaceCrop, Dict[str, Any], Dict[str, Tuple[Floats, Floats]]]:
    """Return crop, `add_face`'s other arguments and the vectors by model."""
    item = mapping_of(item, what)
    crop = face_crop_of(item, what)
    try:
        about = {
            "quality": float(item.get("quality", 0.0)),
            "yaw_deg": float(item.get("yaw_deg", 0.0)),
            "infrared": bool(item.get("infrared", False)),
            "source": str(item.get("source", "")),
        }
    except (TypeError, ValueError) as err:
        raise ConfigError(f"{what}: quality or yaw_deg is not a number") from err
    vectors = {}
    for row in item.get("vectors") or ():
        entry = mapping_of(row, f"{what}: vectors")
        model, vector = str(want(entry, "model")), floats_of(want(entry, "vector"), f"{what}: vector")
        features = floats_of(entry.get("features", ""), f"{what}: features")
        try:
            Embeddings(vector[None], features[None], model)
        except ShapeError as err:
            raise ConfigError(f"{what}: {err}") from err
        vectors[model] = (vector, features)
    return crop, about, vectors


def mapping_of(value: Any, what: str) -> Mapping[str, Any]:
    """Return the value if it is a JSON object; else raise ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} is not an object")
    return value


def want(item: Any, key: str) -> Any:
    """Return a required entry of a JSON object; else raise ConfigError."""
    if not isinstance(item, Mapping) or key not in item:
        raise ConfigError(f"{key} is missing")
    return item[key]


def jsonable(value: Any) -> Any:
    """Return arrays and bytes as base64, in nested values."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(part) for part in value]
    if isinstance(value, np.ndarray):
        return pack_array(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value
