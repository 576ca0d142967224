"""`edgecam run`: every thread of the daemon, its signals, its reports, and the order in which it starts and ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, Optional, Sequence

from edgecam import __version__
from edgecam.alerts.client import AlertClient, ChallengeCommand, Command, PauseCommand, ResumeCommand, RingCommand
from edgecam.alerts.message import HealthState, RingSource, Topics, health_payload, moment, ring_alert
from edgecam.alerts.session import Link
from edgecam.capture.base import make_source
from edgecam.clock import Clock
from edgecam.config import Config
from edgecam.daemon.button import Button
from edgecam.daemon.control import ControlServer, Peer
from edgecam.daemon.eye import Eye, Shared
from edgecam.daemon.gallery import LiveGallery
from edgecam.daemon.health import BOX, Beats, Problems, memory_mb, return_memory, write_report
from edgecam.daemon.keeper import Keeper
from edgecam.daemon.metrics import SOCKET, MetricsServer, exposition
from edgecam.daemon.nightfall import Nightfall
from edgecam.daemon.notify import Notifier
from edgecam.daemon.pause import Pause
from edgecam.daemon.presence import Presence
from edgecam.daemon.recorder import Recorder
from edgecam.daemon.reload import Read, changes, fingerprints, held_back, renewed
from edgecam.daemon.talk import PART, Uploads, socket_path
from edgecam.daemon.turns import DetectingInTurn, EncodingInTurn, liveness_in_turn
from edgecam.errors import ConfigError, EdgecamError, StoreError
from edgecam.identify import Household
from edgecam.nn.registry import ModelRegistry
from edgecam.pipeline.build import IdentifierFactory, make_liveness, make_stages
from edgecam.pipeline.camera import Stages
from edgecam.pipeline.operations import changes_devices, changes_people, execute, pause_seconds
from edgecam.pipeline.visits import VisitBook
from edgecam.store import OutboxRow, Purged, Store, new_ulid

_LOGGER = logging.getLogger(__name__)

HEALTH_FILE = "health.json"
_TURN_S = 0.5
_ALERTS_LATE_S = 60.0
"""A name look-up or a TLS hand-shake has its own thread; beyond this the alert loop itself is stuck."""
_REPORT_EVERY_S = 30.0
_STOP_S = 2.5
"""So long the cameras may take to conclude their visits."""
_FAREWELL_S = 1.5
_ONCE_DRAIN_S = 20.0
_COMMANDS = 64
"""Commands by MQTT that wait for the store; of a flood the last ones count."""


@dataclass(frozen=True)
class Options:
    """What the command line decides."""

    state: Path
    load: Callable[[], Config]
    """Reads the configuration, now and at every SIGHUP."""
    registry: ModelRegistry
    once: bool = False
    """End when every recording has ended."""


class _Outbox:
    """The store's outbox as the alert client wants it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def peek(self, n: int) -> Sequence[OutboxRow]:
        return self._store.outbox_peek(n)

    def delete(self, seqs: Sequence[int]) -> None:
        self._store.outbox_delete(seqs)


