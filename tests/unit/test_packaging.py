"""What holds pyproject.toml, the constraints, the unit, the examples and the scripts together."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgecam.config import load_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT: Dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
UNIT = ROOT / "systemd/edgecam.service"

sys.path.insert(0, str(ROOT / "deploy"))
import check_constraints  # noqa: E402  (scripts beside the constraints, not modules of the package)
import check_glibc  # noqa: E402

# Where the name to import is not the name to install.
DISTRIBUTION = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "paho": "paho-mqtt",
    "systemd": "systemd-python", "dlib": "dlib-bin",
}  # fmt: skip
# Brought by the system or by `make insightface`, imported only if asked for.
OPTIONAL = {"gi", "gpiod", "insightface"}


def run(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True, text=True, check=False, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


# --- pyproject.toml ---------------------------------------------------------------------------------------------------


def imported(folder: Path) -> Dict[str, str]:
    """Return the first name of every absolute import under a folder, and one file that has it."""
    found: Dict[str, str] = {}
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: List[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            found.update({name.split(".")[0]: str(file.relative_to(ROOT)) for name in names})
    return found


@pytest.mark.skipif(sys.version_info < (3, 10), reason="3.9 cannot list its standard library")
def test_every_import_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    declared = {canonicalize_name(Requirement(line).name) for line in asked} | OPTIONAL
    known = set(getattr(sys, "stdlib_module_names", ())) | {"edgecam", "tests"}
    undeclared = {
        f"{name} ({file})"
        for name, file in imported(ROOT / "edgecam").items()
        if name not in known and canonicalize_name(DISTRIBUTION.get(name, name)) not in declared
    }
    assert not undeclared


def test_floor_is_stated_once_and_the_same_everywhere() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.9"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py39"
    assert PROJECT["tool"]["mypy"]["python_version"] == "3.9"


def test_base_installation_has_neither_onnxruntime_nor_torch() -> None:
    base = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    assert not {name for name in base if name.startswith(("onnxruntime", "torch", "insightface", "dlib"))}


def test_no_onnxruntime_that_phones_home() -> None:
    for target in check_constraints.TARGETS:
        pins, _ = check_constraints.read_pins(target.path)
        assert tuple(map(int, pins["onnxruntime"].split("."))) < (1, 29), target.name
    for extra in ("cpu", "gpu"):
        (line,) = PROJECT["project"]["optional-dependencies"][extra]
        assert not Requirement(line).specifier.contains("1.30.0")
    assert "Environment=ORT_DISABLE_TELEMETRY=1" in set(directives())


# --- layers -----------------------------------------------------------------------------------------------------------


def skeleton(folder: Path) -> Path:
    """Make an empty package with the project's own modules and contracts."""
    (folder / "edgecam").mkdir(parents=True)
    (folder / "edgecam/__init__.py").touch()
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = [name.strip(" ()") for line in contracts[0]["layers"] for name in line.split("|")]
    named = {name for contract in contracts for name in contract.get("source_modules", ()) if name.count(".") == 2}
    for name in layers:
        inside = [module.rpartition(".")[2] for module in named if module.split(".")[1] == name]
        files = [f"{name}/{module}.py" for module in ("__init__", *inside)] if inside else [f"{name}.py"]
        for file in files:
            path = folder / "edgecam" / file
            path.parent.mkdir(exist_ok=True)
            path.touch()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text[text.index("[tool.importlinter]") : text.index("[tool.coverage.run]")]
    (folder / "pyproject.toml").write_text(section, encoding="utf-8")
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports_command; sys.argv = ['lint']; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip


def test_layers_hold_when_nobody_breaks_them(tmp_path: Path) -> None:
    done = lint(skeleton(tmp_path))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("types", "import edgecam.store", "edgecam.types -> edgecam.store"),
        ("detect", "from edgecam import track", "edgecam.detect -> edgecam.track"),
        ("identify", "import sqlite3", "edgecam.identify -> sqlite3"),
        ("novelty", "", "edgecam.novelty"),
    ],
)
def test_a_broken_layer_is_found(tmp_path: Path, file: str, line: str, said: str) -> None:
    (skeleton(tmp_path) / f"edgecam/{file}.py").write_text(line + "\n", encoding="utf-8")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


