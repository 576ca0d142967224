"""Hold deploy/constraints/ to its promise: every pin has a wheel for its board.

    check_constraints.py             what needs no network: all pinned, once, and within pyproject.toml's bounds
    check_constraints.py --resolve   also by pip's own resolver, for the platform and glibc of each board
    check_constraints.py --write     resolve anew from pyproject.toml's bounds and write the files
    check_constraints.py --download FOLDER TARGET   fetch the board's wheels, and pip's

pip's `--python-version` and `--platform` choose wheels, but pip evaluates environment markers for the Python it runs
on (so `tomli; python_version < "3.11"` would be left out for a 3.9 board). Here pip runs with those of the board.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy/constraints"

# pip, but with the markers of the board (argument 1, JSON). It is pip's vendored copy that must be told, and this
# refuses to go on if a pip to come looks elsewhere.
_PIP_FOR = """
import json, sys
from pip._vendor.packaging import markers
board = json.loads(sys.argv.pop(1))
here = markers.default_environment
markers.default_environment = lambda: {**here(), **board}
for key, value in board.items():
    assert markers.Marker(f"{key} == '{value}'").evaluate(), f"pip does not see {key} as {value}"
from pip._internal.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Target:
    """One board: what runs there and what of the project is installed on it."""

    name: str
    what: str
    python: str
    machine: str
    glibc: Tuple[int, int]
    extras: Tuple[str, ...]
    bounds: Tuple[str, ...]
    """Beyond pyproject.toml's."""
    note: Tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Return the constraints file."""
        return FOLDER / f"{self.name}.txt"

    @property
    def environment(self) -> Dict[str, str]:
        """Return the environment markers of the board that differ between machines."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "platform_machine": self.machine,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }

    @property
    def platforms(self) -> List[str]:
        """Return the wheel platforms that this glibc carries, newest first.

        >>> TARGETS[1].platforms[0], TARGETS[1].platforms[-1]
        ('manylinux_2_27_aarch64', 'manylinux2014_aarch64')
        """
        oldest = 5 if self.machine == "x86_64" else 17
        names = [f"manylinux_2_{minor}" for minor in range(self.glibc[1], oldest - 1, -1)] + ["manylinux2014"]
        if self.machine == "x86_64":
            names += ["manylinux2010", "manylinux1"]
        return [f"{name}_{self.machine}" for name in names]


_NVIDIA = (
    "The GPU needs NVIDIA's own onnxruntime wheel. It is the owner's to fetch, to trust and to fill in below: no",
    "address or hash is known to us at first hand, so none is written. Without it the box runs on its CPU.",
)

TARGETS = (
    Target(
        name="x86_64-py311",
        what="x86-64 PC or NUC (and development and CI)",
        python="3.11",
        machine="x86_64",
        glibc=(2, 35),
        extras=("cpu", "dlib", "presence", "train", "dev"),
        bounds=("numpy==2.0.2", "pydantic==2.13.*", "torch==2.13.0"),
        note=("numpy and pydantic: the newest whose stubs mypy 1.19.1 reads as Python 3.9.",),
    ),
    Target(
        name="jp46-aarch64-py39",
        what="Jetson TX2 and Nano, JetPack 4.6",
        python="3.9",
        machine="aarch64",
        glibc=(2, 27),
        extras=("cpu", "dlib", "presence", "train"),
        bounds=("numpy<2", "pydantic==2.13.*"),
        note=(
            "numpy < 2: NVIDIA's onnxruntime 1.11 was built against numpy 1.",
            *_NVIDIA,
            "NVIDIA: onnxruntime-gpu 1.11.0 cp39 aarch64 (Jetson Zoo); url: OWNER FILLS IN; sha256: OWNER FILLS IN",
        ),
    ),
    Target(
        name="jp5-aarch64-py39",
        what="Jetson Xavier and Orin, JetPack 5",
        python="3.9",
        machine="aarch64",
        glibc=(2, 31),
        extras=("cpu", "dlib", "presence", "train"),
        bounds=("numpy<2", "pydantic==2.13.*"),
        note=(
            "For the CPU alone: NVIDIA built onnxruntime for JetPack 5 for Python 3.8 only, which is below our floor.",
            "numpy < 2: as on JetPack 4.6, whose versions are those that the unit tests run with.",
        ),
    ),
    Target(
        name="jp6-aarch64-py310",
        what="Jetson Orin, JetPack 6",
        python="3.10",
        machine="aarch64",
        glibc=(2, 35),
        extras=("cpu", "dlib", "presence", "train"),
        bounds=("pydantic==2.13.*", "torch==2.5.1"),
        note=(
            "torch 2.5.1: the newest for aarch64 without libraries of a server's GPU, which a Jetson cannot use.",
            *_NVIDIA,
            "NVIDIA: onnxruntime-gpu 1.23.0 cp310 aarch64 (JetPack 6); url: OWNER FILLS IN; sha256: OWNER FILLS IN",
        ),
    ),
    Target(
        name="arm64-py311",
        what="any 64-bit ARM machine with Debian 12 (a Raspberry Pi 4 or 5)",
        python="3.11",
        machine="aarch64",
        glibc=(2, 36),
        extras=("cpu", "dlib", "presence", "train"),
        bounds=("numpy==2.0.2", "pydantic==2.13.*", "torch==2.5.1"),
        note=("torch 2.5.1: as on JetPack 6, the newest for aarch64 without libraries of a server's GPU.",),
    ),
)


