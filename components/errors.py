"""Errors that a user can fix. Each says what happened, what was expected and what to do.

    PergolaError
    ├── InputError        the caller's mistake: a bad path, a bad setting, bad data (exit status 2)
    └── StepError         something failed while a step ran (exit status 1)

Messages are one sentence or two and name the file or key. The command line prints them without
a traceback; every other exception is a bug of ours and shows one.
"""


class PergolaError(Exception):
    """Any error that pergola reports on purpose."""


class InputError(PergolaError, ValueError):
    """The caller's input cannot be used."""


class StepError(PergolaError, RuntimeError):
    """A step failed, but not because of the caller's input."""