# --- constraints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", check_constraints.TARGETS, ids=lambda target: target.name)
def test_constraints_pin_everything(target: check_constraints.Target) -> None:
    assert check_constraints.check_static(target) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("numpy==1.26.4\n", "", "numpy is not pinned"),
        ("numpy==1.26.4", "numpy==2.0.2", "outside <2"),
        ("numpy==1.26.4", "numpy>=1.26", "not a plain NAME==VERSION"),
        ("numpy==1.26.4", "numpy==1.26.*", "not a plain NAME==VERSION"),
        ("numpy==1.26.4", "numpy==1.26.4\nNumPy==1.26.4", "pinned twice"),
        ("numpy==1.26.4", "numpy===", "numpy"),
    ],
)
def test_a_bad_pin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str) -> None:
    target = next(t for t in check_constraints.TARGETS if t.name == "jp46-aarch64-py39")
    text = target.path.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / target.path.name).write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(check_constraints, "FOLDER", tmp_path)
    assert any(said in line for line in check_constraints.check_static(target))


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_constraints, "FOLDER", tmp_path)
    assert "missing" in check_constraints.check_static(check_constraints.TARGETS[0])[0]


def test_markers_are_the_boards_not_ours() -> None:
    old = next(t for t in check_constraints.TARGETS if t.name == "jp46-aarch64-py39")
    new = dataclasses.replace(old, python="3.11")
    assert "tomli" in {r.name for r in check_constraints.wanted(old)}
    assert "tomli" not in {r.name for r in check_constraints.wanted(new)}


def report(*files: str) -> Dict[str, Any]:
    return {"install": [{"download_info": {"url": f"https://example.org/{file}#sha256=0"}} for file in files]}


@pytest.mark.parametrize(
    ("file", "fits"),
    [
        ("a-1.0-py3-none-any.whl", True),
        ("a-1.0-cp39-cp39-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", True),
        ("a-1.0-cp39-cp39-manylinux2014_aarch64.whl", True),
        ("a-1.0-cp39-cp39-manylinux_2_28_aarch64.whl", False),
        ("a-1.0-cp39-cp39-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp39-cp39-musllinux_1_1_aarch64.whl", False),
        ("a-1.0.tar.gz", False),
    ],
)
def test_a_wheel_too_new_for_the_board_is_found(file: str, fits: bool) -> None:
    target = next(t for t in check_constraints.TARGETS if t.name == "jp46-aarch64-py39")
    assert (list(check_constraints.misfits(target, report(file))) == []) is fits


def test_no_address_or_hash_of_nvidia_is_invented() -> None:
    for path in sorted((ROOT / "deploy/constraints").glob("jp*.txt")):
        text = path.read_text(encoding="utf-8")
        assert ("url: OWNER FILLS IN; sha256: OWNER FILLS IN" in text) is (path.name != "jp5-aarch64-py39.txt")
        assert "://" not in text


