"""The service under a real systemd: installed, upgraded, killed, frozen, removed; and what its sandbox refuses.

One machine for the file, and each test goes on where the last one ended: a boot takes a second, the daemon three.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Dict, Iterator, Set

import pytest
from booted import Machine, debian, launcher, missing, program
from box import until

pytestmark = [
    pytest.mark.machine,
    pytest.mark.models,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(missing()), reason=f"no machine can be booted: {missing()}"),
]

WATCHDOG_S = 4
UNITS = ("edgecam.service", "edgecam-presence.service", "edgecam-tune.service")
CONFIG = """
[cameras.front]
url = "http://10.1.2.3:9/stream.mjpg"
[presence]
neighbours = true
[store]
cluster_unknown = true
"""
INSTALL = "PROGRAM=no MODELS=no {} /srv/edgecam/deploy/install"


@pytest.fixture(scope="module", params=["host", pytest.param("debian", marks=pytest.mark.slow)])
def machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp(request.param)
    try:
        booting = Machine(folder, debian() if request.param == "debian" else None, program(models_dir))
    except RuntimeError as err:
        pytest.skip(f"no machine boots here: {err}")
    with booting as booted:
        booted.write("/opt/edgecam/bin/edgecam", launcher())
        booted.sh("chmod 755 /opt/edgecam/bin/edgecam; ip link set lo up; ip address add 10.1.2.3/32 dev lo")
        yield booted


def main_pid(machine: Machine) -> int:
    return int(machine.show("edgecam.service", "MainPID")[0])


def back(machine: Machine, before: int, why: str) -> None:
    """Wait until another process of the service is ready; print how long it took."""
    began = time.monotonic()
    until(
        lambda: main_pid(machine) not in (0, before) and machine.show("edgecam.service", "ActiveState") == ["active"],
        why,
    )
    print(f"{why}: ready again after {time.monotonic() - began:.1f} s")


def test_starts_with_the_units_of_the_oldest_systemd(machine: Machine) -> None:
    machine.sh(INSTALL.format("SYSTEMD=237"))
    machine.write("/etc/edgecam/edgecam.toml", CONFIG)
    machine.sh("ln -s /srv/models/* /var/lib/edgecam/models/")
    assert machine.sh("cd /etc/systemd/system; ls -d edgecam*.d/*").split() == [
        "edgecam-tune.service.d/20-key.conf",
        "edgecam.service.d/20-key.conf",
    ]
    machine.run("systemctl", "start", *UNITS[:2])
    state, status, notified = machine.show("edgecam.service", "ActiveState", "StatusText", "Type")
    assert (state, notified) == ("active", "notify")
    assert status.startswith("watching 1 cameras"), machine.journal("edgecam")
    # The key is root's, and what the daemon has of it goes with the daemon.
    assert machine.sh("stat -c %U:%a /etc/edgecam/edgecam.key /run/edgecam/edgecam.key").split() == [
        "root:400",
        "edgecam:400",
    ]
    assert machine.sh("ls /var/lib/edgecam").split().count("master.key") == 0
    machine.run("systemctl", "stop", "edgecam.service")
    assert machine.sh("ls /run/edgecam 2>&1 || true").strip().endswith("No such file or directory")


def test_upgrade_brings_the_newer_systemds_drop_ins(machine: Machine) -> None:
    (code,) = machine.sh("base64 /etc/edgecam/edgecam.key").split()
    # As versions had it in which the key was not root's.
    machine.sh(
        "install -m 600 -o edgecam /etc/edgecam/edgecam.key /var/lib/edgecam/master.key; rm /etc/edgecam/edgecam.key"
    )
    machine.sh(INSTALL.format(""))
    machine.write("/etc/systemd/system/edgecam.service.d/90-soon.conf", f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
    machine.run("systemctl", "daemon-reload")
    assert machine.sh("base64 /etc/edgecam/edgecam.key; stat -c %U:%a /etc/edgecam/edgecam.key").split() == [
        code,
        "root:400",
    ]
    assert machine.sh("ls /var/lib/edgecam").split().count("master.key") == 0
    machine.run("systemctl", "start", *UNITS[:2])
    assert machine.show("edgecam.service", "ActiveState", "ProtectProc", "Result") == ["active", "invisible", "success"]
    assert machine.show("edgecam-presence.service", "ProcSubset") == ["pid"]
    units = "edgecam.service edgecam-tune.timer edgecam-tune.path"
    assert "[Service]" not in machine.sh(f"systemd-analyze verify {units} 2>&1")
    # Without a stored key the daemon could not have read what its predecessor wrote.
    assert machine.sh("ls /var/lib/edgecam").split().count("edgecam.db") == 1


def test_each_socket_is_for_its_group(machine: Machine) -> None:
    listed = machine.sh("stat -c '%n %U:%G %a' /run/edgecam/*.sock").splitlines()
    assert listed == [
        "/run/edgecam/control.sock edgecam:edgecam 660",
        "/run/edgecam/metrics.sock edgecam:edgecam 660",
        "/run/edgecam/presence.sock edgecam:edgecam-presence 660",
    ]
    until(lambda: "the helper has come" in machine.journal("edgecam"), "the listener at the daemon's socket")
    status = machine.run("/opt/edgecam/bin/edgecam", "status", "--json", ok=False)
    assert json.loads(status)["problems"].keys() <= {"clock_not_set"}


def test_is_back_after_a_kill(machine: Machine) -> None:
    before = main_pid(machine)
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "edgecam.service")
    back(machine, before, "kill -9")
    assert machine.show("edgecam.service", "NRestarts") == ["1"]


def test_is_back_when_it_no_longer_turns(machine: Machine) -> None:
    before = main_pid(machine)
    time.sleep(WATCHDOG_S + 1)
    assert main_pid(machine) == before  # fed, it lives on
    assert "Watchdog timeout" not in machine.journal("edgecam")
    machine.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", "edgecam.service")
    back(machine, before, f"SIGSTOP, with WatchdogSec={WATCHDOG_S}")
    assert "Watchdog timeout" in machine.journal("edgecam")


def test_the_night_comes_by_its_timer(machine: Machine) -> None:
    machine.write(
        "/etc/systemd/system/edgecam-tune.timer.d/90-now.conf", "[Timer]\nOnActiveSec=1\nRandomizedDelaySec=0\n"
    )
    assert machine.show("edgecam-tune.service", "ExecMainStartTimestampMonotonic") == ["0"]
    machine.sh("systemctl daemon-reload; systemctl start edgecam-tune.timer")
    until(
        lambda: machine.show("edgecam-tune.service", "ExecMainExitTimestampMonotonic", "ActiveState")[0] != "0",
        "the night's end",
    )
    machine.sh("systemctl stop edgecam-tune.timer; rm -r /etc/systemd/system/edgecam-tune.timer.d")
    assert machine.show("edgecam-tune.service", "Result", "ExecMainStatus") == ["success", "0"], machine.journal(
        "edgecam-tune"
    )


def test_the_night_comes_by_day_once_when_it_is_asked_for(machine: Machine) -> None:
    def ran() -> str:
        return machine.show("edgecam-tune.service", "ExecMainExitTimestampMonotonic")[0]

    before = ran()
    machine.run("systemctl", "start", "edgecam-tune.path")
    time.sleep(1)
    assert ran() == before  # a file that is there, or none, starts nothing
    machine.sh("echo why >/var/lib/edgecam/night.wanted")
    until(lambda: ran() != before and machine.show("edgecam-tune.path", "SubState") == ["waiting"], "the night's end")
    after = ran()
    time.sleep(2)
    assert (ran(), machine.show("edgecam-tune.service", "ActiveState")) == (after, ["inactive"])
    machine.run("systemctl", "stop", "edgecam-tune.path")


PROBE = """
import ctypes, errno, json, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def connect(host):
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.connect((host, 7777))

