"""FaceNet (Inception-ResNet v1, CASIA-WebFace, 20180408-102900) from its frozen graph.

Split in two: the trunk ends in the pooled `features`, the head is the last
dense layer with its batch norm, which is what tuning replaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgecam.errors import ModelError
from edgecam.nn.convert import graphdef
from edgecam.nn.convert.builder import Builder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgecam.nn.convert.graphdef import Node

FEATURES: Final = 1792
SIDE_PX: Final = 160
_ROOT: Final = "InceptionResnetV1"
_POOL: Final = f"{_ROOT}/Logits/AvgPool_1a_8x8/AvgPool"


def trunk(data: bytes) -> ModelProto:
    """Return `input` (N,3,160,160) RGB, (x-127.5)/128 -> `features` (N,1792)."""
    nodes = graphdef.load(data)
    return _Trunk(nodes).build()


def head(data: bytes) -> ModelProto:
    """Return `features` (N,1792) -> `embeddings` (N,512), each of length 1.

    Initialisers for tuning: `bottleneck.weight` (512,1792) and
    `bottleneck_bn.{gamma,beta,mean,var}` (512,).
    """
    nodes = graphdef.load(data)
    dense = f"{_ROOT}/Bottleneck"
    norm = nodes[f"{dense}/BatchNorm/cond/FusedBatchNorm_1"]
    build = Builder()
    weight = build.constant("bottleneck.weight", _const(nodes, f"{dense}/weights").T)
    build.node("Gemm", ["features", weight], "bottleneck", transB=1)
    stats = [
        build.constant(f"bottleneck_bn.{name}", _const(nodes, source))
        for name, source in zip(("gamma", "beta", "mean", "var"), norm.inputs[1:])
    ]
    epsilon = norm.attrs["epsilon"]
    build.node("BatchNormalization", ["bottleneck", *stats], "normed", epsilon=epsilon)
    build.node("LpNormalization", ["normed"], "embeddings", axis=1, p=2)
    return build.model("facenet_head", {"features": ["N", FEATURES]}, {"embeddings": ["N", weight_rows(nodes)]})


def weight_rows(nodes: dict[str, Node]) -> int:
    """Return the length of an embedding."""
    return int(_const(nodes, f"{_ROOT}/Bottleneck/weights").shape[1])


class _Trunk:
    """Translates the nodes from `input` to the average pool, in order."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self._nodes = nodes
        self._build = Builder()
        self._pending: dict[str, tuple[str, NDArray[Any], dict[str, Any]]] = {}
        """Conv2D nodes that wait for their bias: source, OIHW weight, attributes."""
        self._names: dict[str, str] = {"input": "input"}
        self._scale = {
            node.inputs[1]: float(_const(nodes, node.inputs[0]))
            for node in nodes.values()
            if node.op == "Mul" and node.inputs[0] in nodes and nodes[node.inputs[0]].op == "Const"
        }
        """BiasAdd name -> residual scale, folded into that convolution."""

    def build(self) -> ModelProto:
        for node in self._nodes.values():
            if node.op in ("Const", "Placeholder") or not self._feeds_pool(node):
                continue
            self._translate(node)
        self._build.node("GlobalAveragePool", [self._names[_POOL]], "pooled")
        self._build.node("Flatten", ["pooled"], "features", axis=1)
        shape: list[int | str] = ["N", 3, SIDE_PX, SIDE_PX]
        return self._build.model("facenet_trunk", {"input": shape}, {"features": ["N", FEATURES]})

    def _feeds_pool(self, node: Node) -> bool:
        return not node.name.startswith(("embeddings", f"{_ROOT}/Bottleneck", f"{_ROOT}/Logits/F"))

    def _translate(self, node: Node) -> None:
        sources = [self._names[s] for s in node.inputs if s in self._names]
        name = node.name
        if node.op == "Conv2D":
            weight = np.transpose(_const(self._nodes, node.inputs[1]), (3, 2, 0, 1))
            self._pending[name] = (sources[0], weight, _window(node, weight.shape[2:]))
        elif node.op == "BiasAdd":
            source, weight, attrs = self._pending.pop(node.inputs[0])
            scale = np.float32(self._scale.get(name, 1.0))
            bias = _const(self._nodes, node.inputs[1]) * scale
            self._names[name] = self._build.conv(source, node.inputs[0], weight * scale, bias, **attrs)
        elif node.op in ("Relu", "Add"):
            self._names[name] = self._build.node(node.op, sources, name)
        elif node.op == "Mul":
            self._names[name] = self._names[node.inputs[1]]
        elif node.op == "ConcatV2":
            self._names[name] = self._build.node("Concat", sources, name, axis=1)
        elif node.op == "MaxPool":
            size = _ints(node, "ksize")[1:3]
            attrs = {"kernel_shape": size, **_window(node, tuple(size))}
            self._names[name] = self._build.node("MaxPool", sources, name, **attrs)
        elif node.op == "AvgPool":
            self._names[name] = sources[0]
        else:
            raise ModelError(f"FaceNet graph has an unexpected operation: {node.op} ({name})")


def _window(node: Node, kernel: tuple[int, ...]) -> dict[str, Any]:
    """Return ONNX strides and pads; SAME only occurs with stride 1 and odd kernels."""
    strides = _ints(node, "strides")[1:3]
    if node.attrs["padding"] == b"VALID":
        return {"strides": strides}
    if strides != [1, 1] or any(k % 2 == 0 for k in kernel):
        raise ModelError(f"FaceNet graph: asymmetric SAME padding at {node.name}")
    half = [k // 2 for k in kernel]
    return {"strides": strides, "pads": half + half}


def _ints(node: Node, attr: str) -> list[int]:
    value = node.attrs.get(attr)
    if not isinstance(value, list):
        raise ModelError(f"FaceNet graph: {node.name} has no {attr}")
    return value


def _const(nodes: dict[str, Node], name: str) -> NDArray[np.float32]:
    node = nodes.get(name)
    value = None if node is None else node.attrs.get("value")
    if not isinstance(value, np.ndarray):
        raise ModelError(f"FaceNet graph: no constant {name}")
    return value.astype(np.float32)
