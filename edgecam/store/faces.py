"""Enrolled faces: pictures, vectors, the gallery."""

from __future__ import annotations

from typing import List, Mapping, Optional, Tuple

import numpy as np

from edgecam.errors import ShapeError
from edgecam.store.base import caller
from edgecam.store.people import People
from edgecam.store.records import (
    DAMAGED,
    FaceRecord,
    Gallery,
    NotStoredError,
    pack_crop,
    pack_floats,
    unpack_crop,
)
from edgecam.store.vault import Sealer
from edgecam.types import Embeddings, FaceCrop, Floats

_COLUMNS = "id, person_id, source, quality, infrared, yaw_deg, created_wall_s"


class Faces(People):
    """Faces of the enrolled; put many in one `transaction()` to store all or none."""

    def add_face(
        self,
        person_id: str,
        crop: FaceCrop,
        *,
        quality: float,
        source: str,
        infrared: bool = False,
        yaw_deg: float = 0.0,
        embedding: Optional[Embeddings] = None,
    ) -> str:
        """Store a face of a person; return its id.

        Args:
            person_id: whose it is.
            crop: kept losslessly.
            quality: 0..1.
            source: where it came from, for the user.
            infrared: a grey (IR or night) picture.
            yaw_deg: positive: turned to the image's right.
            embedding: one row; without it the face is `missing()` until `put_vectors`.

        Raises:
            NotStoredError: nobody has this id.
            ShapeError: not one embedding.
        """
        if embedding is not None and len(embedding.vectors) != 1:
            raise ShapeError(f"embedding: want one row, got {len(embedding.vectors)}")
        picture = pack_crop(crop)
        with self.transaction():
            face_id, key = self._new_id(), self._key(self.person(person_id).id)
            sealed_source = key.seal(f"faces:{face_id}:source", source.encode("utf-8", "replace"))
            self._db.run(
                f"INSERT INTO faces ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
                (face_id, person_id, sealed_source, quality, infrared, yaw_deg, self._clock.wall_s()),
            )
            self._db.run("INSERT INTO crops VALUES (?, ?)", (face_id, key.seal(f"crops:{face_id}:crop", picture)))
            if embedding is not None:
                self._put(key, face_id, embedding.model, embedding.vectors[0], embedding.features[0])
            self._bump()
        return face_id

    def faces(self, person_id: str) -> List[FaceRecord]:
        """Return a person's faces, oldest first; none for an unknown id."""
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM faces WHERE person_id = ? ORDER BY id",  # noqa: S608 - constants
            (person_id,),
        )
        return [
            FaceRecord(
                face_id,
                owner,
                self._text(owner, f"faces:{face_id}:source", source, otherwise=DAMAGED),
                quality,
                bool(infrared),
                yaw,
                created,
            )
            for face_id, owner, source, quality, infrared, yaw, created in rows
        ]

    def crop(self, face_id: str) -> FaceCrop:
        """Return a face's picture.

        Raises:
            NotStoredError: no face has this id.
            DamagedError: it cannot be read any more.
        """
        return unpack_crop(self._crop_bytes(face_id))

    def remove_face(self, face_id: str) -> None:
        """Delete a face for good (a restored backup does not bring it back); see `Erase.remove_faces`.

        Raises:
            NotStoredError: no face has this id.
        """
        with self.transaction():
            if not self._db.run("DELETE FROM faces WHERE id = ?", (face_id,)):
                raise NotStoredError(f"no face has the id {face_id}")
            self._db.run("INSERT OR IGNORE INTO tombstones VALUES (?, NULL, ?, 0)", (face_id, self._clock.wall_s()))
            self.audit(caller(), "delete", face_id)
            self._bump()

    def put_vectors(self, model: str, vectors: Mapping[str, Tuple[Floats, Floats]]) -> None:
        """Store (vector, features) of stored faces, all or none; faces removed meanwhile are passed over.

        Args:
            model: version of the encoder; earlier vectors of it are replaced.
            vectors: face id -> ((D,) float32 unit vector, (K,) float32 features; K = 0 where the head is tuned:
                features belong to the installed encoder).
        """
        with self.transaction():
            for face_id, (vector, features) in vectors.items():
                owner = self._db.rows("SELECT person_id FROM faces WHERE id = ?", (face_id,))
                if owner:
                    self._put(self._key(owner[0][0]), face_id, model, vector, features)
            self._bump()

    def remove_vectors(self, model: str) -> int:
        """Delete all vectors of a retired model; return how many."""
        with self.transaction():
            removed = self._db.run("DELETE FROM vectors WHERE model = ?", (model,))
            self._bump()
        return removed

    def gallery(self, model: str) -> Gallery:
        """Return all readable vectors of a model, ordered by person and face."""
        return self._gallery("vectors", "vector", model)

    def features(self, model: str) -> Gallery:
        """Return what the head was given for every face of the gallery, in place of its vectors."""
        return self._gallery("features", "features", model)

    def _gallery(self, table: str, column: str, model: str) -> Gallery:
        rows = self._db.rows(
            f"SELECT person_id, face_id, quality, infrared, {column} FROM faces JOIN {table} ON face_id = id "  # noqa: S608 - constants
            "WHERE model = ? ORDER BY person_id, face_id",
            (model,),
        )
        opened = [self._readable(row[0], f"{table}:{row[1]}/{model}:{column}", row[4]) for row in rows]
        damaged = tuple(row[1] for row, data in zip(rows, opened) if data is None)
        rows = [row for row, data in zip(rows, opened) if data is not None]
        values = np.frombuffer(b"".join(filter(None, opened)), "<f4").astype(np.float32)
        return Gallery(
            tuple(row[0] for row in rows),
            tuple(row[1] for row in rows),
            values.reshape(len(rows), -1) if rows else np.zeros((0, 0), np.float32),
            np.array([row[2] for row in rows], np.float32),
            np.array([row[3] for row in rows], np.bool_),
            damaged,
        )

    def missing(self, model: str) -> List[str]:
        """Return the ids of faces that have no vector of this model."""
        rows = self._db.rows(
            "SELECT id FROM faces WHERE NOT EXISTS (SELECT 1 FROM vectors WHERE face_id = id AND model = ?) "
            "ORDER BY id",
            (model,),
        )
        return [row[0] for row in rows]

    def _put(self, key: Sealer, face_id: str, model: str, vector: Floats, features: Floats) -> None:
        place = f"{face_id}/{model}"
        self._db.run("DELETE FROM vectors WHERE face_id = ? AND model = ?", (face_id, model))
        self._db.run(
            "INSERT INTO vectors VALUES (?, ?, ?)",
            (face_id, model, key.seal(f"vectors:{place}:vector", pack_floats(vector))),
        )
        if len(features):
            self._db.run(
                "INSERT INTO features VALUES (?, ?, ?)",
                (face_id, model, key.seal(f"features:{place}:features", pack_floats(features))),
            )

    def _crop_bytes(self, face_id: str) -> bytes:
        rows = self._db.rows("SELECT person_id, crop FROM faces JOIN crops ON face_id = id WHERE id = ?", (face_id,))
        if not rows:
            raise NotStoredError(f"no face has the id {face_id}")
        owner, blob = rows[0]
        return self._key(owner).open(f"crops:{face_id}:crop", blob)

    def _give_faces(self, old: str, new: str) -> None:
        """Make all faces of one person another's, sealed with the new owner's key."""
        before, after = self._key(old), self._key(new)

        def again(place: str, blob: bytes) -> bytes:
            return after.seal(place, before.open(place, blob))

        for (face_id,) in self._db.rows("SELECT id FROM faces WHERE person_id = ?", (old,)):
            for table, column, name in (("faces", "source", "id"), ("crops", "crop", "face_id")):
                select = f"SELECT {column} FROM {table} WHERE {name} = ?"  # noqa: S608 - constants
                ((blob,),) = self._db.rows(select, (face_id,))
                update = f"UPDATE {table} SET {column} = ? WHERE {name} = ?"  # noqa: S608 - constants
                self._db.run(update, (again(f"{table}:{face_id}:{column}", blob), face_id))
            for table, column in (("vectors", "vector"), ("features", "features")):
                select = f"SELECT model, {column} FROM {table} WHERE face_id = ?"  # noqa: S608 - constants
                for model, blob in self._db.rows(select, (face_id,)):
                    sealed = again(f"{table}:{face_id}/{model}:{column}", blob)
                    update = f"UPDATE {table} SET {column} = ? WHERE face_id = ? AND model = ?"  # noqa: S608 - constants
                    self._db.run(update, (sealed, face_id, model))
            self._db.run("UPDATE faces SET person_id = ? WHERE id = ?", (new, face_id))
