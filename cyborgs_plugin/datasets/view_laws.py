"""The distributions of the views that a pipeline makes."""
import math
from collections.abc import Iterator, Sequence
from typing import Any

from mmcv.transforms import RandomApply, RandomFlip, RandomGrayscale
from mmengine.registry import DefaultScope
from mmpretrain.datasets import (
    ColorJitter,
    GaussianBlur,
    MultiView,
    PackInputs,
    RandomResizedCrop,
    Solarize,
)
from mmpretrain.registry import TRANSFORMS

from ..errors import UserError
from ..ops.view_draws import ViewLaw

COLOURS = (ColorJitter, RandomGrayscale, GaussianBlur, Solarize)
"""In the order in which they are applied."""


def laws_of(pipeline: Sequence[Any]) -> list[ViewLaw]:
    """Read the distributions of the views that a pipeline makes.

    Args:
        pipeline (Sequence[BaseTransform]): As built by a data set: a transform
            that loads an image, ``MultiView`` or ``MaskedMultiView`` with
            transforms of the recipes, ``PackInputs``.

    Returns:
        list[ViewLaw]: One for each view.

    Raises:
        UserError: If a transform is not one of those, or out of order; the
            message names it.
    """
    steps = list(pipeline)
    views = [step for step in steps if isinstance(step, MultiView)]
    if len(views) != 1 or any(
            not isinstance(step, (MultiView, PackInputs))
            and not type(step).__name__.startswith('Load')
            for step in steps):
        raise UserError(
            'Views on the device take a pipeline that loads an image, makes '
            'views (MultiView or MaskedMultiView) and packs them, but it is '
            f'{[type(step).__name__ for step in steps]}')
    return [view_law(transforms) for transforms in views[0].transforms]


def view_law(transforms: Sequence[Any], cropped: bool = False) -> ViewLaw:
    """Read the distribution of one kind of view.

    Args:
        transforms (Sequence[BaseTransform]): Crop, flip and colours, built.
        cropped (bool): Whether the views are already cropped: only colours are
            read, and the size has no meaning. Defaults to False.
    """
    law: dict[str, Any] = dict(size=(0, 0)) if cropped else {}
    last = -1
    for step, prob in _flat(transforms):
        kinds = (RandomResizedCrop, RandomFlip, *COLOURS)
        kind = next((i for i, k in enumerate(kinds) if isinstance(step, k)),
                    -1)
        read = None if kind < 0 else _READ[kind](step, prob)
        if read is None or cropped and kind < 2:
            raise _unknown(step)
        if kind != 1:  # a flip may come anywhere
            if kind <= last:
                raise UserError(
                    f'{type(step).__name__} comes too late in a view for the '
                    'device, which crops, jitters, makes grey, blurs and '
                    'solarises in this order, each once')
            last = kind
        law.update(read)
    if 'size' not in law:
        raise UserError('A view for the device begins with a '
                        'RandomResizedCrop or MaskedRandomResizedCrop')
    return ViewLaw(**law)


def colour_law(transforms: Sequence[dict]) -> dict[str, Any]:
    """Read how the configs of transforms change colours.

    Args:
        transforms (Sequence[dict]): Configs of :data:`COLOURS`.

    Returns:
        dict[str, Any]: Arguments of a :class:`ViewLaw` that differ from its
        defaults.
    """
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = [TRANSFORMS.build(step) for step in transforms]
    law = view_law(built, cropped=True)
    plain = vars(ViewLaw(size=law.size))
    return {name: value for name, value in vars(law).items()
            if value != plain[name]}


def _flat(transforms: Sequence[Any],
          prob: float = 1.) -> Iterator[tuple[Any, float]]:
    """Each transform with the probability that it is applied."""
    for step in transforms:
        if isinstance(step, RandomApply) and len(step.transforms.transforms
                                                 ) == 1:
            yield from _flat(step.transforms.transforms, prob * step.prob)
        else:
            yield step, prob


def _crop(step: Any, prob: float) -> dict | None:
    # OpenCV's does not average over the area of a pixel.
    if step.interpolation != 'bicubic' or prob < 1 or (
            step.backend not in ('pillow', 'torch')):
        return None
    height, width = step.scale
    return dict(
        size=(height, width),
        area=tuple(step.crop_ratio_range),
        aspect=tuple(step.aspect_ratio_range),
        attempts=step.max_attempts)


def _flip(step: Any, prob: float) -> dict | None:
    if not isinstance(step.prob, float) or step.direction != 'horizontal':
        return None
    return dict(flip=prob * step.prob)


def _jitter(step: Any, prob: float) -> dict:
    law = {
        name: tuple(map(float, getattr(step, name)))
        for name in ('brightness', 'contrast', 'saturation', 'hue')
        if getattr(step, name) is not None
    }
    return dict(law, jitter=prob)


def _grey(step: Any, prob: float) -> dict | None:
    if not step.keep_channels or step.color_format != 'bgr':
        return None
    return dict(
        grey=prob * step.prob, grey_weights=tuple(step.channel_weights))


def _blur(step: Any, prob: float) -> dict | None:
    if step.radius is not None:
        sigma = step.radius, step.radius
    elif step.magnitude_std == 'inf' and (step.magnitude_level
                                          == step.total_level):
        sigma = tuple(step.magnitude_range)
    else:
        return None
    return dict(blur=prob * step.prob, sigma=sigma)


def _solarise(step: Any, prob: float) -> dict | None:
    if step.thr is None:
        return None
    return dict(solarise=prob * step.prob, threshold=float(step.thr))


_READ = (_crop, _flip, _jitter, _grey, _blur, _solarise)


def _unknown(step: Any) -> UserError:
    return UserError(
        f'A view on the device has no {step!r}: it has RandomResizedCrop or '
        'MaskedRandomResizedCrop (bicubic, by pillow or torch), RandomFlip '
        '(horizontal), ColorJitter, alone or in RandomApply, RandomGrayscale '
        '(keep_channels), GaussianBlur (of a radius, or magnitude_std='
        "'inf') and Solarize (thr). Train without data_on_device=True, or "
        'without this transform')


def source_side(laws: Sequence[ViewLaw]) -> int:
    """The long side at which photographs should be kept.

    It is twice the side at which the smallest square crop of a square
    photograph has the pixels of a view. At exactly that side, an image reduced
    twice would lose detail of the size of a pixel, compared with the ordinary
    pipeline.
    """
    return max(_side(law.size, law.area) for law in laws)


def decoded_side(pipeline: Sequence[Any]) -> int | None:
    """The square root of the number of pixels that its crops need.

    Args:
        pipeline (Sequence[BaseTransform]): As built by a data set.

    Returns:
        int or None: None if a transform other than ``RandomResizedCrop`` sees
        the whole photograph.
    """
    steps = [step for step in pipeline
             if not isinstance(step, PackInputs)
             and not type(step).__name__.startswith('Load')]
    if not steps or not isinstance(steps[0], MultiView):
        return None
    sides = []
    for view in steps[0].transforms:
        first = next(iter(view.transforms), None)
        if not isinstance(first, RandomResizedCrop) or (
                first.crop_ratio_range[0] <= 0):
            return None
        sides.append(_side(first.scale, first.crop_ratio_range))
    return max(sides)


def _side(size: Sequence[int], area: Sequence[float]) -> int:
    return math.ceil(2 * max(size) / math.sqrt(area[0]))
