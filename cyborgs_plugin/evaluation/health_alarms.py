"""When a number of a run's health is an alarm, and what to do then."""
import math
from collections.abc import Callable
from typing import Any, NamedTuple

Entry = dict[str, Any]
Bands = dict[str, float]

BANDS: Bands = dict(
    image_cosine=0.999,
    rank_kept=0.2,
    region_spread=0.1,
    pixel_contrast=2.,
    regions=1.5,
    matched_regions=0.1,
    agreement=0.95,
    border_share=0.8,
    contrast_to_chance=0.99,
    steps=100)
"""Where a healthy run ends; docs/health.md has what they were chosen by."""

_LOWER_RATE = ('a lower rate (optim_wrapper.optimizer.lr), a longer warm-up '
               '(param_scheduler.0.end)')


class Rule(NamedTuple):
    """An alarm."""

    name: str
    holds: Callable[[Entry, Bands], bool]
    message: str
    """Is formatted with the numbers of the entry."""
    advice: str


def _below(entry: Entry, name: str, limit: float) -> bool:
    return entry.get(name, math.inf) < limit


def _above(entry: Entry, name: str, limit: float) -> bool:
    return entry.get(name, -math.inf) > limit


def _not_finite(entry: Entry, bands: Bands) -> bool:
    return any(isinstance(value, float) and not math.isfinite(value)
               for value in entry.values())


def _alike(entry: Entry, bands: Bands) -> bool:
    return _below(entry, 'pixel_contrast', bands['pixel_contrast'])


def _collapsed(entry: Entry, bands: Bands) -> bool:
    # A fresh network may look so, and so does any for pictures all alike.
    return entry['iter'] and not _alike(entry, bands) and (
        _above(entry, 'image_cosine', bands['image_cosine'])
        or _below(entry, 'rank_kept', bands['rank_kept'])
        or _below(entry, 'region_spread', bands['region_spread']))


def _one_region(entry: Entry, bands: Bands) -> bool:
    return (_below(entry, 'regions_per_image', bands['regions'])
            or _below(entry, 'regions_per_view', bands['regions']))


def _frame(entry: Entry, bands: Bands) -> bool:
    return _above(entry, 'border_share',
                  bands['border_share']) and not _one_region(entry, bands)


def _learns_nothing(entry: Entry, bands: Bands) -> bool:
    return entry['iter'] >= bands['steps'] and _above(
        entry, 'contrast_to_chance', bands['contrast_to_chance'])


RULES = (
    Rule(
        'not_finite', _not_finite,
        'the loss or the features are NaN or infinite at step {iter}',
        'The weights since then are worthless: resume from an earlier '
        f'checkpoint with {_LOWER_RATE} or clipped gradients '
        '(optim_wrapper.clip_grad.max_norm=1.)'),
    Rule(
        'pictures_alike', _alike,
        'the pictures differ from one another by {pixel_contrast:.1f} grey '
        'levels only',
        'There is nothing to tell apart: look at the files, which may be '
        'blank, one picture many times, or read with the wrong '
        'depth_scaling'),
    Rule(
        'collapse', _collapsed,
        'the network gives nearly the same vector for everything: mean cosine '
        'of pictures {image_cosine:.4f}, effective rank {image_rank:.3g}',
        'Further training does not help, even if the loss falls: start again '
        f'with {_LOWER_RATE}, and see that the target is a slow average of '
        'the network (model.target_ema.momentum) and that the predictor is '
        'there'),
    Rule(
        'target_still', lambda entry, bands: _below(
            entry, 'target_change', 1e-12),
        'the target network has not moved',
        'The network learns to predict a random one: add '
        "target_update=dict(type='TargetUpdateHook') to default_hooks, and "
        'see that model.target_ema.momentum and the rate are above 0. A '
        "target that is meant to stay is dict(type='FrozenTarget')"),
    Rule(
        'learns_nothing', _learns_nothing,
        'the contrastive loss is {contrast_to_chance:.1%} of its chance level',
        'Nothing is told apart. In the warm-up that is no surprise; after '
        'it, change the rate (optim_wrapper.optimizer.lr) by a factor of 3 '
        'to 10, up or down, and look at the masks'),
    Rule(
        'one_region', _one_region, 'most images are a single region',
        'Regions within an image cannot be contrasted: raise '
        'default_hooks.mask_update.source.num_clusters (or that of '
        'model.in_step_masks), or a lower model.neck.grid_stride if only '
        'views have one'),
    Rule(
        'nothing_matched', lambda entry, bands: _below(
            entry, 'matched_regions', bands['matched_regions']),
        'only {matched_regions:.1%} of the regions of a view are in the other '
        'one as well',
        'The others teach nothing: let crops be larger '
        '(crop_ratio_range of the views), or regions fewer '
        '(default_hooks.mask_update.source.num_clusters, or that of '
        'model.in_step_masks)'),
    Rule(
        'masks_stopped', lambda entry, bands: _above(
            entry, 'agreement', bands['agreement']),
        'the masks hardly change any more (ARI {agreement:.3f} with the round '
        'before)',
        'More rounds of this kind bring nothing. Stop here, or see that the '
        'rate has not come down to 0 too early; renewing more often '
        '(default_hooks.mask_update.interval) helps only while they change'),
    Rule(
        'frame', _frame,
        'one region holds {border_share:.0%} of the border of an image',
        'The network sees the zeros beyond the border: set '
        'default_hooks.mask_update.source.reflect=32'),
)
"""All alarms."""


def find_alarms(entry: Entry, before: Entry | None,
                bands: Bands) -> list[dict[str, Any]]:
    """Say which numbers have left their band since the entry before.

    Args:
        entry (dict[str, Any]): Of an epoch or a round.
        before (dict[str, Any], optional): The one before. None: this is the
            first.
        bands (dict[str, float]): As :data:`BANDS`.

    Returns:
        list[dict[str, Any]]: ``epoch``, ``name``, ``message`` and ``advice``
        of each alarm that did not hold before.
    """
    return [
        dict(
            epoch=entry['epoch'],
            name=rule.name,
            message=rule.message.format_map(entry),
            advice=rule.advice) for rule in RULES
        if rule.holds(entry, bands) and (
            before is None or not rule.holds(before, bands))
    ]
