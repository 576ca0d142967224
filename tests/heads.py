"""Heads as a night makes them, for tests that need one which is surely not the installed one."""

from __future__ import annotations

from typing import Dict

import numpy as np

from edgecam.nn.convert.builder import Builder
from edgecam.nn.registry import ModelRegistry


def turned(registry: ModelRegistry) -> Dict[str, bytes]:
    """Return heads whose vectors are as good as the installed ones', but strangers to them: SFace's are rotated."""
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(128, 128)))[0].astype(np.float32)
    net = Builder()
    net.node("MatMul", ["features", net.constant("rotation", rotation)], "raw")
    net.node("LpNormalization", ["raw"], "embeddings", axis=1, p=2)
    model = net.model("turned", {"features": ("n", 128)}, {"embeddings": ("n", 128)})
    return {"facenet_head": registry.path("facenet_head").read_bytes(), "sface_head": model.SerializeToString()}
