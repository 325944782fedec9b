"""A learning rate that falls late, whatever the length of the run."""
from collections.abc import Sequence
from typing import Any

from mmengine.optim import MultiStepLR
from mmengine.registry import PARAM_SCHEDULERS

from ..errors import UserError


@PARAM_SCHEDULERS.register_module()
class LateStepLR(MultiStepLR):
    """Multiply the rate by ``gamma`` after each given fraction of the run.

    With the defaults and 800 epochs, these are epochs 768 and 784. The
    milestones follow from ``end``, which mmengine's Runner sets to
    ``train_cfg.max_epochs`` (or ``max_iters``). In any run of at least two
    steps, the last step has the lowest rate.

    It is registered with mmengine's own schedulers, so that a config of any
    OpenMMLab package can use it.

    Args:
        optimizer (Optimizer or BaseOptimWrapper): The optimizer whose rate it
            sets.
        fractions (Sequence[float]): Fractions of the run, between 0 and 1.
            Defaults to (0.96, 0.98).
        gamma (float): Factor of each step. Defaults to 0.1.
        begin (int): First step of the schedule. Defaults to 0.
        end (int, optional): Steps of the run. Defaults to None, set by the
            Runner.
        by_epoch (bool): Whether a step is an epoch. Defaults to True.
        **kwargs: Further arguments of ``MultiStepLR``.

    Raises:
        ValueError: If a fraction is not between 0 and 1, or ``end`` is
            missing.
    """

    def __init__(self,
                 optimizer: Any,
                 fractions: Sequence[float] = (0.96, 0.98),
                 gamma: float = 0.1,
                 begin: int = 0,
                 end: int | None = None,
                 by_epoch: bool = True,
                 **kwargs: Any) -> None:
        if not all(0 < fraction < 1 for fraction in fractions):
            raise UserError('LateStepLR.fractions must be numbers between 0 '
                            f'and 1, but are {fractions}')
        if end is None:
            raise UserError(
                "LateStepLR.end is missing: mmengine's Runner fills in the "
                'length of the run; elsewhere, set it to the number of '
                'epochs, or of iterations with by_epoch=False')
        # Not before the second step: the first would be lowered permanently.
        milestones = [
            max(min(round(fraction * end), end - 1), begin + 1) - begin
            for fraction in fractions
        ]
        super().__init__(
            optimizer,
            milestones=milestones,
            gamma=gamma,
            begin=begin,
            end=end,
            by_epoch=by_epoch,
            **kwargs)

    @classmethod
    def build_iter_from_epoch(cls,
                              optimizer: Any,
                              begin: int = 0,
                              end: int | None = None,
                              by_epoch: bool = True,
                              epoch_length: int | None = None,
                              **kwargs: Any) -> 'LateStepLR':
        """Build it in iterations from settings in epochs.

        mmengine calls this if a config has ``convert_to_iter_based=True``.
        """
        if not by_epoch or not epoch_length:
            raise UserError(
                'convert_to_iter_based=True of LateStepLR needs by_epoch=True '
                'and at least one iteration an epoch, but found '
                f'by_epoch={by_epoch} and epoch_length={epoch_length}')
        return cls(
            optimizer,
            begin=begin * epoch_length,
            end=None if end is None else end * epoch_length,
            by_epoch=False,
            **kwargs)
