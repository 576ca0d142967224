"""What every face encoder can do; no other stage knows which one it is."""

from __future__ import annotations

from typing import Mapping, Protocol, Sequence

from edgecam.errors import ModelError
from edgecam.nn.session import Session
from edgecam.types import Embeddings, FaceCrop, Floats


class Encoder(Protocol):
    """Face crops to unit vectors, in two steps: a fixed trunk and a head that the night may tune."""

    @property
    def version(self) -> str:
        """Model version; changes whenever vectors stop being comparable."""
        ...

    @property
    def installed(self) -> Encoder:
        """This encoder without what the night changed; itself if nothing was."""
        ...

    @property
    def base(self) -> str:
        """Version of the installed encoder; features of one base are comparable, whatever the head."""
        ...

    @property
    def dim(self) -> int:
        """Length D of a vector."""
        ...

    def features(self, crops: Sequence[FaceCrop]) -> Floats:
        """Return (N, K) float32 trunk features; N may be 0."""
        ...

    def project(self, features: Floats) -> Floats:
        """Return (N, D) float32 unit vectors of (N, K) trunk features."""
        ...

    def with_heads(self, heads: Mapping[str, bytes], version: str) -> Encoder:
        """Return this encoder, sharing its trunk, with tuned heads.

        Args:
            heads: ONNX files by model name: `facenet_head` (N, 1792) -> (N, 512), `sface_head` (N, 128) -> (N, 128).
            version: of the result.

        Raises:
            ModelError: a head that this encoder needs is missing, or does not load.
        """
        ...


def embed(encoder: Encoder, crops: Sequence[FaceCrop]) -> Embeddings:
    """Return the embeddings of these crops, in order."""
    features = encoder.features(crops)
    return Embeddings(encoder.project(features), features, encoder.version)


def as_installed(encoder: Encoder, embeddings: Embeddings) -> Floats:
    """Return (N, D) the same faces' vectors by the installed head, by which their quality is rated."""
    if encoder.version == encoder.base:
        return embeddings.vectors
    return encoder.installed.project(embeddings.features)


def head_session(heads: Mapping[str, bytes], name: str) -> Session:
    """Return the head of this name, ready to run.

    Raises:
        ModelError: it is missing or does not load.
    """
    if name not in heads:
        raise ModelError(f"the tuned version lacks {name}: it was made for another encoder")
    return Session.of_bytes(heads[name], name)
