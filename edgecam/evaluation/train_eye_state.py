"""Train models/eye_state.onnx: is an eye open or closed? `python -m edgecam.evaluation.train_eye_state --data DIR`.

DIR has `open/` and `closed/` faces. In the set used (Closed Eyes in the Wild) the two halves come from different
sources, so a net can learn the source. Against that: only a small grey equalised patch of each eye is shown, and every
patch is blurred, made coarse, noised, compressed and re-lit at random, so that little of a camera is left in it. What
it learnt is measured elsewhere, on clips of eyes that open and close before one camera (`edgecam eval blink`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import cv2
import numpy as np

from edgecam.liveness.eyes import PATCH_PX, equalise, patches
from edgecam.types import Floats, Image

_AREA = 64
"""Eye areas are kept this large; `_AREA_WIDE` eye distances, so that a patch fits with room to be moved."""
_AREA_WIDE = 1.6
_BORDER = 0.4
_TEST_SHARE = 0.15
_BATCH = 128


def eye_areas(folder: Path) -> Iterator[Image]:
    """Yield (2, 64, 64) eye areas of the faces of a folder."""
    from edgecam import detect
    from edgecam.config import DetectConfig
    from edgecam.nn.registry import ModelRegistry, default_folder

    detector = detect.make(DetectConfig(), ModelRegistry(default_folder()), 1, ("cpu",))
    for path in sorted(folder.iterdir()):
        image = cv2.imread(str(path))
        if image is None:
            continue
        pad = int(_BORDER * image.shape[0])
        image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        image = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        faces = detector(image)
        if len(faces):
            best = int(np.argmax(faces.boxes[:, 2]))
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            yield patches(grey, faces.landmarks[best], _AREA_WIDE, (_AREA, _AREA))


def load_areas(data: Path, cache: Path) -> Tuple[Image, Floats]:
    """Return (N, 2, 64, 64) areas and (N,) labels, 1 open."""
    if not cache.exists():
        halves = [np.stack(list(eye_areas(data / name))) for name in ("closed", "open")]
        np.savez_compressed(cache, closed=halves[0], open=halves[1])
    kept = np.load(cache)
    labels = np.concatenate([np.zeros(len(kept["closed"])), np.ones(len(kept["open"]))])
    return np.concatenate([kept["closed"], kept["open"]]), labels.astype(np.float32)


def disguise(area: Image, rng: np.random.Generator) -> Floats:
    """Return a patch of an eye area, moved, turned, re-lit and degraded at random, equalised."""
    angle, scale = rng.normal(0, 6), np.exp(rng.normal(0, 0.12))
    stretch = np.exp(rng.normal(0, 0.07))
    cos, sin = np.cos(np.radians(angle)) * scale, np.sin(np.radians(angle)) * scale
    turn = np.array([[cos, -sin * stretch], [sin, cos * stretch]])
    middle = _AREA / 2 - 0.5 + rng.normal(0, 2.2, 2)
    matrix = np.concatenate([turn, (middle - turn @ ((np.array(PATCH_PX) - 1) / 2))[:, None]], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(area, matrix, PATCH_PX, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    values = patch.astype(np.float32)
    y, x = np.linspace(-1, 1, PATCH_PX[1])[:, None], np.linspace(-1, 1, PATCH_PX[0])
    values *= 1 + rng.normal(0, 0.15) * x + rng.normal(0, 0.15) * y
    values = 255 * (np.clip(values, 0, 255) / 255) ** np.exp(rng.normal(0, 0.35)) * np.exp(rng.normal(0, 0.25))
    if rng.random() < 0.7:
        coarse = rng.uniform(9, PATCH_PX[0])
        size = (round(coarse), max(2, round(coarse * PATCH_PX[1] / PATCH_PX[0])))
        values = cv2.resize(cv2.resize(values, size, interpolation=cv2.INTER_AREA), PATCH_PX)
    if rng.random() < 0.6:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < 0.3:
        values = cv2.blur(values, (5, 1) if rng.random() < 0.5 else (5, 5))  # moved, or out of focus
    values = values + rng.normal(0, rng.uniform(0, 9), values.shape)
    patch = np.clip(values, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        patch = cv2.imdecode(cv2.imencode(".jpg", patch, [1, int(rng.integers(25, 90))])[1], cv2.IMREAD_GRAYSCALE)
    return equalise(patch)


def make_net() -> Any:
    """Return the net: three convolutions with batch norm, the mean over the patch, two layers; 1 logit, open > 0."""
    from torch import nn

    def block(n: int, m: int, stride: int) -> List[Any]:
        return [nn.Conv2d(n, m, 3, stride, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU()]

    return nn.Sequential(
        *block(1, 16, 1), *block(16, 32, 2), *block(32, 32, 1), *block(32, 64, 2), nn.Dropout2d(0.1),
        nn.Conv2d(64, 16, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16 * 6 * 8, 32), nn.ReLU(),
        nn.Linear(32, 1),
    )  # fmt: skip


def train(areas: Image, labels: Floats, epochs: int, seed: int) -> Any:
    """Return the trained net; prints the held-out people's accuracy."""
    import torch

    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    held = rng.random(len(labels)) < _TEST_SHARE
    eyes, targets = areas[~held].reshape(-1, _AREA, _AREA), np.repeat(labels[~held], 2)
    net = make_net()
    steps = epochs * (len(eyes) // _BATCH)
    adam = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, steps)
    step, loss = 0, torch.zeros(())
    while step < steps:
        order = rng.permutation(len(eyes))
        for at in range(0, len(order) - _BATCH + 1, _BATCH):
            pick = order[at : at + _BATCH]
            x = torch.from_numpy(np.stack([disguise(eyes[i], rng) for i in pick])[:, None])
            y = torch.from_numpy(targets[pick]) * 0.9 + 0.05
            net.train()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            step += 1
            if step == steps:
                break
        if step % 100 < len(order) // _BATCH:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    net.eval()
    test = areas[held].reshape(-1, _AREA, _AREA)
    with torch.no_grad():
        x = torch.from_numpy(np.stack([disguise(area, rng) for area in test])[:, None])
        right = ((net(x)[:, 0] > 0).numpy() == (np.repeat(labels[held], 2) > 0.5)).sum()
    print(f"held-out people, same sources, disguised: {right} of {len(test)} eyes right")
    return net


