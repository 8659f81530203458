"""The one error that means: what the user gave does not fit."""


class BadInput(ValueError):
    """One clear line: what was given, what is accepted.  The command line exits 2 with it."""
