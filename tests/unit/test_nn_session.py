"""Sessions: the provider that is used is one that computes the right thing."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List

import numpy as np
import onnx
import onnxruntime
import pytest

from edgecam.errors import ModelError
from edgecam.nn import session as module
from edgecam.nn.convert.builder import Builder
from edgecam.nn.session import Session, engine_folder, ort_providers, probe


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A net of free batch and size: mean colour times two."""
    build = Builder()
    two = build.constant("two", np.array([2.0], np.float32))
    pooled = build.node("GlobalAveragePool", ["input"], "pooled")
    build.node("Mul", [pooled, two], "out")
    model = build.model("net", {"input": ["N", 3, "H", "W"]}, {"out": ["N", 3, 1, 1]})
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))
    return path


class Driver:
    """Stands in for an onnxruntime with CUDA: the CPU's session, with the outputs bent."""

    def __init__(self, bend: Any) -> None:
        self._bend = bend
        self.SessionOptions = onnxruntime.SessionOptions

    def get_available_providers(self) -> List[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(  # noqa: N802 (its name there)
        self, path: str, options: Any, providers: List[Any], enable_fallback: int
    ) -> Any:
        assert not enable_fallback, "it would print to stdout"
        real = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        if len(providers) == 1:
            return real
        names = [p if isinstance(p, str) else p[0] for p in providers]
        return SimpleNamespace(
            run=lambda outputs, feeds: self._bend(real.run(outputs, feeds)),
            get_inputs=real.get_inputs,
            get_outputs=real.get_outputs,
            get_providers=lambda: names,
        )


def load(net: Path, monkeypatch: pytest.MonkeyPatch, bend: Any) -> Session:
    monkeypatch.setattr(module, "_onnxruntime", lambda: Driver(bend))
    return Session.load(net, ("cuda", "cpu"))


def test_runs_by_list_and_by_name(net: Path) -> None:
    session = Session.load(net, threads=2)
    feeds = {"input": np.ones((2, 3, 5, 7), np.float32)}
    (out,) = session.run(feeds)
    np.testing.assert_allclose(out, np.full((2, 3, 1, 1), 2.0))
    assert list(session.run_named(feeds)) == session.output_names == ["out"]
    assert session.inputs == {"input": (None, 3, None, None)}
    assert session.provider == "cpu"


def test_a_provider_that_agrees_is_used(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(net, monkeypatch, lambda outputs: [o * np.float32(1.0001) for o in outputs])
    assert session.provider == "cuda"


def fail(_: Any) -> Any:
    raise RuntimeError("CUDA failure 100: no CUDA-capable device\nstack\nstack")


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        pytest.param(
            lambda o: [v[:, ::-1] * np.array([1, -5, 1], np.float32).reshape(3, 1, 1) for v in o],
            "differs from the CPU",
            id="wrong",
        ),
        pytest.param(lambda o: [v * np.nan for v in o], "not finite", id="nan"),
        pytest.param(fail, "no CUDA-capable device", id="raises"),
    ],
)
def test_a_provider_that_lies_is_named_once(
    net: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bend: Any, reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        session = load(net, monkeypatch, bend)
    assert session.provider == "cpu"
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()


def test_an_absent_provider_falls_back(net: Path, caplog: pytest.LogCaptureFixture) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has TensorRT")
    with caplog.at_level(logging.DEBUG):
        assert Session.load(net, ("tensorrt", "cpu")).provider == "cpu"
    (record,) = [r for r in caplog.records if "built without it" in r.getMessage()]
    # The default configuration asks for GPUs first: a plain box must not be told so for every net.
    assert record.levelno == logging.DEBUG


def test_cpu_first_never_asks_for_more(net: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Session.load(net, ("cpu", "cuda")).provider == "cpu"
    assert not caplog.records


def test_unknown_provider_is_one_line(net: Path) -> None:
    with pytest.raises(ModelError, match="no provider 'gpu'; there are: tensorrt, cuda, cpu"):
        Session.load(net, ("gpu",))


def test_onnxruntime_names_end_with_the_cpu() -> None:
    assert ort_providers(("tensorrt", "cuda", "cpu"))[-1] == "CPUExecutionProvider"


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="onnxruntime cannot load it") as caught:
        Session.load(path)
    assert "\n" not in str(caught.value)


def test_a_wrong_input_is_one_line(net: Path) -> None:
    with pytest.raises(ModelError, match=r"net.onnx: inference failed on cpu"):
        Session.load(net).run({"input": np.ones((1, 2, 4, 4), np.float32)})


def test_the_probe_fits_any_shape(net: Path) -> None:
    session = Session.load(net)
    assert probe(session)["input"].shape == (1, 3, 96, 96)


def test_engines_of_versions_never_meet(tmp_path: Path) -> None:
    assert engine_folder(tmp_path, "sface-1") != engine_folder(tmp_path, "sface-2")


def test_without_onnxruntime_it_says_what_to_install(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match="edgecam\\[cpu\\]"):
        Session.load(net)
