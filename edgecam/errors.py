"""Errors, by what the caller should do about them; every message is one line: what, where, what to do."""

from __future__ import annotations


class EdgecamError(Exception):
    """Root of all errors a user may see; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(EdgecamError):
    """Wrong configuration or usage: correct it and start again."""

    exit_code = 2


class ModelError(EdgecamError):
    """A model is missing, altered or does not compute what it should: fatal at start."""


class StoreError(EdgecamError):
    """The state folder cannot be opened, read or written: fatal at start, retried on a full disk."""


class DamagedError(StoreError):
    """Something stored was altered since it was written; everything else can still be read."""


class KeyMissingError(StoreError):
    """The master key is missing or is not the one this state was written with."""


class InputError(EdgecamError):
    """A photo, clip or folder given by the user cannot be used; the next one may."""


class SourceError(EdgecamError):
    """A camera is gone, refuses or sends rubbish: reopen it later."""


class SourceAuthError(SourceError):
    """A camera refuses the credentials: retrying quickly will not help."""


class EnrolmentError(EdgecamError):
    """Nothing usable was found for a person, or it is not clear which face is meant."""


class ControlError(EdgecamError):
    """The running daemon refused or did not answer a command."""


class BrokerError(EdgecamError):
    """The broker cannot be reached, or refuses what a command wants of it."""


class TuneError(EdgecamError):
    """The night's work ended without a result: the version in service stays, the next night may do better."""


class ShapeError(ValueError):
    """An array does not have the promised shape or dtype: a bug, never a user's fault."""