def export(net: Any, path: Path) -> None:
    """Write opset 13, IR 8: `eyes` (N, 1, 24, 32) -> `open` (N, 1) logits; batch norms are folded."""
    import onnx
    import torch
    from onnx import TensorProto, helper, numpy_helper

    layers, weights, nodes, name = list(net), [], [], "eyes"

    def keep(label: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), label))
        return label

    for i, layer in enumerate(layers):
        out, kind = f"v{i}", type(layer).__name__
        if kind in ("Dropout", "Dropout2d", "BatchNorm2d"):
            continue
        if kind == "Conv2d":
            w = layer.weight.detach().numpy()
            b = np.zeros(len(w), np.float32) if layer.bias is None else layer.bias.detach().numpy()
            if i + 1 < len(layers) and type(layers[i + 1]).__name__ == "BatchNorm2d":
                norm = layers[i + 1]
                gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
                w = w * gain[:, None, None, None]
                b = (b - norm.running_mean.numpy()) * gain + norm.bias.detach().numpy()
            inputs = [name, keep(f"w{i}", w), keep(f"b{i}", b)]
            pads = [layer.padding[0]] * 4
            kernel = list(layer.kernel_size)
            nodes.append(
                helper.make_node("Conv", inputs, [out], strides=list(layer.stride), pads=pads, kernel_shape=kernel)
            )
        elif kind == "ReLU":
            nodes.append(helper.make_node("Relu", [name], [out]))
        elif kind == "Flatten":
            nodes.append(helper.make_node("Flatten", [name], [out], axis=1))
        elif kind == "Linear":
            inputs = [name, keep(f"w{i}", layer.weight.detach().numpy()), keep(f"b{i}", layer.bias.detach().numpy())]
            nodes.append(helper.make_node("Gemm", inputs, [out], transB=1))
        else:
            raise TypeError(f"no conversion for {kind}")
        name = out
    nodes[-1].output[0] = "open"
    shape = ["n", 1, PATCH_PX[1], PATCH_PX[0]]
    graph = helper.make_graph(
        nodes, "eye_state", [helper.make_tensor_value_info("eyes", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("open", TensorProto.FLOAT, ["n", 1])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="edgecam")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    print(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with open/ and closed/")
    parser.add_argument("--cache", type=Path, default=Path("eye_areas.npz"), help="eye areas found in it")
    parser.add_argument("--out", type=Path, default=Path("models/eye_state.onnx"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    areas, labels = load_areas(args.data, args.cache)
    print(f"{len(labels)} faces: {int(labels.sum())} open, {int((1 - labels).sum())} closed")
    export(train(areas, labels, args.epochs, args.seed), args.out)


if __name__ == "__main__":
    main()