def wanted(target: Target) -> List[Requirement]:
    """Return what pyproject.toml asks for on this board, markers already evaluated."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines: List[str] = list(project["dependencies"])
    for extra in target.extras:
        lines += project["optional-dependencies"][extra]
    environment: Dict[str, Any] = {**default_environment(), **target.environment}
    asked = [Requirement(line) for line in lines]
    return [r for r in asked if r.marker is None or r.marker.evaluate(environment)]


def read_pins(path: Path) -> Tuple[Dict[str, str], List[str]]:
    """Return the pins by canonical name, and what is wrong with the file."""
    pins: Dict[str, str] = {}
    wrong: List[str] = []
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as err:
            wrong.append(f"{path.name}:{number}: {line}: {err}")
            continue
        name = canonicalize_name(requirement.name)
        match = re.fullmatch(r"==([^*=,]+)", str(requirement.specifier))
        if match is None or requirement.marker or requirement.url:
            wrong.append(f"{path.name}:{number}: {line}: not a plain NAME==VERSION")
        elif name in pins:
            wrong.append(f"{path.name}:{number}: {name} is pinned twice")
        else:
            pins[name] = match[1]
    return pins, wrong


def check_static(target: Target) -> List[str]:
    """Return what is wrong with a file as it stands, without network."""
    if not target.path.is_file():
        return [f"{target.path.name}: missing; write it with --write"]
    pins, wrong = read_pins(target.path)
    for requirement in [*wanted(target), *map(Requirement, target.bounds)]:
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            wrong.append(f"{target.path.name}: {requirement.name} is not pinned")
        elif not requirement.specifier.contains(pin, prereleases=True):
            wrong.append(f"{target.path.name}: {requirement.name}=={pin} is outside {requirement.specifier}")
    return wrong


def pip_for(target: Target, *args: str) -> str:
    """Let pip do something as if it ran on a board; return what it printed.

    Raises:
        RuntimeError: pip failed; its last lines say why.
    """
    options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--implementation", "cp"]
    options += ["--python-version", target.python]
    for platform in target.platforms:
        options += ["--platform", platform]
    command = [sys.executable, "-c", _PIP_FOR, json.dumps(target.environment), *args, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if not line.startswith(("WARNING", "[notice]"))]
        raise RuntimeError("\n    ".join(errors[-8:]) or f"pip exited {done.returncode}")
    return done.stdout


def pip_report(target: Target, *args: str) -> Mapping[str, Any]:
    """Let pip resolve for a board and return its report.

    Raises:
        RuntimeError: pip found no solution; its last lines say why.
    """
    # Older pips want a --target; nothing is written to it in a dry run.
    dry = ("--dry-run", "--ignore-installed", "--report", "-", "--target", "build/nowhere")
    report: Mapping[str, Any] = json.loads(pip_for(target, "install", *dry, *args))
    return report


def download(target: Target, folder: Path, extras: str, only: str) -> int:
    """Fetch the wheels of a board, pip's among them; return how many there are.

    Args:
        target: the board.
        folder: where to.
        extras: of pyproject.toml, with commas.
        only: this requirement instead, without what it needs; empty for all.

    Raises:
        RuntimeError: pip found no solution; its last lines say why.
    """
    chosen = replace(target, extras=tuple(filter(None, extras.split(","))))
    asked = ["--no-deps", only] if only else ["pip", *map(_plain, wanted(chosen))]
    pip_for(target, "download", "--dest", str(folder), "--constraint", str(target.path), *asked)
    return len(list(folder.glob("*.whl")))


def misfits(target: Target, report: Mapping[str, Any]) -> Iterator[str]:
    """Yield each wheel of a report that the board's glibc or machine would not carry."""
    carried = {*target.platforms, "any"}
    for item in report["install"]:
        file = item["download_info"]["url"].split("#")[0].rsplit("/", 1)[-1].replace("%2B", "+")
        if not file.endswith(".whl"):
            yield f"{target.path.name}: {file} is not a wheel"
        elif not {tag.platform for tag in parse_wheel_filename(file)[3]} & carried:
            yield f"{target.path.name}: {file} does not fit {target.machine}, glibc {'.'.join(map(str, target.glibc))}"


