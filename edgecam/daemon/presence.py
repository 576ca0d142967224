"""Whose phone is near: signs from every source become sightings, kept as device ids and joined with the visits."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from edgecam.clock import Clock
from edgecam.config import PresenceConfig
from edgecam.daemon.health import BOX, Beats, Problems, name_thread
from edgecam.daemon.listener import Listener
from edgecam.errors import ConfigError, ControlError, StoreError
from edgecam.presence.frames import is_random
from edgecam.presence.logs import Lease, Tail, association, read_leases
from edgecam.presence.sightings import AFTER_S, AWAY, BEFORE_S, DOUBLED, STEADY_WEIGHT, Comings, weight_of
from edgecam.presence.wire import Sign, State, Watch
from edgecam.store import Store
from edgecam.types import Device, Sighting, SightingSource, Transition

_LOGGER = logging.getLogger(__name__)

_LOOP = "presence"
_TURN_S = 1.0
_LATE_S = 120.0
_POLL_S = 2.0
_SETTLED_S = 1.0
_CALM_S, _VISIT_S = 60.0, 5.0
"""What is there all the time is stored once a minute; more finely while it may belong to a visit."""
_UNSAVED_MAX = 1000
_TOLD_MAX = 1000
_OLD_S = 60.0
_DOUBLED_S = 3600.0
_ANY_DBM = -128
_LISTEN_MAX_S = 50.0
_HELPER = "presence_helper"
_COMMON_NAMES = ("iphone", "ipad", "android", "galaxy", "phone", "unknown", "localhost", "watch")
"""Host names that many devices have: they tell nobody apart."""

_HOME, _SILENT = ("home", "on", "true"), ("", "unknown", "unavailable", "none")


@dataclass
class _Pending:
    """Signs of one device and source that are not stored yet."""

    sighting: Sighting
    first_s: float
    last_s: float


@dataclass
class _Visit:
    id: str
    opened_s: float
    closed_s: Optional[float] = None

    def takes(self, first_s: float, last_s: float) -> bool:
        over_s = float("inf") if self.closed_s is None else self.closed_s + AFTER_S
        return last_s >= self.opened_s - BEFORE_S and first_s <= over_s


class Presence:
    """Joins signs and visits; called from the helper's, the alert client's and the cameras' threads.

    Args:
        store: open; keeps sightings as device ids.
        config: the sources.
        path: the presence socket.
        clock: both clocks.
        problems: told what is wrong with a source.
        beats: the thread's heartbeat.
        paused: whether the box must not notice anybody now.
        follow: told the MQTT topics of the trackers.
    """

    def __init__(
        self,
        store: Store,
        config: PresenceConfig,
        path: Path,
        clock: Clock,
        problems: Problems,
        beats: Beats,
        paused: Callable[[], bool],
        follow: Callable[[Sequence[str]], None],
    ) -> None:
        self._store, self._config, self._clock, self._problems, self._beats = store, config, clock, problems, beats
        self._paused, self._follow = paused, follow
        self._listener = Listener(path, self._on_sign, self._on_state) if _needs_helper(config) else None
        self._lock = threading.RLock()
        self._devices: Dict[str, Device] = {}
        self._by_address: Dict[Tuple[str, str], List[str]] = {}
        self._comings = Comings(clock.monotonic_s(), config.away_after_s)
        self._pending: Dict[Tuple[str, SightingSource], _Pending] = {}
        self._unsaved: Deque[_Pending] = deque(maxlen=_UNSAVED_MAX)
        self._saved: Deque[Tuple[str, float, float]] = deque()
        self._visits: Dict[str, _Visit] = {}
        self._doubled: Dict[str, float] = {}
        """When an address was last heard from two transmitters."""
        self._there: Set[Tuple[str, SightingSource]] = set()
        self._away: Set[str] = set()
        """Trackers that say `not_home`."""
        self._stations: Dict[str, Set[str]] = {}
        self._tails = [Tail(config.access_point_log)] if config.access_point_log else []
        self._leases: Dict[Path, Dict[bytes, Lease]] = {}
        self._stamps: Dict[Path, int] = {}
        self._told: Deque[Tuple[str, bytes, bool]] = deque(maxlen=_TOLD_MAX)
        self._measured: Optional[Tuple[str, queue.SimpleQueue[Sign]]] = None
        """Device whose signals are being measured, and who waits for them."""
        self._helper: Optional[State] = None
        self._stop = threading.Event()
        self._poll_due_s = 0.0
        self._thread = threading.Thread(target=self._run, name=_LOOP, daemon=True)

    # What the daemon calls.

    def start(self) -> None:
        """Begin.

        Raises:
            ControlError: the socket cannot be made.
            StoreError: the devices cannot be read.
        """
        self.refresh()
        self._recall()
        if self._listener is not None:
            self._listener.start()
            self._problems.begin(BOX, _HELPER, "`edgecam presence run` is not there: nothing is heard", quietly=True)
        self._beats.expect(_LOOP, _LATE_S)
        self._thread.start()

    def stop(self) -> None:
        """End, and store what is pending."""
        self._stop.set()
        if self._listener is not None:
            self._listener.stop()
        if self._thread.is_alive():
            self._thread.join(2.0)
        with self._lock:
            self._flush(0.0)
        for code in (_HELPER, "presence_unsaved", *self._source_problems()):
            self._problems.end(BOX, code, quietly=True)

    def refresh(self) -> None:
        """Take over the devices as they are stored now."""
        devices = {device.id: device for device in self._store.devices() if device.address}
        with self._lock:
            self._devices = devices
            self._by_address = {}
            self._stamps.clear()  # what a lease tells of a new device is not known yet
            for device in devices.values():
                self._by_address.setdefault((device.kind, device.address), []).append(device.id)
            self._there = {key for key in self._there if key[0] in devices}
            self._away &= set(devices)
            self._pending = {key: one for key, one in self._pending.items() if key[0] in devices}
        self._tell_helper()
        self._follow([device.address for device in devices.values() if device.kind == "ha"])

    def opened(self, visit: str) -> None:
        """A visit began: what was noticed shortly before belongs to it."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            if visit in self._visits:  # another camera looks at it, too
                return
            here = self._visits[visit] = _Visit(visit, now_s)
            for device, source in sorted(self._there):
                self._keep(Sighting(device, source, self._clock.wall_s(), Transition.STEADY, STEADY_WEIGHT), now_s)
            for device in sorted(self._away):
                away = Sighting(
                    device, SightingSource.TRACKER, self._clock.wall_s(), Transition.STEADY, 0.0, reason=AWAY
                )
                self._keep(away, now_s)
            self._flush(0.0)
            self._join(here)

    def closed(self, visit: str) -> None:
        """A visit ended; for a while what is noticed still belongs to it."""
        with self._lock:
            if visit in self._visits:
                self._visits[visit].closed_s = self._clock.monotonic_s()

    def tracked(self, topic: str, payload: bytes, retained: bool) -> None:
        """A tracker spoke; called in the alert client's thread, which must not wait for the store."""
        self._told.append((topic, payload, retained))

    def listen(self, request: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
        """Yield the radio's signs of one device, however weak (`edgecam presence calibrate`).

        Args:
            request: `device`, its id; `seconds`, for how long, at most 50.

        Raises:
            ConfigError: no such device or length.
            ControlError: no radio, no helper, or somebody calibrates already.
        """
        device, seconds = request.get("device"), request.get("seconds")
        if not isinstance(seconds, (int, float)) or not 0 < seconds <= _LISTEN_MAX_S:
            raise ConfigError(f"seconds: at most {_LISTEN_MAX_S:.0f}")
        with self._lock:
            if not isinstance(device, str) or device not in self._devices:
                raise ConfigError("no such device: see `edgecam devices list`")
            if self._listener is None or not self._config.radio:
                raise ControlError("presence.radio names no Wi-Fi interface: nothing to calibrate")
            if self._helper is None:
                raise ControlError("`edgecam presence run` is not there: start edgecam-presence.service")
            if self._measured is not None:
                raise ControlError("somebody calibrates already")
            signs: queue.SimpleQueue[Sign] = queue.SimpleQueue()
            self._measured = (device, signs)
        self._tell_helper()
        until_s = self._clock.monotonic_s() + seconds
        try:
            while (left_s := until_s - self._clock.monotonic_s()) > 0:
                with contextlib.suppress(queue.Empty):
                    sign = signs.get(timeout=min(left_s, 1.0))
                    yield {"rssi_dbm": sign.rssi_dbm, "channel": sign.channel, "frames": sign.frames}
        finally:
            with self._lock:
                self._measured = None
            self._tell_helper()

    def status(self) -> Dict[str, Any]:
        """Return how it is, as JSON values."""
        with self._lock:
            return {
                "devices": len(self._devices),
                "helper": None if self._listener is None else self._helper is not None,
                "counts": dict(self._helper.counts) if self._helper else {},
                "unsaved": len(self._unsaved),
            }

    # Signs.

    def _on_sign(self, sign: Sign) -> None:
        now_s = self._clock.monotonic_s()
        at_s = sign.at_s if now_s - _OLD_S <= sign.at_s <= now_s else now_s
        with self._lock:
            if sign.device not in self._devices:  # unbound a moment ago
                return
            if self._measured is not None and sign.source == SightingSource.SNIFF.value:
                if sign.device == self._measured[0]:
                    self._measured[1].put(sign)
                if sign.rssi_dbm is not None and sign.rssi_dbm < self._config.min_rssi_dbm:
                    return
            source = SightingSource(sign.source)
            transition = self._comings.note(sign.device, source, at_s)
            self._note(sign.device, source, transition, at_s, sign)

    def _note(
        self,
        device: str,
        source: SightingSource,
        transition: Transition,
        at_s: Optional[float] = None,
        sign: Optional[Sign] = None,
    ) -> None:
        now_s = self._clock.monotonic_s()
        at_s = now_s if at_s is None else at_s
        rssi = sign.rssi_dbm if sign else None
        reason, weight = "", weight_of(transition, source, rssi)
        by_air = source in (SightingSource.SNIFF, SightingSource.BLE)
        if sign is not None and sign.doubled:
            reason = DOUBLED
        elif by_air and self._elsewhere(device):
            reason = AWAY
        sighting = Sighting(
            device,
            source,
            self._clock.wall_s() - (now_s - at_s),
            transition,
            0.0 if reason else weight,
            rssi,
            sign.channel if sign else None,
            sign.frames if sign else 1,
            reason,
        )
        if reason == DOUBLED:
            self._doubled[device] = now_s
            self._problems.begin(BOX, f"doubled_{device}", f"two transmitters use the address of device {device}")
        self._keep(sighting, at_s)

    def _track(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Take `home`, `not_home`, or a zone elsewhere; also as `{"state": ...}`.

        What is retained is of old: it tells where somebody is, but not that they have just come or gone.
        """
        state = _tracker_state(payload)
        if state in _SILENT:
            return
        with self._lock:
            for device in self._by_address.get(("ha", topic), ()):
                home, key = state in _HOME, (device, SightingSource.TRACKER)
                known = key in self._there or device in self._away
                changed = known and home != (key in self._there)
                (self._there.add if home else self._there.discard)(key)
                (self._away.discard if home else self._away.add)(device)
                if changed and not retained:
                    self._note(*key, Transition.JOIN if home else Transition.LEAVE)

    def _elsewhere(self, device: str) -> bool:
        """Whether a tracker says that the device's owner is not at home."""
        owner = self._devices[device].person_id
        return any(self._devices[tracker].person_id == owner for tracker in self._away)

    def _keep(self, sighting: Sighting, at_s: float) -> None:
        """Add a sighting to what is pending, or to what shall be stored at once."""
        if self._paused():
            return
        key = (sighting.device_id, sighting.source)
        pending = self._pending.get(key)
        same = pending is not None and (pending.sighting.transition, pending.sighting.reason) == (
            sighting.transition,
            sighting.reason,
        )
        if pending is not None and same and sighting.transition is Transition.STEADY:
            pending.sighting, pending.last_s = _stronger(pending.sighting, sighting), at_s
            return
        if pending is not None:
            self._unsaved.append(self._pending.pop(key))
        if sighting.transition is Transition.STEADY:
            self._pending[key] = _Pending(sighting, at_s, at_s)
        else:
            self._unsaved.append(_Pending(sighting, at_s, at_s))

    # Storing and joining.

    def _flush(self, older_s: float) -> None:
        """Store what waits, and what has been pending for so long."""
        now_s = self._clock.monotonic_s()
        for key in [k for k, one in self._pending.items() if now_s - one.first_s >= older_s]:
            self._unsaved.append(self._pending.pop(key))
        try:
            while self._unsaved:
                one = self._unsaved[0]
                visits = [
                    (visit.id, one.first_s - visit.opened_s)
                    for visit in self._visits.values()
                    if visit.takes(one.first_s, one.last_s)
                ]
                sighting_id = self._store.add_sighting(one.sighting, visits)
                self._saved.append((sighting_id, one.first_s, one.last_s))
                self._unsaved.popleft()
            self._problems.end(BOX, "presence_unsaved")
        except StoreError as err:
            self._problems.begin(BOX, "presence_unsaved", f"{err}; kept in memory and tried again")

    def _join(self, visit: _Visit) -> None:
        try:
            with self._store.transaction():
                for sighting_id, first_s, last_s in self._saved:
                    if visit.takes(first_s, last_s):
                        self._store.join_sighting(sighting_id, [(visit.id, first_s - visit.opened_s)])
        except StoreError as err:
            _LOGGER.warning("visit %s: its sightings are not joined: %s", visit.id, err)

    def _end_visits(self) -> None:
        """Join once more when a visit's time is over: its row may have been stored late."""
        now_s = self._clock.monotonic_s()
        over = [v for v in self._visits.values() if v.closed_s is not None and now_s > v.closed_s + AFTER_S]
        for visit in over:
            self._join(visit)
            del self._visits[visit.id]
        since_s = min([now_s, *(visit.opened_s for visit in self._visits.values())]) - BEFORE_S
        while self._saved and self._saved[0][2] < since_s:
            self._saved.popleft()

    def _recall(self) -> None:
        """Go on with visits that a restart has cut from what belongs to them."""
        now_s, wall_s = self._clock.monotonic_s(), self._clock.wall_s()
        if not self._clock.wall_trusted():
            return
        for visit in self._store.visits(20, wall_s - 3600.0, ignored=True):
            if visit.closed_wall_s is not None and 0 <= wall_s - visit.closed_wall_s < AFTER_S:
                opened_s = now_s - (wall_s - visit.opened_wall_s)
                self._visits[visit.id] = _Visit(visit.id, opened_s, now_s - (wall_s - visit.closed_wall_s))

    # The thread: logs, leases, housekeeping.

    def _run(self) -> None:
        name_thread()
        stopped = False
        while not stopped:  # the first turn at once: what a log has by then is old, what comes after it is news
            self._beats.turn(_LOOP)
            try:
                self._turn()
            except StoreError as err:
                _LOGGER.warning("presence: %s", err)
            except Exception:
                # One strange line in a log must not end presence for good.
                _LOGGER.exception("presence failed")
            stopped = self._stop.wait(_TURN_S)
        self._beats.ended(_LOOP)

    def _turn(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._poll_due_s:
            self._poll_due_s = now_s + _POLL_S
            self._poll()
        for _ in range(len(self._told)):
            topic, payload, retained = self._told.popleft()
            self._track(topic, payload, retained=retained)
        with self._lock:
            self._flush(_VISIT_S if self._visits else _CALM_S)
            self._end_visits()
            for device in [d for d, at_s in self._doubled.items() if now_s - at_s > _DOUBLED_S]:
                del self._doubled[device]
                self._problems.end(BOX, f"doubled_{device}")

    def _poll(self) -> None:
        for tail in self._tails:
            news = tail.looked
            try:
                lines = tail.new() if news else tail.old()
            except OSError as err:
                tail.looked |= isinstance(err, FileNotFoundError)  # once it is there, all of it is news
                self._source_lost("access_point_log", f"{tail.path}: {err.strerror or err}")
                continue
            self._problems.end(BOX, "presence_access_point_log")
            with self._lock:
                for line in lines:
                    self._associate(line, news=news)
        for path in self._config.leases:
            try:
                stamp = path.stat().st_mtime_ns
                if stamp == self._stamps.get(path) or abs(time.time() - stamp / 1e9) < _SETTLED_S:
                    continue  # nothing new, or it may be half written
                leases = read_leases(path)
                self._stamps[path] = stamp
            except OSError as err:
                self._source_lost("leases", f"{path}: {err.strerror or err}")
                continue
            self._problems.end(BOX, "presence_leases")
            with self._lock:
                self._compare(path, leases)

    def _source_lost(self, name: str, why: str) -> None:
        self._problems.begin(BOX, f"presence_{name}", why)

    def _associate(self, line: str, *, news: bool) -> None:
        event = association(line)
        if event is None:
            return
        for device in self._by_address.get(("wifi", event.address.hex(":")), ()):
            key, radios = (device, SightingSource.ACCESS_POINT), self._stations.setdefault(device, set())
            was = bool(radios)
            (radios.add if event.transition is Transition.JOIN else radios.discard)(event.where)
            (self._there.add if radios else self._there.discard)(key)
            if news and was != bool(radios):
                self._note(*key, event.transition)
            elif news and event.transition is Transition.LEAVE and not was:
                self._note(*key, Transition.LEAVE)  # it was there before the log began

    def _compare(self, path: Path, leases: Mapping[bytes, Lease]) -> None:
        """Take new and renewed leases as signs; those of the first look only as names."""
        before = self._leases.get(path)
        self._leases[path] = dict(leases)
        for address, lease in leases.items():
            devices = self._by_address.get(("wifi", address.hex(":")), [])
            if not devices:
                devices = self._bind_again(lease, leases)
            for device in devices:
                self._learn(device, lease)
                old = before.get(address) if before is not None else lease
                if old is None or old.renewed != lease.renewed:
                    # Half-way through its time a lease is renewed by whoever was there all along.
                    self._note(device, SightingSource.DHCP, Transition.STEADY if old else Transition.JOIN)

    def _learn(self, device_id: str, lease: Lease) -> None:
        """Remember how a device calls itself, to know it again when its address has changed."""
        device = self._devices[device_id]
        if (device.client_id, device.hostname) != (lease.client_id, lease.hostname):
            self._devices[device_id] = self._store.change_device(
                device_id, client_id=lease.client_id, hostname=lease.hostname
            )

    def _bind_again(self, lease: Lease, leases: Mapping[bytes, Lease]) -> List[str]:
        """Give a device that has taken another address its binding back, if it is clear which one it is."""
        if not is_random(lease.address):
            return []
        held = {address.hex(":") for address in leases}
        same = [
            device
            for device in self._devices.values()
            if device.kind == "wifi" and device.address not in held and _same_device(device, lease)
        ]
        rivals = [other for other in leases.values() if other is not lease and _same_name(other, lease)]
        if len(same) != 1 or rivals:
            if same:
                _LOGGER.info("presence: a lease may be device %s with a new address; cannot tell", same[0].id)
            return []
        device = same[0]
        _LOGGER.info("presence: device %s has taken another address", device.id)
        self._store.change_device(device.id, address=lease.address.hex(":"))
        self.refresh()
        return [device.id]

    # The helper.

    def _tell_helper(self) -> None:
        if self._listener is None:
            return
        config = self._config
        with self._lock:
            wifi, ble = (
                {d.address.replace(":", ""): d.id for d in self._devices.values() if d.kind == kind}
                for kind in ("wifi", "ble")
            )
        self._listener.watch(
            Watch(
                wifi,
                ble,
                config.radio,
                config.channels,
                config.hop_s,
                config.min_rssi_dbm if self._measured is None else _ANY_DBM,
                config.neighbours,
                config.mdns,
                config.ble,
            )
        )

    def _on_state(self, state: Optional[State]) -> None:
        with self._lock:
            had, self._helper = self._source_problems(), state
            now = self._source_problems()
        if state is None:
            self._problems.begin(BOX, _HELPER, "`edgecam presence run` is not there: nothing is heard", quietly=True)
        else:
            self._problems.end(BOX, _HELPER, quietly=True)
        for code, text in now.items():
            self._problems.begin(BOX, code, text)
        for code in set(had) - set(now):
            self._problems.end(BOX, code)

    def _source_problems(self) -> Dict[str, str]:
        return {f"presence_{code}": text for code, text in self._helper.problems.items()} if self._helper else {}


def _needs_helper(config: PresenceConfig) -> bool:
    return bool(config.radio or config.mdns or config.neighbours or config.ble)


def _stronger(one: Sighting, other: Sighting) -> Sighting:
    """Return both as one: the first's time, the stronger's strength, all frames."""
    best = other if other.rssi_dbm is not None and (one.rssi_dbm is None or other.rssi_dbm > one.rssi_dbm) else one
    return replace(
        one,
        rssi_dbm=best.rssi_dbm,
        channel=best.channel,
        frames=one.frames + other.frames,
        weight=max(one.weight, other.weight),
    )


def _tracker_state(payload: bytes) -> str:
    text = payload.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            told = json.loads(text)
        except ValueError:
            return ""
        text = str(told.get("state", "")) if isinstance(told, dict) else ""
    return text.lower()


def _same_device(device: Device, lease: Lease) -> bool:
    if device.client_id or lease.client_id:
        return device.client_id == lease.client_id
    return bool(device.hostname) and device.hostname == lease.hostname and not _is_common(lease.hostname)


def _same_name(other: Lease, lease: Lease) -> bool:
    return other.client_id == lease.client_id if lease.client_id else other.hostname == lease.hostname


def _is_common(hostname: str) -> bool:
    plain = hostname.lower().rstrip("0123456789-_")
    return plain in _COMMON_NAMES or plain.startswith("android-")
