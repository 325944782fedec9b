"""Ctrl-C while a tool still imports: a line, no traceback. Import it first."""
import sys
from types import TracebackType


def _say(kind: type[BaseException], error: BaseException,
         trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print('Interrupted before anything was done', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say
