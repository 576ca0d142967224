"""What a process writes below a folder (writes.c): killed at any step, or what a power cut would leave of it."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

SECTOR = 512
_HEAD = struct.Struct("<c3xIQQ")


def compiler() -> Optional[str]:
    """Return the C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc")


@lru_cache(maxsize=1)
def library() -> Path:
    """Return writes.c compiled."""
    made = Path(tempfile.mkdtemp(prefix="edgecam-writes-")) / "writes.so"
    source = Path(__file__).with_name("writes.c")
    command = [compiler() or "cc", "-O1", "-shared", "-fPIC", "-o", str(made), str(source), "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return made


def watched(root: Path, **options: object) -> Dict[str, str]:
    """Return the environment of a process whose writes below `root` are watched; options as in writes.c."""
    extra = {f"WRITES_{name.upper()}": str(value) for name, value in options.items() if value is not None}
    return {**os.environ, "LD_PRELOAD": str(library()), "WRITES_ROOT": str(root.resolve()), **extra}


class Step(NamedTuple):
    """One change: Created, Written, Truncated, Synced, Renamed, Unlinked, folder maDe, or words sAid on stdout."""

    what: str
    inode: int
    offset: int
    """Of a write without its bytes (WRITES_HEADS): how many."""
    data: bytes

    @property
    def paths(self) -> Tuple[str, str]:
        one, two, _ = self.data.decode().split("\0")
        return one, two


def read_journal(path: Path) -> List[Step]:
    """Return the steps of a journal, without one that a kill has cut."""
    data, at, steps = path.read_bytes(), 0, []
    while at + _HEAD.size <= len(data):
        what, size, inode, offset = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + size > len(data):
            break
        steps.append(Step(what.decode(), inode, offset, data[at : at + size]))
        at += size
    return steps


class _File:
    """A file's bytes on the disk, and what was written since its last sync."""

    def __init__(self, content: bytes = b"") -> None:
        self.content, self.waiting = bytearray(content), []  # type: Tuple[bytearray, List[Tuple[int, Optional[bytes]]]]

    def after(self, kept: List[Tuple[int, Optional[bytes]]]) -> bytes:
        found = bytearray(self.content)
        for offset, data in kept:
            if data is None:
                del found[offset:]
                found.extend(b"\0" * (offset - len(found)))
            else:
                found.extend(b"\0" * (offset - len(found)))
                found[offset : offset + len(data)] = data
        return bytes(found)


class Disk:
    """A disk that keeps for certain only what was synced: files by fsync, names by the fsync of their folder.

    What was not may be there in part: any of a file's writes, each of them torn between sectors, and the folder's
    changes up to any of them.

    Args:
        root: the folder as it is before the process starts; all of it is on the disk.
        lies: an fsync does nothing; for proof that somebody would notice.
    """

    def __init__(self, root: Path, *, lies: bool = False) -> None:
        root = root.resolve()
        self._lies, self._root = lies, str(root)
        self._files: Dict[int, _File] = {}
        self._by_inode: Dict[int, int] = {}
        self._folders: Dict[int, str] = {root.stat().st_ino: str(root)}
        self._names: Dict[str, Optional[int]] = {str(root): None}
        self._moves: Dict[str, List[Tuple[str, str, Optional[int]]]] = {}
        for path in sorted(root.rglob("*")):
            if path.is_dir():
                self._folders[path.stat().st_ino], self._names[str(path)] = str(path), None
            else:
                self._names[str(path)] = self._new(path.stat().st_ino, path.read_bytes())

    def _new(self, inode: int, content: bytes = b"") -> int:
        number = len(self._files)
        self._files[number], self._by_inode[inode] = _File(content), number
        return number

    def _note(self, path: str, other: str, number: Optional[int]) -> None:
        self._moves.setdefault(os.path.dirname(path), []).append((path, other, number))

    def apply(self, step: Step) -> None:
        """Take the next step."""
        number = self._by_inode.get(step.inode, -1)
        if step.what == "C":
            self._note(step.paths[0], "", self._new(step.inode))
        elif step.what == "D":
            self._folders[step.inode] = step.paths[0]
            self._note(step.paths[0], "", None)
        elif step.what == "R":
            self._note(*step.paths, -1)
        elif step.what == "U":
            self._note(step.paths[0], "", -1)
        elif step.what == "W":
            self._files[number].waiting.append((step.offset, step.data))
        elif step.what == "T":
            self._files[number].waiting.append((step.offset, None))
        elif step.what == "S" and not self._lies:
            if number in self._files:
                file = self._files[number]
                file.content, file.waiting = bytearray(file.after(file.waiting)), []
            else:
                self._rename(self._names, self._moves.pop(self._folders[step.inode], []))

    @staticmethod
    def _rename(names: Dict[str, Optional[int]], moves: List[Tuple[str, str, Optional[int]]]) -> None:
        for path, other, number in moves:
            if number != -1:
                names[path] = number
            elif path in names:
                found = names.pop(path)
                if other:
                    names[other] = found

    def after_a_cut(self, rng: Optional[random.Random], everything: bool = False) -> Dict[str, Optional[bytes]]:
        """Return what is there after a power cut now: content by path, None for a folder.

        Args:
            rng: picks what of the unsynced has come through; without it nothing has.
            everything: all of it has.
        """
        names = dict(self._names)
        for moves in self._moves.values():
            self._rename(names, moves if everything else moves[: rng.randint(0, len(moves))] if rng else [])
        there = {}
        for path, number in names.items():
            folder = os.path.dirname(path)
            if path != self._root and not all(str(up) in names for up in self._up(folder)):
                continue
            file = None if number is None else self._files[number]
            waiting = [] if file is None else file.waiting
            kept = waiting if everything else list(self._some(waiting, rng)) if rng else []
            there[path] = None if file is None else file.after(kept)
        return there

    def _up(self, folder: str) -> Iterator[Path]:
        path = Path(folder)
        while str(path) != self._root:
            yield path
            path = path.parent

    @staticmethod
    def _some(waiting: List[Tuple[int, Optional[bytes]]], rng: random.Random) -> Iterator[Tuple[int, Optional[bytes]]]:
        share = rng.random()
        for offset, data in waiting:
            if rng.random() > share:
                continue
            if data is None or len(data) <= SECTOR or rng.random() < 0.5:
                yield offset, data
            else:  # torn: some of its sectors
                for at in range(0, len(data), SECTOR):
                    if rng.random() < 0.5:
                        yield offset + at, data[at : at + SECTOR]


def lay_out(there: Dict[str, Optional[bytes]], root: Path, place: Path) -> None:
    """Write what a cut has left of `root` to another place."""
    shutil.rmtree(place, ignore_errors=True)
    for path, content in sorted(there.items()):
        target = place / os.path.relpath(path, root.resolve())
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            target.chmod(0o700)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o600)
