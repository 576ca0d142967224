"""Face detection: pictures in, `Faces` out. One file a detector; `make` builds the configured one."""
