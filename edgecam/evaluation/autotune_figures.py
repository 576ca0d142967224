"""Figures like AutoTune's 5 to 10, from the rows of `edgecam eval autotune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

Row = Dict[str, Any]

_SWEEPS: Dict[str, Tuple[str, str, Dict[float, float]]] = {
    "faces": ("fig10a_false_alarm_faces", "rate", {0.4: 0.83, 0.5: 0.67}),
    "devices": ("fig10b_false_alarm_devices", "rate", {0.5: 0.84}),
    "non_poi": ("fig10c_non_poi", "strangers", {4: 0.87}),
    "room": ("fig6_rooms", "further rooms with worse cameras", {}),
    "days": ("fig7_days", "share of the events", {}),
    "gamma": ("fig8_gamma", "gamma", {}),
}
"""Noise -> file, axis, and what the paper states of it."""


def draw_figures(rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    """Write a PNG for each figure that the rows allow and yield its path.

    Args:
        rows: of `edgecam.evaluation.autotune.run`.
        folder: made if missing.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    clean = [r for r in rows if r["noise"] == "none"]
    if clean:
        yield _bars(folder / "fig5_labelling.png", clean, ("f1", "f1_poi", "coverage"))
    ranked = [r for r in clean if "ranks" in r]
    if ranked:
        yield _cmc(folder / "fig9_online.png", ranked)
    for noise, (name, axis, paper) in _SWEEPS.items():
        own = [r for r in rows if r["noise"] == noise]
        if noise not in ("gamma", "twins"):
            own += [{**r, "level": 1.0 if noise == "days" else 0.0} for r in clean]
        if any(r["noise"] == noise for r in rows):
            yield _lines(folder / f"{name}.png", own, axis, paper)


def _lines(path: Path, rows: Sequence[Row], axis: str, paper: Dict[float, float]) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    curves: Dict[str, List[Tuple[float, float, float]]] = {}
    for row in rows:
        curves.setdefault(str(row["method"]), []).append((row["level"], row["f1"], row["f1_poi"]))
    for method, points in curves.items():
        levels, f1, honest = zip(*sorted(points))
        for plot, values in zip(axes, (f1, honest)):
            plot.plot(levels, values, marker="o", label=method)
    if paper:
        axes[0].plot(list(paper), list(paper.values()), "k*", label="AutoTune, as printed")
    for plot, title in zip(axes, ("f1", "f1_poi")):
        plot.set(xlabel=axis, title=title, ylim=(0, 1.02))
    axes[0].legend(fontsize=7)
    return _save(figure, path)


def _bars(path: Path, rows: Sequence[Row], keys: Sequence[str]) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5))
    for n, key in enumerate(keys):
        axes.bar([i + 0.25 * n for i in range(len(rows))], [r[key] for r in rows], 0.25, label=key)
    axes.set_xticks([i + 0.25 for i in range(len(rows))], [str(r["method"]) for r in rows], rotation=30)
    axes.legend(fontsize=7)
    return _save(figure, path)


def _cmc(path: Path, rows: Sequence[Row]) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    for row in rows:
        axes.plot([int(k) for k in row["ranks"]], list(row["ranks"].values()), marker="o", label=row["method"])
    axes.set(xlabel="rank", ylabel="held-out pictures")
    axes.legend(fontsize=7)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