class Daemon:
    """The running box; `run` returns when it is told to stop."""

    def __init__(self, options: Options, clock: Clock) -> None:
        self._options, self._clock = options, clock
        self._config = options.load()
        _want_cameras(self._config, clock)
        self._read = Read(clock.wall_s(), files=fingerprints(self._config.alerts))
        self._began_s = clock.monotonic_s()
        self._notifier = Notifier()
        self._problems, self._beats = Problems(), Beats(clock)
        self._wake = threading.Event()
        self._ending = self._reloading = False
        self._ready = False
        self._uploads = Uploads()
        self._commands: Deque[Command] = deque(maxlen=_COMMANDS)
        self._eyes: Dict[str, Eye] = {}
        self._rates: Dict[str, _Rate] = {}
        self._told: Dict[str, object] = {}
        self._reported_s, self._reported_changes = -1e9, -1
        self._button: Optional[Button] = None

    def run(self) -> int:
        """Start everything, serve until told to stop, end cleanly; return the exit code.

        Raises:
            EdgecamError: something without which it makes no sense to start.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._notifier.status("opening the store")
        store_config, alerts_config = self._config.store, self._config.alerts
        with Store.open(
            self._options.state, store_config, clock=self._clock, outbox_max=alerts_config.outbox_max
        ) as store:
            self._store = store
            store.want_room()
            self._set_up()
            try:
                self._start()
                self._serve()
            finally:
                ended = self._stop()
        if not ended:
            # A camera that hangs in the network keeps its thread; the interpreter would wait for it.
            logging.shutdown()
            os._exit(0)
        return 0

    # Beginning.

    def _set_up(self) -> None:
        """Make every part; nothing runs yet."""
        config, store, clock = self._config, self._store, self._clock
        self._alerts = self._new_alerts(config)
        self._recorder = Recorder(store, config.alerts, config.store, clock, self._problems, self._wake_alerts)
        self._pause = Pause(store, config.pause, clock)
        self._control = ControlServer(socket_path(self._options.state), self._answer)
        self._metrics = MetricsServer(
            socket_path(self._options.state).with_name(SOCKET), lambda: exposition(self.status(), self._recorder.tally)
        )
        self._keeper = Keeper(store, config.store, clock, self._problems, self._beats, self._recorder, self._on_turn)
        self._nightfall = Nightfall(store, self._options.state, clock, self._busy, self._recorder.send)
        self._presence = self._new_presence(config)
        if config.run.button_gpio:
            self._button = Button(config.run.button_gpio, self._on_button, self._problems, self._beats)

    def _start(self) -> None:
        config = self._config
        # First of all: a second daemon of this state is refused before it says or does anything.
        self._control.start()
        self._metrics.start()
        self._notifier.status("loading models")
        detector, encoder = make_stages(config, self._options.registry)
        alive = make_liveness(config, self._options.registry)
        factory = IdentifierFactory(encoder, config.embed, config.identify)
        nets = threading.Lock()
        stages = Stages(
            DetectingInTurn(detector, nets),
            EncodingInTurn(encoder, nets),
            factory.make(Household.of([])),
            liveness_in_turn(alive, nets),
        )
        self._gallery = LiveGallery(self._store, stages, factory)
        self._notifier.status("embedding enrolled faces")
        self._gallery.refresh()
        self._shared = Shared(
            config=config,
            stages=stages,
            visits=VisitBook(),
            recorder=self._recorder,
            clock=self._clock,
            problems=self._problems,
            beats=self._beats,
            pause=self._pause,
            alerts=self._alerts,
        )
        self._recorder.recall()
        cut = self._recorder.end_interrupted(stages.encoder.version)
        if cut:
            _LOGGER.warning("%d visits were cut by the end of the last run: told as uncertain", cut)
        self._start_alerts()
        self._presence.start()
        for camera in config.cameras:
            self._open_eye(camera)
        self._keeper.start()
        if self._button is not None:
            self._button.start()
        return_memory()
        self._ready = True
        took_s = self._clock.monotonic_s() - self._began_s
        _LOGGER.info("ready in %.1f s: %d cameras, model %s", took_s, len(self._eyes), stages.encoder.version)
        self._notifier.ready(self._status_line())

    def _new_alerts(self, config: Config) -> AlertClient:
        return AlertClient(
            config.alerts, tuple(config.cameras), _Outbox(self._store), self._clock, self._on_command, __version__
        )

    def _new_presence(self, config: Config) -> Presence:
        made = Presence(
            self._store,
            config.presence,
            socket_path(self._options.state).with_name("presence.sock"),
            self._clock,
            self._problems,
            self._beats,
            self._pause.active,
            lambda topics: self._alerts.listen(topics, made.tracked),
        )
        self._recorder.presence = made
        return made

    def _start_alerts(self) -> None:
        self._told.clear()
        self._alerts.start()

    def _open_eye(self, camera: str) -> None:
        eye = Eye(camera, self._config.cameras[camera], self._shared)
        self._eyes[camera], self._rates[camera] = eye, _Rate()
        eye.start()

    # The main thread.

    def _serve(self) -> None:
        while not self._ending:
            self._wake.wait(_TURN_S)
            self._wake.clear()
            if self._reloading:
                self._reloading = False
                self._reload()
            self._watch()
            self._report()
            if self._options.once and all(eye.ended.is_set() for eye in self._eyes.values() if not eye.live):
                _LOGGER.info("every recording has ended")
                if self._alerts.report.link is not Link.OFF and not self._alerts.drain(_ONCE_DRAIN_S):
                    _LOGGER.warning("%d alerts could not be delivered; they wait", self._store.outbox_size())
                return

    def _watch(self) -> None:
        """Feed the watchdog, but only while every loop turns."""
        stuck = self._beats.stuck()
        if self._alerts.report.link is not Link.OFF:
            late_s = self._clock.monotonic_s() - self._alerts.last_turn_s
            stuck += ["alerts"] if late_s > _ALERTS_LATE_S else []
        if stuck:
            self._problems.begin(BOX, "loop_stuck", f"no turn of {', '.join(sorted(stuck))}; the watchdog is not fed")
            return
        self._problems.end(BOX, "loop_stuck")
        if self._ready:
            self._notifier.watchdog()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self._ending = True
        self._wake.set()

    # Commands.

    def _on_command(self, command: Command) -> None:
        """Take a command from the alert client's thread, which must not wait for the store."""
        if isinstance(command, ChallengeCommand):
            try:
                self._challenge(command.camera)
            except ConfigError as err:
                _LOGGER.warning("nobody is asked: %s", err)
            return
        if isinstance(command, RingCommand):
            self._press(command.camera)
        self._commands.append(command)
        self._keeper.wake()

    def _on_button(self) -> None:
        self._on_command(RingCommand(next(iter(self._config.cameras)), "gpio"))

    def _press(self, camera: str) -> None:
        """Open a visit at the place of this camera."""
        pressed = self._eyes.get(camera)
        for eye in list(self._eyes.values()):
            if pressed is not None and eye.config.place == pressed.config.place:
                eye.press()

    def _challenge(self, camera: object) -> None:
        """Have whoever stands before this camera asked to show that they live.

        Raises:
            ConfigError: there is no such camera, or nobody is to be asked.
        """
        eye = self._eyes.get(camera) if isinstance(camera, str) else None
        if eye is None:
            raise ConfigError(f"no such camera: {camera!r}")
        if self._config.liveness.challenge == "off":
            raise ConfigError('challenges are off: set liveness.challenge = "request"')
        if self._pause.active():
            raise ConfigError("the box is paused")
        eye.challenge()

    def _on_turn(self) -> None:
        """Do what was commanded and take over what has changed, in the keeper's thread."""
        self._gallery.refresh()
        self._nightfall.turn(self._config)
        for _ in range(len(self._commands)):  # and not until there are none: somebody may never stop
            command = self._commands.popleft()
            try:
                if isinstance(command, RingCommand):
                    self._ring(command.camera, command.source)
                elif isinstance(command, PauseCommand):
                    self._pause.begin(command.seconds)
                elif isinstance(command, ResumeCommand):
                    self._pause.end()
            except StoreError as err:
                _LOGGER.warning("%s: %s", type(command).__name__, err)
            self._wake.set()

    def _busy(self) -> bool:
        return any(eye.visit_open for eye in list(self._eyes.values()))

    def _ring(self, camera: str, source: RingSource) -> None:
        _LOGGER.info("camera %s: ring (%s)", camera, source)
        alert = ring_alert(
            Topics(self._config.alerts.box), camera, new_ulid(self._clock.wall_s()), source, now=moment(self._clock)
        )
        self._recorder.send([alert])

    def _answer(self, request: Dict[str, Any], peer: Peer) -> Iterator[Dict[str, Any]]:
        """Answer one request on the control socket, in its own thread."""
        whole: Mapping[str, Any] = request
        if request.get("op") == PART:
            whole = self._uploads.add(request, peer)
            if not whole:
                return
        op = whole.get("op")
        if op == "pause":
            yield self._answer_pause(whole)
        elif op == "status":
            yield self.status()
        elif op == "purge" and not self._keeper.settled():
            yield {**Purged(0, 0, 0)._asdict(), "clock_trusted": False}
        elif op == "presence.listen":
            yield from self._presence.listen(whole)
        elif op == "challenge":
            self._challenge(whole.get("camera"))
            yield {"camera": whole.get("camera")}
        else:
            try:
                yield from execute(self._store, whole, f"uid:{peer.uid}", self._clock)
            finally:
                # Also when the asker has hung up: what was changed is in use before the next face comes.
                if isinstance(op, str) and changes_people(op) and self._ready:
                    self._gallery.refresh()
                if isinstance(op, str) and changes_devices(op) and self._ready:
                    self._presence.refresh()
                if op in ("night.tell", "versions.put"):
                    self._wake_alerts()

    def _answer_pause(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        seconds = pause_seconds(request)
        if seconds == 0:
            self._pause.end()
        else:
            self._pause.begin(seconds)
        self._wake.set()
        return {"paused": self._pause.active(), "until_wall_s": self._pause.until_wall_s}

    # Reports.

    def status(self) -> Dict[str, Any]:
        """Return how everything is, as JSON values."""
        link = self._alerts.report
        box = self._problems.of(BOX)
        cameras = {eye.camera: self._camera_status(eye) for eye in list(self._eyes.values())}
        states = [entry["state"] for entry in cameras.values()]
        worst = max([*states, "degraded" if box else "ok"], key=_SEVERITY.index)
        people = self._store.people() if self._ready else []
        return {
            "running": True,
            "ready": self._ready,
            "state": worst,
            "version": __version__,
            "pid": os.getpid(),
            "ts": round(self._clock.wall_s(), 3),
            "clock_trusted": self._clock.wall_trusted(),
            "up_s": round(self._clock.monotonic_s() - self._began_s, 1),
            "problems": box,
            "cameras": cameras,
            "broker": {"link": link.link.value, "detail": link.detail, "sent": link.sent, "denied": link.denied},
            "outbox": self._store.outbox_size(),
            "outbox_dropped": self._store.outbox_dropped(),
            "words_stored": self._recorder.stored,
            "words_waiting": self._recorder.waiting,
            "words_lost": self._recorder.lost,
            "paused": self._pause.active(),
            "paused_until_wall_s": self._pause.until_wall_s,
            "people": len(people),
            "faces": sum(person.faces for person in people),
            "generation": self._gallery.generation if self._ready else -1,
            "model": self._shared.stages.encoder.version if self._ready else "",
            "night_wanted": self._nightfall.reasons,
            "presence": self._presence.status(),
            "config": self._read.record(),
            "memory_mb": memory_mb(),
        }

    def _camera_status(self, eye: Eye) -> Dict[str, Any]:
        seen_s = eye.last_frame_s
        return {
            "state": self._problems.state(eye.camera, paused=self._pause.active()).value,
            "problems": self._problems.of(eye.camera),
            "place": eye.config.place,
            "fps": self._rates[eye.camera].fps,
            "perceived_fps": self._rates[eye.camera].perceived_fps,
            "frames": eye.frames,
            "perceived": eye.perceived,
            "dropped": eye.dropped,
            "visit_open": eye.visit_open,
            "last_frame_age_s": None if seen_s is None else round(self._clock.monotonic_s() - seen_s, 1),
        }

    def _report(self) -> None:
        """Tell what has changed: the broker, the health file, systemd."""
        self._note_link()
        now_s = self._clock.monotonic_s()
        for camera, eye in self._eyes.items():
            self._rates[camera].count(now_s, eye.frames, eye.perceived)
        paused = self._pause.active()
        self._alerts.set_paused(paused=paused)
        shape = (self._problems.changes, paused, self._ready)
        if shape == self._told.get("shape") and now_s - self._reported_s < _REPORT_EVERY_S:
            return
        self._told["shape"], self._reported_s = shape, now_s
        try:
            report = self.status()
            write_report(self._options.state / HEALTH_FILE, report)
            self._problems.end(BOX, "health_unwritten")
        except StoreError as err:
            self._problems.begin(BOX, "health_unwritten", str(err))
            self._notifier.status(self._status_line())
            return
        for camera, entry in report["cameras"].items():
            payload = health_payload(
                HealthState(entry["state"]),
                problems=[*entry["problems"], *report["problems"]],
                fps=entry["fps"],
                dropped=entry["dropped"],
                outbox=report["outbox"],
                model=report["model"],
                wall_s=report["ts"],
            )
            self._alerts.set_health(camera, payload)
        self._notifier.status(self._status_line())

    def _note_link(self) -> None:
        link = self._alerts.report
        if link.link in (Link.REFUSED, Link.UNTRUSTED, Link.UNREACHABLE):
            self._problems.begin(BOX, f"broker_{link.link.value}", link.detail, quietly=True)
        for other in (Link.REFUSED, Link.UNTRUSTED, Link.UNREACHABLE):
            if other is not link.link:
                self._problems.end(BOX, f"broker_{other.value}")

    def _status_line(self) -> str:
        """Return the state in one line, without names."""
        wrong = [f"{camera}: {code}" for camera in self._eyes for code in self._problems.of(camera)]
        wrong += list(self._problems.of(BOX))
        doing = "paused" if self._pause.active() else f"watching {len(self._eyes)} cameras"
        return f"{doing}; broker {self._alerts.report.link.value}" + (f"; {', '.join(wrong)}" if wrong else "")

    # Another configuration.

    def _reload(self) -> None:
        """Read the configuration again; one that is not valid changes nothing."""
        self._notifier.reloading()
        now_s, before = self._clock.wall_s(), self._read
        try:
            file = self._options.load()
            _want_cameras(file, self._clock)
            old, files = self._config, fingerprints(file.alerts)
            self._change_to(held_back(old, file), relink=files != before.files)
        except EdgecamError as err:
            _LOGGER.warning("configuration refused, the old one stays in use: %s", err)
            self._problems.begin(BOX, "config_invalid", f"{err}; the old configuration stays in use", quietly=True)
            self._read = replace(before, wall_s=now_s, changed=(), refused=str(err))
        else:
            changed = [*changes(old, self._config), *renewed(before.files, files)]
            self._read = Read(now_s, tuple(changed), tuple(changes(self._config, file)), "", files)
            self._problems.end(BOX, "config_invalid")
            self._tell_changes()
        self._notifier.ready(self._status_line())

    def _tell_changes(self) -> None:
        for text in self._read.changed:
            _LOGGER.info("configuration: %s", text)
        for text in self._read.next_start:
            _LOGGER.warning("configuration, at the next start: %s", text)
        _LOGGER.info(
            "configuration read again: %d changes, %d at the next start, %d cameras",
            len(self._read.changed),
            len(self._read.next_start),
            len(self._eyes),
        )

    def _change_to(self, new: Config, *, relink: bool) -> None:
        old = self._config
        alerts_changed = relink or new.alerts != old.alerts or list(new.cameras) != list(old.cameras)
        alerts = self._new_alerts(new) if alerts_changed else self._alerts  # may refuse: nothing has changed yet
        stages = ("motion", "track", "quality", "liveness", "identify")
        every = any(getattr(new, name) != getattr(old, name) for name in stages)
        gone = [camera for camera in old.cameras if every or new.cameras.get(camera) != old.cameras[camera]]
        self._close_eyes(gone)
        self._config = self._shared.config = new
        if alerts_changed:
            self._alerts.stop(_FAREWELL_S)
            self._alerts = self._shared.alerts = alerts
            self._recorder.set_rules(new.alerts)
            self._start_alerts()
            self._presence.refresh()
        if new.presence != old.presence:
            self._presence.stop()
            self._presence = self._new_presence(new)
            self._presence.start()
        self._pause.set_schedule(new.pause)
        if new.identify != old.identify:
            self._gallery.set_factory(IdentifierFactory(self._shared.stages.encoder.installed, new.embed, new.identify))
        for camera in new.cameras:
            if camera not in self._eyes:
                self._open_eye(camera)

    def _close_eyes(self, cameras: Sequence[str]) -> bool:
        eyes: List[Eye] = [self._eyes.pop(camera) for camera in cameras]
        for eye in eyes:
            eye.stop()
        until = self._clock.monotonic_s() + _STOP_S
        ended = [eye.join(max(0.1, until - self._clock.monotonic_s())) for eye in eyes]
        for eye in eyes:
            self._problems.clear(eye.camera)
            self._beats.ended(f"see-{eye.camera}")
            self._beats.ended(f"know-{eye.camera}")
        return all(ended)

    def _wake_alerts(self) -> None:
        self._alerts.wake()

    # The end.

    def _stop(self) -> bool:
        """Conclude visits, say goodbye, close; return whether every thread ended."""
        self._notifier.stopping("stopping")
        began = time.monotonic()
        self._ready = False
        self._control.stop()
        self._metrics.stop()
        if self._button is not None:
            self._button.stop()
        ended = self._close_eyes(list(self._eyes))
        self._presence.stop()
        self._keeper.stop()
        ended &= self._alerts.stop(_FAREWELL_S)
        self._recorder.retry()
        with contextlib.suppress(StoreError):
            write_report(self._options.state / HEALTH_FILE, {**self.status(), "running": False})
        if self._recorder.waiting:
            _LOGGER.error("%d words are lost: the store takes nothing", self._recorder.waiting)
        _LOGGER.info("stopped in %.1f s; %d alerts wait", time.monotonic() - began, self._store.outbox_size())
        return ended


_SEVERITY = ("ok", "paused", "degraded", "fault")


class _Rate:
    """Frames a second, over the last seconds."""

    _SPAN_S = 5.0

    def __init__(self) -> None:
        self.fps = self.perceived_fps = 0.0
        self._since_s: Optional[float] = None
        self._frames = self._perceived = 0

    def count(self, now_s: float, frames: int, perceived: int) -> None:
        if self._since_s is None:
            self._since_s, self._frames, self._perceived = now_s, frames, perceived
        elif now_s - self._since_s >= self._SPAN_S:
            span_s = now_s - self._since_s
            self.fps = round((frames - self._frames) / span_s, 1)
            self.perceived_fps = round((perceived - self._perceived) / span_s, 1)
            self._since_s, self._frames, self._perceived = now_s, frames, perceived


def _want_cameras(config: Config, clock: Clock) -> None:
    """Raise ConfigError unless there are cameras, each with an address of a known kind."""
    if not config.cameras:
        raise ConfigError("no camera is configured: run `edgecam init`")
    for camera, section in config.cameras.items():
        make_source(section, camera, clock)
