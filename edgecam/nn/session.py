"""One onnxruntime session per net, on the first provider that truly works.

The list of available providers lies (a CUDA build without a driver still names
CUDA), and a provider may load and compute rubbish. So a net is run once on the
candidate and on the CPU, and the candidate is used only if both agree.
"""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from edgecam.errors import ModelError
from edgecam.nn.selftest import pattern, similarity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_LOGGER = logging.getLogger(__name__)

_NOT_BUILT_IN = "this onnxruntime is built without it"

Provider = Literal["tensorrt", "cuda", "cpu"]

_ORT_NAMES: Final[dict[Provider, str]] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_MIN_COSINE: Final = 0.995
"""Half precision on a GPU stays above .9999; a broken kernel does not come near."""
_PROBE_SIDE_PX: Final = 96
"""For free sizes; a multiple of YuNet's 32."""
_ERROR: Final = 3
_ARENA_BELOW_BYTES: Final = 8_000_000


class Session:
    """A loaded net; `run` may be called from one thread at a time.

    Use `Session.load`.
    """

    def __init__(self, session: Any, path: Path, provider: Provider) -> None:
        self._session = session
        self._outputs = [value.name for value in session.get_outputs()]
        self.path = path
        self.provider: Provider = provider
        """What it runs on, after the comparison with the CPU."""
        self.inputs: dict[str, tuple[int | None, ...]] = {
            value.name: tuple(d if isinstance(d, int) else None for d in value.shape) for value in session.get_inputs()
        }
        """Name -> shape; None is a free size."""

    @classmethod
    def load(
        cls,
        path: Path,
        providers: Sequence[str] = ("cpu",),
        threads: int = 1,
        cache_dir: Path | None = None,
    ) -> Session:
        """Load a net on the first of `providers` that computes what the CPU does.

        Args:
            path: the ONNX file.
            providers: `tensorrt`, `cuda`, `cpu` in order of preference; the CPU is
                always the last resort.
            threads: within one operation, on the CPU.
            cache_dir: where TensorRT keeps its engines; without it they are
                built again at each start, which takes minutes.

        Raises:
            ModelError: onnxruntime is missing, a provider is unknown, or the file
                cannot be run on the CPU either.
        """
        order = known_providers(providers)
        cpu = cls._open(path, "cpu", threads, None)
        for provider in order:
            if provider == "cpu":
                break
            reason = _missing(provider)
            if reason is None:
                try:
                    candidate = cls._open(path, provider, threads, cache_dir)
                    reason = _disagreement(cpu, candidate)
                except Exception as err:  # whatever a driver raises: the CPU can still do the work
                    reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
                else:
                    if reason is None:
                        return candidate
            level = logging.DEBUG if reason == _NOT_BUILT_IN else logging.WARNING
            _LOGGER.log(level, "%s: %s is not used: %s", path.name, provider, reason)
        return cpu

    @classmethod
    def of_bytes(cls, data: bytes, name: str) -> Session:
        """Return a small net of our own making, on the CPU.

        Args:
            data: the ONNX file's content.
            name: for messages.

        Raises:
            ModelError: onnxruntime is missing or cannot load it.
        """
        return cls._open(Path(name), "cpu", 1, None, data)

    @classmethod
    def _open(
        cls, path: Path, provider: Provider, threads: int, cache_dir: Path | None, data: bytes | None = None
    ) -> Session:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERROR
        # Several sessions with spinning threads fight over two cores and lose a factor of two.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # All nets share one arena: they run by turns, and one for each hoards 50 MB more.
        options.add_session_config_entry("session.use_env_allocators", "1")
        # It keeps what was needed once (20 MB for a batch of FaceNet); small nets of changing size need it.
        options.enable_cpu_mem_arena = path.is_file() and path.stat().st_size < _ARENA_BELOW_BYTES
        # Grows by what is asked for, not by doubling: faces come in batches of varying size.
        arena = {"arena_extend_strategy": "kSameAsRequested"}
        chain: list[Any] = ["CPUExecutionProvider"]
        if provider == "tensorrt":
            chain = [(_ORT_NAMES["tensorrt"], _tensorrt(cache_dir)), (_ORT_NAMES["cuda"], arena), *chain]
        elif provider == "cuda":
            chain = [(_ORT_NAMES["cuda"], arena), *chain]
        try:
            # Without its own fallback, which prints to stdout; a provider that fails is told of below.
            model = str(path) if data is None else data
            session = ort.InferenceSession(model, options, providers=chain, enable_fallback=0)
        except Exception as err:  # onnxruntime's classes differ between versions
            line = (str(err).strip().splitlines() or [type(err).__name__])[0]
            raise ModelError(f"{path}: onnxruntime cannot load it: {line}") from err
        active = session.get_providers()
        if _ORT_NAMES[provider] not in active:
            raise ModelError(f"onnxruntime fell back to {', '.join(active)}")
        return cls(session, path, provider)

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the outputs in the file's order; arrays belong to the caller.

        Raises:
            ModelError: onnxruntime refused the input or failed.
        """
        try:
            outputs: list[NDArray[np.float32]] = self._session.run(None, dict(feeds))
        except Exception as err:  # onnxruntime's classes differ between versions
            line = (str(err).strip().splitlines() or [type(err).__name__])[0]
            raise ModelError(f"{self.path.name}: inference failed on {self.provider}: {line}") from err
        return outputs

    @property
    def output_names(self) -> list[str]:
        """The outputs' names, in the order of `run`."""
        return list(self._outputs)

    def run_named(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by name."""
        return dict(zip(self._outputs, self.run(feeds)))


class LateSession(Session):
    """A net that is loaded when it is first run.

    Args:
        path: the ONNX file.
        load: loads it.
    """

    def __init__(self, path: Path, load: Callable[[], Session]) -> None:
        self.path, self._load = path, load
        self._loaded: Session | None = None

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Session.run`."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded.run(feeds)


def known_providers(names: Sequence[str]) -> list[Provider]:
    """Return the names as providers.

    Raises:
        ModelError: one of them is unknown.
    """
    order = []
    for name in names:
        found = next((p for p in _ORT_NAMES if p == name), None)
        if found is None:
            raise ModelError(f"no provider {name!r}; there are: {', '.join(_ORT_NAMES)}")
        order.append(found)
    return order


def ort_providers(names: Sequence[str]) -> list[str]:
    """Return onnxruntime's names of those providers that it was built with, the CPU last."""
    available = _onnxruntime().get_available_providers()
    chosen = [_ORT_NAMES[p] for p in known_providers(names) if p != "cpu" and _ORT_NAMES[p] in available]
    return [*chosen, _ORT_NAMES["cpu"]]


def probe(session: Session) -> dict[str, NDArray[np.float32]]:
    """Return a small valid input for a net: free batch 1, other free sizes 96."""
    feeds = {}
    for name, shape in session.inputs.items():
        sizes = [1 if i == 0 else _PROBE_SIDE_PX if d is None else d for i, d in enumerate(shape)]
        feeds[name] = pattern(tuple(sizes), 0.0, 1.0)
    return feeds


def _disagreement(cpu: Session, other: Session) -> str | None:
    feeds = probe(cpu)
    for name, want, got in zip(cpu.output_names, cpu.run(feeds), other.run(feeds)):
        if want.shape != got.shape or not np.all(np.isfinite(got)):
            return f"{name} is {got.shape} or not finite"
        cosine = similarity(want, got)
        if cosine < _MIN_COSINE:
            return f"{name} differs from the CPU (cosine {cosine:.4f})"
    return None


def _missing(provider: Provider) -> str | None:
    available = _onnxruntime().get_available_providers()
    return None if _ORT_NAMES[provider] in available else _NOT_BUILT_IN


def _tensorrt(cache_dir: Path | None) -> dict[str, str]:
    options = {"trt_fp16_enable": "1"}
    if cache_dir is not None:
        cache_dir.mkdir(parents=True, exist_ok=True)
        options.update(trt_engine_cache_enable="1", trt_engine_cache_path=str(cache_dir))
    return options


def engine_folder(models: Path, version: str) -> Path:
    """Return where TensorRT keeps a net's engines; another version never meets them."""
    return models / "engines" / hashlib.sha256(version.encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _share_arena(ort: Any) -> None:
    """Register the arena of all CPU sessions of this process."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    max_mem, grow_by_doubling, first_chunk, max_dead_per_chunk = 0, 0, -1, -1  # 0, -1: no limit, onnxruntime's choice
    config = ort.OrtArenaCfg(max_mem, grow_by_doubling, first_chunk, max_dead_per_chunk)
    ort.create_and_register_allocator(memory, config)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as err:
        raise ModelError("onnxruntime is not installed: pip install 'edgecam[cpu]' (or [gpu])") from err
    _share_arena(onnxruntime)
    return onnxruntime
