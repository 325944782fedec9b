"""Places that are spread over a sequence."""


def evenly_spaced(total: int, count: int) -> list[int]:
    """Choose places of a sequence, evenly spaced from its first on.

    Args:
        total (int): Length of the sequence.
        count (int): How many places; more than ``total`` means all.

    Returns:
        list[int]: Indices in rising order.
    """
    count = min(count, total)
    return [number * total // count for number in range(count)]
