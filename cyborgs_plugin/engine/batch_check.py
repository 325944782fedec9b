"""Whether the photographs fill a batch, and the rate fits the batch."""
import logging
from collections.abc import Mapping
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..errors import UserError


def check_batches(runner: Runner) -> None:
    """Refuse data of less than one batch, which the toolbox cannot train on.

    Also warn if the learning rate is not meant for the batch. Builds the
    training loop, as the runner does next.

    Args:
        runner (Runner): The runner, before training.

    Raises:
        UserError: If there are too few images; the message gives a batch that
            fits.
    """
    loader = runner.train_dataloader
    if len(loader) or isinstance(loader.sampler, InfiniteSampler):
        _check_rate(runner)
        return
    share, processes = len(loader.sampler), get_world_size()
    each = f', {share} for each of {processes} processes' * (processes > 1)
    raise UserError(
        f'The training data have {len(loader.dataset)} images{each}, fewer '
        f'than train_dataloader.batch_size={loader.batch_sampler.batch_size}, '
        'and train_dataloader.drop_last=True leaves out what is no whole '
        'batch: nothing is left to train on. Get more images, or give '
        f'--cfg-options train_dataloader.batch_size={max(1, share)}')


def _check_rate(runner: Runner) -> None:
    """Warn of a learning rate that is meant for another batch.

    Args:
        runner (Runner): The runner, before training and before its optimizer
            is built.
    """
    wrapper = runner.optim_wrapper
    # a detector's loader has its batch in a sampler of batches
    each = getattr(runner.train_dataloader.batch_sampler, 'batch_size', None)
    line = rate_advice(
        runner.auto_scale_lr or {}, wrapper if isinstance(wrapper, dict) else
        {}, each, get_world_size())
    if line:
        print_log(line, logger='current', level=logging.WARNING)


def rate_advice(scale: Mapping[str, Any], wrapper: Mapping[str, Any],
                each: int | None, processes: int) -> str:
    """Report a learning rate that is meant for another batch.

    A recipe for 8 GPUs has an eighth of its batch on one, with the same rate.
    Batches from half to twice the size are accepted.

    Args:
        scale (Mapping): ``auto_scale_lr`` of the config.
        wrapper (Mapping): ``optim_wrapper`` of the config.
        each (int, optional): The batch of each process; None if it is not
            known.
        processes (int): How many there are.

    Returns:
        str: What to set; '' if the rate fits, or nothing tells.
    """
    base = scale.get('base_batch_size')
    optimizer = wrapper.get('optimizer')
    if (not base or scale.get('enable') or not isinstance(optimizer, dict)
            or 'lr' not in optimizer or each is None):
        return ''
    steps = wrapper.get('accumulative_counts', 1)
    batch = each * processes * steps
    if base / 2 <= batch <= 2 * base:
        return ''
    rate = optimizer['lr']
    return (
        f'A batch is {batch} images ({each} of each of {processes} processes'
        + f', {steps} times' * (steps > 1) + f'), but the learning rate '
        f'{rate:g} is meant for {base} (auto_scale_lr.base_batch_size): '
        f'--auto-scale-lr makes it {rate * batch / base:g}. If it is meant '
        f'for {batch}, set auto_scale_lr.base_batch_size={batch}')
