"""Speed of the stages and of a camera's path, within this process."""

from __future__ import annotations

from functools import partial
from typing import Callable, Dict, Iterator, List, Tuple

import numpy as np

from edgecam import align, liveness, quality
from edgecam.bench.lab import Lab, repeat, timed
from edgecam.bench.report import Figure, Row, Skipped
from edgecam.bench.scene import FPS, Scene
from edgecam.capture.clip import ClipSource
from edgecam.capture.motion import Motion, MotionGate
from edgecam.capture.preroll import PreRoll
from edgecam.clock import SystemClock
from edgecam.config import CameraConfig, EmbedConfig
from edgecam.embed import embed
from edgecam.embed import make as make_encoder
from edgecam.identify import Household
from edgecam.liveness import LivenessWatch
from edgecam.liveness.eyes import cut, view
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.pipeline.build import strangers_of
from edgecam.pipeline.camera import CameraPath, Said
from edgecam.pipeline.visits import VisitBook
from edgecam.track import Tracker, appearance
from edgecam.types import Frame

_CHUNK = 20
_WARM_UP = 12
_STAY, _CAMERA_FPS = 80, 20
"""Pictures of somebody whose liveness is followed; every other one is searched for faces."""


def idle(lab: Lab) -> Iterator[Row]:
    """Yield the cost of watching a door where nothing happens: gate and pre-roll, decoding apart."""
    count = lab.of_extent(60, 200, 600)
    scene, gate, ring = Scene(), MotionGate(lab.config.motion), PreRoll(lab.config.motion.pre_roll_s)
    gate_cpu: List[float] = []
    for index in range(count + 20):
        frame = Frame(scene.at(index), index / FPS, "idle")

        def watch(frame: Frame = frame) -> None:
            gate(frame)
            if not gate.is_open:
                ring.add(frame)

        _, cpu_s = timed(watch)
        if index >= 20:
            gate_cpu.append(cpu_s)
    seconds = count / FPS
    yield Figure(
        "idle_share_of_core",
        100 * sum(gate_cpu) / seconds,
        "% of a core",
        5.0,
        detail={"what": "gate and pre-roll, 1280x720 at 10 fps", "opened": str(gate.is_open).lower(), "frames": count},
    )
    film = scene.write(lab.folder / "idle.mp4", 12.0)
    source = ClipSource(film, CameraConfig(url=str(film)), "idle", SystemClock())
    source.open()
    frames = 0

    def decode() -> None:
        nonlocal frames
        for _ in source:
            frames += 1

    _, cpu_s = timed(decode)
    source.close()
    yield Figure(
        "decode_share_of_core",
        100 * cpu_s / (frames / FPS),
        "% of a core",
        detail={"what": "MPEG-4, 1280x720 at 10 fps, in software", "ms_per_frame": 1e3 * cpu_s / frames},
    )


def perceived(lab: Lab) -> Iterator[Row]:
    """Yield how many frames a second one camera's path looks at, with one face and with four."""
    for count, target in ((1, 10.0), (4, 6.0)):
        lab.tell(f"perceived frames a second with {count} face{'s' if count > 1 else ''} at 720p")
        figure = _perceived(lab, count, target)
        yield figure
        yield Figure(
            f"{figure.name}_by_cpu_time",
            1e3 / float(figure.detail["cpu_ms"]),
            "frames/s",
            detail={"what": "one core that nobody else uses; does not depend on the load"},
        )


