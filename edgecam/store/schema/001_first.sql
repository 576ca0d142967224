-- Whatever tells of a person (names, pictures, vectors, texts) is a sealed blob; see vault.py.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    number INTEGER,
    data BLOB
) STRICT;
INSERT INTO meta (key, number) VALUES ('generation', 0), ('outbox_dropped', 0);

-- A data key per person and per visit, wrapped by the master key: without its row all of the owner's blobs are noise.
CREATE TABLE keys (
    owner TEXT PRIMARY KEY,
    wrapped BLOB NOT NULL
) STRICT;

CREATE TABLE people (
    id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    created_wall_s REAL NOT NULL,
    name BLOB NOT NULL,
    consent BLOB NOT NULL
) STRICT;

CREATE TABLE faces (
    id TEXT PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    quality REAL NOT NULL,
    infrared INTEGER NOT NULL,
    yaw_deg REAL NOT NULL,
    created_wall_s REAL NOT NULL,
    source BLOB NOT NULL
) STRICT;
CREATE INDEX faces_of_person ON faces (person_id);

-- Apart from `faces`, so that reading the gallery never pages through pictures.
CREATE TABLE crops (
    face_id TEXT PRIMARY KEY REFERENCES faces (id) ON DELETE CASCADE,
    crop BLOB NOT NULL
) STRICT;

CREATE TABLE vectors (
    face_id TEXT NOT NULL REFERENCES faces (id) ON DELETE CASCADE,
    model TEXT NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (face_id, model)
) STRICT;

CREATE TABLE features (
    face_id TEXT NOT NULL,
    model TEXT NOT NULL,
    features BLOB NOT NULL,
    PRIMARY KEY (face_id, model),
    FOREIGN KEY (face_id, model) REFERENCES vectors (face_id, model) ON DELETE CASCADE
) STRICT;

CREATE TABLE visits (
    id TEXT PRIMARY KEY,
    place TEXT NOT NULL,
    camera TEXT NOT NULL,
    opened_wall_s REAL NOT NULL,
    closed_wall_s REAL,
    kept_from_s REAL NOT NULL,
    ignored INTEGER NOT NULL DEFAULT 0,
    summary BLOB
) STRICT;
CREATE INDEX visits_by_time ON visits (opened_wall_s);

CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    visit TEXT NOT NULL REFERENCES visits (id) ON DELETE CASCADE,
    track INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    person_id TEXT,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX decisions_of_visit ON decisions (visit, track);

CREATE TABLE pictures (
    id TEXT PRIMARY KEY,
    visit TEXT NOT NULL REFERENCES visits (id) ON DELETE CASCADE,
    track INTEGER NOT NULL,
    quality REAL NOT NULL,
    infrared INTEGER NOT NULL,
    yaw_deg REAL NOT NULL,
    kept_from_s REAL NOT NULL,
    crop BLOB NOT NULL
) STRICT;
CREATE INDEX pictures_of_visit ON pictures (visit, track);

-- Which person the user said a track was.
CREATE TABLE labels (
    visit TEXT NOT NULL REFERENCES visits (id) ON DELETE CASCADE,
    track INTEGER NOT NULL,
    person_id TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    PRIMARY KEY (visit, track)
) STRICT;

CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    decision TEXT,
    topic TEXT NOT NULL,
    created_wall_s REAL NOT NULL,
    critical INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE strangers (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    kept_from_s REAL NOT NULL,
    features BLOB NOT NULL
) STRICT;

-- What must not come back from a backup: forgotten or merged people, removed faces.
CREATE TABLE tombstones (
    id TEXT PRIMARY KEY,
    merged_into TEXT,
    wall_s REAL NOT NULL,
    scrubbed INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    wall_s REAL NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE (ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE (ABORT, 'the audit log is append-only');
END;
