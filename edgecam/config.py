"""The configuration file: frozen sections, one per stage; an unknown key is an error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Dict, Literal, Mapping, Optional, Sequence, Tuple, Type, Union, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgecam.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Point = Tuple[Share, Share]
Polygon = Annotated[Tuple[Point, ...], Field(min_length=3)]
Slug = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,40}$")]


class Section(BaseModel):
    """Immutable; an unknown key is an error, so a typo cannot pass for a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        """Refuse what no path or address may hold; the system's calls raise ValueError for it."""
        texts = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise ValueError("there is a NUL character in it")
        return value


class CameraConfig(Section):
    """One camera, `[cameras.ID]`."""

    url: str
    """rtsp://, rtsps://, http(s):// (MJPEG), a path, /dev/videoN, /dev/v4l/..., csi://, csi://N, or gst:PIPELINE."""
    place: Slug = "door"
    """Cameras of one place share their visits."""
    rotate_deg: Literal[0, 90, 180, 270] = 0
    """Clockwise, as the camera is mounted."""
    flip: bool = False
    """Mirror left and right."""
    width_px: Annotated[int, Field(ge=160, le=3840)] = 1280
    """Asked of USB and CSI cameras."""
    height_px: Annotated[int, Field(ge=120, le=2160)] = 720
    fps: Annotated[float, Field(gt=0, le=120)] = 15.0
    stall_after_s: Positive = 10.0
    """No frame for this long means the camera is lost and is opened again."""
    loop: bool = False
    """Play a file again from its start; else its end closes the camera."""
    privacy_zones: Tuple[Polygon, ...] = ()
    """Polygons (shares of width and height, upright picture) blackened before anything looks at them."""
    ignore_zones: Tuple[Polygon, ...] = ()
    """Polygons in which motion does not count (a street, a tree)."""


class MotionConfig(Section):
    """When a visit opens and closes."""

    width_px: Annotated[int, Field(ge=64, le=640)] = 160
    """Motion is looked for in a picture of this width."""
    sensitivity: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Higher opens earlier."""
    pre_roll_s: Annotated[float, Field(ge=0, le=10)] = 1.5
    """Frames kept in RAM from before the motion."""
    burst_s: Positive = 5.0
    """A visit lasts at least this long after its last motion (AutoTune 6.1)."""
    max_visit_s: Positive = 300.0
    """A longer stay becomes a new visit."""


class DetectConfig(Section):
    """Face detection."""

    kind: Literal["mtcnn", "yunet"] = "mtcnn"
    min_face_px: Annotated[int, Field(ge=20, le=400)] = 40
    thresholds: Tuple[Share, Share, Share] = (0.7, 0.7, 0.9)
    """MTCNN's P, R and O net (AutoTune 6.1); YuNet takes the last."""
    full_frame_every_s: Positive = 1.0
    """Between full frames only what moves or is tracked is searched."""


class TrackConfig(Section):
    """Linking faces over time."""

    link_min: Share = 0.35
    """A face continues a track only above this affinity ..."""
    link_lead: Share = 0.1
    """... and at once only with this lead over its rivals; the rest goes to the Hungarian method."""
    lost_after_s: Positive = 1.5
    still_after_s: Positive = 10.0
    """A face that has not moved for so long is a picture."""


class QualityConfig(Section):
    """Which faces are good enough to be recognised."""

    min_face_px: Annotated[int, Field(ge=20, le=400)] = 40
    min_score: Share = 0.2
    max_yaw_deg: Annotated[float, Field(gt=0, le=90)] = 50.0
    best_k: Annotated[int, Field(ge=1, le=32)] = 8
    """So many best faces of a track are kept and embedded."""


class EmbedConfig(Section):
    """The face encoder."""

    kind: Literal["fused", "facenet", "sface", "insightface"] = "fused"
    insightface_model: Optional[Path] = None
    """An ArcFace-style ONNX file of the owner's (`kind = "insightface"`)."""
    insightface_strangers: Optional[Path] = None
    """Its statistics of strangers, made by `python -m edgecam.evaluation.strangers`."""


