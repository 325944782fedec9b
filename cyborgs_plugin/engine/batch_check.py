"""Whether the photographs fill a batch."""
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from ..errors import UserError


def check_batches(runner: Runner) -> None:
    """Refuse data of less than one batch, at which the toolbox fails.

    Builds the training loop, as the runner does next.

    Args:
        runner (Runner): Before it trains.

    Raises:
        UserError: Says which batch would do.
    """
    loader = runner.train_dataloader
    if len(loader) or isinstance(loader.sampler, InfiniteSampler):
        return
    share, processes = len(loader.sampler), get_world_size()
    each = f', {share} for each of {processes} processes' * (processes > 1)
    raise UserError(
        f'The training data have {len(loader.dataset)} images{each}, fewer '
        f'than train_dataloader.batch_size={loader.batch_sampler.batch_size}, '
        'and train_dataloader.drop_last=True leaves out what is no whole '
        'batch: nothing is left to train on. Get more images, or give '
        f'--cfg-options train_dataloader.batch_size={max(1, share)}')
