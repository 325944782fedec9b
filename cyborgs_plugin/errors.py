"""Errors that the user can fix, and how tools report them."""
import os.path as osp
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

# mmengine's file that calls a config's component with its settings.
_BUILDER = osp.join('mmengine', 'registry', 'build_functions.py')


INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells have it."""


class UserError(ValueError):
    """Something was requested that is not possible.

    The message names the file or the key of the config, what was found, what
    was expected and how to fix it. A tool prints it without a traceback.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that a setting names does not exist."""


class MissingPackageError(UserError, ImportError):
    """A package that this config needs is not installed, or does not fit."""


@contextmanager
def reported() -> Iterator[None]:
    """End the program if a user error leaves the block.

    Its message goes to stderr, and the exit code is 1. User errors are every
    :class:`UserError`, a path of the wrong type (a folder instead of a file,
    for example), and a component of a config that is unknown or does not
    accept a setting. Ctrl-C ends it with one line and the code 130. Other
    exceptions pass.
    """
    try:
        yield
    except KeyboardInterrupt:
        print('Interrupted', file=sys.stderr)
        sys.exit(INTERRUPTED)
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
    """Find mmengine's message on a setting that a component does not accept.

    Only errors raised by the call itself count: a constructor that fails has a
    frame of its own.
    """
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if frames and frames[-1].filename.endswith(_BUILDER):
            return str(error.args[0])
        error = error.__context__  # mmengine raises hook errors again
    return None
