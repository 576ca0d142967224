"""How hot the box is, and what it runs on, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Optional, Tuple

SYSFS = Path("/sys/class")


def zones(thermal: Path) -> Iterator[Tuple[Path, float]]:
    """Yield the folder and the temperature in degrees Celsius of each zone that can be read."""
    for path in sorted(thermal.glob("thermal_zone*")):
        try:
            degrees = int((path / "temp").read_text(encoding="ascii")) / 1000.0
        except (OSError, ValueError):  # zones that are switched off answer with an error
            continue
        yield path, degrees


def celsius(sysfs: Path) -> Optional[float]:
    """Return the hottest zone's temperature; None where none can be read."""
    return max((degrees for _, degrees in zones(sysfs / "thermal")), default=None)


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