@pytest.mark.parametrize(
    ("machine", "glibc", "file"),
    [
        ("x86_64-py311", "2.36", "x86_64-py311.txt"),
        ("aarch64-py39", "2.27", "jp46-aarch64-py39.txt"),
        ("aarch64-py39", "2.31", "jp5-aarch64-py39.txt"),
        ("aarch64-py310", "2.35", "jp6-aarch64-py310.txt"),
        ("aarch64-py311", "2.36", "arm64-py311.txt"),
        ("aarch64-py313", "2.41", "any.txt"),
    ],
)
def test_each_board_finds_its_constraints(tmp_path: Path, machine: str, glibc: str, file: str) -> None:
    for name, said in (("python", machine), ("getconf", f"glibc {glibc}")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {said}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    done = run(ROOT / "deploy/constraints-for", tmp_path / "python", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert Path(done.stdout.strip()).name == file


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed (binutils)")
def test_a_wheel_that_asks_for_more_than_the_board_has_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a-1.0-cp39-cp39-manylinux_2_27_aarch64.whl", "w") as wheel:
        wheel.write("/bin/sh", "a/shell.so")
    needed = max(version for library, version in check_glibc.needs(Path("/bin/sh")) if library == "GLIBC")
    for name, glibc in (("jp46-aarch64-py39", (2, 27)), ("arm64-py311", (2, 36))):
        done = run(sys.executable, ROOT / "deploy/check_glibc.py", tmp_path, name)
        assert done.returncode == (1 if needed > glibc else 0), done.stdout
        assert ("a/shell.so asks for GLIBC_2." in done.stderr) is (needed > glibc)
    assert run(sys.executable, ROOT / "deploy/check_glibc.py", tmp_path / "none", "arm64-py311").returncode == 1


# --- systemd ----------------------------------------------------------------------------------------------------------


def directives() -> Iterator[str]:
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            yield line


@pytest.mark.parametrize(
    "line",
    [
        "Type=notify", "WatchdogSec=30", "Restart=always", "StartLimitIntervalSec=0", "User=edgecam",
        "StateDirectory=edgecam", "RuntimeDirectory=edgecam", "CapabilityBoundingSet=", "NoNewPrivileges=yes",
        "ProtectSystem=strict", "DevicePolicy=closed", "ExecStart=/opt/edgecam/bin/edgecam run",
    ],
)  # fmt: skip
def test_unit_promises(line: str) -> None:
    assert line in set(directives())


def test_unit_is_verified_where_systemd_is() -> None:
    done = run(ROOT / "deploy/check-units")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ProtectClock=yes", "not known to systemd 237"),
        ("SystemCallFilter=@system-service", "a list of what is allowed"),
    ],
)
def test_a_directive_too_new_for_the_base_unit_is_found(tmp_path: Path, line: str, said: str) -> None:
    done = check_units(tmp_path, lambda text: text.replace("[Install]", f"{line}\n[Install]"))
    assert done.returncode == 1
    assert said in done.stderr


