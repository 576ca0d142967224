"""What computes: onnxruntime and its providers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

from edgecam.daemon.checks.base import Finding, Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Look at what onnxruntime was built with."""
    import onnxruntime

    available = [name.replace("ExecutionProvider", "") for name in onnxruntime.get_available_providers()]
    yield Finding("providers", "ok", f"onnxruntime {onnxruntime.__version__}: {', '.join(available)}")
    tegra = Path("/etc/nv_tegra_release").exists()
    if tegra and "CUDA" not in available:
        fix = "install NVIDIA's onnxruntime wheel (docs/install.md)"
        yield Finding("providers", "hint", "this is a Jetson, but onnxruntime is built without CUDA", fix)
    cores = os.cpu_count() or 1
    if subject.config.run.threads > cores:
        text = f"run.threads is {subject.config.run.threads}, there are {cores} cores"
        yield Finding("providers", "hint", text, f"set run.threads = {cores}")
