"""The layers that the night tunes, as PyTorch modules: read from the installed ONNX files and written back into ONNX.

FaceNet's head (cut A: 1792 -> 512, the batch norm as an affine map) and a 128 x 128 adapter behind SFace, each alone or
both as `fused`. Written back by replacing initialisers: nothing is exported, so the file differs in numbers alone, but
for the four nodes in front that undo a domain's shift.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Union

import numpy as np
import onnx
import onnx.compose
import onnx.utils
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from edgecam.adapt.apart import Kind
from edgecam.adapt.domains import DomainShift, domain_shift
from edgecam.adapt.samples import Samples
from edgecam.embed import FACENET_SHARE
from edgecam.embed.base import head_session
from edgecam.errors import ModelError
from edgecam.types import Floats

FACENET_FILE = "facenet_head"
SFACE_FILE = "sface_head"

FACENET_WIDTH = 1792
SFACE_WIDTH = 128

_CUT_B = "InceptionResnetV1/Repeat_2/block8_5/Relu"
_BLOCK8 = "InceptionResnetV1/Block8/"
_CONVOLUTIONS = (
    "Branch_0/Conv2d_1x1",
    "Branch_1/Conv2d_0a_1x1",
    "Branch_1/Conv2d_0b_1x3",
    "Branch_1/Conv2d_0c_3x1",
    "Conv2d_1x1",
)

_EPS_BN = 1e-3
_MAX_DIFFERENCE = 1e-5
"""Of a coordinate of a unit vector, PyTorch against onnxruntime."""
_OPSET, _IR = 13, 8
"""What onnxruntime 1.11 (the oldest board's) reads."""


class Undo(nn.Module):  # type: ignore[misc] # torch comes without types here
    """Takes off features what their domain adds; not learnt.

    Args:
        shift: of some domains.
    """

    def __init__(self, shift: DomainShift) -> None:
        super().__init__()
        for name, part in shift._asdict().items():
            self.register_buffer(name, torch.from_numpy(part))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, K) of (N, K)."""
        shares = functional.softmax(features @ self.weight.T + self.bias, dim=1)
        return features - shares @ self.shift

    def before(self, file: bytes) -> bytes:
        """Return the head `file` with this in front."""
        model = onnx.load_model_from_string(file)
        graph = model.graph
        for node in graph.node:
            node.input[:] = ["domain.features" if name == "features" else name for name in node.input]
        front = [
            helper.make_node("Gemm", ["features", "domain.weight", "domain.bias"], ["domain.logits"], transB=1),
            helper.make_node("Softmax", ["domain.logits"], ["domain.shares"], axis=1),
            helper.make_node("MatMul", ["domain.shares", "domain.shift"], ["domain.moved"]),
            helper.make_node("Sub", ["features", "domain.moved"], ["domain.features"]),
        ]
        back = list(graph.node)
        del graph.node[:]
        graph.node.extend([*front, *back])
        graph.initializer.extend(numpy_helper.from_array(v.numpy(), f"domain.{k}") for k, v in self.named_buffers())
        return bytes(model.SerializeToString())


class FaceNetHead(nn.Module):  # type: ignore[misc]
    """FaceNet from its pooled features on: unit(gamma (W f - mean) / sqrt(var + eps) + beta).

    Args:
        file: content of `facenet_head.onnx`.
        shift: taken off the features first.

    Raises:
        ModelError: it is not that file.
    """

    width = FACENET_WIDTH
    dim = 512

    def __init__(self, file: bytes, shift: Optional[DomainShift] = None) -> None:
        super().__init__()
        self._file, self.undo = file, Undo(shift) if shift is not None else None
        parts = _initialisers(file)
        wanted = ("bottleneck.weight", *(f"bottleneck_bn.{n}" for n in ("gamma", "beta", "mean", "var")))
        if any(name not in parts for name in wanted):
            raise ModelError("facenet_head.onnx is not the head that `edgecam models pull` makes")
        weight, gamma, beta, mean, var = (torch.from_numpy(parts[name].astype(np.float32)) for name in wanted)
        self.weight, self.gamma, self.beta = nn.Parameter(weight), nn.Parameter(gamma), nn.Parameter(beta)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", torch.sqrt(var + _EPS_BN))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, 512) unit vectors of (N, 1792) features."""
        if self.undo is not None:
            features = self.undo(features)
        scale = self.gamma / self.deviation
        return functional.normalize(features @ self.weight.T * scale + (self.beta - self.mean * scale), dim=1)

    def files(self) -> Dict[str, bytes]:
        """Return the head by model name, as ONNX."""
        new = {"bottleneck.weight": self.weight, "bottleneck_bn.gamma": self.gamma, "bottleneck_bn.beta": self.beta}
        file = _replaced(self._file, {n: p.detach().numpy() for n, p in new.items()})
        return {FACENET_FILE: file if self.undo is None else self.undo.before(file)}


