"""The registry: what reaches the models folder, and what never does."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import zipfile
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecam.errors import ModelError
from edgecam.nn import fetch, manifest
from edgecam.nn.registry import ModelRegistry, default_folder, models_dir

MEMBER = "toy/weights.onnx"


def scaled(factor: float) -> bytes:
    """Return an ONNX file that computes `y` = factor * `x` for (N,4)."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


class Toy:
    """A manifest of one model, whose wheel lies in a mirror."""

    def __init__(self, folder: Path, data: Optional[bytes] = None) -> None:
        self.source = folder / "manifest"
        self.mirror = folder / "mirror"
        self.models = folder / "models"
        self.source.mkdir()
        (self.mirror / "deep" / "down").mkdir(parents=True)
        self.data = scaled(2.0) if data is None else data
        self.wheel = self.mirror / "deep" / "down" / "toy-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(MEMBER, self.data)
            archive.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
            archive.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("toy-1.0.dist-info/RECORD", "")
        self.write()

    def write(self, **changes: str) -> None:
        """Write the manifest; `changes` replace values of the model's row."""
        row = {
            "member": json.dumps(MEMBER),
            "sha256": json.dumps(hashlib.sha256(self.data).hexdigest()),
            "size": str(len(self.data)),
            "convert": '"none"',
            "converter_version": "1",
            "when": '"always"',
            "factor": "2.0",
            **changes,
        }
        factor = float(row.pop("factor"))
        archive = self.wheel.read_bytes()
        lines = [
            "[sources.toy]",
            'kind = "wheel"',
            'from = "toy==1.0"',
            f'sha256 = "{hashlib.sha256(archive).hexdigest()}"',
            f"size = {len(archive)}",
            "[[models]]",
            'name = "toy"',
            'file = "toy.onnx"',
            'source = "toy"',
            'licence = "ours"',
            *(f"{key} = {value}" for key, value in row.items()),
            "[models.self_test]",
            "inputs = { x = [2, 4] }",
            "low = 0.0",
            "high = 1.0",
            "min_cosine = 0.999",
            "max_error = 0.001",
            "[models.self_test.outputs]",
            f"y = {expected(factor)}",
        ]
        (self.source / "manifest.toml").write_text("\n".join(lines))
        manifest.load.cache_clear()

    def registry(self) -> ModelRegistry:
        return ModelRegistry(self.models, self.source)

    def pull(self) -> List[str]:
        return self.registry().pull([self.mirror]).made

    def content(self) -> Dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.models.iterdir() if p.is_file()}


def expected(factor: float) -> List[float]:
    from edgecam.nn.selftest import pattern

    return [float(v) * factor for v in pattern((2, 4), 0.0, 1.0).reshape(-1)]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_pulls_from_a_mirror_by_hash_not_by_name(toy: Toy) -> None:
    toy.wheel.rename(toy.wheel.with_name("anything.bin"))
    assert toy.pull() == ["toy"]
    registry = toy.registry()
    assert registry.available("toy")
    assert registry.path("toy").read_bytes() == toy.data
    assert registry.verify() == {"toy": None}
    assert not [p for p in toy.models.iterdir() if p.name.startswith(".pull-")]


def test_a_mirror_may_hold_the_member_itself(toy: Toy) -> None:
    toy.wheel.unlink()
    (toy.mirror / "loose").write_bytes(toy.data)
    assert toy.pull() == ["toy"]


def test_pip_fetches_what_no_mirror_has(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(toy.wheel.parent))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert toy.registry().pull([empty]).made == ["toy"]


