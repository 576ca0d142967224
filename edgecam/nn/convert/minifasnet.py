"""MiniFASNet V2 and V1SE (Silent-Face-Anti-Spoofing) from their state dicts.

`input` (N,3,80,80) BGR, 0..255, not scaled -> `prob` (N,3); class 1 is a live face.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgecam.errors import ModelError
from edgecam.nn.convert import torchfile
from edgecam.nn.convert.builder import Builder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

_EPSILON: Final = 1e-5
_PREFIX: Final = "module."
_SIDE_PX: Final = 80
_STAGES: Final = (("conv_23", "conv_3"), ("conv_34", "conv_4"), ("conv_45", "conv_5"))
"""A block that halves the map, then a chain of residual blocks."""


def net(data: bytes) -> ModelProto:
    """Return the net; squeeze-excitation appears wherever the file has its weights."""
    state = {name.removeprefix(_PREFIX): v for name, v in torchfile.load(data).items()}
    if "conv_6_dw.conv.weight" not in state:
        raise ModelError("not a MiniFASNet: no conv_6_dw.conv.weight")
    return _Net(state).build()


class _Net:
    def __init__(self, state: dict[str, NDArray[Any]]) -> None:
        self._state = state
        self._build = Builder()

    def build(self) -> ModelProto:
        last = self._conv("input", "conv1", stride=2)
        last = self._conv(last, "conv2_dw")
        for down, chain in _STAGES:
            last = self._block(last, down, stride=2)
            length = len({n.split(".")[2] for n in self._state if n.startswith(f"{chain}.model.")})
            for i in range(length):
                name = f"{chain}.model.{i}"
                inner = self._squeeze(self._block(last, name), f"{name}.se_module")
                last = self._build.node("Add", [last, inner], f"{name}.add")
        last = self._conv(last, "conv_6_sep")
        last = self._conv(last, "conv_6_dw", pad=False)
        flat = self._build.node("Flatten", [last], "flat", axis=1)
        return self._classifier(flat)

    def _classifier(self, flat: str) -> ModelProto:
        scale, shift = self._norm("bn")
        weight = self._build.constant("linear.weight", self._state["linear.weight"] * scale[:, None])
        bias = self._build.constant("linear.bias", shift)
        hidden = self._build.node("Gemm", [flat, weight, bias], "linear", transB=1)
        last = self._build.constant("prob.weight", self._state["prob.weight"])
        logits = self._build.node("Gemm", [hidden, last], "logits", transB=1)
        self._build.node("Softmax", [logits], "prob", axis=1)
        side = [_SIDE_PX, _SIDE_PX]
        return self._build.model("minifasnet", {"input": ["N", 3, *side]}, {"prob": ["N", 3]})

    def _block(self, source: str, name: str, stride: int = 1) -> str:
        wide = self._conv(source, f"{name}.conv")
        deep = self._conv(wide, f"{name}.conv_dw", stride=stride)
        return self._conv(deep, f"{name}.project")

    def _conv(self, source: str, name: str, stride: int = 1, *, pad: bool = True) -> str:
        """Append convolution and folded batch norm, then prelu where the file has one."""
        weight = self._state[f"{name}.conv.weight"]
        scale, shift = self._norm(f"{name}.bn")
        half = [k // 2 if pad else 0 for k in weight.shape[2:]]
        # A depthwise kernel has one input channel per group.
        group = weight.shape[0] if weight.shape[1] == 1 else 1
        out = self._build.conv(
            source,
            name,
            weight * scale[:, None, None, None],
            shift,
            strides=[stride, stride],
            pads=half + half,
            group=group,
        )
        if f"{name}.prelu.weight" not in self._state:
            return out
        slope = self._state[f"{name}.prelu.weight"].reshape(-1, 1, 1)
        return self._build.prelu(out, f"{name}.prelu", slope)

    def _squeeze(self, source: str, name: str) -> str:
        if f"{name}.fc1.weight" not in self._state:
            return source
        last = self._build.node("GlobalAveragePool", [source], f"{name}.pool")
        for fc, norm, activation in (("fc1", "bn1", "Relu"), ("fc2", "bn2", "Sigmoid")):
            scale, shift = self._norm(f"{name}.{norm}")
            weight = self._state[f"{name}.{fc}.weight"] * scale[:, None, None, None]
            last = self._build.conv(last, f"{name}.{fc}", weight, shift)
            last = self._build.node(activation, [last], f"{name}.{fc}.out")
        return self._build.node("Mul", [source, last], f"{name}.scaled")

    def _norm(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a batch norm as (scale, shift), computed in double precision."""
        gamma, beta, mean, var = (
            self._state[f"{name}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + _EPSILON)
        return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)
