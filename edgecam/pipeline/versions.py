"""Operations on the versions of the encoder's head."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Callable, Dict, Iterator, Mapping

from edgecam.alerts.message import MessageError, Topics, moment, night_alert
from edgecam.errors import ConfigError
from edgecam.pipeline.wanted import outlook, remember
from edgecam.pipeline.wire import Record, mapping_of
from edgecam.store import Version, new_ulid

if TYPE_CHECKING:
    from edgecam.pipeline.operations import Call


def _list(call: Call) -> Iterator[Record]:
    for version in call.store.versions():
        yield {**_record(version), "fault": call.store.fault(version) if version.state == "active" else ""}


def _show(call: Call) -> Iterator[Record]:
    version = call.store.version(call.text("version"))
    yield {
        **_record(version),
        "fault": call.store.fault(version) if version.state == "active" else "",
        "record": dict(version.record),
        "signature": version.signature,
        "public_key": call.store.public_key,
    }


def _heads(call: Call) -> Iterator[Record]:
    """The head in service for an installed encoder; `model` alone if it is the installed one."""
    base = call.text("base")
    found = call.store.in_service(base)
    if found is None:
        yield {"model": base, "heads": {}}
        return
    version, heads = found
    yield {
        "model": version.model,
        "version": version.name,
        "heads": {name: base64.b64encode(data).decode() for name, data in heads.items()},
    }


def _put(call: Call) -> Iterator[Record]:
    """Store what a night made; with `accepted` it serves at once. With `told` that is told in the same commit."""
    accepted = call.get("accepted") is True
    with call.store.transaction():
        version = call.store.put_version(
            call.text("base"),
            heads_of(mapping_of(call.get("heads"), "heads")),
            [str(person) for person in call.list("people")],
            mapping_of(call.get("report"), "report"),
            accepted=accepted,
            instead_of=str(call.get("instead_of")) if call.get("instead_of") else None,
        )
        if call.get("told") is not None:
            _tell(call, {"version": version.name} if accepted else {})
    yield _record(version)


def _roll_back(call: Call) -> Iterator[Record]:
    name = call.get("version")
    back = call.store.roll_back(str(name) if name else None)
    yield _record(back) if back else {"version": None, "state": "active"}


def _night_key(call: Call) -> Iterator[Record]:
    yield {"key": base64.b64encode(call.store.night_key).decode()}


def _night_outlook(call: Call) -> Iterator[Record]:
    yield outlook(call.store, call.clock)


def _night_tell(call: Call) -> Iterator[Record]:
    """Tell of a night that made no version."""
    yield {"id": _tell(call, {})}


def _tell(call: Call, known_now: Mapping[str, str]) -> str:
    """Put a night's outcome into the outbox; it names nobody. What it knew is what the next one is asked for by."""
    topics, night_id = Topics(call.text("box")), new_ulid(call.clock.wall_s())
    told = {**mapping_of(call.get("told"), "told"), **known_now}
    try:
        alert = night_alert(topics, night_id, told, now=moment(call.clock))
    except MessageError as err:
        raise ConfigError(f"the night's outcome: {err}") from err
    with call.store.transaction():
        call.store.outbox_put([alert])
        if call.get("knew") is not None:
            remember(call.store, mapping_of(call.get("knew"), "knew"), promoted=told.get("state") == "promoted")
    return night_id


def heads_of(packed: Mapping[str, object]) -> Dict[str, bytes]:
    """Return heads from base64.

    Raises:
        ConfigError: it is none.
    """
    try:
        return {name: base64.b64decode(str(data), validate=True) for name, data in packed.items()}
    except binascii.Error as err:
        raise ConfigError(f"heads: {err}") from err


def _record(version: Version) -> Record:
    report = version.record.get("report", {})
    return {
        "version": version.name,
        "id": version.id,
        "base": version.base,
        "parent": version.parent,
        "state": version.state,
        "created_wall_s": version.created_wall_s,
        "people": version.record.get("people", []),
        "reasons": report.get("reasons", []) if isinstance(report, dict) else [],
    }


OPERATIONS: Mapping[str, Callable[[Call], Iterator[Record]]] = {
    "versions.list": _list,
    "versions.show": _show,
    "versions.heads": _heads,
    "versions.put": _put,
    "versions.rollback": _roll_back,
    "night.key": _night_key,
    "night.outlook": _night_outlook,
    "night.tell": _night_tell,
}
