"""Mistakes that are the user's to mend, and how a tool reports them."""
import os.path as osp
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

# mmengine's file in which a config's component is called with its settings.
_BUILDER = osp.join('mmengine', 'registry', 'build_functions.py')


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
    """End the program where the user's mistake leaves the block.

    Its message goes to stderr, and the exit code is 1. Such are every
    :class:`UserError`, a path that is not what was asked for (a folder in
    place of a file, say), and a component of a config that is unknown or does
    not take a setting. Other exceptions pass.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f'{type(error).__name__}: {error}')
    except (FileExistsError, FileNotFoundError, IsADirectoryError,
            NotADirectoryError, PermissionError) as error:
        if not error.filename:
            raise
        sys.exit(f'{type(error).__name__}: {error.filename}: '
                 f'{error.strerror}')
    except (KeyError, TypeError) as error:
        why = _misfit(error)
        if why is None:
            raise
        sys.exit(f'UserError: the config does not fit: {why}')


def _misfit(error: BaseException | None) -> str | None:
    """What mmengine says of a setting that the component does not take.

    Only what is raised by the call itself counts: a constructor that fails
    has a frame of its own.
    """
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if frames and frames[-1].filename.endswith(_BUILDER):
            return str(error.args[0])
        error = error.__context__  # mmengine raises anew what hooks raise
    return None