def test_pip_refuses_another_archive(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(toy.wheel, "a") as archive:
        archive.writestr("toy/evil.py", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(toy.wheel.parent))
    with pytest.raises(ModelError, match="pip download failed"):
        toy.registry().pull([])
    assert not (toy.models / "toy.onnx").exists()


def test_a_source_that_is_nowhere_is_one_line(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.wheel.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match=r"toy==1.0: pip download failed.*--mirror") as caught:
        toy.registry().pull([])
    assert "\n" not in str(caught.value)


def test_a_second_pull_does_nothing(toy: Toy) -> None:
    toy.pull()
    before = {p: p.stat().st_mtime_ns for p in toy.models.iterdir()}
    report = toy.registry().pull([])
    assert (report.made, report.kept) == ([], ["toy"])
    assert {p: p.stat().st_mtime_ns for p in toy.models.iterdir()} == before


def test_wrong_member_hash_leaves_the_folder_as_it_was(toy: Toy) -> None:
    toy.pull()
    before = toy.content()
    toy.write(sha256='"' + "0" * 64 + '"', converter_version="2")
    with pytest.raises(ModelError, match="wrong sha256"):
        toy.pull()
    assert toy.content() == before


def test_failed_self_test_leaves_the_folder_as_it_was(toy: Toy) -> None:
    toy.pull()
    before = toy.content()
    toy.write(factor="2.1", converter_version="2")
    with pytest.raises(ModelError, match="toy: self-test failed: y is off by"):
        toy.pull()
    assert toy.content() == before


def test_a_source_that_is_no_net_is_refused(tmp_path: Path) -> None:
    toy = Toy(tmp_path, data=b"not onnx")
    with pytest.raises(ModelError, match="onnxruntime cannot load it"):
        toy.pull()
    assert not (toy.models / "toy.onnx").exists()
    assert not (toy.models / "installed.json").exists()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-1]), "truncated", id="truncated"),
        pytest.param(lambda p: p.write_bytes(bytes(p.stat().st_size)), "wrong sha256", id="altered"),
        pytest.param(lambda p: p.unlink(), "is missing", id="gone"),
    ],
)
def test_a_spoilt_file_is_never_served_and_pull_mends_it(toy: Toy, spoil: object, reason: str) -> None:
    toy.pull()
    assert callable(spoil)
    spoil(toy.models / "toy.onnx")
    with pytest.raises(ModelError, match=f"{reason}.*run: edgecam models pull"):
        toy.registry().path("toy")
    assert reason in str(toy.registry().verify()["toy"])
    assert toy.pull() == ["toy"]
    assert toy.registry().verify() == {"toy": None}


def test_a_file_altered_while_in_use_is_noticed(toy: Toy) -> None:
    toy.pull()
    registry = toy.registry()
    path = registry.path("toy")
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelError, match="altered"):
        registry.path("toy")


def test_missing_model_says_what_to_run(toy: Toy) -> None:
    assert not toy.registry().available("toy")
    with pytest.raises(ModelError, match="run: edgecam models pull"):
        toy.registry().path("toy")


def test_unknown_model_lists_the_known(toy: Toy) -> None:
    with pytest.raises(ModelError, match="no model 'tyo'; there are: toy"):
        toy.registry().path("tyo")


def test_damaged_record_is_one_line(toy: Toy) -> None:
    toy.pull()
    (toy.models / "installed.json").write_text("{")
    with pytest.raises(ModelError, match=r"is damaged.*delete it"):
        toy.registry().path("toy")


def test_a_changed_recipe_makes_the_file_stale(toy: Toy) -> None:
    toy.pull()
    old = toy.registry().version("toy")
    toy.write(converter_version="2")
    registry = toy.registry()
    assert not registry.available("toy")
    with pytest.raises(ModelError, match="another version of edgecam"):
        registry.path("toy")
    assert registry.version("toy") != old
    assert toy.pull() == ["toy"]


def test_version_does_not_depend_on_the_file_written(toy: Toy) -> None:
    version = toy.registry().version("toy")
    toy.pull()
    toy.write(factor="2.0")
    assert toy.registry().version("toy") == version


