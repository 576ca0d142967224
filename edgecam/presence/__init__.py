"""Who carries a phone past the door: sightings of enrolled devices. Only `helper` has (and needs) rights."""
