"""What the models are: `models/manifest.toml`, read once and checked."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from edgecam.errors import ModelError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SourceKind = Literal["wheel", "sdist", "https"]
When = Literal["always", "attempt", "ask", "licence"]

_VERSION_DIGITS: Final = 10


@dataclass(frozen=True)
class Source:
    """An archive, or a folder of files at an address, that weights come from."""

    name: str
    kind: SourceKind
    requirement: str
    """`package==version`; for https the address of the folder, ending in a slash."""
    sha256: str
    """Of the archive; empty for https, where each member has its own."""
    size: int


@dataclass(frozen=True)
class SelfTest:
    """A synthetic input and a sample of the outputs that it must give."""

    inputs: dict[str, tuple[int, ...]]
    low: float
    high: float
    outputs: dict[str, tuple[float, ...]]
    """Values at evenly spaced places of each flattened output."""
    min_cosine: float
    """Of the sampled values, per output."""
    max_error: float
    """Largest difference of one value; 0 where only the direction is tested."""


@dataclass(frozen=True)
class Row:
    """One installed file."""

    name: str
    file: str
    source: Source
    member: str
    sha256: str
    """Of the member as it is in the archive."""
    size: int
    convert: str
    """Key of `convert.CONVERTERS`."""
    converter_version: int
    ranges: str
    """File of activation ranges under the models folder; empty unless 8 bit."""
    when: When
    licence: str
    self_test: SelfTest | None
    recipe: str
    """Hash of everything above that decides the result; a change makes the file stale."""

    @property
    def version(self) -> str:
        """Stable id of what the net computes, whatever onnx wrote the file."""
        seed = f"{self.sha256}:{self.convert}:{self.converter_version}"
        return f"{self.name}-{hashlib.sha256(seed.encode()).hexdigest()[:_VERSION_DIGITS]}"


def models_dir() -> Path:
    """Return the folder with the manifest: in the installed package, else in the checkout.

    Raises:
        ModelError: neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_models", package.parent / "models"):
        if (folder / "manifest.toml").is_file():
            return folder
    raise ModelError(f"no models/manifest.toml beside {package}: reinstall edgecam")


@lru_cache(maxsize=4)
def load(folder: Path) -> dict[str, Row]:
    """Return the rows of `folder`/manifest.toml by name, in order.

    Raises:
        ModelError: missing, not TOML, or a row lacks something.
    """
    path = folder / "manifest.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        sources = {name: _source(name, entry) for name, entry in document["sources"].items()}
        rows = [_row(entry, sources, folder) for entry in document["models"]]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ModelError(f"{path}: {err}") from err
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as err:
        raise ModelError(f"{path}: {type(err).__name__}: {err}") from err
    return {row.name: row for row in rows}


def _source(name: str, entry: dict[str, Any]) -> Source:
    kind = entry["kind"]
    if kind not in ("wheel", "sdist", "https"):
        raise ValueError(f"source {name} has unknown kind {kind!r}")
    return Source(name, kind, entry["from"], entry.get("sha256", ""), int(entry.get("size", 0)))


def _row(entry: dict[str, Any], sources: dict[str, Source], folder: Path) -> Row:
    when = entry["when"]
    if when not in ("always", "attempt", "ask", "licence"):
        raise ValueError(f"model {entry['name']} has unknown when {when!r}")
    ranges = entry.get("ranges", "")
    test = entry.get("self_test")
    decisive = {k: v for k, v in entry.items() if k not in ("when", "licence", "file", "self_test")}
    decisive["source_sha256"] = sources[entry["source"]].sha256
    if ranges:
        decisive["ranges"] = hashlib.sha256((folder / ranges).read_bytes()).hexdigest()
    return Row(
        name=entry["name"],
        file=entry["file"],
        source=sources[entry["source"]],
        member=entry["member"],
        sha256=entry["sha256"],
        size=int(entry["size"]),
        convert=entry["convert"],
        converter_version=int(entry["converter_version"]),
        ranges=ranges,
        when=when,
        licence=entry["licence"],
        self_test=None if test is None else _self_test(test),
        recipe=hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest(),
    )


def _self_test(entry: dict[str, Any]) -> SelfTest:
    return SelfTest(
        inputs={name: tuple(shape) for name, shape in entry["inputs"].items()},
        low=float(entry["low"]),
        high=float(entry["high"]),
        outputs={name: tuple(values) for name, values in entry["outputs"].items()},
        min_cosine=float(entry["min_cosine"]),
        max_error=float(entry.get("max_error", 0.0)),
    )
