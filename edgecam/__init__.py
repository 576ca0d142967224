"""A private doorbell camera that knows its household and lets nothing out."""

import os

__version__ = "0.1.0"

# Newer onnxruntimes carry an uploader of usage data that is on by default; nothing leaves this box.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
