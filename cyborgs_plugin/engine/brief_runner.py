"""A runner whose first lines on the console are for its reader."""
import logging
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner

# How the long records of mmengine's runner begin.
_LONG = ('\n' + '-' * 60 + '\nSystem environment:', 'Config:\n',
         'Hooks will be executed in the following order:\n')


class BriefRunner(Runner):
    """A ``Runner`` that keeps long records off the console.

    Environment, config and hooks take some 600 lines. They are written only
    to the log file.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger as mmengine does.

        Args:
            *args (Any): See ``Runner.build_logger``.
            **kwargs (Any): See ``Runner.build_logger``.

        Returns:
            MMLogger: The logger, with a filter on the handlers of the console.
        """
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_brief)
        return logger


def _is_brief(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_LONG)