class FaceNetTail(nn.Module):  # type: ignore[misc]
    """FaceNet from its last Block8 on (cut B): 2.5 million weights, features (N, 1792, 3, 3) of 64 kB a face.

    Not in the product: its trunk would end elsewhere, and nine times as much would be kept of every face.

    Args:
        file: as `tail_file` makes it.

    Raises:
        ModelError: it is not that file.
    """

    width = FACENET_WIDTH
    dim = FaceNetHead.dim

    def __init__(self, file: bytes) -> None:
        super().__init__()
        self._file = file
        self.head = FaceNetHead(file)
        parts = _initialisers(file)
        names = [f"{_BLOCK8}{conv}/Conv2D.{part}" for conv in _CONVOLUTIONS for part in ("weight", "bias")]
        if any(name not in parts for name in names):
            raise ModelError("the last Block8 of FaceNet is not in the file")
        self._names = names
        self.block = nn.ParameterList([nn.Parameter(torch.from_numpy(parts[n].astype(np.float32))) for n in names])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, 512) unit vectors of (N, 1792, 3, 3) features."""
        one, one_b, two, two_b, three, three_b, four, four_b, up, up_b = self.block
        relu, convolve = functional.relu, functional.conv2d
        left = relu(convolve(features, one, one_b))
        right = relu(convolve(features, two, two_b))
        right = relu(convolve(right, three, three_b, padding=(0, 1)))
        right = relu(convolve(right, four, four_b, padding=(1, 0)))
        joined = features + convolve(torch.cat([left, right], dim=1), up, up_b)
        vectors: torch.Tensor = self.head(joined.mean(dim=(2, 3)))
        return vectors

    def files(self) -> Dict[str, bytes]:
        """Return the tail by the head's model name, as ONNX."""
        file = self.head.files()[FACENET_FILE]
        return {FACENET_FILE: _replaced(file, {n: p.detach().numpy() for n, p in zip(self._names, self.block)})}


def tail_file(trunk: bytes, head: bytes) -> bytes:
    """Return FaceNet from its last Block8 on as one ONNX file, out of the installed trunk and head (fp32).

    Raises:
        ModelError: they are not FaceNet's.
    """
    try:
        model = onnx.load_model_from_string(trunk)
        model.graph.value_info.append(
            helper.make_tensor_value_info(_CUT_B, TensorProto.FLOAT, ["N", FACENET_WIDTH, 3, 3])
        )
        block = onnx.utils.Extractor(model).extract_model([_CUT_B], ["features"])
        whole = onnx.compose.merge_models(
            block, onnx.load_model_from_string(head), io_map=[("features", "features")], prefix2=""
        )
    except Exception as err:  # onnx raises whatever it meets
        raise ModelError(f"FaceNet cannot be cut before its last Block8: {err}") from err
    return bytes(whole.SerializeToString())


class SFaceHead(nn.Module):  # type: ignore[misc]
    """unit(W f), with W the identity until it is tuned: SFace's own last layer would be 6.4 million weights.

    Args:
        shift: taken off the features first.
    """

    width = SFACE_WIDTH
    dim = SFACE_WIDTH

    def __init__(self, shift: Optional[DomainShift] = None) -> None:
        super().__init__()
        self.undo = Undo(shift) if shift is not None else None
        self.weight = nn.Parameter(torch.eye(SFACE_WIDTH))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, 128) unit vectors of (N, 128) features."""
        if self.undo is not None:
            features = self.undo(features)
        return functional.normalize(features @ self.weight.T, dim=1)

    def files(self) -> Dict[str, bytes]:
        """Return the head by model name, as ONNX."""
        nodes = [
            helper.make_node("Gemm", ["features", "adapter.weight"], ["adapted"], transB=1),
            helper.make_node("LpNormalization", ["adapted"], ["embeddings"], axis=1, p=2),
        ]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", SFACE_WIDTH])
            for name in ("features", "embeddings")
        ]
        weight = numpy_helper.from_array(self.weight.detach().numpy(), "adapter.weight")
        graph = helper.make_graph(nodes, SFACE_FILE, ends[:1], ends[1:], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="edgecam")
        model.ir_version = _IR
        file = bytes(model.SerializeToString())
        return {SFACE_FILE: file if self.undo is None else self.undo.before(file)}


class FusedHead(nn.Module):  # type: ignore[misc]
    """Both side by side, scaled so that their cosines add as in `embed.Fused`."""

    width = FACENET_WIDTH + SFACE_WIDTH
    dim = FaceNetHead.dim + SFaceHead.dim

    def __init__(self, file: bytes, shifts: Mapping[str, DomainShift]) -> None:
        super().__init__()
        self.facenet, self.sface = FaceNetHead(file, shifts.get(FACENET_FILE)), SFaceHead(shifts.get(SFACE_FILE))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, 640) unit vectors of (N, 1920) features."""
        left = self.facenet(features[:, :FACENET_WIDTH])
        right = self.sface(features[:, FACENET_WIDTH:])
        return torch.cat([FACENET_SHARE**0.5 * left, (1.0 - FACENET_SHARE) ** 0.5 * right], dim=1)

    def files(self) -> Dict[str, bytes]:
        """Return both heads by model name, as ONNX."""
        return {**self.facenet.files(), **self.sface.files()}


