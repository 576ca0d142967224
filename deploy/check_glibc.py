"""Hold the wheels of a board to its C library: no shared object asks for a newer one than the system has.

    check_glibc.py FOLDER TARGET    the folder of a bundle's wheels, and a name of deploy/constraints

A wheel's name says which glibc it was built for; this reads what each of its objects truly asks the loader for.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Dict, Iterator, Tuple

from check_constraints import TARGETS

Version = Tuple[int, ...]

GLIBCXX: Dict[Tuple[int, int], Version] = {
    (2, 27): (3, 4, 25), (2, 31): (3, 4, 28), (2, 35): (3, 4, 30), (2, 36): (3, 4, 30),
}  # fmt: skip
"""glibc -> libstdc++ of the same release: Ubuntu 18.04, 20.04, 22.04, Debian 12."""
# In what an object needs the flags follow the name; in what it defines they come before.
_NEED = re.compile(r"Name: (GLIBC|GLIBCXX)_([0-9.]+)\s+Flags")
_ELF = b"\x7fELF"


def needs(path: Path) -> Iterator[Tuple[str, Version]]:
    """Yield the versions of the C and C++ library that a shared object asks for."""
    done = subprocess.run(["readelf", "-VW", str(path)], capture_output=True, text=True, check=True)
    for library, version in _NEED.findall(done.stdout):
        yield library, tuple(int(part) for part in version.split("."))


def newest(wheel: Path, folder: Path) -> Tuple[int, Dict[str, Tuple[Version, str]]]:
    """Return how many objects a wheel has, and by library the newest version asked for and who asks."""
    count = 0
    found: Dict[str, Tuple[Version, str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                if file.read(4) != _ELF:
                    continue
            count += 1
            for library, version in needs(Path(archive.extract(name, folder))):
                found[library] = max(found.get(library, ((), "")), (version, name))
    return count, found


def main() -> int:
    """Check every wheel of a folder; say what is too new, a line each."""
    targets = {target.name: target for target in TARGETS}
    if len(sys.argv) != 3 or sys.argv[2] not in targets:
        print(f"usage: check_glibc.py FOLDER TARGET, one of: {' '.join(targets)}", file=sys.stderr)
        return 2
    glibc = targets[sys.argv[2]].glibc
    allowed: Dict[str, Version] = {"GLIBC": glibc, "GLIBCXX": GLIBCXX[glibc]}
    wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
    objects, wrong = 0, 0
    highest: Dict[str, Tuple[Version, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for wheel in wheels:
            count, found = newest(wheel, Path(folder))
            objects += count
            for library, (version, name) in found.items():
                highest[library] = max(highest.get(library, ((), "")), (version, wheel.name))
                if version > allowed[library]:
                    wrong += 1
                    text = f"{library}_{'.'.join(map(str, version))}"
                    print(f"{wheel.name}: {name} asks for {text}", file=sys.stderr)
    tops = " ".join(f"{library}_{'.'.join(map(str, top))} ({who})" for library, (top, who) in sorted(highest.items()))
    print(f"check-glibc: {sys.argv[2]}: {len(wheels)} wheels, {objects} objects, {wrong} too new; at most {tops}")
    return 1 if wrong or not objects else 0


if __name__ == "__main__":
    sys.exit(main())
