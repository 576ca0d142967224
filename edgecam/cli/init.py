"""`edgecam init`: from nothing to a box that watches, guided or scripted."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from edgecam.cli.common import Sub, add_common, emit, note, state_of
from edgecam.errors import ConfigError, EdgecamError


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("init", help="guided set-up: state, key, configuration, models, camera and broker test")
    add_common(parser)
    parser.add_argument("--yes", action="store_true", help="ask nothing; take the options and the defaults")
    parser.add_argument("--force", action="store_true", help="replace an existing configuration (a copy is kept)")
    parser.add_argument("--camera", metavar="[ID=]URL", help="rtsp://..., http://..., /dev/video0, csi://, a file")
    parser.add_argument("--place", help="what the camera watches (default: door); cameras of one place share visits")
    parser.add_argument("--rotate", type=int, choices=(0, 90, 180, 270), default=0, help="clockwise, as mounted")
    parser.add_argument("--broker", metavar="[mqtt[s]://]HOST[:PORT]", help="the MQTT broker")
    parser.add_argument("--user", help="the broker's user")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="a file that holds the broker's password")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="the broker's CA")
    parser.add_argument("--no-pull", action="store_true", help="do not fetch models")
    parser.set_defaults(func=_init)


@dataclass
class Answers:
    """What the configuration is made of."""

    camera: str = "door"
    url: str = ""
    place: str = "door"
    rotate_deg: int = 0
    host: Optional[str] = None
    port: int = 8883
    tls: bool = True
    user: Optional[str] = None
    password_file: Optional[Path] = None
    ca_file: Optional[Path] = None


def _init(args: argparse.Namespace) -> int:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.getLogger("edgecam").setLevel(logging.CRITICAL)  # what matters is told as a finding
    from edgecam.config import default_config_path, load_config

    path: Path = args.config if args.config is not None else default_config_path()
    state = state_of(args)
    if path.exists() and not args.force:
        raise ConfigError(f"{path} exists: edit it, or replace it with --force (a copy is kept)")
    answers = _answers(args)
    text = render(answers)
    _write(path, text)
    note(f"configuration: {path}")
    config = load_config(path)
    from edgecam.store import Store

    with Store.open(state, config.store) as store:
        note(f"state: {state}; key: keep a copy of {store.key_place.path} elsewhere, or let a passphrase open backups:")
        note("  edgecam backup DIR --passphrase")
    broken = 0 if args.no_pull else _pull(args)
    broken += _test(state, path, args)
    if args.json:
        emit({"config": str(path), "state": str(state), "broken": broken})
    else:
        print("next: edgecam enroll NAME PHOTO...   then: edgecam run   (or: systemctl enable --now edgecam)")
    return 1 if broken else 0


def _answers(args: argparse.Namespace) -> Answers:
    ask: Callable[[str, str], str] = _default if args.yes else _ask
    answers = Answers(rotate_deg=args.rotate, user=args.user, password_file=args.password_file, ca_file=args.ca_file)
    camera = args.camera or ask("Camera: address (rtsp://..., /dev/video0, csi://)", "")
    if not camera:
        raise ConfigError("no camera given: --camera rtsp://USER:PASSWORD@ADDRESS/STREAM")
    named = re.match(r"([a-zA-Z0-9_-]{1,40})=(.+)", camera)
    if named:
        answers.camera, answers.url = named[1], named[2]
    else:
        answers.url = camera
    if not re.match(r"(?i)[a-z][a-z0-9+.-]*:|/", answers.url):
        answers.url = str(Path(answers.url).absolute())
    answers.place = args.place or ask("What does it watch", "door")
    broker = args.broker or ask("MQTT broker (empty: none yet)", "")
    if broker:
        answers.host, answers.port, answers.tls = parse_broker(broker)
        answers.user = args.user or ask("Broker: user (empty: none)", "") or None
        if answers.user and answers.password_file is None:
            given = ask("Broker: file that holds the password", "")
            answers.password_file = Path(given).absolute() if given else None
    return answers


def parse_broker(text: str) -> Tuple[str, int, bool]:
    """Return host, port and whether with TLS.

    Raises:
        ConfigError: not an address.

    >>> parse_broker("mqtt://localhost"), parse_broker("broker.lan")
    (('localhost', 1883, False), ('broker.lan', 8883, True))
    """
    found = re.fullmatch(r"(?:(mqtts?)://)?([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(?::(\d{1,5}))?/?", text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is not a broker: want HOST, HOST:PORT, mqtt://HOST or mqtts://HOST")
    scheme, host, port = found[1], found[2].strip("[]"), int(found[3] or 0)
    tls = scheme == "mqtts" or (scheme is None and port != 1883)
    return host, port or (8883 if tls else 1883), tls


def render(answers: Answers) -> str:
    """Return the configuration file, with comments."""
    lines: List[str] = [
        "# edgecam. Whatever is not written here has a default that fits most doors; see docs/operation.md.",
        "# After a change: systemctl reload edgecam (or kill -HUP). `edgecam doctor` examines it.",
        "",
        f"[cameras.{answers.camera}]",
        "# User and password stand in the address; they are never logged.",
        f"url = {_toml(answers.url)}",
        "# Cameras of one place share their visits.",
        f"place = {_toml(answers.place)}",
    ]
    if answers.rotate_deg:
        lines.append(f"rotate_deg = {answers.rotate_deg}")
    lines += [
        "# Shares of width and height: blackened before anything looks at it (a neighbour's window) ...",
        "# privacy_zones = [[[0.8, 0.0], [1.0, 0.0], [1.0, 0.5], [0.8, 0.5]]]",
        "# ... and where motion does not count (a street, a tree).",
        "# ignore_zones = [[[0.0, 0.0], [1.0, 0.0], [1.0, 0.2], [0.0, 0.2]]]",
        "",
        "[alerts]",
    ]
    if answers.host is None:
        lines += ["# Without a broker alerts wait in the outbox.", '# host = "broker.lan"']
    else:
        lines += [f"host = {_toml(answers.host)}", f"port = {answers.port}", f"tls = {str(answers.tls).lower()}"]
    optional = (("username", answers.user), ("password_file", answers.password_file), ("ca_file", answers.ca_file))
    lines += [f"{key} = {_toml(str(value))}" for key, value in optional if value is not None]
    lines += [
        "# Names can stay in the house: names = false tells ids only.",
        "",
        "# [[alerts.quiet_hours]]",
        '# start = "22:00"',
        '# end = "07:00"',
        "",
        "[store]",
        "# Pictures of unknown visitors, hours; 0 keeps none.",
        "unknown_visitors_h = 24",
        "# visits_d = 30",
        '# backup_dir = "/var/backups/edgecam"',
    ]
    return "\n".join(lines) + "\n"


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _write(path: Path, text: str) -> None:
    """Check the text and put it in place in one step; the address may hold a password, so 0600 or, for root, 0640."""
    from edgecam.config import load_config

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    except OSError as err:
        raise ConfigError(f"{path} cannot be written: {err.strerror}; run as root, or choose --config FILE") from err
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            load_config(temporary)
        except ConfigError as err:
            raise ConfigError(str(err).replace(name, "these answers")) from err
        if path.exists():
            path.with_name(path.name + ".old").write_bytes(path.read_bytes())
            path.with_name(path.name + ".old").chmod(0o600)
        _share_with_service(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _share_with_service(path: Path) -> None:
    """Let the service's group read what root writes."""
    import grp

    if os.geteuid() != 0:
        return
    try:
        os.chown(path, 0, grp.getgrnam("edgecam").gr_gid)
    except KeyError:
        return
    path.chmod(0o640)