class IdentifyConfig(Section):
    """Recognition."""

    target_fpir: Annotated[float, Field(gt=0, lt=0.5)] = 0.003
    """Share of strangers that may be taken for somebody of the household, per visit."""
    min_margin: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Required lead over the runner-up, else both names are told."""


class LivenessConfig(Section):
    """Liveness only denies."""

    policy: Literal["announce", "sensitive"] = "announce"
    """announce: unproven faces are named; sensitive: only live ones."""
    passive: bool = True
    """Anti-spoof nets, if they are installed; without them a photo of somebody is announced by name."""
    eyes: Literal["net", "dlib", "none"] = "net"
    """What follows blinks; dlib needs its landmark file, whose licence forbids commercial use."""
    challenge: Literal["off", "request", "unproven"] = "off"
    """Ask people to turn the head or to blink: never, when told to, or also whenever a known face stays unproven."""
    challenge_s: Annotated[float, Field(ge=3, le=60)] = 8.0
    """So long they may take over it."""


class QuietHours(Section):
    """No announcements between two local times, except for the listed roles and kinds."""

    start: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
    end: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
    let_through: Tuple[str, ...] = ("unknown", "blocked")


AlertRule = Literal["always", "cooldown", "never"]


def _default_rules() -> Dict[str, AlertRule]:
    always: Dict[str, AlertRule] = dict.fromkeys(("blocked", "unknown", "spoof"), "always")
    rest = ("resident", "known", "staff", "uncertain", "poor", "no_face")
    return {**always, **dict.fromkeys(rest, "cooldown")}


class AlertsConfig(Section):
    """MQTT output."""

    host: Optional[str] = None
    """The broker; without one alerts wait in the outbox."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8883
    tls: bool = True
    ca_file: Optional[Path] = None
    """The broker's CA (PEM); default: the system's."""
    username: Optional[str] = None
    password_file: Optional[Path] = None
    """Read at start; a systemd credential of the same name (`broker-password`) goes before the file itself."""
    box: Slug = "edgecam"
    """Name of this box in the topics."""
    names: bool = True
    """False: person ids only."""
    discovery_prefix: Optional[str] = "homeassistant"
    """Home Assistant discovery; none switches it off."""
    cooldown_s: Annotated[float, Field(ge=0)] = 60.0
    """The same person at the same place is not announced again for so long."""
    rules: Dict[str, AlertRule] = Field(default_factory=_default_rules)
    """By role of the known person, else by verdict."""
    quiet_hours: Tuple[QuietHours, ...] = ()
    outbox_max: Annotated[int, Field(ge=10, le=1_000_000)] = 10_000
    """Rows kept while the broker is away; then the oldest non-critical is dropped, and counted."""

    @field_validator("rules")
    @classmethod
    def _known_rules(cls, value: Dict[str, AlertRule]) -> Dict[str, AlertRule]:
        if wrong := set(value) - set(_default_rules()):
            raise ValueError(f"no such role or verdict: {', '.join(sorted(wrong))}")
        return {**_default_rules(), **value}

    @model_validator(mode="after")
    def _no_password_in_clear(self) -> AlertsConfig:
        if self.password_file is not None and not self.tls and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("password_file needs tls = true, except on localhost")
        return self

    def secret_file(self) -> Optional[Path]:
        """Return where the password is read from: what systemd was told to show us, else `password_file` itself."""
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None or self.password_file is None:
            return self.password_file
        credential = Path(folder) / self.password_file.name
        return credential if credential.exists() else self.password_file


class StoreConfig(Section):
    """What is kept, and for how long."""

    unknown_visitors_h: Annotated[float, Field(ge=0, le=168)] = 24.0
    visits_d: Annotated[float, Field(ge=0, le=3650)] = 30.0
    """Decisions without pictures."""
    cluster_unknown: bool = False
    """Keep what everybody at the door looks like for 7 days (opt-in): who returns, and whose phone comes with whom."""
    local_strangers: bool = False
    """Keep features of live unknown visitors for 30 days, to refine the thresholds and to judge new heads by (opt-in);
    dropped when somebody new is enrolled."""
    backup_dir: Optional[Path] = None


class PresenceConfig(Section):
    """Whose phone is near. All of it is off until something is named here; it never makes a stranger known."""

    radio: Optional[Annotated[str, Field(pattern=r"^[^/\s]{1,15}$")]] = None
    """Wi-Fi interface that `edgecam presence run` puts into monitor mode."""
    channels: Annotated[Tuple[Annotated[int, Field(ge=1, le=233)], ...], Field(min_length=1)] = (1, 6, 11)
    hop_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """So long on each channel (AutoTune 6.1)."""
    min_rssi_dbm: Annotated[int, Field(ge=-128, le=0)] = -55
    """Weaker frames come from beyond the door (AutoTune 6.1); `edgecam presence calibrate` measures it."""
    access_point_log: Optional[Path] = None
    """hostapd's or an OpenWrt router's log lines."""
    leases: Tuple[Path, ...] = ()
    """dnsmasq's or ISC dhcpd's lease files."""
    neighbours: bool = False
    """Read the kernel's table of neighbours (never asks anybody)."""
    mdns: Optional[Annotated[str, Field(pattern=r"^[^/\s]{1,15}$")]] = None
    """Interface on which mDNS is listened for."""
    ble: bool = False
    """Listen for Bluetooth LE (tags and watches that keep their address)."""
    away_after_s: Annotated[float, Field(ge=60, le=86_400)] = 600.0
    """A device silent for so long has left; its next sign is a coming."""
    slot_h: Annotated[float, Field(ge=0, le=24)] = 0.0
    """What faces and phones have in common: a visit (0, a door), or so many hours at a place (2, an office)."""


