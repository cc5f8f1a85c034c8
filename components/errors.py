"""Errors that a person can mend. Each says what came, what was wanted and what to do.

    PergolaError
    ├── InputError        the caller's mistake: a bad path, a bad setting, bad data (exit status 2)
    └── StepError         something broke while a step worked (exit status 1)

Messages are one sentence or two and name the file or key. The command line prints them without
a traceback; everything that is not one of these is a bug of ours and shows one.
"""


class PergolaError(Exception):
    """Anything pergola says on purpose."""


class InputError(PergolaError, ValueError):
    """What came from the caller cannot be used."""


class StepError(PergolaError, RuntimeError):
    """A step could not do its work, through no fault of the caller's input."""
