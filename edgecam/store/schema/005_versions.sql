-- What the nights made of the encoder's head, each under a key of its own: forgetting somebody it learnt from ends it.
CREATE TABLE versions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    base TEXT NOT NULL,
    parent TEXT,
    state TEXT NOT NULL,
    created_wall_s REAL NOT NULL,
    record BLOB
) STRICT;

CREATE TABLE heads (
    version TEXT NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (version, name)
) STRICT;

CREATE TABLE version_people (
    version TEXT NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
    person_id TEXT NOT NULL,
    PRIMARY KEY (version, person_id)
) STRICT;
