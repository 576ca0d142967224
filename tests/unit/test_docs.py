"""The pages: their links lead somewhere, the tests that they name are there, every licence is listed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

sys.path.insert(0, str(ROOT / "deploy"))
import sbom  # noqa: E402  (a script, not a module of the package)


def anchors(page: Path) -> List[str]:
    """Return the anchors that headings make, as the usual hosts do."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_threat_model_names_tests_that_are_there() -> None:
    text = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 15
    assert named <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_dependency_is_listed_with_its_licence() -> None:
    listed = re.findall(
        r"^\| ([\w.-]+) \| (.+) \| (?:base|extra|older boards) \|$",
        (ROOT / "docs/licences.md").read_text(),
        re.MULTILINE,
    )
    found, _ = sbom.packages()
    assert {part.name for part in found if not part.optional} >= {"numpy", "onnxruntime", "cryptography", "pydantic"}
    assert {part.name for part in found} <= {name for name, _ in listed}
    assert "unknown" not in {licence for _, licence in listed}
    nets = (ROOT / "docs/licences.md").read_text(encoding="utf-8").partition("## Nets")[2]
    assert {net.name for net in sbom.nets()} == set(
        re.findall(r"^\| (\w+) \| .+ \| (?:always|optional) \|$", nets, re.MULTILINE)
    )


def test_the_bill_is_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, ROOT / "deploy/sbom.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bill: Dict[str, Any] = json.loads(done.stdout)
    kinds = [part["type"] for part in bill["components"]]
    assert (bill["bomFormat"], kinds.count("machine-learning-model")) == ("CycloneDX", len(sbom.nets()))
    assert all(part["licenses"][0]["license"]["name"] for part in bill["components"])
    monkeypatch.setattr(sbom, "_licence", lambda name: "unknown" if name == "numpy" else "MIT")
    assert sbom.main([]) == 1
    assert "names no licence: numpy" in capsys.readouterr().err
