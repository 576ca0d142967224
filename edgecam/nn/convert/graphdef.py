"""Read a frozen TensorFlow GraphDef with nothing but numpy.

Only what a frozen inference graph uses is understood: nodes, their inputs and
the attribute kinds below. Anything else raises ModelError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Final, Union

import numpy as np

from edgecam.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Wire = Union[int, bytes]
AttrValue = Union[int, float, bytes, bool, "list[int]", "NDArray[np.generic]"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_MAX_BITS = 70
_TF_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 3: np.dtype("<i4"), 9: np.dtype("<i8")}


@dataclass(frozen=True)
class Node:
    """One operation of the graph."""

    name: str
    op: str
    inputs: tuple[str, ...]
    """Names of producing nodes, in order; control inputs (`^name`) left out."""
    attrs: dict[str, AttrValue]


def load(data: bytes) -> dict[str, Node]:
    """Return the graph's nodes by name, each after all of its inputs.

    Raises:
        ModelError: not a GraphDef, truncated, or with a cycle.
    """
    nodes = {}
    for field, value in _fields(data):
        if field == 1:
            node = _node(_as_bytes(value))
            nodes[node.name] = node
    if not nodes:
        raise ModelError("not a GraphDef: no nodes in it")
    return _sorted(nodes)


def _fields(data: bytes) -> Iterator[tuple[int, Wire]]:
    """Yield (field number, value) of one protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        value: Wire
        if wire == _VARINT:
            value, at = _varint(data, at)
        else:
            if wire == _BYTES:
                size, at = _varint(data, at)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ModelError(f"not a protobuf message: wire type {wire} at byte {at}")
            if at + size > len(data):
                raise ModelError(f"truncated protobuf message: {at + size - len(data)} bytes short")
            value = data[at : at + size]
            at += size
        yield field, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < _VARINT_MAX_BITS:
        if at >= len(data):
            raise ModelError("truncated protobuf message: it ends in a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ModelError(f"not a protobuf message: endless number at byte {at}")


def _as_bytes(value: Wire) -> bytes:
    if isinstance(value, int):
        raise ModelError("not a GraphDef: a number where a message belongs")
    return value


def _node(data: bytes) -> Node:
    name = op = ""
    inputs: list[str] = []
    attrs: dict[str, AttrValue] = {}
    for field, value in _fields(data):
        if field == 1:
            name = _as_bytes(value).decode()
        elif field == 2:
            op = _as_bytes(value).decode()
        elif field == 3:
            source = _as_bytes(value).decode()
            if not source.startswith("^"):
                inputs.append(source.split(":")[0])
        elif field == 5:
            entry = dict(_fields(_as_bytes(value)))
            attr = _attr(_as_bytes(entry.get(2, b"")))
            if attr is not None:
                attrs[_as_bytes(entry[1]).decode()] = attr
    return Node(name, op, tuple(inputs), attrs)


def _attr(data: bytes) -> AttrValue | None:
    """Decode an AttrValue: list(1), s(2), i(3), f(4), b(5), tensor(8); else None."""
    for field, value in _fields(data):
        if field in (2, 3):
            return value
        if field == 5:
            return bool(value)
        if field in _ATTR_MESSAGES:
            return _ATTR_MESSAGES[field](_as_bytes(value))
    return None


def _float(data: bytes) -> float:
    return float(struct.unpack("<f", data)[0])


def _int_list(data: bytes) -> list[int]:
    numbers: list[int] = []
    for field, value in _fields(data):
        if field != 3:
            continue
        if isinstance(value, int):
            numbers.append(value)
        else:
            at = 0
            while at < len(value):
                number, at = _varint(value, at)
                numbers.append(number)
    return numbers


def _tensor(data: bytes) -> NDArray[np.generic]:
    dtype: np.dtype[Any] = np.dtype("<f4")
    shape: list[int] = []
    content: bytes | None = None
    loose: list[bytes] = []
    for field, value in _fields(data):
        if field == 1:
            if value not in _TF_DTYPES:
                raise ModelError(f"GraphDef tensor of unsupported type {value!r}")
            dtype = _TF_DTYPES[int(value)]
        elif field == 2:
            shape = [_dim(_as_bytes(v)) for f, v in _fields(_as_bytes(value)) if f == 2]
        elif field == 4:
            content = _as_bytes(value)
        elif field in (5, 7, 10):  # float_val, int_val, int64_val
            loose.append(_loose(value, dtype))
    raw = content if content is not None else b"".join(loose)
    values = np.frombuffer(raw, dtype)
    count = int(np.prod(shape, dtype=np.int64))
    if values.size == 1 and count > 1:
        values = np.repeat(values, count)
    if values.size != count:
        raise ModelError(f"GraphDef tensor of shape {shape} holds {values.size} values")
    return values.reshape(shape)


_ATTR_MESSAGES: Final[dict[int, Callable[[bytes], AttrValue]]] = {1: _int_list, 4: _float, 8: _tensor}


def _loose(value: Wire, dtype: np.dtype[np.generic]) -> bytes:
    if isinstance(value, int):
        return np.array([value], np.uint64).astype(dtype).tobytes()
    if dtype.kind == "f":
        return value
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return np.array(numbers, np.uint64).astype(dtype).tobytes()


def _dim(data: bytes) -> int:
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            return value if value < 1 << 63 else value - (1 << 64)
    return 0


def _sorted(nodes: dict[str, Node]) -> dict[str, Node]:
    """Order the nodes so that each follows its inputs (the file's order need not)."""
    done: dict[str, Node] = {}
    open_: set[str] = set()
    for start in nodes:
        stack = [start]
        while stack:
            name = stack[-1]
            if name in done:
                stack.pop()
                continue
            if name not in nodes:
                raise ModelError(f"GraphDef names a missing node: {name}")
            waiting = [source for source in nodes[name].inputs if source not in done]
            if not waiting:
                done[name] = nodes[name]
                open_.discard(name)
                stack.pop()
            elif name in open_:
                raise ModelError(f"GraphDef has a cycle through {name}")
            else:
                open_.add(name)
                stack.extend(waiting)
    return done
