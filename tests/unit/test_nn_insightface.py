"""A user's ArcFace file goes through insightface's own model zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecam.errors import ModelError
from edgecam.nn import insightface_zoo
from edgecam.nn.insightface_zoo import InsightFaceModel


def have_insightface() -> Optional[str]:
    try:
        import insightface
    except ImportError as err:
        return str(err)
    return None if insightface.__version__ else "no version"


needs_insightface = pytest.mark.skipif(
    have_insightface() is not None, reason=f"insightface is not installed; run: make insightface ({have_insightface()})"
)


def arcface(path: Path, dim: int = 512, side: int = 112) -> Path:
    """Write a net of the ArcFace contract: pooled colours times a fixed matrix."""
    weight = np.random.default_rng(0).normal(size=(3, dim)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input.1"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "weight"], ["683"]),
        ],
        "arcface",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, dim])],
        [helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.reshape(-1).tolist())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@needs_insightface
def test_a_file_of_the_contract_embeds(tmp_path: Path) -> None:
    path = arcface(tmp_path / "w600k_toy.onnx")
    model = InsightFaceModel(path, ("cuda", "cpu"))
    crops = np.random.default_rng(1).integers(0, 255, (3, 112, 112, 3)).astype(np.uint8)
    crops[1, ..., 2] = 255
    vectors = model.embed(crops)
    assert vectors.shape == (3, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(model.embed(crops[1:2])[0], vectors[1], atol=1e-6)
    # The pooled RGB of a BGR crop, normalised as ArcFace is: the colour order reaches the net.
    weight = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    want = (crops[1].reshape(-1, 3).mean(0)[::-1] - 127.5) / 127.5 @ weight
    np.testing.assert_allclose(vectors[1], want / np.linalg.norm(want), atol=1e-4)
    assert model.embed(crops[:0]).shape == (0, 512)
    assert model.version == InsightFaceModel(path).version
    assert model.version.startswith("insightface-")


@needs_insightface
def test_it_leaves_cv2_and_onnxruntime_alone() -> None:
    from importlib.metadata import distributions

    names = [str(d.metadata["Name"]).lower() for d in distributions()]
    assert len({n for n in names if n.startswith("onnxruntime")}) == 1
    assert len({n for n in names if n.startswith("opencv-")}) == 1


@needs_insightface
def test_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gives 128 numbers a face, not 512"):
        InsightFaceModel(arcface(tmp_path / "small.onnx", dim=128))


@needs_insightface
def test_another_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"wants .*160.* pictures"):
        InsightFaceModel(arcface(tmp_path / "big.onnx", side=160))


@needs_insightface
def test_a_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not for a recogniser"):
        InsightFaceModel(arcface(tmp_path / "landmark.onnx", side=192))


@needs_insightface
def test_rubbish_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="insightface cannot load it") as caught:
        InsightFaceModel(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        InsightFaceModel(tmp_path / "nowhere.onnx")


def test_without_insightface_it_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(ModelError, match="make insightface"):
        insightface_zoo.InsightFaceModel(arcface(tmp_path / "a.onnx"))
