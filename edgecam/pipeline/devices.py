"""Operations on devices (see `operations`), and what a visit's record tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping

from edgecam.errors import ConfigError
from edgecam.pipeline.wire import Record, mapping_of
from edgecam.presence.frames import parse_address
from edgecam.presence.sightings import attendance
from edgecam.store import NotStoredError, Store, want_printable
from edgecam.types import Device

if TYPE_CHECKING:
    from edgecam.pipeline.operations import Call

KINDS = ("wifi", "ble", "ha")
_LABEL_MAX = 80
_TOPIC_MAX = 200


def clean_address(kind: str, text: str) -> str:
    """Return an address as it is stored.

    Raises:
        ConfigError: no such kind, or not an address of it.
    """
    if kind not in KINDS:
        raise ConfigError(f"no such kind of device: {kind}; there are {', '.join(KINDS)}")
    if kind == "ha":
        topic = text.strip()
        if not topic or len(topic) > _TOPIC_MAX or set(topic) & set("+#\0") or not topic.isprintable():
            raise ConfigError(f"{text[:_TOPIC_MAX]!r} is not the MQTT topic of one device_tracker")
        return topic
    address = parse_address(text)
    if address is None:
        raise ConfigError(
            f"{text[:_TOPIC_MAX]!r} is not the address of a device: six bytes such as 5c:51:4f:12:34:56 are wanted, "
            "no group's"
        )
    return address.hex(":")


def _add(call: Call) -> Iterator[Record]:
    person = call.person()
    kind = call.text("kind")
    address = clean_address(kind, call.text("address"))
    label = str(call.get("label") or "")[:_LABEL_MAX]
    consent = mapping_of(call.get("consent"), "consent")
    said = [text for text in consent.values() if isinstance(text, str)]
    if not consent or not all(text.strip() for text in said):
        raise ConfigError(f"{person.name} must have agreed that this box notes when the device is near: say so")
    for what, text in [("the label", label), *(("the consent", text) for text in said)]:
        want_printable(what, text)
    device = call.store.add_device(person.id, kind, address, label=label, consent=consent)
    yield device_record(device, {person.id: person.name})


def _list(call: Call) -> Iterator[Record]:
    names = _names(call.store)
    for device in call.store.devices(call.person().id if call.get("who") else None):
        yield device_record(device, names)


def _addresses(call: Call) -> Iterator[Record]:
    """With the whole addresses: for a capture that is looked at on this machine."""
    names = _names(call.store)
    for device in call.store.devices():
        yield {**device_record(device, names), "address": device.address}


def _remove(call: Call) -> Iterator[Record]:
    device = _device(call)
    call.store.remove_device(device.id)
    yield device_record(device, _names(call.store))


OPERATIONS: Mapping[str, Callable[[Call], Iterator[Record]]] = {
    "devices.add": _add,
    "devices.list": _list,
    "devices.addresses": _addresses,
    "devices.remove": _remove,
}


def device_record(device: Device, names: Mapping[str, str]) -> Record:
    """Return a device as JSON values; of its address only the end, enough to tell it from others at home."""
    return {
        "device": device.id,
        "person": names.get(device.person_id),
        "person_id": device.person_id,
        "kind": device.kind,
        "label": device.label,
        "address": device.address if device.kind == "ha" else f"..:{device.address[-5:]}",
        "random": device.random,
        "created_wall_s": device.created_wall_s,
        "consent": dict(device.consent),
    }


def sighting_records(store: Store, visit: str, names: Mapping[str, str]) -> Dict[str, Any]:
    """Return a visit's sightings and who was near by them, as JSON values."""
    devices = {device.id: device for device in store.devices()}
    seen = [(offset_s, s) for offset_s, s in store.visit_sightings(visit) if s.device_id in devices]
    present: List[Record] = [
        {
            "person": names.get(one.person_ids[0]) if len(one.person_ids) == 1 else None,
            "people": [names.get(person_id, person_id) for person_id in one.person_ids],
            "weight": one.weight,
            "reason": one.reason,
        }
        for one in attendance([s for _, s in seen], devices)
    ]
    rows = [
        {
            "device": s.device_id,
            "person": names.get(devices[s.device_id].person_id),
            "label": devices[s.device_id].label,
            "source": s.source.value,
            "offset_s": offset_s,
            "rssi_dbm": s.rssi_dbm,
            "channel": s.channel,
            "frames": s.frames,
            "transition": s.transition.value,
            "weight": s.weight,
            "reason": s.reason,
        }
        for offset_s, s in seen
    ]
    return {"present": present, "sightings": rows}


def _names(store: Store) -> Dict[str, str]:
    return {person.id: person.name for person in store.people()}


def _device(call: Call) -> Device:
    """Return the device of an id, its last letters, or an address."""
    wanted = call.text("device")
    want_printable("the device's name", wanted)
    parsed = parse_address(wanted)
    if parsed is not None:
        found = [device for kind in KINDS for device in call.store.find_devices(kind, parsed.hex(":"))]
    else:
        found = [d for d in call.store.devices() if len(wanted) >= 4 and d.id.endswith(wanted.upper())]
        found += call.store.find_devices("ha", wanted)
    if len(found) != 1:
        which = "several devices are" if found else "no device is"
        raise NotStoredError(f"{which} called {wanted}: see `edgecam devices list`")
    return found[0]
