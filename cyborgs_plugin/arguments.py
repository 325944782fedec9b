"""What the arguments of tools are read by."""
import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """The ``type`` of an argument that is a whole number.

    Args:
        least (int): The smallest one that makes sense.

    Returns:
        Callable: What argparse reads it by.
    """

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f'{text!r} is no whole number from {least} on')
        return value

    return number
