"""A user's own recogniser through insightface's model zoo (`make insightface`).

The file must keep the ArcFace contract: one 112x112 picture in, 512 numbers
out. insightface decides the normalisation from the file, as its packs expect.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgecam.errors import ModelError
from edgecam.nn.session import ort_providers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIDE_PX: Final = 112
DIM: Final = 512
_MIN_NORM: Final = 1e-6
_VERSION_DIGITS: Final = 10


class InsightFaceModel:
    """A recogniser of the insightface zoo.

    Args:
        path: an ONNX file; a pack's recogniser is the one called `w600k_*.onnx` or `glintr100.onnx`.
        providers: `tensorrt`, `cuda`, `cpu` in order of preference.

    Raises:
        ModelError: insightface is not installed, or the file does not keep the contract.
    """

    def __init__(self, path: Path, providers: Sequence[str] = ("cpu",)) -> None:
        if not path.is_file():
            raise ModelError(f"{path}: no such file; embed.insightface_model must name an ArcFace-style ONNX file")
        try:
            from insightface import model_zoo
        except ImportError as err:
            raise ModelError(f"insightface is not installed ({err}): run: make insightface") from err
        try:
            model = model_zoo.get_model(str(path), providers=ort_providers(providers))
        except Exception as err:  # it raises whatever onnx and onnxruntime do, and assertions
            reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
            raise ModelError(f"{path}: insightface cannot load it: {reason}") from err
        task = getattr(model, "taskname", None)
        if task != "recognition":
            raise ModelError(f"{path}: insightface takes it for {task or 'nothing it knows'}, not for a recogniser")
        if tuple(model.input_size) != (SIDE_PX, SIDE_PX):
            raise ModelError(f"{path}: wants {model.input_size} pictures, not {SIDE_PX}x{SIDE_PX}")
        self._model: Any = model
        self.version = f"insightface-{hashlib.sha256(path.read_bytes()).hexdigest()[:_VERSION_DIGITS]}"
        """Stable id of what the net computes."""
        probe = self.embed(np.zeros((1, SIDE_PX, SIDE_PX, 3), np.uint8), path=path)
        if probe.shape != (1, DIM):
            raise ModelError(f"{path}: gives {probe.shape[1]} numbers a face, not {DIM}")

    def embed(self, crops: NDArray[np.uint8], *, path: Path | None = None) -> NDArray[np.float32]:
        """Return (N,512) vectors of length 1.

        Args:
            crops: (N,112,112,3) BGR, aligned to the ArcFace template; N may be 0.
            path: named in errors.

        Raises:
            ModelError: the net failed or gave something that is no number.
        """
        if not len(crops):
            return np.empty((0, DIM), np.float32)
        try:
            # One by one: many packs' files have a fixed batch of one.
            rows = [self._model.get_feat(np.ascontiguousarray(crop)).reshape(1, -1) for crop in crops]
        except Exception as err:  # onnxruntime's classes differ between versions
            raise ModelError(f"{path or 'insightface'}: inference failed: {str(err).strip().splitlines()[0]}") from err
        vectors = np.concatenate(rows).astype(np.float32)
        if not np.all(np.isfinite(vectors)):
            raise ModelError(f"{path or 'insightface'}: the net gives numbers that are not finite")
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (vectors / np.maximum(norms, _MIN_NORM)).astype(np.float32)
        return unit
