"""What can go wrong with a model store."""

from __future__ import annotations

from pergola.components.errors import StepError


class StoreError(StepError):
    """The store cannot be reached, or access is denied."""


class MissingVersion(StepError):
    """The store does not have this version."""


class ChecksumError(StepError):
    """A file does not match its checksum."""


class SignatureError(StepError):
    """A version is not signed, or not by the key that is required."""


class WriteConflict(StepError):
    """Another writer changed the record in the meantime."""
