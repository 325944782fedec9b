"""Mistakes that are the user's to mend, and how a tool reports them."""
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something was asked for that cannot be done.

    The message names the file or the key of the config, what was found, what
    was expected and the way out. A tool prints it without a traceback.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that a setting names does not exist."""


class MissingPackageError(UserError, ImportError):
    """A package that this config needs is not installed, or does not fit."""


@contextmanager
def reported() -> Iterator[None]:
    """End the program where a :class:`UserError` leaves the block.

    Its message goes to stderr, and the exit code is 1. Other exceptions pass.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f'{type(error).__name__}: {error}')
