"""The enrolled people."""

from __future__ import annotations

import json
import unicodedata
from typing import Any, List, Mapping, Optional

from edgecam.errors import ConfigError
from edgecam.store.base import Base, caller
from edgecam.store.db import Row
from edgecam.store.records import NameTakenError, NotStoredError, pack_json
from edgecam.types import Person, Role

NAME_MAX = 80
_JOINERS = "\u200c\u200d"
"""Format characters that words of some scripts need; the others could disguise a name."""

_SELECT = """
    SELECT id, role, created_wall_s, name, consent,
        (SELECT count(*) FROM faces WHERE person_id = people.id)
    FROM people
"""


def clean_name(name: str) -> str:
    """Return a name trimmed and in Unicode's composed form (NFC).

    Raises:
        ConfigError: empty, longer than 80 characters, or with control characters.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not name:
        raise ConfigError("a person's name is empty: give one")
    if len(name) > NAME_MAX:
        raise ConfigError(f"a person's name has {len(name)} characters: at most {NAME_MAX} are kept")
    want_printable("a person's name", name)
    return name


def want_printable(what: str, text: str) -> None:
    """Refuse what could disguise a text or upset a terminal.

    Raises:
        ConfigError: it has control characters, or bytes that were no text.
    """
    bad = [c for c in text if c not in _JOINERS and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    if bad:
        raise ConfigError(f"{what} contains the control character U+{ord(bad[0]):04X}: leave it out")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


class People(Base):
    """Everything about people but their faces."""

    def add_person(self, name: str, role: Role = Role.RESIDENT, consent: Optional[Mapping[str, Any]] = None) -> Person:
        """Store a new person; the strangers kept until now are dropped, for they may be this person's earlier visits.

        Args:
            name: unique regardless of case.
            role: what they are to the house.
            consent: what they agreed to, as JSON values (date, scope, ...).

        Raises:
            ConfigError: not a usable name.
            NameTakenError: somebody has it.
        """
        name = clean_name(name)
        with self.transaction():
            self._want_free(name)
            person = Person(self._new_id(), name, role, self._clock.wall_s(), 0, dict(consent or {}))
            key = self._new_key(person.id)
            self._db.run(
                "INSERT INTO people (id, role, created_wall_s, name, consent) VALUES (?, ?, ?, ?, ?)",
                (
                    person.id,
                    role.value,
                    person.created_wall_s,
                    key.seal(f"people:{person.id}:name", name.encode()),
                    key.seal(f"people:{person.id}:consent", pack_json(person.consent)),
                ),
            )
            self._db.run("DELETE FROM strangers")
            if consent:
                self.audit(caller(), "consent", person.id)
            self._bump()
        return person

    def people(self) -> List[Person]:
        """Return everybody enrolled, oldest first; who lost the name to damage is called by the id."""
        return [self._person(row) for row in self._db.rows(f"{_SELECT} ORDER BY id")]

    def person(self, person_id: str) -> Person:
        """Return one person.

        Raises:
            NotStoredError: nobody has this id.
        """
        rows = self._db.rows(f"{_SELECT} WHERE id = ?", (person_id,))
        if not rows:
            raise NotStoredError(f"nobody has the id {person_id}: see `edgecam people list`")
        return self._person(rows[0])

    def find_person(self, name: str) -> Optional[Person]:
        """Return the person of this name (regardless of case) or id; None if there is none."""
        wanted = _folded(unicodedata.normalize("NFC", name).strip())
        matches = (p for p in self.people() if _folded(p.name) == wanted or p.id == name.strip().upper())
        return next(matches, None)

    def rename(self, person_id: str, name: str) -> Person:
        """Give a person another name.

        Raises:
            ConfigError: not a usable name.
            NameTakenError: somebody else has it.
            NotStoredError: nobody has this id.
        """
        name = clean_name(name)
        with self.transaction():
            self._want_free(name, but=person_id)
            sealed = self._key(self.person(person_id).id).seal(f"people:{person_id}:name", name.encode())
            self._db.run("UPDATE people SET name = ? WHERE id = ?", (sealed, person_id))
            self.audit(caller(), "rename", person_id)
            self._bump()
        return self.person(person_id)

    def set_role(self, person_id: str, role: Role) -> Person:
        """Change what a person is to the house.

        Raises:
            NotStoredError: nobody has this id.
        """
        with self.transaction():
            self.person(person_id)
            self._db.run("UPDATE people SET role = ? WHERE id = ?", (role.value, person_id))
            self.audit(caller(), f"role {role.value}", person_id)
            self._bump()
        return self.person(person_id)

    def set_consent(self, person_id: str, consent: Mapping[str, Any]) -> Person:
        """Replace what a person agreed to.

        Raises:
            NotStoredError: nobody has this id.
        """
        with self.transaction():
            sealed = self._key(self.person(person_id).id).seal(f"people:{person_id}:consent", pack_json(dict(consent)))
            self._db.run("UPDATE people SET consent = ? WHERE id = ?", (sealed, person_id))
            self.audit(caller(), "consent", person_id)
        return self.person(person_id)

    def _want_free(self, name: str, but: str = "") -> None:
        other = self.find_person(name)
        if other is not None and other.id != but:
            raise NameTakenError(f"somebody is called {other.name!r} already: choose another name")

    def _person(self, row: Row) -> Person:
        person_id, role, created, name, consent, faces = row
        return Person(
            person_id,
            self._text(person_id, f"people:{person_id}:name", name, otherwise=person_id),
            Role(role),
            created,
            faces,
            json.loads(self._text(person_id, f"people:{person_id}:consent", consent, otherwise="{}")),
        )
