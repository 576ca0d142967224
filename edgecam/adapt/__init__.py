"""The night: what the box learns by itself from the faces of the last days."""
