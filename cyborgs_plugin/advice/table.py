"""Settings by the number of photographs: the table of docs/small_data.md.

The page has its numbers from here, and the other way round: a test compares
them. Chosen is by measurements on 2,915 and 343 photographs; what lies
between is said to be an estimate.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What is set for so many photographs."""

    below: int | None
    """The row is for fewer photographs than this; None for any number."""
    recipe: str
    """Config of this package that is inherited from."""
    epochs: int
    batch: int
    """Of all processes together."""
    rate: float
    """Of that batch."""
    momentum: float | None
    """1 - decay of the moving average; None where the target is frozen."""
    interval: int
    """Epochs between two mask rounds; -1 for none but the first."""
    clusters: tuple[int, int]
    smooth: float
    view: int
    """Pixels on each side of a view."""
    stride: int
    basis: str
    """What the row rests on."""

    @property
    def rounds(self) -> int:
        """Mask rounds of all epochs."""
        return 1 if self.interval < 0 else -(-self.epochs // self.interval)


SCRATCH = (
    Row(10_000, 'cyborgs_small_data.py', 18, 32, 1e-3, 0.01, 3, (4, 32), 32,
        96, 16, 'measured on 2,915 photographs, but for 9 epochs'),
    Row(60_000, 'cyborgs_small_data.py', 100, 32, 1e-3, 0.004, 10, (4, 64),
        32, 128, 16, 'an estimate: nothing was measured between 3,000 '
        'photographs and 118,000'),
    Row(None, 'cyborgs_coco.py', 800, 128, 0.2, 0.004, 100, (2, 256), 0, 224,
        32, 'the published recipe, which was not run here'),
)
"""Without weights to start from."""
CONTINUE = (
    Row(1_000, 'cyborgs_continue.py', 18, 32, 1e-3, None, -1, (4, 32), 32, 96,
        16, 'measured on 343 photographs, one seed'),
    Row(None, 'cyborgs_continue.py', 8, 32, 1e-3, None, -1, (4, 32), 32, 96,
        16, 'measured on 2,915 photographs, three seeds'),
)
"""From weights that are good already: docs/continue.md."""
STEPS = 1_600
"""Steps of the first row at 3,000 photographs. Fewer photographs are seen
more often, up to MOST_EPOCHS times, for as many steps (not measured)."""
MOST_EPOCHS = 180
FEWEST = 8
"""Photographs, below which there is nothing to contrast."""
FEWEST_STEPS = 180
"""Steps of the shortest run that was measured."""
_FEW = 1_000
_PUBLISHED = 60_000

# Accuracy of frozen features on objects of COCO, before and after. The
# commands are in docs/results.md and docs/continue.md, and a test looks the
# numbers up there.
FROM_SCRATCH = 0.317, 0.357
"""ResNet-18, 2,915 photographs, from random weights, mean of five runs."""
FROM_MANY = 0.685, 0.694
"""MobileNetV2, 2,915 photographs, from weights of ImageNet."""
FROM_FEW = 0.685, 0.691
"""The same with 343 photographs, mean of two runs."""


def choose(photographs: int, start: bool, gpus: bool) -> Row:
    """Choose a row of the table.

    Args:
        photographs (int): How many there are.
        start (bool): Whether there are good weights to start from.
        gpus (bool): Whether there is a GPU; without one the published recipe
            would take months, and the row before it is taken.
    """
    rows = CONTINUE if start else SCRATCH if gpus else SCRATCH[:-1]
    return next((row for row in rows
                 if row.below is None or photographs < row.below), rows[-1])


def batch_for(row: Row, photographs: int) -> int:
    """The batch of all processes, so that an epoch has two steps or more."""
    batch = row.batch
    while batch > 4 and photographs < 2 * batch:
        batch //= 2
    return batch


def epochs_for(row: Row, photographs: int, batch: int) -> int:
    """Epochs of a row, more where photographs from scratch are few."""
    if row is not SCRATCH[0]:
        return row.epochs
    steps = max(1, photographs // batch)
    return max(row.epochs, min(MOST_EPOCHS, -(-STEPS // steps)))


def verdict(photographs: int, start: bool) -> tuple[bool, str]:
    """Say whether pretraining is worth it, by what was measured.

    Args:
        photographs (int): How many there are.
        start (bool): Whether the run starts from good weights.

    Returns:
        tuple[bool, str]: False where it most likely is not, and the reason
        in words.
    """
    few = photographs < _FEW
    before, after = FROM_FEW if few else FROM_MANY
    gain = (f'{343 if few else 2915:,} photographs lifted {before} to {after}'
            + ' (mean of two runs)' * few)
    if start:
        return True, (
            f'expect a small gain. {gain}: accuracy of frozen features on '
            'objects of COCO. Whether a detector that is fine-tuned gains as '
            'well, your own labels tell (docs/continue.md has the command)')
    if photographs >= _PUBLISHED:
        return True, ('the paper says so, with 118,000 photographs and 800 '
                      'epochs; no run of that length was made here')
    return not few, (
        f'from scratch, 2,915 photographs lifted {FROM_SCRATCH[0]}, random '
        f'weights, to {FROM_SCRATCH[1]} (accuracy of frozen features on '
        f'objects of COCO), and weights of ImageNet have {FROM_MANY[0]}'
        + f'; you have {photographs:,}' * few
        + '. If there are such weights for your network, give them by '
        f'--start FILE: {gain}')