def resolved(report: Mapping[str, Any]) -> Dict[str, str]:
    """Return the pins that a report amounts to; any build of a version will do (`torch 1.2.3+cpu`)."""
    installed = [item["metadata"] for item in report["install"]]
    return {canonicalize_name(one["name"]): one["version"].split("+")[0] for one in installed}


def check_resolve(target: Target) -> List[str]:
    """Return what pip's resolver has against a file."""
    pins, _ = read_pins(target.path)
    try:
        report = pip_report(target, "--constraint", str(target.path), *map(_plain, wanted(target)))
    except RuntimeError as err:
        return [f"{target.path.name}: pip: {err}", *_without_wheel(target, pins)]
    wrong = list(misfits(target, report))
    needed = resolved(report)
    wrong += [f"{target.path.name}: {name} is needed but not pinned" for name in sorted(set(needed) - set(pins))]
    wrong += [f"{target.path.name}: {name} is pinned but not needed" for name in sorted(set(pins) - set(needed))]
    return wrong


def _without_wheel(target: Target, pins: Mapping[str, str]) -> Iterator[str]:
    """Yield each pin that has no wheel for the board, asked one by one (slow, so only after a failure)."""
    for name, version in pins.items():
        try:
            pip_report(target, "--no-deps", f"{name}=={version}")
        except RuntimeError:
            yield f"{target.path.name}: {name}=={version} has no wheel for {target.machine}, Python {target.python}"


def _plain(requirement: Requirement) -> str:
    """Return a requirement without its marker, which `wanted` has evaluated."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def write(target: Target) -> None:
    """Resolve from the bounds and write the file."""
    pins = resolved(pip_report(target, *target.bounds, *map(_plain, wanted(target))))
    glibc = ".".join(map(str, target.glibc))
    extras = ",".join(target.extras)
    today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    lines = [
        f"# {target.what}: Python {target.python}, glibc {glibc}, {target.machine}; edgecam[{extras}].",
        f"# Resolved {today} by `deploy/check_constraints.py --write`: do not edit by hand.",
        *(f"# {line}" for line in target.note),
        *(f"{name}=={pins[name]}" for name in sorted(pins)),
    ]
    target.path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Check or write every file and say what is wrong, a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--resolve", action="store_true", help="also ask pip's resolver (network)")
    parser.add_argument("--write", action="store_true", help="resolve anew and write the files (network)")
    parser.add_argument("--download", type=Path, metavar="FOLDER", help="fetch the wheels of one board (network)")
    parser.add_argument("--extras", default="cpu", help="whose wheels are fetched, default: cpu")
    parser.add_argument("--only", default="", metavar="NAME==VERSION", help="fetch this alone")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: {' '.join(t.name for t in TARGETS)}")
    args = parser.parse_args()
    if unknown := set(args.targets) - {t.name for t in TARGETS}:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")

    if args.download:
        chosen = [target for target in TARGETS if target.name in args.targets]
        if len(chosen) != 1:
            parser.error("--download wants one target")
        try:
            wheels = download(chosen[0], args.download, args.extras, args.only)
        except RuntimeError as err:
            print(f"{chosen[0].name}: pip: {err}", file=sys.stderr)
            return 1
        print(f"{chosen[0].name}: {wheels} wheels")
        return 0

    wrong: List[str] = []
    for target in TARGETS:
        if args.targets and target.name not in args.targets:
            continue
        if args.write:
            write(target)
        found = check_static(target)
        if args.resolve and not found:
            found = check_resolve(target)
        wrong += found
        how = "resolved" if args.resolve else "pinned"
        pins = len(read_pins(target.path)[0]) if target.path.is_file() else 0
        print(f"{target.name}: {f'{len(found)} wrong' if found else f'ok, {pins} packages {how}'}")
        if args.resolve and any(line.startswith("NVIDIA:") for line in target.note):
            print(f"{target.name}: NVIDIA's own wheel skipped: the owner fills in its url and sha256")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
