"""The tuned layers: read from ONNX, written back into ONNX, computing the same in PyTorch and onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from edgecam.adapt.domains import DomainShift  # noqa: E402
from edgecam.adapt.heads import (  # noqa: E402
    FaceNetTail,
    Head,
    difference,
    make_head,
    project,
    run_files,
    tail_file,
    write_heads,
)
from edgecam.embed import FACENET_SHARE, Encoder, FaceNet, SFace  # noqa: E402
from edgecam.embed.fused import Fused  # noqa: E402
from edgecam.embed.sface import unit  # noqa: E402
from edgecam.errors import ModelError  # noqa: E402
from edgecam.nn.session import Session  # noqa: E402

if TYPE_CHECKING:
    from edgecam.adapt.apart import Kind
    from edgecam.nn.registry import ModelRegistry
    from edgecam.types import Floats

pytestmark = pytest.mark.models
WIDTH = {"facenet": 1792, "sface": 128, "fused": 1920}


@pytest.fixture(scope="module")
def file(registry: ModelRegistry) -> bytes:
    return registry.path("facenet_head").read_bytes()


def encoder(kind: str, file: bytes) -> Encoder:
    """Return an encoder as installed but for its trunk, which takes a second to load and is not run here."""
    head = Session.of_bytes(file, "facenet_head")
    facenet, sface = FaceNet(head, head, "f"), SFace(head, "s")
    either: dict[str, Encoder] = {"facenet": facenet, "sface": sface}
    return either.get(kind) or Fused(facenet, sface, FaceNet.width, FACENET_SHARE)


def features(kind: str, count: int = 7) -> Floats:
    rows = np.random.default_rng(0).standard_normal((count, WIDTH[kind])).astype(np.float32)
    rows[:, :1792] = np.abs(rows[:, :1792])
    return rows


def moved(head: Head) -> Head:
    """Return the head with every weight altered a little."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in head.parameters():
            part.add_(torch.randn(part.shape, generator=generator) * 0.05 * part.std().clamp_min(0.1))
    return head


@pytest.mark.parametrize("kind", ["facenet", "sface", "fused"])
def test_untuned_it_is_the_installed_encoder(kind: Kind, file: bytes) -> None:
    rows = features(kind)
    installed = encoder(kind, file)
    head = make_head(kind, file)
    assert np.abs(project(head, rows) - installed.project(rows)).max() < 1e-6
    with_files = installed.with_heads(write_heads(head, rows), "x")
    assert np.abs(with_files.project(rows) - installed.project(rows)).max() < 1e-6


def test_the_adapter_starts_as_the_identity() -> None:
    rows = features("sface")
    assert np.abs(project(make_head("sface"), rows) - unit(rows)).max() < 1e-7


@pytest.mark.parametrize("kind", ["facenet", "sface", "fused"])
def test_what_is_written_computes_what_was_tuned(kind: Kind, file: bytes) -> None:
    rows = features(kind)
    head = moved(make_head(kind, file))
    files = write_heads(head, rows)
    tuned = run_files(files, rows)
    assert difference(head, files, rows) < 1e-5
    assert np.abs(np.linalg.norm(tuned, axis=1) - 1).max() < 1e-5
    assert np.abs(tuned - project(make_head(kind, file), rows)).max() > 1e-3, "else the test proves nothing"
    assert set(files) == {"facenet": {"facenet_head"}, "sface": {"sface_head"}}.get(
        kind, {"facenet_head", "sface_head"}
    )


@pytest.mark.parametrize("kind", ["facenet", "sface", "fused"])
def test_what_a_light_adds_is_taken_off_in_onnxruntime_as_well(kind: Kind, file: bytes) -> None:
    rows = features(kind, 40)
    light = np.abs(np.random.default_rng(3).standard_normal(WIDTH[kind])).astype(np.float32)
    rows[20:] = rows[:20] + 4 * light
    shifts = {}
    for name, part in (("facenet_head", slice(0, 1792)), ("sface_head", slice(-128, None))):
        adds = light[part]
        along = adds / (adds @ adds)
        bias = np.array([0.0, -8.0 * (rows[:20, part] @ along).mean() - 16.0], np.float32)
        shifts[name] = DomainShift(np.stack([0 * along, 8 * along]), bias, np.stack([0 * adds, 4 * adds]))
    own = {"facenet": ["facenet_head"], "sface": ["sface_head"]}.get(kind, list(shifts))
    head = make_head(kind, file, {name: shifts[name] for name in own})
    vectors = encoder(kind, file).with_heads(write_heads(head, rows), "x").project(rows)
    plain = encoder(kind, file).project(rows)
    assert (plain[:20] * plain[20:]).sum(axis=1).max() < 0.9, "else the test proves nothing"
    assert (vectors[:20] * plain[:20]).sum(axis=1).min() > 0.99
    assert (vectors[:20] * vectors[20:]).sum(axis=1).min() > 0.99


def test_the_file_differs_in_numbers_alone(file: bytes) -> None:
    old = onnx.load_model_from_string(file)
    new = onnx.load_model_from_string(moved(make_head("facenet", file)).files()["facenet_head"])
    changed = {a.name for a, b in zip(old.graph.initializer, new.graph.initializer) if a != b}
    assert changed == {"bottleneck.weight", "bottleneck_bn.gamma", "bottleneck_bn.beta"}
    del old.graph.initializer[:], new.graph.initializer[:]
    assert old == new


def test_a_head_that_onnxruntime_computes_otherwise_is_refused(file: bytes) -> None:
    rows = features("facenet")
    head = make_head("facenet", file)
    stale = head.files()
    assert difference(moved(head), stale, rows) > 1e-3
    with torch.no_grad():
        head.beta[0] = float("nan")
    with pytest.raises(ModelError, match="not used"):
        write_heads(head, rows)


@pytest.mark.parametrize("content", [b"", b"no net"])
def test_another_file_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"facenet_head\.onnx"):
        make_head("facenet", content)


def test_from_the_last_block_on_it_can_be_trained_and_written_back(registry: ModelRegistry, file: bytes) -> None:
    whole = tail_file(registry.path("facenet_trunk").read_bytes(), file)
    rows = np.abs(np.random.default_rng(0).standard_normal((3, 1792, 3, 3))).astype(np.float32)
    tail = FaceNetTail(whole)
    before = project(tail, rows)

    def by_onnxruntime(content: bytes) -> Floats:
        session = Session.of_bytes(content, "tail")
        return session.run({next(iter(session.inputs)): rows})[0]

    assert np.abs(before - by_onnxruntime(whole)).max() < 1e-6
    loss = tail(torch.from_numpy(rows))[0, 0]
    slopes = torch.autograd.grad(loss, list(tail.parameters()))
    assert all(slope.abs().max() > 0 for slope in slopes), "every layer learns"
    with torch.no_grad():
        for part, slope in zip(tail.parameters(), slopes):
            part.sub_(0.05 * part.abs().max() * slope / slope.abs().max())
    after = project(tail, rows)
    assert np.abs(after - before).max() > 1e-3
    assert np.abs(after - by_onnxruntime(tail.files()["facenet_head"])).max() < 1e-5
    assert sum(part.numel() for part in tail.parameters()) > 2_500_000


def test_another_file_has_no_last_block(file: bytes) -> None:
    with pytest.raises(ModelError, match="cannot be cut"):
        tail_file(file, file)
    with pytest.raises(ModelError, match="last Block8"):
        FaceNetTail(file)
