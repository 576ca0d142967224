"""Everything the box remembers, encrypted: open it with `Store.open(state_folder, config.store)`."""

from edgecam.store.backup import BACKUP_NOTE
from edgecam.store.erase import FORGOTTEN
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
from edgecam.store.store import Store, destroy
from edgecam.store.tracklets import FACES_A_TRACK
from edgecam.store.ulid import new_ulid
from edgecam.store.versions import INSTALLED, Version

__all__ = [
    "BACKUP_NOTE",
    "FACES_A_TRACK",
    "FORGOTTEN",
    "INSTALLED",
    "AuditRow",
    "Damage",
    "FaceRecord",
    "Gallery",
    "KeptTrack",
    "Message",
    "NameTakenError",
    "NotStoredError",
    "OutboxRow",
    "Proposal",
    "Purged",
    "Restored",
    "Store",
    "StoredTracklet",
    "Version",
    "Visit",
    "Visitor",
    "clean_name",
    "destroy",
    "new_ulid",
    "want_printable",
]
