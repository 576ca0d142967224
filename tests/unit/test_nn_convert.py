"""The readers of foreign weights: right on good files, one line on bad ones."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest

from edgecam.errors import ModelError
from edgecam.nn.convert import convert, facenet, graphdef, minifasnet, mtcnn, opencv_zoo, torchfile
from edgecam.nn.convert.builder import Builder
from edgecam.nn.convert.quantise import half_precision, quantise, tensors

Array = np.ndarray[Any, Any]

# ---- torch files, written by hand: torch itself is not needed to test its reader


class Pickler(pickle.Pickler):
    """Writes arrays as torch does: a storage by reference, rebuilt by `torch._utils`."""

    def __init__(self, file: io.BytesIO, torch: Any) -> None:
        super().__init__(file, protocol=2)
        self._torch = torch
        self.storages: Dict[str, Array] = {}

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        self.storages[obj.key] = obj.values
        return ("storage", self._torch.FloatStorage, obj.key, "cuda:0", obj.values.size)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            storage = Storage(str(len(self.storages)), obj.reshape(-1))
            strides = tuple(s // obj.itemsize for s in obj.strides)
            return self._torch._utils._rebuild_tensor_v2, (storage, 0, obj.shape, strides, False)
        return NotImplemented


class Storage:
    def __init__(self, key: str, values: Array) -> None:
        self.key, self.values = key, values


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*_: Any) -> None:
        """Only pickled by name."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # type: ignore[attr-defined]
    torch._utils = utils  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def legacy(state: Any, torch: Any) -> bytes:
    file = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(header, file, protocol=2)
    pickler = Pickler(file, torch)
    pickler.dump(state)
    pickle.dump(list(pickler.storages), file, protocol=2)
    for values in pickler.storages.values():
        file.write(struct.pack("<q", values.size) + values.astype("<f4").tobytes())
    return file.getvalue()


def zipped(state: Any, torch: Any) -> bytes:
    file, body = io.BytesIO(), io.BytesIO()
    pickler = Pickler(body, torch)
    pickler.dump(state)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", body.getvalue())
        for key, values in pickler.storages.items():
            archive.writestr(f"net/data/{key}", values.astype("<f4").tobytes())
    return file.getvalue()


WRITERS = [pytest.param(legacy, id="legacy"), pytest.param(zipped, id="zip")]
Writer = Callable[[Any, Any], bytes]


@pytest.mark.parametrize("write", WRITERS)
def test_reads_a_state_dict(write: Writer, fake_torch: Any) -> None:
    state = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, np.float32)}
    read = torchfile.load(write(state, fake_torch))
    assert list(read) == ["a.weight", "a.bias"]
    for name, values in state.items():
        np.testing.assert_array_equal(read[name], values)


@pytest.mark.parametrize("write", WRITERS)
def test_a_truncated_file_is_refused(write: Writer, fake_torch: Any) -> None:
    data = write({"w": np.ones(100, np.float32)}, fake_torch)
    for size in (1, len(data) // 2, len(data) - 1):
        with pytest.raises(ModelError):
            torchfile.load(data[:size])


class Bomb:
    def __reduce__(self) -> Tuple[Any, Tuple[str]]:
        import os

        return os.system, ("touch /tmp/edgecam-bomb",)


@pytest.mark.parametrize("write", WRITERS)
def test_no_code_runs(write: Writer, fake_torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: List[str] = []
    monkeypatch.setattr("os.system", ran.append)
    with pytest.raises(ModelError, match="it wants to use"):
        torchfile.load(write({"w": Bomb()}, fake_torch))
    assert ran == []


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.getattr",
        "numpy.load",
        "torch.load",
        "torch._utils._rebuild_tensor",
        "collections.Counter",
    ],
)
def test_only_the_named_globals_are_known(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    data = b"\x80\x02c" + module.encode() + b"\n" + attribute.encode() + b"\n."
    with pytest.raises(ModelError, match=f"it wants to use {name}"):
        torchfile.load(data)


def test_a_view_outside_its_storage_is_refused() -> None:
    storage = torchfile._Storage(np.dtype("<f4"), np.zeros(4, np.float32))
    for offset, size, stride in (
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
    ):
        with pytest.raises(ModelError, match="outside its storage"):
            torchfile._Tensor(storage, offset, size, stride).array()


def test_another_pickle_is_no_state_dict(fake_torch: Any) -> None:
    for state in ([1, 2], {"w": 3}):
        with pytest.raises(ModelError, match="not a torch state dict"):
            torchfile.load(legacy(state, fake_torch))


# ---- GraphDef


def varint(number: int) -> bytes:
    out = b""
    while True:
        number, low = number >> 7, number & 0x7F
        out += bytes([low | (0x80 if number else 0)])
        if not number:
            return out


def message(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def node(name: str, op: str, *inputs: str, **attrs: bytes) -> bytes:
    body = message(1, name.encode()) + message(2, op.encode())
    body += b"".join(message(3, i.encode()) for i in inputs)
    for key, value in attrs.items():
        body += message(5, message(1, key.encode()) + message(2, value))
    return message(1, body)


def tensor(values: Array) -> bytes:
    dims = b"".join(message(2, varint(1 << 3) + varint(d)) for d in values.shape)
    return message(8, varint(1 << 3) + varint(1) + message(2, dims) + message(4, values.astype("<f4").tobytes()))


def test_reads_nodes_in_working_order() -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    ints = message(1, message(3, varint(1) + varint(300)))
    data = node("sum", "Add", "a:0", "w", "^late", strides=ints) + node("late", "NoOp") + node("a", "Placeholder")
    nodes = graphdef.load(data + node("w", "Const", value=tensor(weights)))
    order = list(nodes)
    assert sorted(order) == ["a", "late", "sum", "w"]
    assert order.index("sum") > max(order.index("a"), order.index("w"))
    assert nodes["sum"].inputs == ("a", "w")
    assert nodes["sum"].attrs["strides"] == [1, 300]
    np.testing.assert_array_equal(np.asarray(nodes["w"].attrs["value"]), weights)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "no nodes", id="empty"),
        pytest.param(node("a", "Relu", "b") + node("b", "Relu", "a"), "cycle", id="cycle"),
        pytest.param(node("a", "Relu", "b"), "missing node: b", id="dangling"),
        pytest.param(node("a", "Relu")[:-1], "truncated", id="truncated"),
        pytest.param(b"\x0f\x01", "wire type", id="wire-type"),
        pytest.param(b"\xff" * 20, "endless number", id="endless"),
    ],
)
def test_a_bad_graph_is_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        graphdef.load(data)


