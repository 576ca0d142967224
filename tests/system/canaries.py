"""What must never leave a box, and the search for it: in bytes, as numbers, in base64 or hexadecimal, compressed.

The canaries are no invention: they are all that the store keeps sealed, opened with its key (pictures, vectors, names,
addresses, the keys themselves).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import zlib
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Set, Tuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from edgecam.store import Store
from edgecam.store.records import crop_png, unpack_crop, unpack_faces, unpack_floats
from edgecam.store.vault import Sealer

_WINDOW = 16
"""Bytes in which a piece is known again; of twice as many in a row one window is found."""
_FEW = 6
"""A window of fewer different bytes is a plain wall or a row of zeros, and might be anybody's."""
_QUAD = 4
_DECIMALS = 3
_TINY = 0.004
_PIXELS = 48
"""Rows of a picture that are taken as raw pixels."""

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}[ :,]?){16,}")
_NUMBER = re.compile(rb"-?\d+\.\d+(?:[eE][-+]?\d+)?")
_BETWEEN = re.compile(rb"[\s,;\[\]()]{1,4}")
_IMAGES = {"a JPEG": b"\xff\xd8\xff", "a PNG": b"\x89PNG\r\n", "a WebP": b"WEBPVP8"}
_LONG_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{100,}")
_LONG_ARRAY = 8

Finding = Tuple[str, str]
"""Where, and what was found there."""


def sealed(state: Path) -> Dict[str, bytes]:
    """Return all that the store of a state folder keeps encrypted, by its place; the daemon must not run."""
    found: Dict[str, bytes] = {}
    really_open = Sealer.open

    def noted(self: Sealer, place: str, blob: bytes) -> bytes:
        found[place] = really_open(self, place, blob)
        return found[place]

    with mock.patch.object(Sealer, "open", noted), Store.open(state) as store:
        assert list(store.damaged()) == []
    found["master key"] = (state / "master.key").read_bytes()
    return found


class Canaries:
    """What is searched for.

    Args:
        states: state folders, with what is in them now.
    """

    def __init__(self, *states: Path) -> None:
        self._windows: Dict[bytes, str] = {}
        self._quads: Dict[Tuple[float, ...], str] = {}
        self._words: Dict[bytes, str] = {}
        self.count: Dict[str, int] = {}
        """How many of which kind."""
        for state in states:
            for place, data in sealed(state).items():
                kind = _KINDS.get(":".join(place.split(":")[::2]))
                if kind is not None:
                    self.count[kind] = self.count.get(kind, 0) + 1
                    self._add(kind, place, data)

    def search(self, where: str, data: bytes) -> Set[Finding]:
        """Return what of it stands in some output, however wrapped, and what looks like it."""
        found = {(where, what) for layer in _layers(data) for what in self._in(layer)}
        found |= {(where, f"looks like {name}") for layer in _layers(data) for name in _shapes(layer)}
        if _LONG_BASE64.search(data):
            found.add((where, "looks like a long code"))
        if any(len(run) >= _LONG_ARRAY for run in _runs(data)):
            found.add((where, "looks like an array of numbers"))
        return found

    def _in(self, data: bytes) -> Iterator[str]:
        for at in range(len(data) - _WINDOW + 1):
            if (what := self._windows.get(data[at : at + _WINDOW])) is not None:
                yield what
        for run in _runs(data):
            for at in range(len(run) - _QUAD + 1):
                if (what := self._quads.get(_rounded(run[at : at + _QUAD]))) is not None:
                    yield f"{what} as numbers"
        low = data.lower()
        yield from (what for word, what in self._words.items() if word in low)

    def _add(self, kind: str, place: str, data: bytes) -> None:
        table = place.split(":", maxsplit=1)[0]
        if table in ("crops", "pictures"):
            image = unpack_crop(data).image
            rows = np.linspace(0, image.shape[0] - 1, _PIXELS).astype(int)
            self._note(kind, crop_png(data), image[rows].tobytes(), image[rows, :, ::-1].tobytes())
        elif table in ("vectors", "features", "strangers"):
            self._vector(kind, unpack_floats(data))
        elif table == "tracklets":
            features, _, clothes = unpack_faces(data)
            for row in (*features, clothes):
                self._vector(kind, row)
        elif table == "devices":
            for spelling in spellings(json.loads(data)["address"]):
                self._words[spelling] = kind
        elif table == "people":
            for word in data.decode().lower().split():
                self._words[word.encode()] = kind
                self._words[json.dumps(word)[1:-1].encode()] = kind
        else:
            self._note(kind, data)

    def _vector(self, kind: str, values: NDArray[np.float32]) -> None:
        self._note(kind, *(values.astype(dtype).tobytes() for dtype in ("<f4", ">f4", "<f2", "<f8")))
        # A quarter of them will do: whoever sends numbers sends more than seven.
        for at in range(0, len(values) - _QUAD + 1, 4):
            if np.count_nonzero(np.abs(values[at : at + _QUAD]) > _TINY) == _QUAD:
                self._quads[_rounded(values[at : at + _QUAD].tolist())] = kind

    def _note(self, kind: str, *pieces: bytes) -> None:
        for piece in pieces:
            for at in range(0, len(piece) - _WINDOW + 1, _WINDOW):
                window = piece[at : at + _WINDOW]
                if len(set(window)) >= _FEW:
                    self._windows[window] = kind