def _perceived(lab: Lab, faces: int, target: float) -> Figure:
    said: List[Said] = []
    path = CameraPath("bench", lab.camera, lab.config, lab.stages, VisitBook(), SystemClock(), said.append)
    scene, gate = Scene(lab.faces(faces)), MotionGate(lab.config.motion)
    gate.trigger()
    rows: List[Tuple[float, float]] = []
    seen: List[int] = []
    for index in range(_WARM_UP + lab.of_extent(40, 120, 400)):
        frame = Frame(scene.at(index), index / FPS, "bench")

        def look(frame: Frame = frame) -> None:
            path.glimpse(frame)
            motion: Motion = gate(frame)
            seen.append(path.perceive(frame, motion.boxes, active=motion.active))
            gate.extend()

        rows.append(timed(look))
    path.close()
    wall, cpu = (np.array(column[_WARM_UP:]) for column in zip(*rows))
    chunks = wall[: len(wall) // _CHUNK * _CHUNK].reshape(-1, _CHUNK).mean(axis=1)
    return Figure(
        f"perceived_fps_{faces}_face{'s' if faces > 1 else ''}",
        1.0 / float(wall.mean()),
        "frames/s",
        target,
        "least",
        {
            "threads": lab.config.run.threads,
            "median_ms": float(1e3 * np.median(wall)),
            "p95_ms": float(1e3 * np.percentile(wall, 95)),
            "cpu_ms": float(1e3 * cpu.mean()),
            "best_chunk_fps": float(1.0 / chunks.min()),
            "faces_a_frame": float(np.mean(seen[_WARM_UP:])),
            "words": len(said),
            "frames": len(wall),
        },
    )


def stages(lab: Lab) -> Iterator[Row]:
    """Yield what each stage takes, one face at 720p."""
    times = lab.of_extent(10, 40, 100)
    scene = Scene(lab.faces(1))
    image = scene.at(0)
    faces = lab.detector(image)
    if not len(faces):
        raise AssertionError("the detector finds no face in the composed scene")
    box = faces.boxes[:1]
    pad = 0.6 * box[:, 2:]
    region = np.concatenate([box[:, :2] - pad, box[:, 2:] + 2 * pad], axis=1).astype(np.float32)
    crop = align.make_crop(image, faces.boxes[0], faces.landmarks[0])
    tracker = Tracker(lab.config.track)
    clock = iter(range(1_000_000))

    def track() -> None:
        tracker.update(faces, next(clock) / FPS, appearance(image, faces))

    def cut() -> None:
        quality.assess(align.make_crop(image, faces.boxes[0], faces.landmarks[0]), lab.config.quality)

    works: Dict[str, Callable[[], object]] = {
        "detect_full": lambda: lab.detector(image),
        "detect_region": lambda: lab.detector(image, region),
        "track": track,
        "crop_and_quality": cut,
        f"embed_{lab.config.embed.kind}": lambda: embed(lab.encoder, [crop]),
        f"embed_{lab.config.embed.kind}_batch_of_4": lambda: embed(lab.encoder, [crop] * 4),
    }
    registry = ModelRegistry(default_folder())
    for single in (EmbedConfig(kind="facenet"), EmbedConfig(kind="sface")):
        encoder = make_encoder(single, registry, lab.config.run.threads)
        works[f"embed_{single.kind}"] = partial(embed, encoder, [crop])
    vector = embed(lab.encoder, [crop]).vectors
    model = strangers_of(lab.config.embed)
    for people in (5, 500):
        rows = lab.encoder.project(model.draw(people, 1))
        identifier = lab.factory.make(Household.of([(str(i), row, False) for i, row in enumerate(rows)]))
        works[f"identify_{people}_people"] = partial(identifier.match, vector, np.ones(len(vector), np.float32))
    for name, work in works.items():
        lab.tell(f"stage {name}")
        found = repeat(work, times).ms()
        yield Figure(f"stage_{name}", found.pop("median_ms"), "ms", detail=found)
    yield from _liveness(lab, registry)


def _liveness(lab: Lab, registry: ModelRegistry) -> Iterator[Row]:
    """Yield what liveness takes with one thread: a look, the eyes, and all of it by face of a track."""
    lab.tell("stage liveness")
    nets = liveness.make(lab.config.liveness, registry)
    times = lab.of_extent(10, 40, 100)
    scene = Scene(lab.faces(1))
    frame = Frame(scene.at(0), 0.0, "bench")
    faces = lab.detector(frame.image)
    box, landmarks = faces.boxes[0], faces.landmarks[0]
    rated = quality.assess(align.make_crop(frame.image, box, landmarks), lab.config.quality)
    area = cut(frame.image, box)
    seen = None if area is None else view(area, box, landmarks)
    works: Dict[str, Callable[[], object]] = {}
    if nets.passive is None:
        yield Skipped("stage_liveness_look", nets.lacking)
    else:
        works["liveness_look"] = partial(nets.passive, frame.image, box)
    if nets.eyes is not None and seen is not None:
        works["liveness_eyes"] = partial(nets.eyes, [seen])
    for name, work in works.items():
        found = repeat(work, times).ms()
        yield Figure(f"stage_{name}", found.pop("median_ms"), "ms", detail={**found, "threads": 1})
    if nets.passive is None:
        return
    scene = Scene(lab.faces(4))
    faces = lab.detector(scene.at(0))
    watch, wall_s, cpu_s = LivenessWatch(nets), 0.0, 0.0

    def follow(frame: Frame, track: int, *, perceived: bool) -> None:
        watch.glimpse(frame)
        if perceived:
            watch.see(frame, track, faces.boxes[track], faces.landmarks[track], rated)
            watch.watch([track])

    for index in range(len(faces) * _STAY):
        shown = Frame(scene.at(index), index / _CAMERA_FPS, "bench")
        wall, cpu = timed(partial(follow, shown, index // _STAY, perceived=index % 2 == 0))
        wall_s, cpu_s = wall_s + wall, cpu_s + cpu
    count = len(faces) * _STAY / 2
    yield Figure(
        "liveness_per_face",
        1e3 * cpu_s / count,
        "ms",
        8.0,
        detail={
            "what": "processor time, looks and eyes, four people of 4 s each, 10 detections and 20 pictures a second",
            "wall_ms": 1e3 * wall_s / count,
            "looks": sum(watch.looks(track) for track in range(len(faces))),
            "faces": round(count),
            "threads": 1,
        },
    )