def test_attempted_row_may_fail_loudly_but_not_when_asked_for(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    toy.write(when='"attempt"')
    toy.wheel.unlink()
    report = toy.registry().pull([toy.mirror])
    assert report.made == []
    assert "pip download failed" in report.skipped["toy"]
    with pytest.raises(ModelError, match="pip download failed"):
        toy.registry().pull([toy.mirror], optional=["toy"])


def test_licensed_row_needs_consent(toy: Toy) -> None:
    toy.write(when='"licence"')
    assert toy.pull() == []
    with pytest.raises(ModelError, match="--accept-licence toy"):
        toy.registry().path("toy")
    assert toy.registry().pull([toy.mirror], accepted=["toy"]).made == ["toy"]


def test_concurrent_pulls_share_the_work(toy: Toy) -> None:
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(toy.registry().pull([toy.mirror]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(r.made) for r in reports) == [0, 0, 0, 1]
    assert toy.registry().verify() == {"toy": None}


def test_a_waiting_pull_gives_up_with_a_reason(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr("edgecam.nn.registry._LOCK_TIMEOUT_S", 0.3)
    toy.models.mkdir()
    said: List[str] = []
    with (toy.models / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another pull"):
            toy.registry().pull([toy.mirror], progress=said.append)
    assert said == ["waiting for another pull"]


def test_a_missing_mirror_is_an_error(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        toy.registry().pull([tmp_path / "nowhere"])


def test_only_https_is_fetched() -> None:
    with pytest.raises(ModelError, match="only https"):
        fetch._download("file:///etc/passwd", 10)


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGECAM_MODELS", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("EDGECAM_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if not Path("/etc/edgecam").is_dir():
        assert default_folder() == tmp_path / "data/edgecam/models"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("[", "manifest.toml", id="not-toml"),
        pytest.param("schema = 1", "KeyError", id="no-rows"),
        pytest.param('[sources.a]\nkind = "ftp"\nfrom = "x"\n[[models]]\n', "unknown kind", id="kind"),
    ],
)
def test_a_bad_manifest_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "manifest.toml").write_text(text)
    with pytest.raises(ModelError, match=reason):
        ModelRegistry(tmp_path / "models", tmp_path)


def test_the_shipped_manifest_is_complete() -> None:
    rows = manifest.load(models_dir())
    for row in rows.values():
        assert len(row.sha256) == 64
        assert row.self_test is not None or row.convert == "none"
        assert (models_dir() / f"{row.name}.md").is_file(), f"no card for {row.name}"
        if row.source.kind != "https":
            assert len(row.source.sha256) == 64
    assert len({row.version for row in rows.values()}) == len(rows)


@pytest.mark.models
def test_pulled_models_pass_their_self_test_and_load_quickly() -> None:
    registry = ModelRegistry(default_folder())
    if not registry.installed():
        pytest.skip(f"no models in {default_folder()}; run: edgecam models pull")
    faults = {name: fault for name, fault in registry.verify().items() if fault is not None}
    assert faults == {}
    start = time.process_time()
    assert registry.pull().made == []
    assert time.process_time() - start < 2.0


@pytest.mark.models
@pytest.mark.parametrize(
    "name", ["facenet_trunk", "facenet_trunk_int8", "facenet_head", "sface", "yunet", "mtcnn_pnet"]
)
def test_pulled_nets_are_old_enough_for_onnxruntime_1_11_and_free_in_batch(name: str) -> None:
    from edgecam.nn.selftest import feeds
    from edgecam.nn.session import Session

    registry = ModelRegistry(default_folder())
    if not registry.available(name):
        pytest.skip(f"{name} is not in {default_folder()}; run: edgecam models pull")
    model = onnx.load(str(registry.path(name)))
    assert model.ir_version <= 8
    assert max(o.version for o in model.opset_import) <= 16
    test = registry.rows[name].self_test
    assert test is not None
    session = Session.load(registry.path(name))
    together = feeds(test)
    outputs = session.run(together)
    for i in range(next(iter(together.values())).shape[0]):
        alone = session.run({k: v[i : i + 1] for k, v in together.items()})
        for one, many in zip(alone, outputs):
            np.testing.assert_allclose(one[0], many[i], atol=1e-4)
