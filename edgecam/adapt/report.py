"""The morning report: what the night learnt from, what the gate said, what to do. Text, JSON, plots; never a face.

Names stand in the text and the plots alone, which stay on the box; the record has person ids, and the summary that
goes out by MQTT has neither unless the owner allows names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from edgecam.adapt.gate import Answers, GateReport, Judged
from edgecam.adapt.quarantine import Quarantine
from edgecam.adapt.samples import Samples
from edgecam.types import Floats, Ints

_ALERT_MIN = 3
"""So many labels of one person taken out are told as an alert: somebody may be trying to be taken for them."""
_BINS = 40
_NOBODY, _BOTH = "nobody", "two names"
_RULES: Dict[str, str] = {
    "apart": "seen together with the person",
    "other": "recognised as another",
    "stranger": "surely somebody else",
    "unlike": "like one another, unlike the person",
    "young": "a new appearance, on too few days",
    "share": "suddenly far more than ever",
    "drift": "would move the person too far",
}


@dataclass(frozen=True, eq=False)
class Morning:
    """What a night leaves behind."""

    quarantine: Quarantine
    """What was learnt from, and what was not."""

    gate: Optional[GateReport]
    """None if it did not come to a candidate."""

    reason: str = ""
    """Why not."""

    vectors: Optional[Tuple[Floats, Floats]] = None
    """(N, D) unit vectors of the samples' faces by the head in service and by the new one, for the map."""

    @property
    def promoted(self) -> bool:
        """Whether the new version goes into service."""
        return self.gate is not None and self.gate.accepted

    @property
    def reasons(self) -> Tuple[str, ...]:
        """One line each."""
        return self.gate.reasons if self.gate is not None else (self.reason,)

    def learnt(self) -> Dict[str, Dict[str, int]]:
        """Return groups, faces and enrolment photos by person id; a group counts where its largest share is."""
        samples = self.quarantine.samples
        label = _label(samples)
        out: Dict[str, Dict[str, int]] = {}
        for i, person in enumerate(samples.people):
            faces = label[samples.group] == i
            out[person] = {
                "groups": int(np.sum(label == i)),
                "faces": int(np.sum(faces & ~samples.enrolled)),
                "photos": int(np.sum(faces & samples.enrolled)),
            }
        return out

    def record(self) -> Dict[str, Any]:
        """Return everything as JSON values, with person ids and without names."""
        return {
            "promoted": self.promoted,
            "reasons": list(self.reasons),
            "learnt": self.learnt(),
            "taken_out": self.quarantine.counts(),
            "gate": None if self.gate is None else self.gate.record(),
        }

    def summary(self, names: Optional[Mapping[str, str]] = None) -> Dict[str, Any]:
        """Return a few JSON values for MQTT.

        Args:
            names: by person id, only where the owner lets names out; None leaves everybody out.
        """
        taken = self.quarantine.counts()
        out: Dict[str, Any] = {
            "promoted": self.promoted,
            "people": len(self.quarantine.samples.people),
            "faces": int(np.sum(~self.quarantine.samples.enrolled)),
            "taken_out": len(self.quarantine.taken),
            "checks_failed": sorted({c.name for c in self.gate.checks if not c.passed}) if self.gate else [],
        }
        if names is not None:
            out["taken_out_of"] = {names.get(p, p): sum(rules.values()) for p, rules in taken.items()}
        return out

    def text(self, names: Mapping[str, str]) -> str:
        """Return the report for a terminal.

        Args:
            names: by person id.
        """
        learnt = self._learnt(names) if self.quarantine.taken or len(self.quarantine.samples.features) else ()
        parts = map(list, (self._head(names), learnt, self._gate(names), self._advice(names)))
        return "\n\n".join("\n".join(part) for part in parts if part)

    def _head(self, names: Mapping[str, str]) -> Iterator[str]:
        if self.gate is None:
            yield f"Nothing was changed: {self.reason}."
        elif self.promoted:
            yield f"Now in service: {self.gate.new}, in place of {self.gate.now}."
        else:
            yield f"Still in service: {self.gate.now}; {self.gate.new} was refused."
        if self.gate is not None:
            yield from (f"  {_named(line, names)}" for line in self.reasons)

    def _learnt(self, names: Mapping[str, str]) -> Iterator[str]:
        yield "What was learnt from"
        width = max((len(names.get(p, p)) for p in self.learnt()), default=0)
        for person, counts in self.learnt().items():
            yield (
                f"  {names.get(person, person):{width}}  {counts['faces']:4} faces and {counts['photos']} enrolment "
                f"photos in {counts['groups']} groups"
            )
        taken = self.quarantine.counts()
        if taken:
            yield "What was taken out"
        for person, rules in taken.items():
            for rule, count in rules.items():
                yield f"  {names.get(person, person):{width}}  {count:4} labels: {_RULES[rule]}"

    def _gate(self, names: Mapping[str, str]) -> Iterator[str]:
        if self.gate is None:
            return
        yield "What the gate saw"
        for check in self.gate.checks:
            subject = f" ({names.get(check.subject, check.subject)})" if check.subject else ""
            yield f"  {'ok    ' if check.passed else 'FAILED'}  {check.name}{subject}: {check.said}"

    def _advice(self, names: Mapping[str, str]) -> Iterator[str]:
        yield "What to do"
        advice = list(self._needed(names))
        if self.promoted:
            advice.append("if somebody is recognised worse from now on: edgecam versions rollback")
        yield from (f"  {line}" for line in advice or ["nothing; the next night tries again"])

    def _needed(self, names: Mapping[str, str]) -> Iterator[str]:
        for check in self.gate.checks if self.gate else ():
            if check.passed:
                continue
            who = names.get(check.subject, check.subject)
            if check.name == "faces":
                yield f"confirm visits of {who} (edgecam review), or add photos (edgecam enroll)"
            elif check.name == "confirmed":
                yield "answer the open questions: edgecam review"
            elif check.name == "look-alikes":
                yield "two people look alike to the new version: more photos of both help (edgecam enroll)"
        for person, rules in self.quarantine.counts().items():
            if sum(rules.values()) >= _ALERT_MIN:
                yield f"look at the visits proposed as {names.get(person, person)}: somebody else may carry their phone"


