"""Frames and captures: what scapy says, we say; what is broken is not believed; nobody but the enrolled is heard."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from radiotap import ACK, BEACON, DATA, PROBE, dot11, mac, tapped

from edgecam.errors import InputError
from edgecam.presence import frames
from edgecam.presence.frames import READERS, Meta, ppi, prism, radiotap, sender
from edgecam.presence.hearing import Ear, Heard
from edgecam.presence.pcap import Capture
from edgecam.presence.replay import replay
from edgecam.presence.sightings import weight_of
from edgecam.types import SightingSource, Transition

PHONE, OTHER = "5c:51:4f:be:ef:01", "5c:51:4f:be:ef:02"


def meta(rssi: Optional[int] = None, freq: int = 0, damaged: bool = False) -> Meta:
    return Meta(rssi, freq, damaged)


# Headers.


def test_the_strongest_antenna_counts() -> None:
    header = tapped(b"", -60, antennas=(-70, -44, -51))
    assert radiotap(header) == (len(header), meta(-44, 2437))


@pytest.mark.parametrize(("values", "rssi"), [((0, -70), -70), ((0,), None), ((-128 + 28, 5), -100)])
def test_an_antenna_that_heard_nothing_is_no_strong_one(values: Sequence[int], rssi: Optional[int]) -> None:
    header = tapped(b"", 0, antennas=values)
    assert radiotap(header) == (len(header), meta(rssi, 2437))


def test_a_wrong_check_sum_is_told() -> None:
    assert radiotap(tapped(b"", flags=0x40)) == (15, meta(-48, 2437, damaged=True))


def test_fields_are_aligned_as_the_kernel_aligns_them() -> None:
    # TSFT (8, aligned from 8), flags, rate, channel (aligned to 2), signal: 16 + 1 + 1 + 4 + 1 bytes.
    words = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5
    header = struct.pack("<BBHIQBBHHb", 0, 0, 23, words, 77, 0, 2, 2412, 0, -33)
    assert radiotap(header) == (23, meta(-33, 2412))


def test_a_vendors_part_is_stepped_over() -> None:
    words = [1 << 30 | 1 << 31 | 1 << 1, 1 << 29 | 1 << 31 | 1 << 3, 1 << 5]
    vendor = struct.pack("<3sBH", b"abc", 1, 5) + b"vendo"
    body = b"\0" + b"\0" + vendor + struct.pack("<b", -29)
    header = struct.pack("<BBH3I", 0, 0, 16 + len(body), *words) + body
    assert radiotap(header) == (len(header), meta(-29))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\0\0\x08",
        struct.pack("<BBHI", 1, 0, 8, 0),  # another version
        struct.pack("<BBHI", 0, 0, 4, 0),  # shorter than itself
        struct.pack("<BBHI", 0, 0, 90, 0),  # longer than the frame
        struct.pack("<BBH", 0, 0, 200) + struct.pack("<I", 1 << 31) * 49,  # words without end
    ],
)
def test_a_broken_header_is_not_read(header: bytes) -> None:
    assert radiotap(header) is None


def test_a_header_that_promises_more_than_it_has_gives_what_it_has() -> None:
    header = struct.pack("<BBHIB", 0, 0, 9, 1 << 1 | 1 << 5, 0)
    assert radiotap(header) == (9, meta())


def test_ppi_tells_the_signal() -> None:
    common = struct.pack("<HHQHHHHBBbb", 2, 20, 0, 0, 0, 5180, 0, 0, 0, -61, -95)
    header = struct.pack("<BBHI", 0, 0, 8 + len(common), 105) + common
    assert ppi(header + dot11(PHONE)) == (32, meta(-61, 5180))
    assert ppi(struct.pack("<BBHI", 0, 0, 8, 1)) is None  # Ethernet within


def test_prism_tells_a_signal_that_can_be_dbm() -> None:
    def header(value: int) -> bytes:
        item = struct.pack("<IHHi", 0x00041044, 0, 4, value)
        return struct.pack("<II16s", 0x44, 144, b"wlan0") + item + bytes(144 - 24 - 12)

    assert prism(header(-58)) == (144, meta(-58))
    assert prism(header(180)) == (144, meta())
    assert prism(header(-58)[:100]) is None
    avs = struct.pack(">II", 0x80211001, 64) + bytes(36) + struct.pack(">Ii", 2, -71) + bytes(12)
    assert prism(avs) == (64, meta(-71))


@given(st.binary(max_size=200), st.sampled_from(sorted(READERS)))
def test_no_bytes_break_a_reader(data: bytes, link: int) -> None:
    read = READERS[link](data)
    if read is not None:
        assert 0 <= read[0] <= max(len(data), 0)
        assert read[1].rssi_dbm is None or -128 <= read[1].rssi_dbm < 0
        sender(data, read[0])


# Senders.


@pytest.mark.parametrize(
    ("frame", "who"),
    [
        pytest.param(dot11(PHONE), PHONE, id="probe"),
        pytest.param(dot11(PHONE, DATA, flags=0x01), PHONE, id="data-to-the-access-point"),
        pytest.param(dot11(OTHER, DATA, flags=0x02), OTHER, id="passed-on-by-the-access-point"),
        pytest.param(dot11(PHONE, 0xB4)[:16], PHONE, id="rts"),
        pytest.param(dot11(PHONE, ACK), None, id="ack-names-nobody"),
        pytest.param(dot11(PHONE, 0xC4), None, id="cts-names-nobody"),
        pytest.param(dot11(PHONE, 0x41), None, id="another-version"),
        pytest.param(dot11(PHONE)[:15], None, id="cut"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_who_transmitted(frame: bytes, who: Optional[str]) -> None:
    found = sender(frame, 0)
    assert (found.address if found else None) == (mac(who) if who else None)


@pytest.mark.parametrize(
    "text", ["", "5c:51:4f:be:ef", "5c:51:4f:be:ef:0g", "01:00:5e:00:00:fb", "00:00:00:00:00:00", "5c514fbeef01"]
)
def test_what_is_no_devices_address(text: str) -> None:
    assert frames.parse_address(text) is None


# Captures.


def classic(path: Path, packets: Sequence[bytes], link: int = 127, order: str = "<", magic: int = 0xA1B2C3D4) -> Path:
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    records = (struct.pack(order + "IIII", 1_700_000_000 + n, 500, len(p), len(p)) + p for n, p in enumerate(packets))
    path.write_bytes(head + b"".join(records))
    return path


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = 12 + len(body)
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def ng(path: Path, packets: Sequence[bytes], link: int = 127, order: str = "<") -> Path:
    section = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)
    interface = block(1, struct.pack(order + "HHI", link, 0, 0) + struct.pack(order + "HHB3xHH", 9, 1, 9, 0, 0), order)
    stamp = 1_700_000_000 * 10**9
    enhanced = (
        block(6, struct.pack(order + "IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(p), len(p)) + p, order)
        for p in packets
    )
    path.write_bytes(section + block(5, b"statistics..", order) + interface + b"".join(enhanced))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "fraction"), [(0xA1B2C3D4, 500e-6), (0xA1B23C4D, 500e-9)])
def test_classic_captures_of_either_order_and_unit(tmp_path: Path, order: str, magic: int, fraction: float) -> None:
    packets = [tapped(dot11(PHONE, sequence=n)) for n in range(3)]
    capture = Capture(classic(tmp_path / "c", packets, order=order, magic=magic))
    read = list(capture)
    assert [packet.data for packet in read] == packets
    assert read[1].link == 127
    assert abs(read[1].wall_s - 1_700_000_001 - fraction) < 4e-7
    assert capture.broken is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_next_generation_captures(tmp_path: Path, order: str) -> None:
    packets = [tapped(dot11(PHONE, sequence=n)) + bytes(n) for n in range(3)]
    capture = Capture(ng(tmp_path / "c", packets, order=order))
    read = list(capture)
    assert [packet.data for packet in read] == packets
    assert [(packet.link, round(packet.wall_s)) for packet in read] == [(127, 1_700_000_000)] * 3
    assert capture.broken is None


@pytest.mark.parametrize("kind", [classic, ng])
def test_a_capture_cut_anywhere_is_read_as_far_as_it_goes(tmp_path: Path, kind: Any) -> None:
    packets = [tapped(dot11(PHONE, sequence=n)) for n in range(4)]
    ends = [len(kind(tmp_path / "part", packets[:n]).read_bytes()) for n in range(5)]
    whole = kind(tmp_path / "whole", packets).read_bytes()
    for length in range(4, len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        capture = Capture(tmp_path / "cut")
        read = [packet.data for packet in capture]
        assert read == packets[: sum(end <= length for end in ends[1:])]
        if length > ends[0]:
            assert (capture.broken is None) == (length in ends)


def test_a_frame_of_a_gigabyte_is_a_broken_one(tmp_path: Path) -> None:
    path = classic(tmp_path / "c", [tapped(dot11(PHONE))])
    with path.open("ab") as file:
        file.write(struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30))
    capture = Capture(path)
    assert len(list(capture)) == 1
    assert capture.broken == "a frame claims 1073741824 bytes"


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n", b"\xd4\xc3"])
def test_what_is_no_capture_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c").write_bytes(data)
    with pytest.raises(InputError, match="not a capture"):
        Capture(tmp_path / "c")
    with pytest.raises(InputError, match="cannot be read"):
        Capture(tmp_path / "none")


# scapy, the reference.


@pytest.mark.data
def test_scapy_reads_the_same_from_real_captures(data_dir: Path) -> None:
    layers = pytest.importorskip("scapy.layers.dot11")
    reader = pytest.importorskip("scapy.utils").RawPcapReader
    compared = 0
    paths = [*sorted(data_dir.glob("wifi_labelled_probes/*.pcap")), *sorted(data_dir.glob("wifi_misc/*.pcap"))]
    for path in paths:
        ours = list(Capture(path))
        theirs = list(reader(str(path)))
        assert [packet.data for packet in ours] == [data for data, _ in theirs]
        for packet in ours[:40]:
            if packet.link != frames.RADIOTAP:
                continue
            read = radiotap(packet.data)
            assert read is not None
            reference = layers.RadioTap(packet.data)
            assert read[0] == reference.len
            assert read[1].freq_mhz == reference.fields.get("ChannelFrequency", 0)
            expected = reference.fields.get("dBm_AntSignal")
            if expected is not None and expected >= 0:
                assert read[1].rssi_dbm is None  # one card wrote +15 dBm: more than it can have
            elif not reference.present.Ext:
                assert read[1].rssi_dbm == expected
            else:  # scapy tells the first antenna's
                assert read[1].rssi_dbm is not None
                assert read[1].rssi_dbm >= expected
            frame = sender(packet.data, read[0])
            dot = reference.getlayer(layers.Dot11)
            if frame is not None and dot is not None:
                assert frame.address.hex(":") == dot.addr2
                compared += 1
    assert compared > 200


def test_scapy_writes_what_we_read() -> None:
    layers = pytest.importorskip("scapy.layers.dot11")
    frame = layers.RadioTap(present="Channel+dBm_AntSignal", ChannelFrequency=5180, dBm_AntSignal=-57) / layers.Dot11(
        type=0, subtype=4, addr1="ff:ff:ff:ff:ff:ff", addr2=PHONE, addr3="ff:ff:ff:ff:ff:ff", SC=77 << 4
    )
    data = bytes(frame)
    read = radiotap(data)
    assert read is not None
    assert read[1] == meta(-57, 5180)
    assert sender(data, read[0]) == (mac(PHONE), PROBE, 77)


# The ear.


def listen(heard: Sequence[Any], devices: Optional[Dict[bytes, str]] = None, threshold: int = -55) -> Any:
    """Return what an ear makes of (seconds, frame) and its counts."""
    ear = Ear({mac(PHONE): "D1"} if devices is None else devices, threshold)
    found: List[Heard] = []
    for at_s, data in heard:
        found += ear.hear(at_s, data, radiotap)
    return found + ear.end(), ear.counts


def test_a_second_becomes_one_record_with_its_strongest_frame() -> None:
    sent = [(0.0, -50, 2412), (0.3, -41, 2437), (0.9, -52, 2462), (1.1, -49, 2412), (1.2, -80, 2412)]
    found, counts = listen(
        [(at, tapped(dot11(PHONE, sequence=n), rssi, freq)) for n, (at, rssi, freq) in enumerate(sent)]
    )
    assert found == [Heard("D1", 0.0, -41, 6, 3, False), Heard("D1", 1.1, -49, 1, 1, False)]
    assert (counts.frames, counts.heard, counts.weak) == (5, 4, 1)


def test_the_threshold_is_inclusive() -> None:
    found, counts = listen([(0.0, tapped(dot11(PHONE), -55)), (0.1, tapped(dot11(PHONE), -56))])
    assert (found[0].frames, counts.weak) == (1, 1)


def test_strangers_damaged_frames_and_acks_are_counted_and_dropped() -> None:
    sent = [tapped(dot11(OTHER)), tapped(dot11(PHONE), flags=0x40), tapped(dot11(PHONE, ACK)), b"rubbish"]
    found, counts = listen([(0.0, frame) for frame in sent])
    assert found == []
    assert (counts.strangers, counts.damaged, counts.anonymous, counts.unreadable) == (1, 1, 1, 1)


def test_nobody_enrolled_nobody_heard() -> None:
    assert listen([(0.0, tapped(dot11(PHONE)))], {})[0] == []


def test_a_clock_set_back_loses_no_frame() -> None:
    found, _ = listen([(100.0, tapped(dot11(PHONE))), (3.0, tapped(dot11(PHONE))), (3.5, tapped(dot11(PHONE)))])
    assert [(h.at_s, h.frames) for h in found] == [(100.0, 1), (3.0, 2)]


def numbered(numbers: Sequence[int], kind: int = PROBE) -> Any:
    return listen([(n * 0.2, tapped(dot11(PHONE, kind, sequence=number % 4096))) for n, number in enumerate(numbers)])[
        0
    ]


def test_two_senders_of_one_address_are_noticed() -> None:
    both = [number for n in range(10) for number in (100 + n, 3000 + n)]
    assert any(h.doubled for h in numbered(both))
    assert not any(h.doubled for h in numbered(both, DATA))  # data is numbered by priority


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(60), id="upwards"),
        pytest.param([n // 2 for n in range(60)], id="repeated"),
        pytest.param(range(4080, 4140), id="over-the-end"),
        pytest.param([n * 50 for n in range(60)], id="many-missed"),
        pytest.param([n % 10 for n in range(60)], id="begins-anew-with-every-scan"),
        pytest.param([(n // 6) * 777 + n for n in range(60)], id="jumps-with-every-scan"),
    ],
)
def test_one_sender_is_not_taken_for_two(numbers: Sequence[int]) -> None:
    assert not any(h.doubled for h in numbered(list(numbers)))


# Replays.


def rows(path: Path, devices: Optional[Dict[bytes, str]], threshold: int = -55) -> List[Dict[str, Any]]:
    return list(replay(path, devices, threshold, 600.0))


def test_a_replay_tells_of_the_enrolled_alone(tmp_path: Path) -> None:
    path = classic(tmp_path / "c", [tapped(dot11(PHONE)), tapped(dot11(OTHER, BEACON)), tapped(dot11(PHONE), -80)])
    sighting, summary = rows(path, {mac(PHONE): "D1"})
    assert (sighting["device"], sighting["rssi_dbm"], sighting["transition"], sighting["t_s"]) == (
        "D1",
        -48,
        "steady",
        0.0,
    )
    assert (summary["devices"], summary["counts"]["strangers"], summary["counts"]["weak"]) == (1, 1, 1)
    assert OTHER not in str([sighting, summary])
    everybody = rows(path, None, -128)
    assert [row["device"] for row in everybody[:-1]] == ["p1", "p2", "p1"]
    assert [row["rssi_dbm"] for row in everybody[:-1]] == [-48, -48, -80]
    assert PHONE not in str(everybody)


def test_who_is_silent_for_long_comes_anew(tmp_path: Path) -> None:
    path = classic(tmp_path / "c", [tapped(dot11(PHONE)), *[tapped(dot11(OTHER))] * 700, tapped(dot11(PHONE))])
    first, second, _ = rows(path, {mac(PHONE): "D1"})
    assert [(r["transition"], r["weight"]) for r in (first, second)] == [("steady", 0.2), ("join", 1.0)]


def test_frames_without_strength_are_told_as_such(tmp_path: Path) -> None:
    path = classic(tmp_path / "c", [dot11(PHONE)], link=105)
    sighting, summary = rows(path, {mac(PHONE): "D1"})
    assert (sighting["rssi_dbm"], sighting["weight"]) == (None, 0.2)
    assert "plain 802.11 frames tell no signal strength" in summary["problems"][0]


def test_a_capture_of_a_cable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="link type 1, Ethernet"):
        rows(classic(tmp_path / "c", [bytes(60)], link=1), {})


@pytest.mark.data
def test_broken_and_strange_captures_end_with_a_summary(data_dir: Path) -> None:
    for path in sorted([*data_dir.glob("malformed/pcap/*"), *data_dir.glob("wifi_misc/*cap")]):
        *_, summary = rows(path, None, -128)
        assert summary["type"] == "summary", path.name
        counts = summary["counts"]
        parts = ("unreadable", "damaged", "anonymous", "strangers", "weak", "heard")
        assert counts["frames"] == sum(counts[part] for part in parts) > 0, path.name


@pytest.mark.data
def test_nobody_is_taken_for_a_clone_in_real_captures(data_dir: Path) -> None:
    for path in sorted([*data_dir.glob("wifi_occupancy/*.pcap"), *data_dir.glob("wifi_labelled_probes/*.pcap")]):
        assert not any(row.get("reason") for row in rows(path, None, -128)), path.name


@pytest.mark.parametrize(
    ("transition", "source", "rssi", "weight"),
    [
        (Transition.JOIN, SightingSource.SNIFF, -50, 1.0),
        (Transition.JOIN, SightingSource.SNIFF, None, 0.2),  # may come from anywhere in the street
        (Transition.JOIN, SightingSource.ACCESS_POINT, None, 1.0),
        (Transition.LEAVE, SightingSource.TRACKER, None, 1.0),
        (Transition.STEADY, SightingSource.SNIFF, -30, 0.2),
    ],
)
def test_who_comes_or_goes_counts_most(
    transition: Transition, source: SightingSource, rssi: Optional[int], weight: float
) -> None:
    assert weight_of(transition, source, rssi) == weight
