"""A piece of air: a TAP interface with radiotap frames in a network namespace of its own, and a helper that listens.

Run by test_presence.py under `unshare --net`: prints `ready`, then obeys JSON lines on stdin, answering each.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

_TUNSETIFF, _TUNSETLINK = 0x400454CA, 0x400454CD
_TAP, _NO_PI = 0x0002, 0x1000
_ETHERNET = 1


def tap(name: str, link: int) -> int:
    """Make an interface; what is written to the returned handle is heard on it."""
    handle = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_PI))
    if link != _ETHERNET:
        fcntl.ioctl(handle, _TUNSETLINK, link)
    quiet = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    if quiet.exists():
        quiet.write_text("1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", name.encode(), 1))
    return handle


def send(handle: int, frames: List[bytes], per_s: float) -> None:
    start = time.monotonic()
    for number, frame in enumerate(frames):
        late_s = start + number / per_s - time.monotonic()
        if late_s > 0:
            time.sleep(late_s)
        os.write(handle, frame)


def main() -> None:
    link, *command = sys.argv[1:]
    handle = tap("emon0", int(link))
    helper = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    print("ready", flush=True)
    for line in sys.stdin:
        told: Dict[str, Any] = json.loads(line)
        if "frames" in told:
            send(handle, [bytes.fromhex(text) for text in told["frames"]] * told["times"], told["per_s"])
        elif told["do"] == "vanish":
            os.close(handle)
        elif told["do"] == "return":
            handle = tap("emon0", int(link))
        elif told["do"] == "neighbours":
            for last, address in enumerate(told["addresses"], start=5):
                state = "reachable" if last == 5 else "stale"
                ip = ["ip", "neigh", "replace", f"192.0.2.{last}", "lladdr", address, "dev", "emon0", "nud", state]
                subprocess.run(ip, check=True)
        elif told["do"] == "cpu":
            fields = Path(f"/proc/{helper.pid}/stat").read_text().rsplit(") ", 1)[1].split()
            print(sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"), flush=True)
            continue
        print("done", flush=True)
    helper.terminate()
    sys.exit(helper.wait(10))


if __name__ == "__main__":
    main()
