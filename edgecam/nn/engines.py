"""Build TensorRT's engines ahead of the first start, which they would delay by minutes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from edgecam.errors import ModelError
from edgecam.nn.session import Session, engine_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgecam.nn.registry import ModelRegistry

_NETS: Final = (
    "facenet_trunk",
    "facenet_head",
    "sface",
    "mtcnn_rnet",
    "mtcnn_onet",
    "minifasnet_v2",
    "minifasnet_v1se",
)
"""8-bit files stay on the CPU; P-Net and YuNet change size with the frame and stay on CUDA."""


def build(registry: ModelRegistry, progress: Callable[[str], None]) -> dict[str, float]:
    """Return the seconds that each net's engine took.

    Raises:
        ModelError: TensorRT is not here, or computes something else than the CPU.
    """
    seconds = {}
    for name in _NETS:
        if not registry.available(name):
            continue
        progress(f"{name}: building the TensorRT engine (minutes)")
        start = time.monotonic()
        folder = engine_folder(registry.folder, registry.version(name))
        session = Session.load(registry.path(name), ("tensorrt",), cache_dir=folder)
        if session.provider != "tensorrt":
            raise ModelError("TensorRT cannot be used here (see the warning above): no engine was built")
        seconds[name] = time.monotonic() - start
    return seconds
