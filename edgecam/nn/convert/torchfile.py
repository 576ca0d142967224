"""Read the tensors of a torch .pt/.pth state dict without torch and without running code.

A pickle can call anything. This reader resolves five harmless names and
refuses every other global, so a hostile file raises ModelError.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgecam.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_STORAGES: Final[dict[str, np.dtype[Any]]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}
_MAX_ELEMENTS: Final = 1 << 28


def load(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the state dict, name -> array.

    Raises:
        ModelError: not a state dict, truncated, or it names a global that is not allowed.
    """
    try:
        state = _load_zip(data) if data[:2] == b"PK" else _load_legacy(data)
    except ModelError:
        raise
    except Exception as err:  # any malformed pickle: the types raised are not bounded
        raise ModelError(f"not a readable torch file: {type(err).__name__}: {err}") from err
    return {name: tensor.array() for name, tensor in state.items()}


@dataclass
class _Storage:
    dtype: np.dtype[Any]
    values: NDArray[Any]


@dataclass(frozen=True)
class _Tensor:
    """A view that is resolved late: a legacy file has the values after the pickle."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        extent = 1 + sum((n - 1) * s for n, s in zip(self.size, self.stride))
        empty = 0 in self.size
        bad = min((self.offset, *self.size, *self.stride), default=0) < 0
        if bad or (not empty and self.offset + extent > self.storage.values.size):
            raise ModelError(f"torch tensor {self.size} reaches outside its storage")
        item = self.storage.dtype.itemsize
        start = self.storage.values[self.offset :]
        view = np.lib.stride_tricks.as_strided(start, self.size, tuple(s * item for s in self.stride), writeable=False)
        return np.ascontiguousarray(view).reshape(self.size)


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(size), tuple(stride))


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[Any]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile | None = None) -> None:
        super().__init__(file)
        self._archive = archive
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        raise ModelError(f"torch file refused: it wants to use {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _location, count = pid[:5]
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise ModelError(f"torch file refused: unknown reference {kind!r}")
        if not 0 <= count <= _MAX_ELEMENTS:
            raise ModelError(f"torch file refused: a tensor of {count} values")
        if key not in self.storages:
            self.storages[key] = self._read(key, storage_type.dtype, count)
        return self.storages[key]

    def _read(self, key: str, dtype: np.dtype[Any], count: int) -> _Storage:
        if self._archive is None:
            return _Storage(dtype, np.empty(0, dtype))
        (name,) = (n for n in self._archive.namelist() if n.endswith(f"/data/{key}"))
        return _Storage(dtype, np.frombuffer(self._archive.read(name), dtype, count))


def _load_zip(data: bytes) -> dict[str, _Tensor]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        reader = _Unpickler(io.BytesIO(archive.read(name)), archive)
        return _state_dict(reader.load())


def _load_legacy(data: bytes) -> dict[str, _Tensor]:
    file = io.BytesIO(data)
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise ModelError("not a torch file: wrong magic number")
    _Unpickler(file).load()  # protocol version
    _Unpickler(file).load()  # byte order and integer sizes; little-endian is checked by use
    reader = _Unpickler(file)
    state = _state_dict(reader.load())
    for key in _Unpickler(file).load():
        storage = reader.storages[key]
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        raw = file.read(count * storage.dtype.itemsize)
        storage.values = np.frombuffer(raw, storage.dtype, count)
    return state


def _state_dict(value: object) -> dict[str, _Tensor]:
    if not isinstance(value, dict) or not all(isinstance(t, _Tensor) for t in value.values()):
        raise ModelError("not a torch state dict")
    return dict(value)
