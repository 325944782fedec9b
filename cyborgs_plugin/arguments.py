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
