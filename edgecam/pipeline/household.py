"""The household as the command line sees it: gallery by operations, missing vectors made up for."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np

from edgecam.embed import Encoder, embed
from edgecam.identify import Household
from edgecam.pipeline.wire import face_crop_of, floats_of, pack_array
from edgecam.types import Floats

Ask = Callable[..., Iterator[Dict[str, Any]]]
"""`ask("people.list", who=...)` runs an operation and yields its answer."""

_BATCH = 32


def load_household(ask: Ask, encoder: Encoder) -> Tuple[Household, Dict[str, str]]:
    """Return the enrolled faces and the names by person id; faces without a vector of this encoder are embedded."""
    reembed(ask, encoder)
    names: Dict[str, str] = {}
    rows: List[Tuple[str, Floats, bool]] = []
    for record in ask("gallery", model=encoder.version):
        if "person_id" not in record:
            continue
        names[record["person_id"]] = record["name"]
        if record["face_ids"]:
            vectors = floats_of(record["vectors"], "vectors", record["dim"])
            rows += [(record["person_id"], v, ir) for v, ir in zip(vectors, record["infrared"])]
    return Household.of(rows), names


def reembed(ask: Ask, encoder: Encoder) -> int:
    """Make the vectors that faces lack for this encoder, from their stored crops; return how many."""
    missing = [face for record in ask("gallery", model=encoder.version) for face in record.get("missing", ())]
    for start in range(0, len(missing), _BATCH):
        records = list(ask("faces.crops", face_ids=missing[start : start + _BATCH]))
        made = embed(encoder, [face_crop_of(record) for record in records])
        vectors = [
            {"face_id": record["face_id"], "vector": pack_array(v), "features": pack_array(f)}
            for record, v, f in zip(records, made.vectors, made.features)
        ]
        list(ask("faces.put_vectors", model=encoder.version, vectors=vectors))
    return len(missing)


def local_strangers(ask: Ask, encoder: Encoder) -> Optional[Floats]:
    """Return (L, D) vectors of the strangers kept here by the owner's choice; None if there are none."""
    record = next(iter(ask("strangers", model=encoder.version)), None)
    if record is None or not record["count"]:
        return None
    return encoder.project(floats_of(record["features"], "features", record["dim"]).astype(np.float32))
