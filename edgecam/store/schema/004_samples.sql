-- A track keeps several faces: 0 is a row of schema 3, one float32 mean without the rest.
ALTER TABLE tracklets ADD COLUMN faces INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tracklets ADD COLUMN infrared INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tracklets ADD COLUMN liveness TEXT NOT NULL DEFAULT 'unproven';

-- 1: said of a whole group of faces that the machine put together; no proof that each of them is this person.
ALTER TABLE labels ADD COLUMN grouped INTEGER NOT NULL DEFAULT 0;

-- Unknown visitors who came again; a number is never given twice.
CREATE TABLE visitors (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    ignored INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE visitor_tracks (
    tracklet TEXT PRIMARY KEY REFERENCES tracklets (id) ON DELETE CASCADE,
    visitor INTEGER NOT NULL REFERENCES visitors (number) ON DELETE CASCADE
) STRICT;
CREATE INDEX tracks_of_visitor ON visitor_tracks (visitor);