def write_and_run():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()

def namespace():
    if os.fork() == 0:
        os._exit(0 if libc.unshare(0x10000000) == 0 else ctypes.get_errno())
    if code := os.waitstatus_to_exitcode(os.wait()[1]):
        raise OSError(code, "")

def set_user_id():
    with open("/tmp/probe", "w"):
        os.chmod("/tmp/probe", 0o4755)

tries = {
    "the house": lambda: connect("10.1.2.3"),
    "the internet": lambda: connect("192.0.2.1"),
    "a device": lambda: os.close(os.open("/dev/net/tun", os.O_RDWR)),
    "the system": lambda: os.close(os.open("/srv/open/file", os.O_WRONLY | os.O_CREAT)),
    "a home": lambda: os.listdir("/home/guest"),
    "code in memory": write_and_run,
    "a namespace": namespace,
    "a set-user-id file": set_user_id,
    "another process": lambda: open("/proc/1/cmdline").close(),
    "a processor": lambda: os.sched_setaffinity(0, {0}),
    "a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "the state": lambda: os.close(os.open("/var/lib/edgecam/probe", os.O_WRONLY | os.O_CREAT)),
    "the key": lambda: open(os.environ.get("CREDENTIALS_DIRECTORY", "/etc/edgecam") + "/edgecam.key").close(),
}
found = {}
for name, attempt in tries.items():
    try:
        attempt()
        found[name] = "yes"
    except OSError as err:
        found[name] = errno.errorcode.get(err.errno, str(err))
