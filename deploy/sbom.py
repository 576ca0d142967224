"""What an installation consists of, with licences: CycloneDX 1.5 on stdout, or the table of docs/licences.md.

    python deploy/sbom.py [--table]      # `make sbom` writes build/sbom.cdx.json and docs/licences.md

It reads the metadata of what is installed beside it; what is optional and not installed is told on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Optional, Sequence, Set, Tuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = frozenset({"cpu", "dlib", "presence", "train"})
"""Of what the product may use; `gpu` is `cpu` by another wheel, `dev` is for its makers."""
_LONGEST = 60
"""A longer `License` is the text itself and no name."""


# What older boards need besides (onnxruntime 1.19, Python below 3.11), from its metadata there.
_OLDER = {"coloredlogs": "MIT", "humanfriendly": "MIT", "tomli": "MIT"}
_PAGE = """# Licences

edgecam itself: Apache-2.0 ([LICENSE](../LICENSE)). Written by `make sbom` from the metadata of what is installed;
versions stand in `deploy/constraints/` and in `build/sbom.cdx.json`. Extras that are not installed are not listed
(bleak, dlib-bin).

| package | licence, as it says | installed |
|---|---|---|
{packages}

Wheels bring libraries of their own along, which their metadata does not name. **`av` has an FFmpeg that calls itself
LGPL 3 or later and is linked with libx264 and libx265, which are GPL 2 or later.** That binds who passes on an image
or a bundle with it: follow the GPL, or build `av` against an FFmpeg without them (`pip install --no-binary av av`;
the daemon only decodes). OpenCV's FFmpeg is LGPL 2.1 or later, OpenBLAS (numpy, scipy) BSD, libgfortran GPL with the
runtime exception.

## Nets

Fetched by `edgecam models pull`, not in the repository unless they are ours. A card for each: [models/](../models/).

| net | licence | fetched |
|---|---|---|
{nets}
"""


@dataclass(frozen=True)
class Part:
    """One package or net."""

    name: str
    version: str
    licence: str
    optional: bool
    """Not part of the base installation."""
    sha256: Optional[str] = None
    """Of a net."""


def packages() -> Tuple[List[Part], List[str]]:
    """Return what edgecam needs, directly or not, of what is installed, and the names of what is not."""
    base, absent = _closure(frozenset({"cpu"}))
    whole, more = _closure(EXTRAS)
    parts = [Part(name, version, _licence(name), name not in base) for name, version in sorted(whole.items())]
    return parts, sorted(absent | more)


def nets() -> List[Part]:
    """Return the models of the manifest."""
    manifest = tomllib.loads((ROOT / "models/manifest.toml").read_text(encoding="utf-8"))
    return [
        Part(row["name"], str(row["converter_version"]), row["licence"], row["when"] != "always", row["sha256"])
        for row in manifest["models"]
    ]


def bill() -> Dict[str, Any]:
    """Return the bill of materials."""
    found, _ = packages()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "edgecam", "version": metadata.version("edgecam")}},
        "components": [
            *(
                {
                    "type": "library",
                    "name": part.name,
                    "version": part.version,
                    "purl": f"pkg:pypi/{part.name}@{part.version}",
                    "scope": "optional" if part.optional else "required",
                    "licenses": [{"license": {"name": part.licence}}],
                }
                for part in found
            ),
            *(
                {
                    "type": "machine-learning-model",
                    "name": part.name,
                    "version": part.version,
                    "scope": "optional" if part.optional else "required",
                    "hashes": [{"alg": "SHA-256", "content": part.sha256}],
                    "licenses": [{"license": {"name": part.licence}}],
                }
                for part in nets()
            ),
        ],
    }


def table() -> str:
    """Return docs/licences.md."""
    found, _ = packages()
    rows = [f"| {part.name} | {part.licence} | {'extra' if part.optional else 'base'} |" for part in found]
    rows += [f"| {name} | {licence} | older boards |" for name, licence in _OLDER.items() if name not in _names(found)]
    fetched = [f"| {part.name} | {part.licence} | {'optional' if part.optional else 'always'} |" for part in nets()]
    return _PAGE.format(packages="\n".join(rows), nets="\n".join(fetched))


def _names(parts: List[Part]) -> Set[str]:
    return {part.name for part in parts}


def _closure(extras: FrozenSet[str]) -> Tuple[Dict[str, str], Set[str]]:
    found: Dict[str, str] = {}
    absent: Set[str] = set()
    todo: List[Tuple[str, FrozenSet[str]]] = [("edgecam", extras)]
    seen: Set[Tuple[str, FrozenSet[str]]] = set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            here = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            absent.add(name)
            continue
        if name != "edgecam":
            found[name] = here.version
        for requirement in map(Requirement, here.requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found, absent


def _licence(name: str) -> str:
    """Return a package's licence by its expression, its name or its classifiers; "unknown" if it names none."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return str(expression)
    said = " ".join((about.get("License") or "").split())
    if said and said.upper() != "UNKNOWN" and len(said) <= _LONGEST:
        return said
    classes = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    return " or ".join(line for line in classes if line != "OSI Approved") or "unknown"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print the bill or the table; 1 if the licence of a part is not known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--table", action="store_true", help="docs/licences.md instead of the bill")
    args = parser.parse_args(argv)
    found, absent = packages()
    print(table() if args.table else json.dumps(bill(), indent=1), end="" if args.table else "\n")
    if absent:
        print(f"sbom: not installed, so not listed: {', '.join(absent)}", file=sys.stderr)
    unknown = [part.name for part in [*found, *nets()] if part.licence in ("", "unknown")]
    if unknown:
        print(f"sbom: names no licence: {', '.join(unknown)}", file=sys.stderr)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
