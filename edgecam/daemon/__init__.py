"""The process that watches: threads, signals, control, health."""
