"""What `edgecam doctor` looks at: one function a check, each finding with its fix."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from edgecam.clock import SystemClock
from edgecam.config import CameraConfig, Config
from edgecam.errors import EdgecamError
from edgecam.types import Frame, Image

_CAMERA_S = 12.0
_SMALL_FACE_PX = 60
_DARK, _BRIGHT, _FLAT = 40.0, 215.0, 12.0
_MIN_FREE_MB = 200
_SLACK = 0o077


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: str
    """`ok`, `hint` (works, could be better), `broken`, or `skipped`."""

    text: str
    fix: str = ""
    """What to do about it, as a command where there is one."""


@dataclass(frozen=True)
class Subject:
    """What is examined."""

    state: Path
    config: Config
    config_path: Optional[Path]
    models: Path
    live: bool
    """Whether the daemon runs on this state."""


Check = Callable[[Subject], Iterator[Finding]]


def examine(subject: Subject) -> Iterator[Finding]:
    """Run every check; one that fails by itself is a finding, too."""
    for name, check in CHECKS:
        try:
            yield from check(subject)
        except EdgecamError as err:
            yield Finding(name, "broken", str(err))
        except OSError as err:
            yield Finding(name, "broken", f"{err.filename or ''}: {err.strerror or err}")


def _state(subject: Subject) -> Iterator[Finding]:
    state = subject.state
    if not state.is_dir():
        yield Finding("state", "broken", f"{state} does not exist", "edgecam init")
        return
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & _SLACK:
        yield Finding("permissions", "broken", f"others may enter {state} ({mode:04o})", f"chmod 700 {state}")
    for name in ("edgecam.db", "master.key"):
        path = state / name
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & _SLACK:
            yield Finding("permissions", "broken", f"others may read {path}", f"chmod 600 {path}")
    if not os.access(state, os.W_OK):
        yield Finding("permissions", "broken", f"no right to write to {state}", "run as its owner, or as root")
        return
    if not (state / "edgecam.db").exists():
        yield Finding("state", "hint", f"{state} is empty", "edgecam enroll NAME PHOTO...")
        return
    if subject.live:
        from edgecam.daemon import talk

        path = talk.socket_path(state)
        check, status = (next(talk.ask(path, {"op": op})) for op in ("check", "status"))
    else:
        from edgecam.pipeline.operations import execute
        from edgecam.store import Store

        with Store.open(state, subject.config.store) as store:
            check, status = (next(execute(store, {"op": op})) for op in ("check", "status"))
    people, waiting = status["people"], status["outbox"]
    if check["problems"]:
        fix = "edgecam restore FILE --mode replace"
        yield Finding("state", "broken", f"the database is damaged: {check['problems'][0]}", fix)
    yield from _damage(check["damaged"])
    if not (check["problems"] or check["damaged"]):
        yield Finding("state", "ok", f"key and database are sound; {people} people, {waiting} alerts wait")
    if not people:
        yield Finding("people", "hint", "nobody is enrolled: everybody is unknown", "edgecam enroll NAME PHOTO...")


_MENDED = "edgecam restore BACKUP (an undamaged one; what is sound here stays)"
_DAMAGE: List[Tuple[Tuple[str, ...], str, str]] = [
    (
        ("keys",),
        "keys, so that nothing under them can be read",
        f"{_MENDED}; or: edgecam people forget ID, and enrol again",
    ),
    (("people",), "names or consents", f"{_MENDED}; or: edgecam people rename ID NAME"),
    (("vectors", "features"), "vectors", "made anew from the pictures by the next start of `edgecam run`"),
    (("crops",), "pictures of faces", f"{_MENDED}; or: edgecam people forget ID, and enrol again"),
    (("faces",), "sources of faces", _MENDED),
    (("pictures", "decisions", "visits"), "parts of the history", f"{_MENDED}; it goes when it expires"),
    (("devices",), "devices", f"{_MENDED}; or: edgecam devices remove ID, and add it again"),
    (("outbox",), "waiting alerts", "dropped and counted by the next `edgecam run`"),
    (("settings",), "settings (their defaults hold)", f"{_MENDED}; or set them again"),
    (("strangers",), "features of strangers", "they expire within 30 days"),
]
"""By table: what is damaged, and what helps."""


def _damage(found: List[Dict[str, Any]]) -> Iterator[Finding]:
    """One finding a kind and owner."""
    for tables, what, fix in _DAMAGE:
        counts = Counter(entry["owner"] for entry in found if entry["table"] in tables)
        for owner, count in counts.items():
            whose = f" of {owner}" if owner else ""
            yield Finding("damage", "broken", f"{count} damaged{whose}: {what}", fix)


def _key(subject: Subject) -> Iterator[Finding]:
    from edgecam.store.vault import key_path

    path, own = key_path(subject.state)
    if own and path.exists():
        text = f"the key lies beside the data ({path}): it protects backups, not a stolen card"
        yield Finding(
            "key", "hint", text, "keep a copy of it elsewhere; see docs/operation.md for a systemd credential"
        )
    elif path.exists():
        yield Finding("key", "ok", f"the key is {path}")


def _models(subject: Subject) -> Iterator[Finding]:
    from edgecam.nn.registry import ModelRegistry

    faults = {name: fault for name, fault in ModelRegistry(subject.models).verify().items() if fault}
    for name, fault in faults.items():
        yield Finding("models", "broken", f"{name} {fault}", "edgecam models pull")
    if not faults:
        yield Finding("models", "ok", f"verified in {subject.models}")


def _liveness(subject: Subject) -> Iterator[Finding]:
    from edgecam.liveness import missing
    from edgecam.nn.registry import ModelRegistry

    if not subject.config.liveness.passive:
        yield Finding("liveness", "hint", "liveness.passive is off: a photo of somebody is announced by name")
    elif absent := missing(ModelRegistry(subject.models)):
        text = f"{absent}: a photo of somebody is announced by name"
        yield Finding("liveness", "hint", text, "edgecam models pull, or --mirror DIR with the two files")
    else:
        yield Finding("liveness", "ok", "anti-spoof nets are installed; see docs/liveness.md for what beats them")


def _providers(subject: Subject) -> Iterator[Finding]:
    import onnxruntime

    available = [name.replace("ExecutionProvider", "") for name in onnxruntime.get_available_providers()]
    yield Finding("providers", "ok", f"onnxruntime {onnxruntime.__version__}: {', '.join(available)}")
    tegra = Path("/etc/nv_tegra_release").exists()
    if tegra and "CUDA" not in available:
        fix = "install NVIDIA's onnxruntime wheel (docs/install.md)"
        yield Finding("providers", "hint", "this is a Jetson, but onnxruntime is built without CUDA", fix)
    cores = os.cpu_count() or 1
    if subject.config.run.threads > cores:
        text = f"run.threads is {subject.config.run.threads}, there are {cores} cores"
        yield Finding("providers", "hint", text, f"set run.threads = {cores}")


def _cameras(subject: Subject) -> Iterator[Finding]:
    if not subject.config.cameras:
        yield Finding(
            "camera", "broken", "no camera is configured", "edgecam init, or [cameras.ID] in the configuration"
        )
    for camera, config in subject.config.cameras.items():
        if subject.live:
            # Many cameras serve one viewer at a time; the daemon itself knows best.
            yield from _live_camera(subject, camera)
        else:
            yield from look(camera, config, subject)


def _live_camera(subject: Subject, camera: str) -> Iterator[Finding]:
    from edgecam.daemon import talk

    status = next(talk.ask(talk.socket_path(subject.state), {"op": "status"}))
    entry = status["cameras"].get(camera)
    if entry is None:
        fix = "systemctl reload edgecam"
        yield Finding("camera", "hint", f"{camera} is in the configuration, but not in the running daemon", fix)
    elif entry["problems"]:
        for code, text in entry["problems"].items():
            yield Finding("camera", "broken", f"{camera}: {code}: {text}")
    else:
        yield Finding("camera", "ok", f"{camera}: {entry['fps']:.0f} pictures a second, {entry['dropped']} dropped")


def look(camera: str, config: CameraConfig, subject: Subject) -> Iterator[Finding]:
    """Open a camera, take a picture, look at light and face size."""
    from edgecam.capture.base import make_source

    source = make_source(config, camera, SystemClock(), paced=True)
    frame: Optional[Frame] = None
    count, end = 0, time.monotonic() + _CAMERA_S
    try:
        source.open()
        began = time.monotonic()
        while count < 15 and time.monotonic() < end:
            got = source.read()
            if got is None:
                break
            frame, count = got, count + 1
        took = max(time.monotonic() - began, 1e-3)
    finally:
        source.close()
    if frame is None:
        yield Finding("camera", "broken", f"{camera}: opened, but no picture came", "restart the camera")
        return
    height, width = frame.image.shape[:2]
    rate = f", {count / took:.0f} a second" if count > 5 else ""
    yield Finding("camera", "ok", f"{camera}: {width}x{height}{rate}")
    if min(width, height) < 400:
        fix = "use the camera's larger stream: a face at 2 m needs 60 pixels"
        yield Finding("camera", "hint", f"{camera}: the picture is small", fix)
    yield from _light(camera, frame.image)
    yield from _faces(camera, frame.image, subject)


def _light(camera: str, image: Image) -> Iterator[Finding]:
    grey = image.mean(axis=2)
    middle = grey[grey.shape[0] // 4 : -grey.shape[0] // 4, grey.shape[1] // 4 : -grey.shape[1] // 4]
    mean, contrast = float(grey.mean()), float(grey.std())
    if mean < _DARK:
        yield Finding("light", "hint", f"{camera}: it is dark ({mean:.0f} of 255)", "add a lamp or infrared light")
    elif mean > _BRIGHT:
        yield Finding("light", "hint", f"{camera}: over-exposed ({mean:.0f} of 255)", "turn the camera from the light")
    if contrast < _FLAT:
        yield Finding("light", "hint", f"{camera}: nearly no contrast", "clean the lens, or take off its cover")
    if float(middle.mean()) < 0.6 * mean and mean > _DARK:
        fix = "turn the camera, or switch on its wide dynamic range (WDR)"
        yield Finding("light", "hint", f"{camera}: the light is behind the visitors", fix)


def _faces(camera: str, image: Image, subject: Subject) -> Iterator[Finding]:
    from edgecam import detect
    from edgecam.nn.registry import ModelRegistry

    detector = detect.make(subject.config.detect, ModelRegistry(subject.models))
    faces = detector(np.ascontiguousarray(image))
    if not len(faces):
        yield Finding("faces", "hint", f"{camera}: nobody in the picture", "stand 2 m before it and run this again")
        return
    widest = float(faces.boxes[:, 2].max())
    text = f"{camera}: a face of {widest:.0f} pixels"
    if widest < _SMALL_FACE_PX:
        fix = f"at 2 m a face should have {_SMALL_FACE_PX}: use a larger stream, or mount the camera nearer"
        yield Finding("faces", "hint", text, fix)
    else:
        yield Finding("faces", "ok", text)


def _broker(subject: Subject) -> Iterator[Finding]:
    from edgecam.alerts.client import AlertClient
    from edgecam.alerts.session import Link

    alerts = subject.config.alerts
    if alerts.host is None:
        yield Finding("broker", "hint", "no broker is configured: nobody is told", "set alerts.host")
        return
    # Another name than the daemon's: the broker would throw that one out.
    trial = alerts.model_copy(update={"box": f"{alerts.box[:30]}-doctor", "discovery_prefix": None})
    client = AlertClient(trial, (), _NoOutbox(), SystemClock(), lambda _: None)
    client.start()
    end = time.monotonic() + _CAMERA_S
    while client.report.link is Link.CONNECTING and time.monotonic() < end:
        time.sleep(0.05)
    report = client.report
    client.stop(2.0)
    where = f"{alerts.host}:{alerts.port}"
    if report.link is Link.CONNECTED:
        yield Finding("broker", "ok", f"{where} {'with' if alerts.tls else 'without'} TLS, user {alerts.username}")
        if not alerts.tls and alerts.host not in ("localhost", "127.0.0.1", "::1"):
            yield Finding("broker", "hint", "names pass over the network in the clear", "set alerts.tls = true")
    else:
        yield Finding("broker", "broken", report.detail or f"{where} does not answer", _BROKER_FIX[report.link.value])


_BROKER_FIX = {
    "off": "set alerts.host",
    "connecting": "check address and port (alerts.host, alerts.port)",
    "connected": "",
    "refused": "correct alerts.username and the file of alerts.password_file",
    "untrusted": "give the broker's CA: alerts.ca_file",
    "unreachable": "check address, port and network (alerts.host, alerts.port, alerts.tls)",
    "stopped": "",
}


class _NoOutbox:
    """Nothing waits."""

    def peek(self, n: int) -> Sequence[Any]:
        del n
        return ()

    def delete(self, seqs: Sequence[int]) -> None:
        del seqs


def _clock(_: Subject) -> Iterator[Finding]:
    clock = SystemClock()
    if clock.wall_trusted():
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M %Z"))
    else:
        fix = "let it be set by the network: timedatectl set-ntp true"
        yield Finding("clock", "broken", f"the clock says {time.strftime('%Y-%m-%d')}: nothing expires", fix)


def _disk(subject: Subject) -> Iterator[Finding]:
    folder = subject.state if subject.state.is_dir() else subject.state.parent
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free // 1_000_000
    if free < _MIN_FREE_MB:
        yield Finding("disk", "broken", f"{free} MB free for {folder}", f"free {_MIN_FREE_MB} MB at least")
    else:
        yield Finding("disk", "ok", f"{free} MB free")
    backups = subject.config.store.backup_dir
    if backups is None:
        yield Finding("backup", "hint", "no backups are written", "set store.backup_dir")
    elif not os.access(backups if backups.exists() else backups.parent, os.W_OK):
        yield Finding("backup", "broken", f"{backups} cannot be written", "correct its rights, or store.backup_dir")


def _home_assistant(subject: Subject) -> Iterator[Finding]:
    alerts = subject.config.alerts
    if alerts.host is None or alerts.discovery_prefix is None:
        return
    from edgecam.daemon.birth import birth_seen

    if birth_seen(alerts, _CAMERA_S / 4):
        yield Finding("home assistant", "ok", f"is there ({alerts.discovery_prefix}/status)")
    else:
        text = "has not said that it is there (it says so when it starts; not needed without it)"
        yield Finding(
            "home assistant", "hint", text, "in Home Assistant: add the MQTT integration, retain its birth message"
        )


_PRESENCE_FIX = {
    "presence_helper": "systemctl enable --now edgecam-presence",
    "presence_radio_lost": "docs/presence.md says which adapters can listen",
    "presence_access_point_log": "make it readable for the daemon's user",
    "presence_leases": "make them readable for the daemon's user",
}


def _presence(subject: Subject) -> Iterator[Finding]:
    config = subject.config.presence
    sources = [
        name for name in ("radio", "access_point_log", "leases", "neighbours", "mdns", "ble") if getattr(config, name)
    ]
    if not sources:
        return
    if not subject.live:
        yield Finding("presence", "skipped", "the daemon does not run: nobody's phone is noticed")
        return
    from edgecam.daemon import talk

    status = next(talk.ask(talk.socket_path(subject.state), {"op": "status"}))
    wrong = {code: text for code, text in status["problems"].items() if code.startswith(("presence_", "doubled_"))}
    for code, text in wrong.items():
        yield Finding("presence", "broken", f"{code}: {text}", _PRESENCE_FIX.get(code, ""))
    devices = status["presence"]["devices"]
    if not devices:
        yield Finding("presence", "hint", "no device is bound", "edgecam devices add PERSON ADDRESS")
    elif not wrong:
        yield Finding("presence", "ok", f"{devices} devices; listens to {', '.join(sources)}")


def _sandbox(subject: Subject) -> Iterator[Finding]:
    if subject.config_path is None or not str(subject.config_path).startswith("/etc/"):
        return
    if not Path("/run/systemd/system").is_dir():
        return
    for config in subject.config.cameras.values():
        if config.url.startswith(("/home/", "/root/", "/media/", "/mnt/")):
            text = f"the service cannot see {config.url} (ProtectHome, InaccessiblePaths)"
            yield Finding("sandbox", "broken", text, "copy it to /var/lib/edgecam")
    if os.geteuid() == 0 and subject.state == Path("/var/lib/edgecam"):
        return
    yield Finding("sandbox", "hint", "run as root to examine the service's own state", "sudo edgecam doctor")


CHECKS: List[Tuple[str, Check]] = [
    ("state", _state),
    ("key", _key),
    ("models", _models),
    ("liveness", _liveness),
    ("providers", _providers),
    ("camera", _cameras),
    ("broker", _broker),
    ("home assistant", _home_assistant),
    ("clock", _clock),
    ("disk", _disk),
    ("presence", _presence),
    ("sandbox", _sandbox),
]
"""In the order in which they are told."""