def check_units(folder: Path, change: Callable[[str], str]) -> subprocess.CompletedProcess[str]:
    """Run check-units on a copy with another edgecam.service."""
    (folder / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/check-units", folder / "deploy")
    shutil.copytree(ROOT / "systemd", folder / "systemd")
    (folder / "systemd/edgecam.service").write_text(change(UNIT.read_text(encoding="utf-8")), encoding="utf-8")
    return run(folder / "deploy/check-units")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("line", ["NoNewPrivileges=yes", "IPAddressDeny=any", "ProtectSystem=strict"])
def test_a_unit_that_promises_less_is_found(tmp_path: Path, line: str) -> None:
    assert line in set(directives())
    done = check_units(tmp_path, lambda text: text.replace(f"\n{line}\n", "\n"))
    assert done.returncode == 1
    assert "edgecam.service: exposure above the ceiling" in done.stderr


# --- udev -------------------------------------------------------------------------------------------------------------

RULE = re.compile(r'(?:(?:SUBSYSTEM|KERNEL|NAME)==|(?:GROUP|MODE|ENV\{NM_UNMANAGED\})=)"[^"]+"')


def test_udev_rules_choose_before_they_change_anything() -> None:
    (path,) = (ROOT / "deploy/udev").iterdir()
    rules = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert rules
    for rule in rules:
        parts = rule.split(", ")
        assert all(RULE.fullmatch(part) for part in parts), rule
        chosen = ["==" in part for part in parts]
        assert chosen == sorted(chosen, reverse=True), rule
        # Never every device of a kind: a network that somebody uses would lose its manager.
        assert sum(chosen) >= 2, rule


# --- examples, scripts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/examples").glob("*.toml")), ids=lambda path: path.stem)
def test_examples_load(path: Path) -> None:
    config = load_config(path)
    assert config.cameras
    assert config.alerts.host


def test_every_example_is_offered_by_install() -> None:
    text = (ROOT / "deploy/install").read_text(encoding="utf-8")
    assert {path.name for path in (ROOT / "deploy/examples").glob("*.toml") if path.name not in text} == set()


def shell_scripts() -> List[Path]:
    scripts: Set[Path] = {ROOT / ".ci/run"}
    for path in (ROOT / "deploy").iterdir():
        if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh", b"#!/bin/bash")):
            scripts.add(path)
    return sorted(scripts)


@pytest.mark.parametrize("path", shell_scripts(), ids=lambda path: path.name)
def test_scripts_parse_and_may_be_run(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert run("bash", "-n", path).returncode == 0


def test_install_refuses_a_wheel_that_is_not_the_owners(tmp_path: Path) -> None:
    wheel = tmp_path / "onnxruntime_gpu-1.11.0-cp39-cp39-linux_aarch64.whl"
    wheel.write_bytes(b"not what was trusted")
    env = {"DESTDIR": str(tmp_path / "root"), "ORT_WHEEL": str(wheel)}
    assert "needs ORT_SHA256" in run(ROOT / "deploy/install", **env).stderr
    done = run(ROOT / "deploy/install", ORT_SHA256="0" * 64, **env)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert not (tmp_path / "root").exists()


def test_install_refuses_wheels_without_edgecam_among_them(tmp_path: Path) -> None:
    done = run(ROOT / "deploy/install", DESTDIR=str(tmp_path / "root"), WHEELS=str(tmp_path))
    assert done.returncode == 1
    assert "no edgecam among the wheels" in done.stderr
    assert not (tmp_path / "root").exists()


def test_a_bundle_is_for_a_board_and_for_the_wheel_that_is_trusted(tmp_path: Path) -> None:
    for board in ("", "jp", "toaster"):
        done = run(ROOT / "deploy/bundle", tmp_path, BOARD=board)
        assert done.returncode == 1
        assert "BOARD= is one of: arm64 jp46 jp5 jp6 x86_64" in done.stderr
    wheel = tmp_path / "onnxruntime_gpu-1.11.0-cp39-cp39-linux_aarch64.whl"
    wheel.write_bytes(b"not what was trusted")
    given = {"ORT_WHEEL": str(wheel), "BOARD": "jp46"}
    assert "needs ORT_SHA256" in run(ROOT / "deploy/bundle", tmp_path, **given).stderr
    done = run(ROOT / "deploy/bundle", tmp_path, ORT_SHA256="0" * 64, **given)
    assert done.returncode == 1
    assert "is not the file of ORT_SHA256" in done.stderr
    assert "not for x86_64" in run(ROOT / "deploy/bundle", tmp_path, **{**given, "BOARD": "x86_64"}).stderr


def test_install_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "opt/edgecam/precious"
    foreign.mkdir(parents=True)
    done = run(ROOT / "deploy/install", DESTDIR=str(tmp_path))
    assert done.returncode == 1
    assert "is not an edgecam" in done.stderr
    done = run(ROOT / "deploy/uninstall", DESTDIR=str(tmp_path))
    assert done.returncode == 1
    assert foreign.is_dir()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_install_then_uninstall_leaves_nothing_of_a_trial(tmp_path: Path) -> None:
    env = {"DESTDIR": str(tmp_path), "MODELS": "no"}
    for _ in range(2):  # the second is an upgrade
        done = run(ROOT / "deploy/install", **env)
        assert done.returncode == 0, done.stdout + done.stderr
    python = tmp_path / "opt/edgecam/bin/python"
    where = run(python, "-I", "-c", "import edgecam; print(edgecam.__file__)").stdout
    assert str(tmp_path) in where
    assert run(python, "-m", "edgecam", "--version").returncode == 0
    # It is to run elsewhere, and a key is nothing to be copied from box to box.
    assert (tmp_path / "opt/edgecam/bin/edgecam").read_text().startswith("#!/opt/edgecam/bin/python")
    assert not (tmp_path / "etc/edgecam").exists()
    done = run(ROOT / "deploy/uninstall", **env)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_a_skip_is_a_failure_where_nothing_may_be_missing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  data: x\n  slow: x\n", encoding="utf-8")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.data\ndef test_a(): pytest.skip('no such clip')\n"
        "@pytest.mark.slow\ndef test_b(): pytest.skip('not today')\n"
        "def test_c(data_dir): pass\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    env = {"EDGECAM_TEST_DATA": str(tmp_path / "nowhere")}
    assert "3 skipped" in run(*command, EDGECAM_NO_SKIPS="", **env).stdout
    strict = run(*command, EDGECAM_NO_SKIPS="data,models", **env).stdout
    assert "1 skipped" in strict
    assert "no such clip" in strict
    assert "no test data in" in strict
    assert run(*command, EDGECAM_NO_SKIPS="dta", **env).returncode != 0


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.mp4", "a.pth", "a.onnx", "state/x", "a.sqlite", "master.key", "edgecam.toml"]
)
def test_weights_media_and_state_stay_out_of_git(name: str) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    done = run("git", "-C", ROOT, "check-ignore", "--no-index", name)
    assert done.returncode == 0