def _label(samples: Samples) -> Ints:
    """Return (G,) whose each group is taken to be, -1 nobody's."""
    if not samples.people:
        return np.full(len(samples.shares), -1, np.int64)
    label: Ints = np.where(samples.shares.max(axis=1) > 0, samples.shares.argmax(axis=1), -1)
    return label


def _named(line: str, names: Mapping[str, str]) -> str:
    for person, name in names.items():
        line = line.replace(person, name)
    return line


# --- plots ------------------------------------------------------------------------------------------------------------


def draw(morning: Morning, names: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Write a PNG for each figure that the night allows and yield its path; needs matplotlib.

    Args:
        morning: the night.
        names: by person id.
        folder: made if missing.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    judged = morning.gate.judged if morning.gate is not None else None
    if judged is not None:
        yield _distances(folder / "distances.png", judged)
        yield _confusion(folder / "confusion.png", judged, [names.get(p, p) for p in judged.people])
        yield _versions(folder / "versions.png", judged)
    if morning.vectors is not None and np.any(_label(morning.quarantine.samples) >= 0):
        people = [names.get(p, p) for p in morning.quarantine.samples.people]
        yield _map(folder / "map.png", morning.quarantine.samples, morning.vectors, people)


_TITLES = ("in service", "new")


def _distances(path: Path, judged: Judged) -> Path:
    """Draw the doorbell report's figure 5: how far known and unknown faces are, and where the threshold is."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.1), sharex=True, sharey=True)
    mine = judged.owner >= 0
    for side, (axis, title) in enumerate(zip(axes, _TITLES)):
        answers = judged.answers[side]
        groups: List[Tuple[str, Floats, str]] = [("verified, to their own", 1.0 - answers.own[mine], "tab:green")]
        colours = ("tab:red", "tab:orange", "tab:purple")
        for (kind, pair), colour in zip(judged.strangers.items(), colours):
            groups.append((f"{kind} strangers, to the nearest", 1.0 - pair[side].highest, colour))
        for label, values, colour in groups:
            weights = np.full(len(values), 1.0 / max(1, len(values)))
            axis.hist(
                values, np.linspace(0.0, 1.2, _BINS), weights=weights, alpha=0.5, color=colour,
                label=f"{label} ({len(values)})",
            )  # fmt: skip
        axis.axvline(1.0 - float(answers.threshold.mean()), color="black", linestyle="--", label="threshold")
        axis.set(title=title, xlabel="distance (1 - similarity)")
    axes[0].set_ylabel("share of faces")
    shown, labels = axes[1].get_legend_handles_labels()
    figure.legend(shown, labels, fontsize=8, loc="lower center", ncol=3, frameon=False)
    return _save(figure, path, bottom=0.1)


def _confusion(path: Path, judged: Judged, people: Sequence[str]) -> Path:
    """Draw who was called what, by both heads; strangers are a row of their own."""
    import matplotlib.pyplot as plt

    size = 1.6 + 0.42 * len(people)
    figure, axes = plt.subplots(1, 2, figsize=(2 * size + 2.2, size + 1.4), sharey=True)
    rows = [*people, *(f"{kind} strangers" for kind in judged.strangers)]
    for side, (axis, title) in enumerate(zip(axes, _TITLES)):
        parts = [_said(judged.answers[side], len(people))[judged.owner == i] for i in range(len(people))]
        parts += [_said(pair[side], len(people)) for pair in judged.strangers.values()]
        counts = np.stack([np.bincount(part, minlength=len(people) + 2) for part in parts])
        axis.imshow(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
        for (y, x), count in np.ndenumerate(counts):
            share = count / max(1, counts[y].sum())
            if count:
                axis.text(
                    x, y, str(count), ha="center", va="center", fontsize=7, color="white" if share > 0.5 else "black"
                )
        columns = [*people, _BOTH, _NOBODY]
        axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=7)
        axis.set_yticks(range(len(rows)), rows, fontsize=7)
        axis.set(title=title, xlabel="was called")
    return _save(figure, path)


def _said(answers: Answers, people: int) -> Ints:
    """Return (T,) the column of each answer: a person, two names, nobody."""
    column: Ints = np.where(answers.named >= 0, answers.named, np.where(answers.uncertain, people, people + 1))
    return column


def _versions(path: Path, judged: Judged) -> Path:
    """Draw the head in service against the new one: everybody's verified faces above the threshold."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(4.6, 4.4))
    now, new = (a.own - a.threshold for a in judged.answers)
    for mask, label, marker in (
        (~judged.enrolled, "confirmed", "o"),
        (judged.enrolled, "enrolment photos", "x"),
    ):
        mine = (judged.owner >= 0) & mask
        axis.scatter(now[mine], new[mine], s=16, marker=marker, alpha=0.7, label=f"{label} ({int(mine.sum())})")
    low, high = float(min(now.min(), new.min())), float(max(now.max(), new.max()))
    axis.plot([low, high], [low, high], color="grey", linewidth=0.8)
    axis.axhline(0.0, color="black", linestyle="--", linewidth=0.8)
    axis.axvline(0.0, color="black", linestyle="--", linewidth=0.8)
    axis.set(xlabel="in service: similarity above the threshold", ylabel="new: similarity above the threshold")
    axis.legend(fontsize=7)
    return _save(figure, path)


def _map(path: Path, samples: Samples, vectors: Tuple[Floats, Floats], people: Sequence[str]) -> Path:
    """Draw the household in its two principal directions, by both heads."""
    import matplotlib.pyplot as plt

    label = _label(samples)[samples.group]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2))
    for side, axis, title in zip(vectors, axes, _TITLES):
        flat = _plane(side, label)
        for i, person in enumerate(people):
            mine = label == i
            seen, photos = flat[mine & ~samples.enrolled], flat[mine & samples.enrolled]
            dots = axis.scatter(seen[:, 0], seen[:, 1], s=14, alpha=0.7, label=person)
            axis.scatter(photos[:, 0], photos[:, 1], s=40, marker="x", color=dots.get_facecolor()[0][:3])
        nobody = flat[label < 0]
        axis.scatter(nobody[:, 0], nobody[:, 1], s=14, color="lightgrey", zorder=0)
        axis.set(title=title, xticks=[], yticks=[])
        axis.set_aspect("equal", "datalim")
    axes[0].legend(fontsize=7)
    figure.supxlabel(
        "the faces learnt from, in the principal directions between people; x = enrolment photo, grey = nobody of them",
        fontsize=8,
    )
    return _save(figure, path)


def _plane(vectors: Floats, label: Ints) -> Floats:
    """Return (N, 2) coordinates in the two principal directions of the people's means: everybody counts the same."""
    means = np.stack([vectors[label == i].mean(axis=0) for i in np.unique(label[label >= 0])])
    _, _, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    flat = (vectors - means.mean(axis=0)) @ directions[:2].T
    out: Floats = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))  # of one person there is a line
    return out


def _save(figure: Any, path: Path, bottom: float = 0.0) -> Path:
    import matplotlib.pyplot as plt

    figure.tight_layout(rect=(0.0, bottom, 1.0, 1.0))
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
