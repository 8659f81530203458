"""The errors that a caller is meant to tell apart."""


class BadInput(ValueError):
    """One clear line: what was given, what is accepted.  The command line exits 2 with it."""


class Busy(BadInput):
    """Another process is training in the run folder."""


class Interrupted(Exception):
    """Training was asked to stop; its checkpoint is written."""
