"""The household as the command line sees it: gallery by operations, missing vectors made up for."""

from __future__ import annotations

import logging
from typing import Any, Callable, Collection, Dict, Iterable, List, Optional, Set, Tuple

import numpy as np

from edgecam.embed import Encoder, embed
from edgecam.errors import ModelError
from edgecam.identify import Household
from edgecam.pipeline.versions import heads_of
from edgecam.pipeline.wire import face_crop_of, floats_of, pack_array
from edgecam.types import Floats

_LOGGER = logging.getLogger(__name__)

Ask = Callable[..., Iterable[Dict[str, Any]]]
"""`ask("people.list", who=...)` runs an operation and yields its answer."""

_BATCH = 32
_IDS_TOLD = 5


def load_household(ask: Ask, encoder: Encoder) -> Tuple[Household, Dict[str, str]]:
    """Return the enrolled faces and the names by person id; faces without a vector of this encoder are embedded.

    Faces that are damaged beyond that are left out, and told of in one line of the log.
    """
    lost = reembed(ask, encoder)
    names: Dict[str, str] = {}
    rows: List[Tuple[str, Floats, bool]] = []
    gone: List[str] = []
    by_night: List[str] = []
    for record in ask("gallery", model=encoder.version):
        if "person_id" not in record:
            continue
        names[record["person_id"]] = record["name"]
        lost -= set(record["face_ids"])
        if record["faces"] and not record["face_ids"]:
            gone.append(record["person_id"])
        if record["face_ids"]:
            vectors = floats_of(record["vectors"], "vectors", record["dim"])
            rows += [(record["person_id"], v, ir) for v, ir in zip(vectors, record["infrared"])]
            by_night += [record["person_id"]] if record.get("by_night") else []
    if lost:
        nothing = f"; nothing is left of person {_some(gone)}" if gone else ""
        _LOGGER.warning(
            "%d damaged faces are left out (%s)%s: `edgecam doctor` says what helps", len(lost), _some(lost), nothing
        )
    return Household.of(rows, by_night), names


def _some(ids: Collection[str]) -> str:
    first = sorted(ids)[:_IDS_TOLD]
    return ", ".join(first) + (f" and {len(ids) - len(first)} more" if len(ids) > len(first) else "")


def in_service(ask: Ask, encoder: Encoder) -> Encoder:
    """Return the encoder with the head in service, as the store says; itself if that is so already.

    A head that does not load is left out, and told of: the installed one serves.
    """
    record = next(iter(ask("versions.heads", base=encoder.base)))
    if record["model"] == encoder.version:
        return encoder
    if not record["heads"]:
        return encoder.installed
    try:
        return encoder.installed.with_heads(heads_of(record["heads"]), record["model"])
    except ModelError as err:
        _LOGGER.warning("version %s of the head does not load (%s): the installed head serves", record["version"], err)
        return encoder.installed


def reembed(ask: Ask, encoder: Encoder) -> Set[str]:
    """Make the vectors that faces lack for this encoder; return whose crops are damaged.

    The installed encoder's are made from the stored crops, a tuned head's from what the installed one keeps.
    """
    lost = _embed_crops(ask, encoder.installed)
    if encoder.version == encoder.base:
        return lost
    wanted = {face for record in ask("gallery", model=encoder.version) for face in record.get("missing", ())}
    made: List[Dict[str, Any]] = []
    for record in ask("tracklets.enrolled", model=encoder.base) if wanted else ():
        if record["face_id"] in wanted:
            vector = encoder.project(floats_of(record["features"], "features")[None])[0]
            made.append({"face_id": record["face_id"], "vector": pack_array(vector)})
    if made:
        list(ask("faces.put_vectors", model=encoder.version, vectors=made))
    return lost


def _embed_crops(ask: Ask, encoder: Encoder) -> Set[str]:
    lost: Set[str] = set()
    missing = [face for record in ask("gallery", model=encoder.version) for face in record.get("missing", ())]
    for start in range(0, len(missing), _BATCH):
        answer = list(ask("faces.crops", face_ids=missing[start : start + _BATCH]))
        lost.update(record["face_id"] for record in answer if record.get("damaged"))
        records = [record for record in answer if not record.get("damaged")]
        if not records:
            continue
        made = embed(encoder, [face_crop_of(record) for record in records])
        vectors = [
            {"face_id": record["face_id"], "vector": pack_array(v), "features": pack_array(f)}
            for record, v, f in zip(records, made.vectors, made.features)
        ]
        list(ask("faces.put_vectors", model=encoder.version, vectors=vectors))
    return lost


def local_features(ask: Ask, base: str) -> Floats:
    """Return (L, K) features of the strangers kept here by the owner's choice; L is 0 if there are none.

    Args:
        ask: runs an operation of the store.
        base: `Encoder.base`.
    """
    record = next(iter(ask("strangers", model=base)), None)
    if record is None or not record["count"]:
        return np.zeros((0, 1), np.float32)
    return floats_of(record["features"], "features", record["dim"])


def local_strangers(ask: Ask, encoder: Encoder) -> Optional[Floats]:
    """Return (L, D) vectors of the strangers kept here; None if there are none."""
    features = local_features(ask, encoder.base)
    return encoder.project(features) if len(features) else None