class TuneConfig(Section):
    """What a night learns from, and what its training may take of the box."""

    infrared: bool = False
    """Also learn from infrared faces, which the anti-spoof nets cannot judge: a photo held up at night may be among
    them. Confirmed faces and the gate still stand against it."""

    minutes: Annotated[float, Field(gt=0, le=720)] = 60.0
    memory_mb: Annotated[float, Field(ge=300, le=16_000)] = 600.0
    """Resident memory of the training process."""
    max_celsius: Annotated[float, Field(ge=30, le=120)] = 80.0
    """Above it training waits until the box has cooled by 5 degrees."""
    on_battery: bool = False
    """Whether to train while no mains supply is online."""


class PauseConfig(Section):
    """Daily times without perception and storage."""

    schedule: Tuple[QuietHours, ...] = ()


class RunConfig(Section):
    """The daemon's resources."""

    threads: Annotated[int, Field(ge=1, le=16)] = 2
    providers: Tuple[Literal["tensorrt", "cuda", "cpu"], ...] = ("tensorrt", "cuda", "cpu")
    button_gpio: Optional[str] = None
    """`CHIP:LINE` of a doorbell button (gpio character device), e.g. `gpiochip0:17`."""


class Config(Section):
    """The whole file."""

    cameras: Dict[Slug, CameraConfig] = Field(default_factory=dict)
    motion: MotionConfig = MotionConfig()
    detect: DetectConfig = DetectConfig()
    track: TrackConfig = TrackConfig()
    quality: QualityConfig = QualityConfig()
    embed: EmbedConfig = EmbedConfig()
    identify: IdentifyConfig = IdentifyConfig()
    liveness: LivenessConfig = LivenessConfig()
    alerts: AlertsConfig = AlertsConfig()
    store: StoreConfig = StoreConfig()
    presence: PresenceConfig = PresenceConfig()
    tune: TuneConfig = TuneConfig()
    pause: PauseConfig = PauseConfig()
    run: RunConfig = RunConfig()


def parse_config(data: Mapping[str, Any], where: str) -> Config:
    """Check a parsed file.

    Raises:
        ConfigError: names the file and every wrong key at once.
    """
    try:
        return Config.model_validate(data)
    except ValidationError as err:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or '(file)'}: {_explain(e['type'], e['loc'], e['msg'])}"
            for e in err.errors()
        ]
        raise ConfigError(f"{where} is not valid: " + "; ".join(lines)) from err


def _explain(kind: str, where: Sequence[Union[str, int]], said: str) -> str:
    if kind != "extra_forbidden":
        return said
    from difflib import get_close_matches

    section: Type[Section] = Config
    for part in where[:-1]:
        if (field := section.model_fields.get(str(part))) is not None:
            section = _section_of(field.annotation) or section
    near = get_close_matches(str(where[-1]), section.model_fields, 1)
    return f"unknown key; did you mean {near[0]}?" if near else "unknown key"


def _section_of(annotation: Any) -> Optional[Type[Section]]:
    """Return the section that a field holds, also within a table or list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_of, get_args(annotation))), None)


_MAX_BYTES = 65_536


def load_config(path: Path) -> Config:
    """Read and check a TOML file.

    Raises:
        ConfigError: missing, not TOML, or not valid.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_BYTES} bytes: not a configuration")
        data = tomllib.loads(raw.decode("utf-8"))
    except OSError as err:
        raise ConfigError(f"{path} cannot be read: {err.strerror}; --config wants the file itself") from err
    except RecursionError as err:
        raise ConfigError(f"{path}: its lists are nested too deeply") from err
    except ValueError as err:  # also a number of thousands of digits, which is no TOMLDecodeError
        raise ConfigError(f"{path}: {err}") from err
    return parse_config(data, str(path))


_ETC = Path("/etc/edgecam")


def default_config_path() -> Path:
    """Return where the configuration is looked for (it need not exist)."""
    if "EDGECAM_CONFIG" in os.environ:
        return Path(os.environ["EDGECAM_CONFIG"])
    if _ETC.is_dir():
        return _ETC / "edgecam.toml"
    return Path.home() / ".config/edgecam/edgecam.toml"


def default_state_dir() -> Path:
    """Return the state folder: EDGECAM_STATE, the service's, or the user's."""
    if "EDGECAM_STATE" in os.environ:
        return Path(os.environ["EDGECAM_STATE"])
    return Path("/var/lib/edgecam") if _ETC.is_dir() else Path.home() / ".local/state/edgecam"