print("PROBE" + json.dumps(found))
"""
AS_A_PROBE = """[Service]
Type=oneshot
Restart=no
WatchdogSec=0
RuntimeDirectory=
RuntimeDirectory=probe
ExecStartPre=
ExecStart=
ExecStart=/usr/bin/python3 /srv/probe.py
"""


def probe(machine: Machine, name: str, unit: str) -> Dict[str, str]:
    """Return what a unit may do: the given file and its drop-ins, with another program."""
    machine.write(f"/etc/systemd/system/{name}.service", unit)
    machine.write(f"/etc/systemd/system/{name}.service.d/99-probe.conf", AS_A_PROBE)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", f"{name}.service")
    (line,) = (line for line in machine.journal(name).splitlines() if line.startswith("PROBE"))
    found: Dict[str, str] = json.loads(line[len("PROBE") :])
    return found


def may(found: Dict[str, str]) -> Set[str]:
    return {name for name, end in found.items() if end == "yes"}


def test_the_sandbox_refuses_what_a_unit_without_it_may_do(machine: Machine) -> None:
    machine.write("/srv/probe.py", PROBE)
    machine.sh(
        "ip address add 192.0.2.1/32 dev lo; mkdir -p -m 777 /srv/open; chmod 777 /srv/open; mkdir -p /home/guest;"
        "systemd-run -q --unit=host-7777 /usr/bin/python3 -c"
        " 'import socket, time; s = socket.create_server((\"\", 7777), backlog=64); time.sleep(600)'"
    )
    until(lambda: ":7777" in machine.sh("ss -ltn"), "something to connect to")
    units = {
        name: machine.sh(f"cd /etc/systemd/system; cat {name}.service {name}.service.d/*.conf")
        for name in ("edgecam", "edgecam-presence", "edgecam-tune", "edgecam-bridge")
    }
    control = "[Service]\nUser={}\nAmbientCapabilities=CAP_NET_RAW\n"
    everything = {
        "the house",
        "the internet",
        "a device",
        "the system",
        "a home",
        "code in memory",
        "a namespace",
        "a set-user-id file",
        "another process",
        "a processor",
        "a packet socket",
        "the state",
    }
    assert may(probe(machine, "probe-control", control.format("edgecam"))) == everything
    assert may(probe(machine, "probe-camera", units["edgecam"])) == {"the house", "the state", "the key"}
    assert may(probe(machine, "probe-presence", units["edgecam-presence"])) == {"a packet socket"}
    assert may(probe(machine, "probe-tune", units["edgecam-tune"])) == {"a processor", "the state", "the key"}
    bridge = units["edgecam-bridge"].replace("ConditionPathExists=", "#")
    assert may(probe(machine, "probe-bridge", bridge)) == set()
    opened = f"{bridge}\n[Service]\nIPAddressAllow=10.1.2.3\n"
    assert may(probe(machine, "probe-bridge-opened", opened)) == {"the house"}


SINK = """
import http.server

