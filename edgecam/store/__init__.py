"""Everything the box remembers, encrypted: open it with `Store.open(state_folder, config.store)`."""

from edgecam.store.backup import BACKUP_NOTE, RECOVERY_NOTE
from edgecam.store.erase import FORGOTTEN, NIGHT
from edgecam.store.keys import KeyFile, KeyPlace, SealedKey, key_place
from edgecam.store.people import clean_name, want_printable
from edgecam.store.records import (
    AuditRow,
    Damage,
    FaceRecord,
    Gallery,
    KeptTrack,
    Message,
    NameTakenError,
    NotStoredError,
    OutboxRow,
    Proposal,
    Purged,
    Restored,
    StoredTracklet,
    Visit,
    Visitor,
)
from edgecam.store.rekey import Recovery, new_recovery, open_recovery, recovery_of, want_passphrase
from edgecam.store.store import Store, destroy
from edgecam.store.tracklets import FACES_A_TRACK
from edgecam.store.ulid import new_ulid
from edgecam.store.versions import INSTALLED, Version

__all__ = [
    "BACKUP_NOTE",
    "FACES_A_TRACK",
    "FORGOTTEN",
    "INSTALLED",
    "NIGHT",
    "RECOVERY_NOTE",
    "AuditRow",
    "Damage",
    "FaceRecord",
    "Gallery",
    "KeptTrack",
    "KeyFile",
    "KeyPlace",
    "Message",
    "NameTakenError",
    "NotStoredError",
    "OutboxRow",
    "Proposal",
    "Purged",
    "Recovery",
    "Restored",
    "SealedKey",
    "Store",
    "StoredTracklet",
    "Version",
    "Visit",
    "Visitor",
    "clean_name",
    "destroy",
    "key_place",
    "new_recovery",
    "new_ulid",
    "open_recovery",
    "recovery_of",
    "want_passphrase",
    "want_printable",
]