def _pull(args: argparse.Namespace) -> int:
    from edgecam.nn.registry import ModelRegistry, default_folder

    registry = ModelRegistry(default_folder())
    if not any(fault for fault in registry.verify().values()):
        note(f"models: verified in {registry.folder}")
        return 0
    if not args.yes and _ask("Fetch the models now (about 150 MB)", "yes").lower() not in ("y", "yes"):
        note("models: later, with `edgecam models pull`")
        return 0
    try:
        registry.pull(progress=note)
    except EdgecamError as err:
        note(f"models: {err}")
        return 1
    return 0


def _test(state: Path, path: Path, args: argparse.Namespace) -> int:
    """Try camera, broker, clock and disk; return how much is broken."""
    from edgecam.config import load_config
    from edgecam.daemon import control, talk
    from edgecam.daemon.checks import Subject, examine
    from edgecam.nn.registry import default_folder

    live = control.running(talk.socket_path(state))
    broken = 0
    for finding in examine(Subject(state, load_config(path), path, default_folder(), live)):
        if finding.state == "broken":
            broken += not (args.no_pull and finding.check == "models")
        if finding.state != "ok" or finding.check in ("camera", "broker", "faces"):
            note(f"{finding.check}: {finding.text}" + (f" -> {finding.fix}" if finding.fix else ""))
    return broken


def _ask(question: str, default: str) -> str:
    shown = f" [{default}]" if default else ""
    try:
        return input(f"{question}{shown}: ").strip() or default
    except EOFError as err:
        raise ConfigError("nobody answers: say --yes and give --camera and --broker as options") from err


def _default(_question: str, default: str) -> str:
    return default