Head = Union[FaceNetHead, SFaceHead, FusedHead]


def shifts_of(kind: Kind, samples: Samples, strangers: Floats) -> Dict[str, DomainShift]:
    """Return what the domains of a night add to an encoder's features, by the head's model name.

    Args:
        kind: of the encoder.
        samples: in its features.
        strangers: (V, K) virtual ones: their mean is many people's; of none nothing is known.
    """
    if not len(strangers):
        return {}
    parts = {FACENET_FILE: slice(0, FACENET_WIDTH), SFACE_FILE: slice(FACENET_WIDTH, None)}
    if kind != "fused":
        parts = {FACENET_FILE if kind == "facenet" else SFACE_FILE: slice(None)}
    found = {name: domain_shift(samples, own, strangers[:, own].mean(axis=0)) for name, own in parts.items()}
    return {name: shift for name, shift in found.items() if shift is not None}


def make_head(kind: Kind, file: bytes = b"", shifts: Optional[Mapping[str, DomainShift]] = None) -> Head:
    """Return the head of an encoder as installed.

    Args:
        kind: of the encoder.
        file: content of the installed `facenet_head.onnx`; not needed for `sface`.
        shifts: taken off the features first, by the head's model name (`shifts_of`).

    Raises:
        ModelError: the file is not FaceNet's head.
    """
    shifts = shifts or {}
    if kind == "sface":
        return SFaceHead(shifts.get(SFACE_FILE))
    return FaceNetHead(file, shifts.get(FACENET_FILE)) if kind == "facenet" else FusedHead(file, shifts)


def project(head: Union[Head, FaceNetTail], features: Floats) -> Floats:
    """Return (N, D) float32 unit vectors of (N, K) features."""
    with torch.inference_mode():
        vectors: Floats = head(torch.from_numpy(np.ascontiguousarray(features, np.float32))).numpy()
    return vectors


def write_heads(head: Head, features: Floats) -> Dict[str, bytes]:
    """Return the head as ONNX files by model name, for `Encoder.with_heads`.

    Args:
        head: tuned, or not.
        features: (N, K) some that it was tuned on, N >= 1: onnxruntime must compute from the files what PyTorch does.

    Raises:
        ModelError: it does not, or the result is not finite.
    """
    files: Dict[str, bytes] = head.files()
    apart = difference(head, files, features)
    if not apart < _MAX_DIFFERENCE:  # also if not a number
        raise ModelError(f"the tuned head computes something else in onnxruntime (by {apart:.1e}): it is not used")
    return files


def difference(head: Head, files: Mapping[str, bytes], features: Floats) -> float:
    """Return the largest difference of any coordinate between PyTorch and onnxruntime."""
    return float(np.abs(project(head, features) - run_files(files, features)).max())


def run_files(files: Mapping[str, bytes], features: Floats) -> Floats:
    """Return (N, D) unit vectors of (N, K) features by onnxruntime, with these files as heads."""
    rows = np.ascontiguousarray(features, np.float32)

    def run(name: str, own: Floats) -> Floats:
        vectors: Floats = head_session(files, name).run({"features": np.ascontiguousarray(own)})[0]
        return vectors

    if FACENET_FILE not in files:
        return run(SFACE_FILE, rows)
    left = run(FACENET_FILE, rows[:, :FACENET_WIDTH])
    if SFACE_FILE not in files:
        return left
    right = run(SFACE_FILE, rows[:, FACENET_WIDTH:])
    joint: Floats = np.concatenate([FACENET_SHARE**0.5 * left, (1.0 - FACENET_SHARE) ** 0.5 * right], axis=1)
    return joint.astype(np.float32)


def _initialisers(file: bytes) -> Dict[str, Any]:
    try:
        model = onnx.load_model_from_string(file)
    except Exception as err:  # protobuf's classes differ between versions
        raise ModelError(f"facenet_head.onnx cannot be read: {err}") from err
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def _replaced(file: bytes, new: Mapping[str, Floats]) -> bytes:
    model = onnx.load_model_from_string(file)
    for initialiser in model.graph.initializer:
        if initialiser.name in new:
            initialiser.CopyFrom(numpy_helper.from_array(new[initialiser.name], initialiser.name))
    return bytes(model.SerializeToString())
