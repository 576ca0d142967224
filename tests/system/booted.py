"""A machine with a real systemd as its first process, in a container of systemd-nspawn; nothing of it outlives a test.

Either it has the host's own /usr beside an empty /etc and /var, which costs nothing, or a fresh Debian (mmdebstrap).
For the sandbox to be real, the container needs a cgroup tree of version 2 of its own and the right to bpf(): without it
systemd enforces neither IPAddressDeny= nor DeviceAllow=, and says nothing. So every test of these has a control.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from box import ServiceManager, until

ROOT = Path(__file__).resolve().parents[2]
ROOTS = Path(os.environ.get("EDGECAM_TEST_ROOT") or Path.home() / ".cache/edgecam-test-root")
"""Where the fresh Debian is kept for the next run."""
PROGRAMS = ("systemd-nspawn", "nsenter", "unshare", "mount", "umount")
_PACKAGES = "systemd,systemd-sysv,dbus,python3,procps,iproute2"

# The shell of a mount namespace of its own. Its control group is left behind empty, and removed.
_BOOT = """
set -eu
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$GROUP"
trap : TERM
(echo 0 >"/sys/fs/cgroup/$GROUP/cgroup.procs" && exec "$@") &
child=$!
echo $child >"$PIDFILE"
until wait $child; [ ! -d /proc/$child ]; do :; done
find "/sys/fs/cgroup/$GROUP" -depth -type d -exec rmdir {} +
"""


def missing() -> str:
    """Return why no machine can be booted here, or an empty string."""
    if os.geteuid() != 0:
        return "booting a machine needs root"
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"not installed: {', '.join(absent)} (apt install systemd-container)"
    if not Path("/bin").is_symlink():
        return "this system keeps /bin apart from /usr"
    return ""


def debian() -> Path:
    """Return a fresh Debian of this machine's release, made once and never written to.

    Raises:
        RuntimeError: it cannot be made here; the text says why.
    """
    words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    release = words.get("VERSION_CODENAME", "").strip('"')
    folder = ROOTS / release
    if folder.is_dir():
        return folder
    if words.get("ID") != "debian" or shutil.which("mmdebstrap") is None:
        raise RuntimeError(f"no {folder}, and it can only be made on Debian with mmdebstrap (apt install mmdebstrap)")
    part = folder.with_name(f"{release}.{os.getpid()}")
    part.parent.mkdir(parents=True, exist_ok=True)
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    made = subprocess.run(
        ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", *without, release, str(part)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if made.returncode:
        shutil.rmtree(part, ignore_errors=True)
        raise RuntimeError(f"mmdebstrap: {made.stderr.strip().splitlines()[-1]}")
    part.rename(folder)
    return folder


class Machine:
    """One booted machine, without a network but its own loopback if it is given none.

    Args:
        folder: for what it writes, on a real disk.
        tree: its root folder, which stays as it is; None: the host's /usr and nothing else.
        binds: source on the host -> place in the machine, read-only.
        network: a network namespace (a path) to be its.

    Raises:
        RuntimeError: it does not boot here; the text is what the console said last.
    """

    def __init__(
        self, folder: Path, tree: Optional[Path], binds: Dict[Path, str], network: Optional[Path] = None
    ) -> None:
        self._manager = ServiceManager(folder / "n")
        self._group = group = f"edgecam-test-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._console, self._pid_file = folder / "console", folder / "pid"
        root = ["-D", str(_bare_root(folder / "root")), "--bind-ro=/usr", "--tmpfs=/usr/local:mode=0755"]
        if tree is not None:
            root = ["-D", str(tree), "--volatile=overlay"]
        command = [
            "systemd-nspawn", *root, f"--machine={group}", "--boot", "--quiet", "--settings=no", "--register=no",
            "--keep-unit", f"--network-namespace-path={network}" if network else "--private-network",
            "--console=read-only", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
            "--notify-ready=yes", "--kill-signal=SIGRTMIN+3",
            "--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON,CAP_SYS_RESOURCE", "--system-call-filter=bpf",
            *(f"--bind-ro={source}:{place}" for source, place in binds.items()),
            f"--bind={_tunnel(folder / 'tun')}:/dev/net/tun",
        ]  # fmt: skip
        env = {
            **os.environ, "GROUP": group, "PIDFILE": str(self._pid_file),
            "NOTIFY_SOCKET": str(self._manager.path), "SYSTEMD_COLORS": "0",
            # Otherwise it asks the root folder's /usr, which is bound too late.
            "UNIFIED_CGROUP_HIERARCHY": "1", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        }  # fmt: skip
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BOOT, "boot", *command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=env,
            )  # fmt: skip
        try:
            until(lambda: self._leader() or self._process.poll() is not None, "a booted machine")
            if self._process.poll() is not None:
                raise RuntimeError(" ".join(self._console.read_text(errors="replace").split())[-300:])
        except BaseException:
            self.close()
            raise
        self.leader = self._leader()

    def run(self, *command: str, ok: bool = True, timeout_s: float = 60.0) -> str:
        """Run a command in the machine as root; return what it printed."""
        env = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8"]
        done = subprocess.run(
            ["nsenter", "-t", self.leader, "-a", "--", *env, *command],
            capture_output=True, text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not ok or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def sh(self, script: str, *, ok: bool = True) -> str:
        """Run a shell script in the machine as root; return what it printed."""
        return self.run("sh", "-euc", script, ok=ok)

    def show(self, unit: str, *names: str) -> List[str]:
        """Return properties of a unit."""
        lines = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).splitlines()
        found = dict(line.split("=", 1) for line in lines)
        return [found[name] for name in names]

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def write(self, path: str, text: str) -> None:
        """Write a file of root's, readable by all."""
        done = subprocess.run(
            ["nsenter", "-t", self.leader, "-a", "--", "install", "-D", "-m", "0644", "/dev/stdin", path],
            input=text, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        """Shut it down, or pull the plug after 20 seconds."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self._pid_file.read_text()), signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(self._pid_file.read_text()), signal.SIGKILL)
            self._process.kill()
            self._process.wait(10)
        self._manager.close()
        for left in Path("/sys/fs/cgroup").glob(f"*/{self._group}"):
            for folder, _, _ in os.walk(left, topdown=False):
                os.rmdir(folder)

    def _leader(self) -> str:
        return next((message["X_NSPAWN_LEADER_PID"] for message in self._ready()), "")

    def _ready(self) -> Iterator[Dict[str, str]]:
        heard = list(self._manager.heard)
        if any("READY" in message for message in heard):
            yield from (message for message in heard if "X_NSPAWN_LEADER_PID" in message)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def program(models: Path) -> Dict[Path, str]:
    """Return the binds with which the checkout runs in a machine: code, packages, Python and models."""
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    binds = {ROOT: "/srv/edgecam", packages: "/srv/packages", models: "/srv/models"}
    if sys.base_prefix != "/usr":
        binds[Path(sys.base_prefix)] = "/srv/python"
    return binds


def launcher() -> str:
    """Return the program's text for `/opt/edgecam/bin/edgecam` where `program` is bound."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    python = f"/usr/bin/{name}"
    if sys.base_prefix != "/usr":
        python = f"LD_LIBRARY_PATH=/srv/python/lib PYTHONHOME=/srv/python /srv/python/bin/{name}"
    return f'#!/bin/sh\nexec env PYTHONPATH=/srv/edgecam:/srv/packages {python} -m edgecam "$@"\n'


def _bare_root(folder: Path) -> Path:
    """Make a root folder with nothing in it but what says that nothing is enabled."""
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if Path("/", name).is_symlink():
            folder.mkdir(exist_ok=True)
            (folder / name).symlink_to(os.readlink(Path("/", name)))
    for name in ("usr", "etc/systemd/system-preset", "var/lib", "opt", "srv", "root", "home", "tmp", "run"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/etc/os-release", folder / "etc/os-release")
    (folder / "etc/systemd/system-preset/00-none.preset").write_text("disable *\n")
    (folder / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (folder / "etc/hostname").write_text("door\n")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\n")
    for name in ("ld.so.cache", "nsswitch.conf"):
        if (source := Path("/etc", name)).exists():
            shutil.copy(source, folder / "etc")
    return folder


def _tunnel(path: Path) -> Path:
    """Make a device that everybody may open."""
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(10, 200))
    path.chmod(0o666)
    return path
