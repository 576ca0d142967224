"""Addresses of cameras without their secrets: what may stand in a log line or an error."""

from __future__ import annotations

import re
from typing import Sequence

_TELLTALE = (
    r"(?:user(?:name|-id|-pw)?|usr|login|account|pass(?:word|wd|code)?|pwd|pw|pin|token|key|api_?key|secret|auth|sid)"
)
_PAIR = re.compile(rf"(?i)(?<![a-z])({_TELLTALE})\s*[=:]\s*(?:\"[^\"]*\"|'[^']*'|[^\s&;/\"',]+)")
_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*)://([^\s\"'<>]*)")
_HARMLESS = frozenset({"channel", "subtype", "stream", "resolution", "width", "height", "fps", "codec", "quality"})


def redact_url(url: str) -> str:
    """Return the address without user, password and the values of unknown query keys.

    >>> redact_url("rtsp://ann:p@ss/word@10.0.0.7:554/live?channel=1&token=abc")
    'rtsp://10.0.0.7:554/live?channel=1&token=***'
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        # A path; or an address whose scheme was forgotten: then everything before the @ may be a password.
        return redact_text(url.rpartition("@")[2] if "@" in url and ":" in url.partition("@")[0] else url)
    # A password may hold any sign, unescaped: everything up to the last @ goes.
    rest = rest.rpartition("@")[2].partition("#")[0]
    path, question, query = rest.partition("?")
    path = _PAIR.sub(r"\1=***", path)
    return f"{scheme}://{path}{question}{'&'.join(_query_item(item) for item in query.split('&'))}"


def _query_item(item: str) -> str:
    name, equals, _ = item.partition("=")
    if not equals:
        return "***" if item else ""
    return item if name.lower() in _HARMLESS else f"{name}=***"


def redact_text(text: str) -> str:
    """Return foreign text (a child's error output) without addresses' secrets and key=value secrets."""
    text = _URL.sub(lambda match: redact_url(match.group(0)), text)
    return _PAIR.sub(r"\1=***", text)


def redact_pipeline(pipeline: str) -> str:
    """Return the first element's name of a GStreamer pipeline; all the rest may be a secret, even what follows a `!`.

    >>> redact_pipeline("rtspsrc location=rtsp://u:p@h/ user-pw=x!y ! decodebin")
    'rtspsrc ...'
    """
    first, space, _ = pipeline.strip().partition(" ")
    return re.sub(r"[^\w.-].*", "", first) + (" ..." if space else "")


def redact_said(said: str, arguments: Sequence[str]) -> str:
    """Return what gst-launch-1.0 said without anything of its arguments but the first element and properties' names.

    >>> redact_said('could not set property "pin" in element "src" to "p!w"', ["src", "pin=p!w", "!", "sink"])
    'could not set property "pin" in element "src" to "***"'
    """
    parts = [part for one in arguments[1:] for part in (one, one.partition("=")[2])]
    for secret in sorted({part for part in parts if part.strip("!")}, key=len, reverse=True):
        said = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", said)
    return redact_text(said)
