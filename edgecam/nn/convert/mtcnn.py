"""MTCNN's three nets from facenet-pytorch's state dicts.

Input of each: `input` (N,3,H,W) RGB, (x-127.5)/128. Class 1 of `prob` is face.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgecam.errors import ModelError
from edgecam.nn.convert import torchfile
from edgecam.nn.convert.builder import Builder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    State = dict[str, NDArray[Any]]

_LAST_MAP: Final = 3
"""R-Net and O-Net end in 3x3 maps before their dense layers."""


def pnet(data: bytes) -> ModelProto:
    """Return (N,3,H,W) -> `reg` (N,4,h,w), `prob` (N,2,h,w); h = ceil((H-2)/2) - 4."""
    state = _load(data, "conv4_1.weight")
    build = Builder()
    last = _stages(build, state, pools=(2, 0, 0))
    build.conv(last, "reg", state["conv4_2.weight"], state["conv4_2.bias"])
    build.conv(last, "logits", state["conv4_1.weight"], state["conv4_1.bias"])
    build.node("Softmax", ["logits"], "prob", axis=1)
    return build.model(
        "mtcnn_pnet",
        {"input": ["N", 3, "H", "W"]},
        {"reg": ["N", 4, "h", "w"], "prob": ["N", 2, "h", "w"]},
    )


def rnet(data: bytes) -> ModelProto:
    """Return (N,3,24,24) -> `reg` (N,4), `prob` (N,2)."""
    state = _load(data, "dense5_2.weight")
    build = Builder()
    hidden = _dense(build, state, _stages(build, state, pools=(3, 3, 0)), "4")
    _gemm(build, state, hidden, "dense5_2", "reg")
    _gemm(build, state, hidden, "dense5_1", "logits")
    build.node("Softmax", ["logits"], "prob", axis=1)
    return build.model("mtcnn_rnet", {"input": ["N", 3, 24, 24]}, {"reg": ["N", 4], "prob": ["N", 2]})


def onet(data: bytes) -> ModelProto:
    """Return (N,3,48,48) -> `reg` (N,4), `points` (N,10: x1..x5,y1..y5), `prob` (N,2)."""
    state = _load(data, "dense6_3.weight")
    build = Builder()
    hidden = _dense(build, state, _stages(build, state, pools=(3, 3, 2, 0)), "5")
    _gemm(build, state, hidden, "dense6_2", "reg")
    _gemm(build, state, hidden, "dense6_3", "points")
    _gemm(build, state, hidden, "dense6_1", "logits")
    build.node("Softmax", ["logits"], "prob", axis=1)
    return build.model(
        "mtcnn_onet",
        {"input": ["N", 3, 48, 48]},
        {"reg": ["N", 4], "points": ["N", 10], "prob": ["N", 2]},
    )


def _load(data: bytes, key: str) -> State:
    state = torchfile.load(data)
    if key not in state:
        raise ModelError(f"not the MTCNN net expected here: no {key}")
    return state


def _stages(build: Builder, state: State, pools: tuple[int, ...]) -> str:
    """Append conv, prelu and, where the pool size is not 0, max pool of stride 2."""
    source = "input"
    for i, pool in enumerate(pools, 1):
        source = build.conv(source, f"conv{i}", state[f"conv{i}.weight"], state[f"conv{i}.bias"])
        slope = state[f"prelu{i}.weight"].reshape(-1, 1, 1)
        source = build.prelu(source, f"prelu{i}", slope)
        if pool:
            source = build.node(
                "MaxPool",
                [source],
                f"pool{i}",
                kernel_shape=[pool, pool],
                strides=[2, 2],
                ceil_mode=1,
            )
    return source


def _dense(build: Builder, state: State, source: str, layer: str) -> str:
    """Append the hidden layer; its columns come in (W,H,C) order and leave in (C,H,W)."""
    weight = state[f"dense{layer}.weight"]
    columns = weight.reshape(len(weight), _LAST_MAP, _LAST_MAP, -1).transpose(0, 3, 2, 1)
    state[f"dense{layer}.weight"] = columns.reshape(len(weight), -1)
    flat = build.node("Flatten", [source], "flat", axis=1)
    _gemm(build, state, flat, f"dense{layer}", "dense")
    return build.prelu("dense", f"prelu{layer}", state[f"prelu{layer}.weight"])


def _gemm(build: Builder, state: State, source: str, layer: str, output: str) -> None:
    weight = build.constant(f"{output}.weight", state[f"{layer}.weight"])
    bias = build.constant(f"{output}.bias", state[f"{layer}.bias"])
    build.node("Gemm", [source, weight, bias], output, transB=1)
