"""Float ONNX -> int8 QDQ, from activation ranges measured beforehand.

Activations are unsigned 8 bit, asymmetric, by minimum and maximum; weights are
signed 8 bit, symmetric, one scale a channel. Only numpy and onnx are needed, so
a box quantises the weights it fetched itself without any calibration picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgecam.errors import ModelError
from edgecam.nn.convert.builder import finish

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

_INT8_OPS: Final = frozenset({"Conv", "Gemm", "Add", "Concat", "MaxPool"})
_FUSED: Final = "Relu"
"""A Relu is part of the operation before it when the result is unsigned."""
_ACTIVATION_STEPS: Final = 255
_BIAS_MAX: Final = 2**31 - 1
_MIN_SCALE: Final = 1e-12


def tensors(model: ModelProto) -> list[str]:
    """Return the names of the activations that become 8 bit, in graph order."""
    graph = model.graph
    weights = {w.name for w in graph.initializer}
    relu_of = {n.input[0]: n.output[0] for n in graph.node if n.op_type == _FUSED}
    wanted: dict[str, None] = {}
    for node in graph.node:
        if node.op_type not in _INT8_OPS:
            continue
        for name in node.input:
            if name not in weights:
                wanted[name] = None
        if node.op_type != "Gemm":
            wanted[relu_of.get(node.output[0], node.output[0])] = None
    return list(wanted)


def quantise(model: ModelProto, ranges: Mapping[str, tuple[float, float]], weight_bits: int = 8) -> ModelProto:
    """Return the model with Quantize/Dequantize pairs around what becomes 8 bit.

    Args:
        model: made by our converters (shared weights are not expected).
        ranges: smallest and largest value of each name in `tensors(model)`.
        weight_bits: 7 where 8 would saturate (x86 without VNNI).

    Raises:
        ModelError: a range is missing: the model is another one than was measured.
    """
    names = tensors(model)
    missing = [name for name in names if name not in ranges]
    if missing:
        raise ModelError(f"no activation range for {missing[0]} (and {len(missing) - 1} more)")
    return _Quantiser(model, {name: ranges[name] for name in names}, weight_bits).run()


class _Quantiser:
    def __init__(self, model: ModelProto, ranges: dict[str, tuple[float, float]], weight_bits: int) -> None:
        self._graph = model.graph
        self._weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
        self._steps = 2 ** (weight_bits - 1) - 1
        self._params = {name: _affine(*span) for name, span in ranges.items()}
        for node in self._graph.node:
            # A maximum picks one of its inputs, so it must not rescale them.
            if node.op_type == "MaxPool" and node.output[0] in self._params:
                self._params[node.output[0]] = self._params[node.input[0]]
        self._nodes: list[NodeProto] = []
        self._uses = 0
        self._constants: dict[str, NDArray[Any]] = {}

    def run(self) -> ModelProto:
        for value in self._graph.input:
            self._round(value.name)
        for node in self._graph.node:
            self._node(node)
        kept = {name for node in self._nodes for name in node.input}
        plain = {n: w for n, w in self._weights.items() if n in kept}
        constants = {**plain, **self._constants}
        graph = helper.make_graph(
            self._nodes,
            f"{self._graph.name}_int8",
            list(self._graph.input),
            list(self._graph.output),
            [numpy_helper.from_array(v, k) for k, v in constants.items()],
        )
        return finish(graph)

    def _node(self, node: NodeProto) -> None:
        copy = helper.make_node(node.op_type, [], list(node.output), name=node.name)
        copy.attribute.extend(node.attribute)
        inputs = [self._use(name) for name in node.input]
        if node.op_type in ("Conv", "Gemm"):
            inputs = [inputs[0], *self._layer(node)]
        copy.input.extend(inputs)
        self._nodes.append(copy)
        for name in node.output:
            self._round(name)

    def _round(self, name: str) -> None:
        """Round an activation to 8 bit, if it is one of those."""
        if name in self._params:
            scale, zero = self._params[name]
            names = [self._constant(f"{name}/scale", scale), self._constant(f"{name}/zero", zero)]
            self._append("QuantizeLinear", [name, *names], f"{name}/q")

    def _use(self, name: str) -> str:
        """Dequantise for one consumer: onnxruntime fuses an operation with pairs of its own."""
        if name not in self._params:
            return name
        self._uses += 1
        output = f"{name}/dq{self._uses}"
        self._append("DequantizeLinear", [f"{name}/q", f"{name}/scale", f"{name}/zero"], output)
        return output

    def _layer(self, node: NodeProto) -> list[str]:
        """Add the 8-bit weight and the 32-bit bias; returns their dequantised names."""
        weight = self._weights[node.input[1]]
        bias = self._weights[node.input[2]].astype(np.float64)
        in_scale = float(self._params[node.input[0]][0])
        peak = np.abs(weight.reshape(len(weight), -1)).max(axis=1).astype(np.float64)
        # A near-dead channel with a large bias would overflow the 32-bit bias.
        scale = np.maximum(peak / self._steps, np.abs(bias) / (in_scale * _BIAS_MAX))
        scale = np.maximum(scale, _MIN_SCALE).astype(np.float32)
        columns = scale.reshape(-1, *[1] * (weight.ndim - 1))
        rounded = np.clip(np.rint(weight / columns), -self._steps, self._steps).astype(np.int8)
        bias_scale = (scale * np.float32(in_scale)).astype(np.float32)
        whole = np.clip(np.rint(bias / bias_scale), -_BIAS_MAX, _BIAS_MAX).astype(np.int32)
        return [
            self._dequantised(node.input[1], rounded, scale),
            self._dequantised(node.input[2], whole, bias_scale),
        ]

    def _dequantised(self, name: str, values: NDArray[Any], scale: NDArray[np.float32]) -> str:
        names = [
            self._constant(f"{name}/q", values),
            self._constant(f"{name}/scale", scale),
            self._constant(f"{name}/zero", np.zeros(len(scale), values.dtype)),
        ]
        self._append("DequantizeLinear", names, f"{name}/dq", axis=0)
        return f"{name}/dq"

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants[name] = value
        return name

    def _append(self, op: str, inputs: list[str], output: str, **attrs: int) -> None:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attrs))


def _affine(low: float, high: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return scale and zero point; zero itself is always exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / _ACTIVATION_STEPS, _MIN_SCALE)
    zero = np.clip(np.rint(-low / scale), 0, _ACTIVATION_STEPS)
    return np.array(scale, np.float32), np.array(zero, np.uint8)


def half_precision(model: ModelProto) -> ModelProto:
    """Return the model with float16 weights and arithmetic, float32 input and output."""
    graph = model.graph
    inner = {v.name: f"{v.name}/half" for v in graph.input}
    outer = {v.name: f"{v.name}/half" for v in graph.output}
    rename = {**inner, **outer}
    nodes = [_cast(v.name, inner[v.name], TensorProto.FLOAT16) for v in graph.input]
    for node in graph.node:
        copy = helper.make_node(node.op_type, [], [], name=node.name)
        copy.attribute.extend(node.attribute)
        copy.input.extend(rename.get(n, n) for n in node.input)
        copy.output.extend(rename.get(n, n) for n in node.output)
        nodes.append(copy)
    nodes += [_cast(outer[v.name], v.name, TensorProto.FLOAT) for v in graph.output]
    weights = [numpy_helper.from_array(_half(numpy_helper.to_array(w)), w.name) for w in graph.initializer]
    name = f"{graph.name}_fp16"
    return finish(helper.make_graph(nodes, name, list(graph.input), list(graph.output), weights))


def _half(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float16) if values.dtype == np.float32 else values


def _cast(source: str, output: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [output], name=f"{output}/cast", to=to)
