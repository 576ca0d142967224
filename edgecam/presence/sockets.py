"""Packet sockets that let through what enrolled devices sent and nothing else: the filter runs in the kernel.

So no frame of a stranger reaches this process at all. Standard library and Linux only.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from array import array
from typing import Iterable, List, Sequence, Tuple

SNAP = 512
"""Bytes of a frame that are read: the headers."""

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_STATISTICS, _PACKET_MR_MULTICAST = 263, 1, 6, 0
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_BUFFER = 4 * 1024 * 1024
_MAX_INSTRUCTIONS = 4096
_MDNS = 5353
_MDNS_GROUPS = (bytes.fromhex("01005e0000fb"), bytes.fromhex("3333000000fb"))

# Classic BPF: (operation, jump if true, jump if false, value). See linux/filter.h.
Instruction = Tuple[int, int, int, int]
_LD_W, _LD_H, _LD_B, _LD_W_X, _LD_H_X = 0x20, 0x28, 0x30, 0x40, 0x48
_LDX_IMM, _LDX_IHL, _TAX, _LSH, _OR_X, _JEQ, _JUMP, _RET = 0x01, 0xB1, 0x07, 0x64, 0x4C, 0x15, 0x05, 0x06


def wireless_filter(addresses: Iterable[bytes], *, radiotap: bool) -> List[Instruction]:
    """Return the program that passes 802.11 frames transmitted by these addresses."""
    if radiotap:  # X = the header's length, little-endian at 2
        program = [
            (_LD_B, 0, 0, 3),
            (_LSH, 0, 0, 8),
            (_TAX, 0, 0, 0),
            (_LD_B, 0, 0, 2),
            (_OR_X, 0, 0, 0),
            (_TAX, 0, 0, 0),
        ]
    else:
        program = [(_LDX_IMM, 0, 0, 0)]
    return program + _senders(addresses, (_LD_H_X, 10), (_LD_W_X, 12))


def mdns_filter(addresses: Iterable[bytes]) -> List[Instruction]:
    """Return the program that passes mDNS (UDP port 5353, IPv4 and IPv6) which these addresses sent over Ethernet."""
    return [
        (_LD_H, 0, 0, 12),
        (_JEQ, 0, 5, 0x0800),
        (_LD_B, 0, 0, 23),
        (_JEQ, 0, 8, socket.IPPROTO_UDP),
        (_LDX_IHL, 0, 0, 14),
        (_LD_H_X, 0, 0, 16),
        (_JUMP, 0, 0, 4),
        (_JEQ, 0, 4, 0x86DD),
        (_LD_B, 0, 0, 20),
        (_JEQ, 0, 2, socket.IPPROTO_UDP),
        (_LD_H, 0, 0, 56),
        (_JEQ, 1, 0, _MDNS),
        (_RET, 0, 0, 0),
        *_senders(addresses, (_LD_H, 6), (_LD_W, 8)),
    ]


def _senders(addresses: Iterable[bytes], high: Tuple[int, int], low: Tuple[int, int]) -> List[Instruction]:
    program: List[Instruction] = []
    for address in addresses:
        program += [
            (low[0], 0, 0, low[1]),
            (_JEQ, 0, 3, int.from_bytes(address[2:], "big")),
            (high[0], 0, 0, high[1]),
            (_JEQ, 0, 1, int.from_bytes(address[:2], "big")),
            (_RET, 0, 0, SNAP),
        ]
    return [*program, (_RET, 0, 0, 0)]


def packet_socket(interface: str, program: Sequence[Instruction], groups: Sequence[bytes] = ()) -> socket.socket:
    """Return a socket that gives an interface's frames which pass the program; it does not block.

    Raises:
        OSError: no such interface, no right (CAP_NET_RAW), or too many addresses.
    """
    if len(program) > _MAX_INSTRUCTIONS:
        raise OSError(f"{len(program)} instructions to filter by, {_MAX_INSTRUCTIONS} are possible: too many devices")
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # beyond the limit only with CAP_NET_ADMIN
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
        held = array("B", code)  # what has an address, without ctypes and its executable memory
        # Before it is bound to anything: nothing is queued unfiltered.
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), held.buffer_info()[0]))
        sock.bind((interface, _ETH_P_ALL))
        for group in groups:
            member = struct.pack("iHH8s", socket.if_nametoindex(interface), _PACKET_MR_MULTICAST, 6, group)
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
    except BaseException:
        sock.close()
        raise
    return sock


def mdns_socket(interface: str, addresses: Iterable[bytes]) -> socket.socket:
    """Return a socket that gives the mDNS which these addresses send; the box sends nothing.

    Raises:
        OSError: see `packet_socket`.
    """
    return packet_socket(interface, mdns_filter(addresses), _MDNS_GROUPS)


def dropped(sock: socket.socket) -> int:
    """Return how many frames the kernel had to drop since the last call."""
    _, drops = struct.unpack("II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    return int(drops)
