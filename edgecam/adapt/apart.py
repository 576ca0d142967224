"""The night's training in a process of its own, within limits, and taken up again where it was killed.

This side knows no PyTorch. The child (`python -m edgecam.adapt.train FD`) gets the job as an open file and hands a
checkpoint back after every epoch; what of it is kept is sealed by the caller, nothing else touches the disk.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import IO, Any, Callable, Dict, List, Literal, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from edgecam.adapt.samples import Samples
from edgecam.errors import TuneError
from edgecam.types import Floats

_LOGGER = logging.getLogger(__name__)

Kind = Literal["facenet", "sface", "fused"]

NEEDS_TORCH = "PyTorch is not installed, which the night's training needs: make train, or pip install 'edgecam[train]'"

FRAME = struct.Struct("<cQ")
"""What the child sends: one letter (checkpoint, epoch, done, error), length, content."""
_POLL_S = 0.2
_READ = 1 << 20
_BAR = 24
_KILLED = -9
_SPARING = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(8 << 20)}
"""Makes glibc give back what is as large as all faces; below it, what each step needs anew is kept."""


@dataclass(frozen=True)
class Options:
    """How a head is tuned; how the defaults were chosen is told in docs/night.md."""

    epochs: int = 20
    batch: int = 64
    rate: float = 1e-4
    """Adam's, for FaceNet's head."""
    adapter_rate: float = 1e-3
    """The same for the adapter behind SFace."""
    sharpness: float = 16.0
    """Cosines are multiplied by this before the softmax."""
    nobody: float = 0.2
    """The cosine at which "none of them" is as likely as a person."""
    centre: float = 0.1
    """Weight of the stochastic centre loss."""
    triplets: float = 1.0
    """Weight of SymTriplet."""
    margin: float = 0.3
    """Of SymTriplet, in squared distances of unit vectors."""
    stay: float = 1.0
    """L2-SP: weight of the squared way from the base head, relative to its size."""
    like_base: float = 0.0
    """Weight of one minus the cosine of a virtual stranger's vector with that of the base head."""
    blend: float = 0.3
    """How much of the way from the base head to the tuned one is gone in the end (Wortsman et al. 2022)."""
    patience: int = 8
    """Epochs without a better validation loss before it stops."""
    seed: int = 0
    threads: int = 1
    """Part of the job: sums in another order end in other bits. Two threads on busy cores take six times as long."""

    def of(self, *, last: bool) -> Options:
        """Return the options for the night's last training, or for one that only sorts the faces better."""
        return self if last else replace(self, epochs=-(-self.epochs // 4))


@dataclass(frozen=True)
class Limits:
    """What training may take."""

    seconds: float = 3600.0
    megabytes: float = 600.0
    """Resident memory of the child."""
    celsius: float = 80.0
    """Above it training waits until it is 5 degrees cooler."""
    on_battery: bool = False
    """Whether it may run while no mains supply is online."""
    niceness: int = 10
    sysfs: str = "/sys/class"


@dataclass(frozen=True, eq=False)
class Job:
    """All that training depends on: the same job ends in the same bits."""

    kind: Kind
    file: bytes
    """Content of the installed `facenet_head.onnx`; empty for `sface`."""
    samples: Samples
    strangers: Floats
    """(V, K) float32 trunk features of virtual strangers."""
    options: Options

    def pack(self) -> bytes:
        """Return the job as bytes, the same for the same job."""
        out = io.BytesIO()
        self.write(out)
        return out.getvalue()

    def write(self, out: IO[bytes]) -> None:
        """Write what `pack` returns."""
        head = {"kind": self.kind, "options": asdict(self.options), "people": self.samples.people, "torch": _torch()}
        arrays: Dict[str, Any] = {name: getattr(self.samples, name) for name in _ARRAYS}
        arrays["head"] = np.frombuffer(json.dumps(head, sort_keys=True).encode(), np.uint8)
        arrays["net"] = np.frombuffer(self.file, np.uint8)
        np.savez(out, strangers=self.strangers.astype(np.float32, copy=False), **arrays)

    @staticmethod
    def unpack(packed: bytes) -> Job:
        """Undo `pack`."""
        return Job.read(io.BytesIO(packed))

    @staticmethod
    def read(file: IO[bytes]) -> Job:
        """Undo `write`."""
        with np.load(file) as parts:
            head = json.loads(parts["head"].tobytes())
            samples = Samples(people=tuple(head["people"]), **{name: parts[name] for name in _ARRAYS})
            return Job(
                head["kind"], parts["net"].tobytes(), samples, parts["strangers"], Options(**head["options"])
            )  # fmt: skip


_ARRAYS = ("features", "group", "shares", "apart", "domain", "enrolled")


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gives back."""

    heads: Mapping[str, bytes]
    """ONNX files by model name, for `Encoder.with_heads`; empty if nothing was tuned."""
    reason: str = ""
    """Why nothing was tuned."""
    epochs: int = 0
    stopped_early: bool = False
    losses: Tuple[float, ...] = ()
    """Of each epoch: validation where there are tracks enough to hold some back, else training."""
    moved: float = 0.0
    """Mean of one minus the cosine of the samples' vectors before and after."""
    differs: float = 0.0
    """Largest difference of any coordinate between PyTorch and onnxruntime."""

    def pack(self) -> bytes:
        """Return it as bytes."""
        fields = {k: v for k, v in asdict(replace(self, heads={})).items() if k != "heads"}
        out = io.BytesIO()
        files: Dict[str, Any] = {f"head_{name}": np.frombuffer(data, np.uint8) for name, data in self.heads.items()}
        np.savez(out, fields=np.frombuffer(json.dumps(fields).encode(), np.uint8), **files)
        return out.getvalue()

    @staticmethod
    def unpack(packed: bytes) -> Trained:
        """Undo `pack`."""
        with np.load(io.BytesIO(packed)) as parts:
            fields = json.loads(parts["fields"].tobytes())
            heads = {name[5:]: parts[name].tobytes() for name in parts.files if name.startswith("head_")}
        return Trained(heads, **{**fields, "losses": tuple(fields["losses"])})


@dataclass(frozen=True)
class Keep:
    """Where unfinished and finished trainings of one night are kept; the caller removes the folder in the end."""

    folder: Path
    seal: Callable[[bytes], bytes]
    open: Callable[[bytes], bytes]
    """Undoes `seal`; raises on anything else."""
    every_s: float = 60.0
    """A checkpoint is 15 MB (of `fused`): one a minute wears a memory card less than one an epoch."""


def train_apart(job: Job, limits: Optional[Limits] = None, keep: Optional[Keep] = None) -> Trained:
    """Train in a child process.

    Args:
        job: see `Job`.
        limits: of time, memory, temperature, power.
        keep: without it a killed training begins anew.

    Raises:
        TuneError: one line why there is no result; the head in service is untouched.
    """
    require_torch()
    limits = limits or Limits()
    with _in_memory(job) as file:
        shelf = _Shelf(keep, _digest(file)[:32]) if keep is not None else None
        last = shelf.last() if shelf is not None else None
        if last is not None and last[:1] == b"D":
            return Trained.unpack(last[1:])
        child = _Child(file.fileno(), b"" if last is None else last[1:], limits)
    try:
        trained = _follow(child, job.options.epochs, limits, shelf)
    finally:
        child.end()
    if shelf is not None:
        shelf.put(b"D" + trained.pack())
    return trained


def _in_memory(job: Job) -> IO[bytes]:
    """Return a file without a name in memory: through a pipe either side would hold all faces once more."""
    try:
        file = open(os.memfd_create("job"), "w+b")  # noqa: SIM115 - the caller closes it
        job.write(file)
        file.flush()
    except OSError as err:
        raise TuneError(f"training cannot be started: {err.strerror}") from err
    return file


def require_torch() -> None:
    """Raise TuneError if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise TuneError(NEEDS_TORCH)


def _follow(child: _Child, epochs: int, limits: Limits, shelf: Optional[_Shelf]) -> Trained:
    started = kept = time.monotonic()
    bar = sys.stderr.isatty()
    try:
        while True:
            frame = child.frame()
            if frame is None:
                child.check(limits, time.monotonic() - started)
            elif frame.letter == b"C":
                if shelf is not None and time.monotonic() - kept >= shelf.every_s:
                    shelf.put(b"C" + frame.content)
                    kept = time.monotonic()
            elif frame.letter == b"P":
                if bar:
                    _draw(json.loads(frame.content), epochs)
            elif frame.letter == b"D":
                return Trained.unpack(frame.content)
            else:
                raise TuneError(f"training failed: {frame.content.decode(errors='replace')}")
    finally:
        if bar:
            print(file=sys.stderr)


def _draw(progress: Dict[str, Any], epochs: int) -> None:
    done = int(progress["epoch"])
    bar = "#" * round(_BAR * done / epochs)
    print(f"\rtraining [{bar:{_BAR}}] {done}/{epochs} {progress['text']:20.20}", end="", file=sys.stderr, flush=True)


class _Frame(NamedTuple):
    letter: bytes
    content: bytes


class _Child:
    """The training process."""

    def __init__(self, job: int, checkpoint: bytes, limits: Limits) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **_SPARING}
        try:
            self._words = tempfile.TemporaryFile()  # noqa: SIM115 - what libraries say; closed in `end`
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgecam.adapt.train", str(job)],
                pass_fds=[job],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                env=environment,
            )
        except OSError as err:
            raise TuneError(f"training cannot be started: {err}") from err
        self._input, self._output = _pipe(self._process.stdin), _pipe(self._process.stdout)
        self._buffer = bytearray()
        rules = json.dumps(asdict(limits)).encode()
        # In a thread: a child that dies while it is given the job must be noticed by its silence, not by a lock-up.
        Thread(target=self._give, args=((rules, checkpoint),), daemon=True, name="job").start()

    def _give(self, parts: Tuple[bytes, ...]) -> None:
        try:
            for part in parts:
                self._input.write(FRAME.pack(b"J", len(part)))
                self._input.write(part)
            self._input.flush()  # and stays open: its end tells the child that nobody waits any more
        except OSError:
            _LOGGER.debug("the training ended before it had its job")

    def frame(self) -> Optional[_Frame]:
        """Return the next frame; None if there is none yet.

        Raises:
            TuneError: the child is gone.
        """
        whole = self._whole()
        if whole is not None:
            return whole
        ready, _, _ = select.select([self._output], [], [], _POLL_S)
        if not ready:
            return None
        data = os.read(self._output.fileno(), _READ)
        if not data:
            raise TuneError(self._why(self._process.wait()))
        self._buffer += data
        return self._whole()

    def _whole(self) -> Optional[_Frame]:
        if len(self._buffer) < FRAME.size:
            return None
        letter, length = FRAME.unpack_from(self._buffer)
        if len(self._buffer) < FRAME.size + length:
            return None
        content = bytes(self._buffer[FRAME.size : FRAME.size + length])
        del self._buffer[: FRAME.size + length]
        return _Frame(letter, content)

    def check(self, limits: Limits, seconds: float) -> None:
        """Raise TuneError if it takes too long or too much memory."""
        if seconds > limits.seconds:
            raise TuneError(f"training was ended after {limits.seconds:.0f} s, its limit; it goes on next time")
        used = resident_mb(self._process.pid)
        if used > limits.megabytes:
            raise TuneError(f"training was ended at {used:.0f} MB of memory, its limit is {limits.megabytes:.0f}")

    def _why(self, code: int) -> str:
        if code == _KILLED:
            return "training was killed, perhaps for want of memory; it goes on next time"
        self._words.seek(0)
        lines: List[str] = self._words.read().decode(errors="replace").strip().splitlines()
        return f"training ended with {code}: {lines[-1] if lines else 'no word'}"

    def end(self) -> None:
        """Leave no process behind."""
        self._process.kill()
        self._process.wait()
        for stream in (self._input, self._output, self._words):
            with suppress(OSError):  # what was not yet written to a dead child
                stream.close()


def _pipe(stream: Optional[IO[bytes]]) -> IO[bytes]:
    if stream is None:
        raise TuneError("training cannot be started: no pipe")
    return stream


class _Shelf:
    """One job's file: its last checkpoint, or its result."""

    def __init__(self, keep: Keep, digest: str) -> None:
        self._keep, self._path = keep, keep.folder / f"{digest}.training"
        self.every_s = keep.every_s

    def last(self) -> Optional[bytes]:
        """Return what was put last, if it can still be read."""
        try:
            return self._keep.open(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except Exception as err:  # whatever the caller's seal raises: training anew is always right
            _LOGGER.warning("%s: the checkpoint cannot be read (%s); training begins anew", self._path.name, err)
            return None

    def put(self, content: bytes) -> None:
        """Replace it in one step.

        Raises:
            TuneError: the disk is full, or the folder cannot be written.
        """
        fresh = self._path.with_suffix(".new")
        try:
            self._keep.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(fresh, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(self._keep.seal(content))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as err:
            fresh.unlink(missing_ok=True)
            raise TuneError(f"{self._path}: the training cannot be kept: {err.strerror}") from err


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while part := file.read(_READ):
        digest.update(part)
    return digest.hexdigest()


def _torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
