"""YuNet and SFace from OpenCV Zoo's block-quantised ONNX files.

Both hold int8 weights that are dequantised at each inference, at a fixed batch
of one. Here the weights become plain float32 initialisers, batch norm goes into
the convolution before it, and sizes become free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgecam.errors import ModelError
from edgecam.nn.convert.builder import Builder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

_STRIDES: Final = (8, 16, 32)
_YUNET_SIZES: Final = (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
_SFACE_MAP: Final = (1024, 7, 7)
_SFACE_DIM: Final = 128


def yunet(data: bytes) -> ModelProto:
    """Return `input` (N,3,H,W) BGR 0..255, H and W multiples of 32 -> 12 outputs.

    `cls_S`, `obj_S` (N,hw,1) in 0..1, `bbox_S` (N,hw,4), `kps_S` (N,hw,10) for
    strides S of 8, 16 and 32; hw = H/S * W/S, row by row.
    """
    nodes, weights = _read(data, "cls_8")
    build = Builder()
    for node in nodes:
        if node.op_type == "Reshape":
            # The file says [1,-1,k]; 0 keeps the batch size.
            shape = np.array([0, -1, weights[node.input[1]][2]], np.int64)
            name = build.constant(f"{node.output[0]}.shape", shape)
            build.node("Reshape", [node.input[0], name], node.output[0])
        else:
            _copy(build, node, weights)
    outputs: dict[str, list[int | str]] = {
        f"{n}_{s}": ["N", f"hw_{s}", size] for n, size in _YUNET_SIZES for s in _STRIDES
    }
    return build.model("yunet", {"input": ["N", 3, "H", "W"]}, outputs)


def sface(data: bytes) -> ModelProto:
    """Return `input` (N,3,112,112) RGB 0..255 -> `embeddings` (N,128) of length 1.

    The file's own normalisation, (x-127.5)/128, stays inside the net.
    """
    nodes, weights = _read(data, "fc1")
    norms = {n.input[0]: n for n in nodes if n.op_type == "BatchNormalization"}
    build = Builder()
    for node in nodes:
        if node.op_type == "Conv":
            _conv_with_norm(build, node, norms[node.output[0]], weights)
        elif node.op_type == "PRelu":
            build.prelu(node.input[0], node.output[0], weights[node.input[1]])
        elif node.op_type in ("Sub", "Mul"):
            sources = ["input" if name == "data" else name for name in node.input]
            _copy(build, node, weights, sources)
    last = next(n for n in reversed(nodes) if n.op_type == "PRelu").output[0]
    _sface_end(build, nodes, norms, weights, last)
    build.node("LpNormalization", ["fc1"], "embeddings", axis=1, p=2)
    side = _SFACE_MAP[1] * 16
    return build.model("sface", {"input": ["N", 3, side, side]}, {"embeddings": ["N", _SFACE_DIM]})


def _sface_end(
    build: Builder,
    nodes: list[NodeProto],
    norms: dict[str, NodeProto],
    weights: dict[str, NDArray[Any]],
    last: str,
) -> None:
    """Append the dense layer with the batch norms before and after it folded in."""
    (dense,) = (n for n in nodes if n.op_type == "Gemm")
    weight = weights[dense.input[1]].astype(np.float64)
    before_scale, before_shift = _norm(norms[last], weights)
    after_scale, after_shift = _norm(norms[dense.output[0]], weights)
    area = int(np.prod(_SFACE_MAP[1:]))
    bias = weights[dense.input[2]] + weight @ np.repeat(before_shift, area)
    weight = weight * np.repeat(before_scale, area) * after_scale[:, None]
    bias = bias * after_scale + after_shift
    flat = build.node("Flatten", [last], "flat", axis=1)
    w = build.constant("fc1.weight", weight.astype(np.float32))
    b = build.constant("fc1.bias", bias.astype(np.float32))
    build.node("Gemm", [flat, w, b], "fc1", transB=1)


def _conv_with_norm(build: Builder, conv: NodeProto, norm: NodeProto, weights: dict[str, NDArray[Any]]) -> None:
    scale, shift = _norm(norm, weights)
    weight = weights[conv.input[1]] * scale[:, None, None, None]
    attrs = _attrs(conv)
    del attrs["kernel_shape"]
    build.conv(
        conv.input[0],
        norm.output[0],
        weight.astype(np.float32),
        shift.astype(np.float32),
        **attrs,
    )


def _norm(node: NodeProto, weights: dict[str, NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a batch norm as (scale, shift)."""
    gamma, beta, mean, var = (weights[name].astype(np.float64) for name in node.input[1:])
    scale = gamma / np.sqrt(var + _attrs(node)["epsilon"])
    return scale, beta - mean * scale


def _read(data: bytes, output: str) -> tuple[list[NodeProto], dict[str, NDArray[Any]]]:
    """Return the computing nodes and all weights, dequantised, by tensor name."""
    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as err:  # protobuf's DecodeError has moved between versions
        raise ModelError(f"not a readable ONNX file: {err}") from err
    if output not in [o.name for o in graph.output]:
        raise ModelError(f"not the net expected here: no output {output}")
    weights = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            quantised, scales, zeros = (weights[name] for name in node.input)
            weights[node.output[0]] = _dequantise(quantised, scales, zeros, _attrs(node))
        elif node.op_type == "Reshape" and node.input[0] in weights:
            shape = weights[node.input[1]]
            weights[node.output[0]] = weights[node.input[0]].reshape(shape)
        else:
            nodes.append(node)
    return nodes, weights


def _dequantise(
    quantised: NDArray[Any],
    scales: NDArray[np.float32],
    zeros: NDArray[Any],
    attrs: dict[str, Any],
) -> NDArray[np.float32]:
    axis, size = attrs["axis"], quantised.shape[attrs["axis"]]
    block = attrs["block_size"]

    def spread(values: NDArray[Any]) -> NDArray[np.float32]:
        wide = np.repeat(values, block, axis=axis)
        taken: NDArray[np.float32] = np.take(wide, np.arange(size), axis=axis).astype(np.float32)
        return taken

    values: NDArray[np.float32] = (quantised.astype(np.float32) - spread(zeros)) * spread(scales)
    return values


def _copy(
    build: Builder,
    node: NodeProto,
    weights: dict[str, NDArray[Any]],
    sources: list[str] | None = None,
) -> None:
    """Append a node as it is, with the initialisers that it needs."""
    names = list(node.input) if sources is None else sources
    for name in names:
        if name in weights:
            build.constant(name, weights[name])
    build.node(node.op_type, names, node.output[0], **_attrs(node))


def _attrs(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