# ---- converters


@pytest.mark.parametrize("maker", [mtcnn.pnet, mtcnn.rnet, mtcnn.onet, minifasnet.net])
def test_another_net_is_refused(maker: Callable[[bytes], Any], fake_torch: Any) -> None:
    with pytest.raises(ModelError, match="not "):
        maker(legacy({"w": np.ones(1, np.float32)}, fake_torch))


def test_another_graph_is_no_facenet() -> None:
    with pytest.raises(ModelError, match="unexpected operation: Tanh"):
        facenet.trunk(node("input", "Placeholder") + node("t", "Tanh", "input"))


@pytest.mark.parametrize("maker", [opencv_zoo.yunet, opencv_zoo.sface])
def test_another_onnx_is_refused(maker: Callable[[bytes], Any]) -> None:
    with pytest.raises(ModelError):
        maker(b"rubbish")
    with pytest.raises(ModelError, match="not the net expected here"):
        maker(small_net().SerializeToString())


def test_unknown_converter_is_one_line() -> None:
    for key in ("tsunami", "facenet_trunk+int3"):
        with pytest.raises(ModelError, match="unknown converter"):
            convert(key, b"", None)


def test_block_dequantisation_follows_the_onnx_definition() -> None:
    quantised = np.array([[1, 2, 3, 4, 5]], np.int8)
    scales, zeros = np.array([[1.0, 10.0]], np.float32), np.array([[0, 1]], np.int8)
    values = opencv_zoo._dequantise(quantised, scales, zeros, {"axis": 1, "block_size": 3})
    np.testing.assert_array_equal(values, [[1, 2, 3, 30, 40]])


# ---- 8 bit and half precision


def small_net() -> Any:
    random = np.random.default_rng(0)
    build = Builder()
    one = build.conv("input", "c1", random.normal(size=(8, 3, 3, 3)).astype(np.float32), np.ones(8, np.float32))
    one = build.node("Relu", [one], "r1")
    two = build.conv(one, "c2", random.normal(size=(8, 8, 1, 1)).astype(np.float32) / 8, np.zeros(8, np.float32))
    added = build.node("Add", [one, two], "sum")
    pooled = build.node("MaxPool", [added], "max", kernel_shape=[2, 2], strides=[2, 2])
    half = build.node("MaxPool", [one], "half", kernel_shape=[2, 2], strides=[2, 2])
    joined = build.node("Concat", [pooled, half], "joined", axis=1)
    build.node("GlobalAveragePool", [joined], "out")
    return build.model("small", {"input": ["N", 3, 8, 8]}, {"out": ["N", 16, 1, 1]})


def run(model: Any, feed: Array, outputs: Any = None) -> List[Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: List[Array] = session.run(outputs, {"input": feed})
    return result


@pytest.mark.parametrize("bits", [8, 7])
def test_8_bit_stays_close(bits: int) -> None:
    from onnx import TensorProto, helper

    feed = np.random.default_rng(1).uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
    model, watched = small_net(), small_net()
    names = tensors(model)
    assert names == ["input", "r1", "c2", "sum", "max", "half", "joined"]
    inner = [n for n in names if n != "input"]
    watched.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inner)
    spans = {n: (float(v.min()), float(v.max())) for n, v in zip(inner, run(watched, feed, inner))}
    spans["input"] = (-1.0, 1.0)
    want, got = run(model, feed)[0], run(quantise(model, spans, bits), feed)[0]
    step = (spans["sum"][1] - spans["sum"][0]) / 255
    assert 0 < np.abs(want - got).max() < 3 * step


def test_a_missing_range_is_refused() -> None:
    with pytest.raises(ModelError, match="no activation range for input \\(and 6 more\\)"):
        quantise(small_net(), {})


def test_half_precision_keeps_float32_outside() -> None:
    feed = np.random.default_rng(1).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    want, got = run(small_net(), feed)[0], run(half_precision(small_net()), feed)[0]
    assert got.dtype == np.float32
    assert 0 < np.abs(want - got).max() < 1e-2


def test_prelu_is_exact_for_any_slope() -> None:
    slope = np.array([-1.3, 0.0, 0.25, 1.3], np.float32)
    build = Builder()
    build.prelu("input", "out", slope)
    model = build.model("prelu", {"input": ["N", 4]}, {"out": ["N", 4]})
    feed = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_allclose(run(model, feed)[0], np.where(feed > 0, feed, slope * feed), atol=1e-6)
