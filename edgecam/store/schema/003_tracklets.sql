-- What a face that was at the door looks like to the encoder, for the night; under a key of its own, seven days at most.
CREATE TABLE tracklets (
    id TEXT PRIMARY KEY,
    visit TEXT NOT NULL REFERENCES visits (id) ON DELETE CASCADE,
    track INTEGER NOT NULL,
    camera TEXT NOT NULL,
    model TEXT NOT NULL,
    first_s REAL NOT NULL,
    last_s REAL NOT NULL,
    quality REAL NOT NULL,
    kept_from_s REAL NOT NULL,
    nobody INTEGER NOT NULL DEFAULT 0,
    features BLOB NOT NULL,
    UNIQUE (visit, track)
) STRICT;

-- Who it probably was, by the devices that were heard then. A proposal names nobody.
CREATE TABLE proposals (
    tracklet TEXT NOT NULL REFERENCES tracklets (id) ON DELETE CASCADE,
    person_id TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    share REAL NOT NULL,
    with_device INTEGER NOT NULL,
    without_device INTEGER NOT NULL,
    PRIMARY KEY (tracklet, person_id)
) STRICT;
