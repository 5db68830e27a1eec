"""The one exception tree of P2U.

Every error a caller can meet derives from :class:`P2UError`. A message names the file, the
tensor where there is one, what was expected, and (as ``hint``) what to do about it.
"""

from __future__ import annotations


class P2UError(Exception):
    """Root of all P2U errors.

    Args:
        message: What is wrong, with the expected and the found value.
        file: The file, key or URL concerned.
        tensor: The tensor concerned.
        hint: What the user can do.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.tensor = tensor
        self.hint = hint

    def __str__(self) -> str:
        where = [self.file] if self.file else []
        if self.tensor:
            where.append(f"tensor {self.tensor!r}")
        text = ": ".join([*where, self.message])
        return f"{text}. {self.hint}" if self.hint else text


class UsageError(P2UError, ValueError):
    """An argument is not valid, by itself or for what it is about; nothing was changed."""


class FormatError(P2UError):
    """A model file or a package is malformed."""


class IntegrityError(P2UError):
    """Bytes do not have the size or the SHA-256 that the manifest states."""


class UnsupportedError(P2UError):
    """The input is well-formed but needs something this version does not have."""


class LimitError(P2UError):
    """A package asks for more memory or disk than the caller allows; nothing was written."""


class CoreError(P2UError):
    """The native core is missing, does not fit this version, or failed internally."""


class DiskError(P2UError):
    """A local file could not be read or written: no space, no permission, not there."""


class BusyError(P2UError):
    """Another process is working on the same directory."""


class ConflictError(P2UError):
    """Somebody else has published to the package meanwhile; nothing of theirs was touched."""


class Cancelled(P2UError):  # noqa: N818 - the field's word for it
    """The caller cancelled the operation; what was reached stays valid."""


class StoreError(P2UError):
    """A store could not deliver what was asked of it.

    Attributes:
        retryable: The same request may succeed later (time-out, reset, 429, 5xx).
        retry_after: Seconds the server asked us to wait, if it did.
        status: HTTP status that a server answered with, if that was the reason.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        hint: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, file=file, hint=hint)
        self.retryable = retryable
        self.retry_after = retry_after
        self.status = status


class WorkerError(P2UError):
    """The processes that do the work cannot be started, or died again and again."""


class NotFoundError(StoreError):
    """The key does not exist in the store."""
