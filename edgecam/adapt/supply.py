"""How hot the box is, and what it runs on, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

SYSFS = Path("/sys/class")


def celsius(sysfs: Path) -> Optional[float]:
    """Return the hottest zone's temperature; None where none can be read."""
    found: List[float] = []
    for path in sysfs.glob("thermal/thermal_zone*/temp"):
        try:
            found.append(int(path.read_text()) / 1000.0)
        except (OSError, ValueError):  # zones that are switched off answer with an error
            continue
    return max(found, default=None)


def on_battery(sysfs: Path) -> bool:
    """Whether there are mains supplies and none is online."""
    online: List[bool] = []
    for path in sysfs.glob("power_supply/*/type"):
        try:
            if path.read_text().strip() == "Mains":
                online.append((path.parent / "online").read_text().strip() == "1")
        except OSError:
            continue
    return bool(online) and not any(online)
