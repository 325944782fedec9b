"""The width of what a neck fuses, derived from the backbone itself."""
from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..errors import UserError
from .mask_grounded_neck import stage_shapes

_KEY = 'model.neck.projector.in_channels'
# Numbers that sides may have to be multiples of; some networks accept only one
# size.
_SIDES = (32, 64, 128)
_ONLY = 224


def build_to_fit(backbone: dict | nn.Module,
                 neck: dict | nn.Module) -> tuple[nn.Module, Any]:
    """Build the backbone and set the width of the neck's projector.

    Args:
        backbone (dict or nn.Module): Config of the backbone, or the backbone.
        neck (dict or nn.Module): Config of a ``MaskGroundedNeck``, which is
            not changed; its ``projector.in_channels`` may be missing or None.

    Returns:
        tuple[nn.Module, dict or nn.Module]: The backbone, and the neck's
        config with ``projector.in_channels``.

    Raises:
        UserError: If ``in_channels`` does not fit the backbone, or is missing
            and the backbone accepts none of the test pictures; or if the
            backbone's outputs are not the maps that the neck fuses.
    """
    built: nn.Module = backbone if isinstance(
        backbone, nn.Module) else MODELS.build(backbone)
    if isinstance(neck, nn.Module) or not isinstance(
            neck.get('projector'), dict):
        return built, neck
    given = neck['projector'].get('in_channels')
    indices = tuple(neck.get('in_indices', (0, 1, 2)))
    pictures = _try(built)
    if isinstance(pictures, Exception):
        if given is None:
            raise UserError(
                f'{_KEY} is not given, and the backbone '
                f'{type(built).__name__} takes none of the pictures that '
                f'would tell it ({type(pictures).__name__}: {pictures}): set '
                'it to the sum of the channels of its outputs '
                f'{indices}') from pictures
        return built, neck
    shapes = [stage_shapes(outputs, indices) for outputs in pictures]
    widths = [_width(*stage) for stage in zip(*shapes)]
    if given not in (None, sum(widths)):
        raise UserError(
            f'{_KEY}={given}, but the outputs {indices} of the backbone '
            f'{type(built).__name__} have {widths} channels: leave it out, '
            f'or set it to {sum(widths)}')
    projector = dict(neck['projector'], in_channels=sum(widths))
    return built, dict(neck, projector=projector)


@torch.no_grad()
def _try(backbone: nn.Module) -> list[Sequence[Tensor]] | Exception:
    """Outputs for two small pictures, or the reason why there are none."""
    modes = [(module, module.training) for module in backbone.modules()]
    sample = next(backbone.parameters(), torch.zeros(1))
    pairs = [((2 * side, 3 * side), (3 * side, 4 * side)) for side in _SIDES]
    pairs.append(((_ONLY, _ONLY), (_ONLY, _ONLY)))
    failure: Exception = ValueError('none was tried')
    backbone.eval()  # statistics stay, nothing is drawn
    try:
        for pair in pairs:
            try:
                return [_several(backbone(sample.new_zeros(1, 3, *size)))
                        for size in pair]
            except Exception as error:  # whatever it says of a size
                failure = error
    finally:
        for module, training in modes:
            module.training = training
    return failure


def _several(outputs: Any) -> Sequence[Tensor]:
    return outputs if isinstance(outputs, (tuple, list)) else (outputs, )


def _width(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Channels of a stage, (1, C, h, w) or (1, h, w, C), of two pictures.

    The sides of the pictures differ, except for a network of one size, whose
    maps are square.
    """
    square = first == second and first[1] == first[2] != first[3]
    return first[3] if first[1] != second[1] or square else first[1]
