"""The order of an epoch's images, from one start of a run to the next."""
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import Runner

from ..errors import UserError

_ORDER = 'order_of_images'


def begin_order(runner: Runner, sampler: Any) -> None:
    """Record the order of an epoch, which the checkpoint will contain.

    Args:
        runner (Runner): The runner, before an epoch that it begins.
        sampler (Sampler): The sampler of the images.
    """
    _begin(runner, sampler, get_world_size())


def resume_order(runner: Runner, sampler: Any, seen: bool) -> None:
    """Compare the order of a run that was resumed with its checkpoint's.

    Args:
        runner (Runner): The runner, before its first epoch.
        sampler (Sampler): The sampler of the images.
        seen (bool): Whether a part of the epoch's images was seen.

    Raises:
        UserError: If some were, and the order is another.
    """
    now = _settings(sampler)
    before = now
    if runner.iter:  # a checkpoint that says nothing is of a full shuffle
        before = runner.message_hub.runtime_info.get(_ORDER, {})
    change = _change(before, now)
    if change and seen:
        raise UserError(
            f'The checkpoint is from within epoch {runner.epoch + 1}, and '
            f'{change}: in another order, images of this epoch would be seen '
            'twice, and others not at all. Restore what was, or resume from '
            'the checkpoint of a whole epoch')
    if change:
        runner.logger.warning(
            f'Since the checkpoint was written, {change}: the order of the '
            'images from here on is another than it would have been')
    streams = before.get('streams') if seen else None
    _begin(runner, sampler, streams or get_world_size())


def _begin(runner: Runner, sampler: Any, streams: int) -> None:
    if _settings(sampler):
        sampler.streams = streams
    runner.message_hub.update_info(_ORDER, _settings(sampler))


def _settings(sampler: Any) -> dict[str, Any]:
    """As of ``SceneSampler``; other samplers shuffle in full, or not."""
    return getattr(sampler, 'settings', {})


def _change(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two settings, '' if nothing does."""
    was, is_ = before.get('window'), now.get('window')
    if was != is_:
        return f'train_dataloader.sampler.window is {is_}, but was {was}'
    if before.get('shards') != now.get('shards'):
        return 'the images lie in other tar files than before'
    return ''