class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print("GOT", self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("10.1.2.3", 8080), Sink).serve_forever()
"""
BRIDGE = """
[broker]
host = "127.0.0.1"
port = 1883
tls = false
[send]
url = "http://10.1.2.3:8080/front"
"""
UNKNOWN = {
    "schema": 1, "id": "one", "visit": "v", "track": 1, "event_type": "unknown", "phase": "final", "person": None,
    "person_id": None, "candidates": [], "age_s": 0.1, "ts": 0.0, "clock_trusted": False, "place": "door",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="no mosquitto-clients")
def test_the_bridge_tells_from_its_sandbox_and_only_where_its_owner_opened_it(machine: Machine) -> None:
    if not machine.sh("command -v mosquitto || true"):
        pytest.skip("no mosquitto in this machine")
    machine.sh(INSTALL.format(""))
    machine.write("/opt/edgecam/bin/python", launcher().replace("-m edgecam ", ""))
    machine.write("/srv/sink.py", SINK)
    machine.write("/srv/broker.conf", "listener 1883 127.0.0.1\nallow_anonymous true\nuser root\n")
    machine.sh(
        "chmod 755 /opt/edgecam/bin/python; systemctl start edgecam-bridge;"
        "systemd-run -q --unit=broker mosquitto -c /srv/broker.conf; systemd-run -q --unit=sink python3 /srv/sink.py"
    )
    # Installed, but not configured: it does nothing.
    assert machine.show("edgecam-bridge.service", "ActiveState", "ConditionResult") == ["inactive", "no"]
    machine.write("/etc/edgecam-bridge/bridge.toml", BRIDGE)
    machine.run("systemctl", "start", "edgecam-bridge.service")
    until(lambda: "connected to 127.0.0.1" in machine.journal("edgecam-bridge"), "the bridge at the broker")

    def say(name: str) -> None:
        message = json.dumps({**UNKNOWN, "id": name, "visit": name})
        machine.run("mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", "edgecam/edgecam/front/event", "-m", message)

    say("one")
    until(lambda: "one: 10.1.2.3" in machine.journal("edgecam-bridge"), "refused")
    assert "GOT" not in machine.journal("sink")
    machine.write("/etc/systemd/system/edgecam-bridge.service.d/90-owner.conf", "[Service]\nIPAddressAllow=10.1.2.3\n")
    machine.sh("systemctl daemon-reload; systemctl restart edgecam-bridge")
    until(lambda: "GOT Somebody unknown is at the door" in machine.journal("sink"), "told")
    pid = machine.show("edgecam-bridge.service", "MainPID")[0]
    status = machine.sh(f"cat /proc/{pid}/status")
    assert "CapBnd:\t0000000000000000" in status
    machine.sh("rm -r /etc/edgecam-bridge/bridge.toml /etc/systemd/system/edgecam-bridge.service.d/90-owner.conf")
    machine.sh("rm /opt/edgecam/bin/python; systemctl stop edgecam-bridge broker sink")


def test_uninstall_leaves_what_it_says(machine: Machine) -> None:
    machine.sh("rm -r /etc/systemd/system/edgecam.service.d/90-soon.conf /etc/systemd/system/probe-*")
    said = machine.sh("/srv/edgecam/deploy/uninstall")
    assert "left: /etc/edgecam (configuration, key), /var/lib/edgecam (people, models)" in said
    assert machine.sh("systemctl list-unit-files 'edgecam*' --no-legend || true") == ""
    assert machine.sh("systemctl list-units 'edgecam*' --no-legend --state=active") == ""
    left = machine.sh(
        "find / -xdev \\( -path /srv -o -path /proc -o -path /tmp \\) -prune -o -name '*edgecam*' -print"
    ).split()
    known = {"/etc/edgecam", "/etc/edgecam/edgecam.key", "/etc/edgecam/edgecam.toml", "/var/lib/edgecam"}
    assert {path for path in left if not path.startswith("/var/lib/edgecam/")} == known
