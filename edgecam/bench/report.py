"""What the benchmark says: figures against targets, and what could not be measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Union

Sense = Literal["most", "least"]
"""Whether the target is the most or the least that is allowed."""


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: Optional[float]
    """None: it never came to the event that is timed."""
    unit: str
    target: Optional[float] = None
    sense: Sense = "most"
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> Optional[bool]:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        if self.value is None:
            return False
        return self.value <= self.target if self.sense == "most" else self.value >= self.target

    def record(self) -> Dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "type": "figure",
            "name": self.name,
            "value": None if self.value is None else float(f"{self.value:.4g}"),
            "unit": self.unit,
            "target": self.target,
            "sense": self.sense,
            "met": self.met,
            "detail": dict(self.detail),
        }


@dataclass(frozen=True)
class Skipped:
    """Something that cannot be measured here, and why."""

    name: str
    reason: str

    def record(self) -> Dict[str, Any]:
        """Return it as a JSON object."""
        return {"type": "skipped", "name": self.name, "reason": self.reason}


Row = Union[Figure, Skipped]


def line_of(row: Row) -> str:
    """Return a row as a line for people."""
    if isinstance(row, Skipped):
        return f"  {row.name:34} SKIPPED: {row.reason}"
    value = "never" if row.value is None else f"{row.value:.4g}"
    return f"  {row.name:34} {value:>9} {row.unit:14} {_target(row):22} {_detail(row)}".rstrip()


def markdown(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the result as a Markdown table."""
    head = (
        f"{about['date']}, `{about['command']}`; load average at the start {about['load']}, {about['cores']} cores, "
        f"{about['processor']}; Python {about['python']}, onnxruntime {about['onnxruntime']}, "
        f"OpenCV {about['opencv']}, numpy {about['numpy']}, encoder {about['encoder']}."
    )
    lines: List[str] = [
        head,
        "",
        "| figure | value | target | | detail |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if isinstance(row, Skipped):
            lines.append(f"| {row.name} | | | skipped | {row.reason} |")
            continue
        met = {True: "met", False: "**missed**", None: ""}[row.met]
        value = "never" if row.value is None else f"{row.value:.4g}"
        target = "" if row.target is None else f"{'<=' if row.sense == 'most' else '>='} {row.target:g}"
        lines.append(f"| {row.name} | {value} {row.unit} | {target} | {met} | {_detail(row)} |")
    return "\n".join(lines) + "\n"


def _target(row: Figure) -> str:
    if row.target is None:
        return ""
    return f"{'<=' if row.sense == 'most' else '>='} {row.target:g}: {'met' if row.met else 'MISSED'}"


def _detail(row: Figure) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in row.detail.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
