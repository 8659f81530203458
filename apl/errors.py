"""The errors that a caller is meant to tell apart."""


class BadInput(ValueError):
    """One clear line: what was given, what is accepted.  The command line exits 2 with it."""


class Busy(BadInput):
    """Another process is training in the run folder."""


class Interrupted(Exception):
    """Training was asked to stop; its checkpoint is written."""


def one_line(error: BaseException) -> str:
    """What an exception says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