_KINDS = {
    "crops:crop": "a picture",
    "pictures:crop": "a picture",
    "vectors:vector": "a vector",
    "features:features": "a vector",
    "strangers:features": "a vector",
    "tracklets:features": "a vector",
    "devices:body": "an address",
    "people:name": "a name",
    "keys:wrapped": "a key",
    "master key": "a key",
}


def spellings(address: str) -> List[bytes]:
    """Return a MAC address in all usual forms, in lower case."""
    octets = address.lower().replace("-", ":").split(":")
    plain = "".join(octets)
    dotted = ".".join(plain[at : at + 4] for at in (0, 4, 8))
    raw = bytes.fromhex(plain)
    loose = ":".join(octet.lstrip("0") or "0" for octet in octets)
    texts = [":".join(octets), "-".join(octets), plain, dotted, loose, " ".join(octets), "_".join(octets)]
    # `search` looks at bytes in lower case.
    return [*(text.encode() for text in texts), raw.lower(), raw[::-1].lower()]


def _layers(data: bytes) -> Iterator[bytes]:
    """Yield some output and what may be packed in it."""
    yield data
    for run in _BASE64.findall(data):
        text = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):
            part = text[start:]
            with contextlib.suppress(binascii.Error):
                yield _inflated(base64.b64decode(part[: len(part) // 4 * 4]))
    for run in _HEX.findall(data):
        yield bytes.fromhex(re.sub(rb"[ :,]", b"", run).decode())


def _inflated(data: bytes) -> bytes:
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(47).decompress(data, 1 << 24)
    return data


def _shapes(data: bytes) -> Iterator[str]:
    yield from (name for name, mark in _IMAGES.items() if mark in data)


def _runs(data: bytes) -> Iterator[List[float]]:
    """Yield numbers that follow each other with nothing but signs of a list between them."""
    run: List[float] = []
    end = 0
    for match in _NUMBER.finditer(data):
        if run and not _BETWEEN.fullmatch(data, end, match.start()):
            yield run
            run = []
        run.append(float(match.group()))
        end = match.end()
    yield run


def _rounded(values: Iterable[float]) -> Tuple[float, ...]:
    return tuple(round(value, _DECIMALS) + 0.0 for value in values)


def published(stream: bytes) -> List[Tuple[str, bytes]]:
    """Return (topic, payload) of what a client said to its broker on a connection (MQTT 3.1.1 and 5, section 3.3)."""
    found = []
    at, newer = 0, False
    while at < len(stream):
        kind, acknowledged = stream[at] >> 4, bool(stream[at] & 6)
        size, start = _varying(stream, at + 1)
        packet, at = stream[start : start + size], start + size
        if kind == _CONNECT:
            newer = packet[6] == 5
        if kind == _PUBLISH and at <= len(stream):
            topic_end = 2 + int.from_bytes(packet[:2], "big")
            body = topic_end + 2 * acknowledged
            if newer:
                properties, body = _varying(packet, body)
                body += properties
            found.append((packet[2:topic_end].decode(), packet[body:]))
    return found


_CONNECT, _PUBLISH = 1, 3


def _varying(data: bytes, at: int) -> Tuple[int, int]:
    """Return a variable byte integer and where it ends."""
    value = 0
    for n, byte in enumerate(data[at : at + 4]):
        value |= (byte & 127) << 7 * n
        if not byte & 128:
            return value, at + n + 1
    raise AssertionError("not MQTT")
