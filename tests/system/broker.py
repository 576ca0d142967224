"""A real mosquitto for tests: own port, TLS, passwords, persistence; to be stopped, killed, frozen, started again."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

START_TIMEOUT_S = 10.0
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def mosquitto() -> Optional[str]:
    """Return the path of the broker, or None."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Certificates:
    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, host: str = "localhost") -> Certificates:
    """Make a CA and a server certificate for `host` (and 127.0.0.1 if that is localhost)."""
    folder.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.timezone.utc)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])

    def builder(name: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names: List[x509.GeneralName] = [x509.DNSName(host)]
    if host == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    server = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    made.ca.write_bytes(ca.public_bytes(pem))
    made.certificate.write_bytes(server.public_bytes(pem))
    made.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return made


class Broker:
    """One mosquitto.

    Args:
        folder: configuration, log and database go here.
        tls: serve TLS with these certificates.
        users: name -> password; without any, anybody may.
        acl: lines of an ACL file.
        persistent: keep queued messages on disk, saved at every change.
        port: where; a free one by default.
        address: the one it listens on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: Optional[Certificates] = None,
        users: Optional[Dict[str, str]] = None,
        acl: str = "",
        persistent: bool = False,
        port: Optional[int] = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.port = port or free_port()
        self.address = address
        self.tls = tls
        self.users = dict(users or {})
        self._folder = folder
        self._process: Optional[subprocess.Popen[bytes]] = None
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"listener {self.port} {address}", "log_dest stderr", "log_type all"]
        if os.geteuid() == 0:
            lines.append("user root")
        if tls is not None:
            lines += [f"certfile {tls.certificate}", f"keyfile {tls.key}"]
        if users:
            self._write_passwords()
            lines += ["allow_anonymous false", f"password_file {folder / 'passwd'}"]
        else:
            lines.append("allow_anonymous true")
        if acl:
            (folder / "acl").write_text(acl)
            lines.append(f"acl_file {folder / 'acl'}")
        if persistent:
            data = folder / "data"
            data.mkdir(exist_ok=True)
            lines += [
                "persistence true",
                f"persistence_location {data}/",
                "autosave_interval 1",
                "autosave_on_changes true",
                "max_queued_messages 0",
            ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> Broker:
        """Start it and wait until it listens."""
        program = mosquitto()
        assert program is not None, "mosquitto is not installed"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            assert self._process.poll() is None, self.log()
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1.0):
                return self
            time.sleep(0.02)
        raise AssertionError("mosquitto does not listen:\n" + self.log())

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def set_password(self, user: str, password: str) -> None:
        """Change a password; mosquitto reads the file again."""
        self.users[user] = password
        self._write_passwords()
        self._signal(signal.SIGHUP)

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _write_passwords(self) -> None:
        passwd = self._folder / "passwd"
        passwd.write_text("".join(f"{user}:{password}\n" for user, password in self.users.items()))
        passwd.chmod(0o600)
        subprocess.run(["mosquitto_passwd", "-U", str(passwd)], check=True)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            if number != signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)  # a frozen one would not hear it
            self._process.wait(10)

    def __enter__(self) -> Broker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGKILL)


class HardenedBroker(Broker):
    """The broker of deploy/mosquitto, as its set-up makes it: only port, address and folders are others.

    Args:
        folder: stands for the root folder; mosquitto's own user must be able to enter it.
        port: where; a free one by default.
    """

    def __init__(self, folder: Path, port: Optional[int] = None) -> None:
        super().__init__(folder, port=port)
        made = subprocess.run(
            [DEPLOY / "mosquitto/set-up", "localhost", "127.0.0.1"],
            env={**os.environ, "DESTDIR": str(folder)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        ours, data = folder / "etc/mosquitto/edgecam", folder / "var/lib/mosquitto"
        self.tls = Certificates(ours / "ca.pem", ours / "server.pem", ours / "server.key")
        self.users = {path.name: path.read_text().strip() for path in (ours / "passwords").iterdir()}
        text = (folder / "etc/mosquitto/conf.d/edgecam.conf").read_text().replace("/etc/mosquitto/", f"{ours.parent}/")
        assert text.count("listener 8883\n") == 1
        text = text.replace("listener 8883\n", f"listener {self.port} 127.0.0.1\n")
        (folder / "etc/mosquitto/conf.d/edgecam.conf").write_text(text)
        data.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(data, "mosquitto")
        # What a distribution has in its own file.
        main = f"persistence true\npersistence_location {data}/\nlog_dest stderr\ninclude_dir {ours.parent}/conf.d\n"
        (folder / "mosquitto.conf").write_text(main)


class Listener:
    """An MQTT client that remembers what it hears, in order.

    Args:
        broker: where.
        topics: what (QoS 1).
        client_id: with one, the broker queues for it while it is away.
    """

    def __init__(self, broker: Broker, *topics: str, client_id: str = "", user: str = "") -> None:
        self.heard: List[Tuple[str, bytes, bool]] = []
        """Topic, payload, whether it was a retained one."""

        self._topics = topics
        self._ready = False
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=not client_id,
            protocol=MQTTProtocolVersion.MQTTv311,
        )
        self._client.reconnect_delay_set(1, 1)
        if broker.tls is not None:
            self._client.tls_set(str(broker.tls.ca))
        if user:
            self._client.username_pw_set(user, broker.users[user])
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._broker = broker

    def __enter__(self) -> Listener:
        local = self._broker.address == "127.0.0.1"  # what the certificates are for
        self._client.connect("localhost" if local else self._broker.address, self._broker.port, 60)
        self._client.loop_start()
        self.until(lambda: self._ready, "subscribed")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, topic: str, payload: str, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def on(self, topic: str) -> List[bytes]:
        """Return the payloads heard on a topic."""
        return [payload for where, payload, _ in list(self.heard) if where == topic]

    @staticmethod
    def until(true: Any, what: str, timeout_s: float = 15.0) -> None:
        """Wait for a condition."""
        until(true, what, timeout_s)

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe([(topic, 1) for topic in self._topics])

    def _on_subscribe(self, *_: Any) -> None:
        self._ready = True

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload), message.retain))


def until(true: Any, what: str, timeout_s: float = 15.0) -> None:
    """Wait for a condition; fail with its name."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.02)
