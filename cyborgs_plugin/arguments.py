"""Types for the arguments of tools."""
import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """The ``type`` of an argument that is a whole number.

    Args:
        least (int): The smallest valid number.

    Returns:
        Callable: The type for argparse.
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


def share(text: str) -> float:
    """The ``type`` of an argument from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 0 to 1')
    return value
