-- A device of somebody who agreed. Address, names and consent are sealed with the person's key, and the hash by which
-- an address is looked up is keyed with it, too: without the key's row neither tells anything.
CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    person_id TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    created_wall_s REAL NOT NULL,
    address_hash BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX devices_of_person ON devices (person_id);

CREATE TABLE sightings (
    id TEXT PRIMARY KEY,
    device_id TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    source TEXT NOT NULL,
    wall_s REAL NOT NULL,
    rssi_dbm INTEGER,
    channel INTEGER,
    frames INTEGER NOT NULL,
    transition TEXT NOT NULL,
    weight REAL NOT NULL,
    reason TEXT NOT NULL,
    kept_from_s REAL NOT NULL
) STRICT;
CREATE INDEX sightings_by_time ON sightings (wall_s);
CREATE INDEX sightings_of_device ON sightings (device_id);

-- Which sightings fell into a visit's window; joined while both clocks ran, so a clock set later changes nothing.
CREATE TABLE visit_sightings (
    visit TEXT NOT NULL REFERENCES visits (id) ON DELETE CASCADE,
    sighting TEXT NOT NULL REFERENCES sightings (id) ON DELETE CASCADE,
    offset_s REAL NOT NULL,
    PRIMARY KEY (visit, sighting)
) STRICT;
CREATE INDEX visits_of_sighting ON visit_sightings (sighting);
