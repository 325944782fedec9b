"""The short key ``timm_name``: a backbone of timm, and all that follows."""
from collections.abc import Container
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmpretrain.registry import MODELS

from ..errors import UserError
from ..segmentation.layer_choice import choose_layer
from ..segmentation.layer_output import LayerError, LayerOutput
from .view_crops import MIN_CELLS, view_crops

_KIND = 'TimmNetwork'
_BACKBONE = 'model.backbone'
_LAYER = 'default_hooks.mask_update.source.layer'
_SIDES = (96, 98, 112, 128, 160, 192, 196, 224, 256, 384)
"""Sizes of views that are proposed where a network refuses one."""


def use_timm(cfg: Config, given: Container[str] = ()) -> None:
    """Make the network that ``timm_name`` names the backbone of a config.

    Outputs, grid stride, layer of the masks and colours come from what timm
    knows of the network. In a config whose backbone is a ``TimmNetwork``, only
    what is None is set. Nothing changes if its backbone is that network.

    Args:
        cfg (Config): A config that pretrains; changed in place.
        given (Container[str]): Keys of the config that were set on the command
            line, which are left as they are. Defaults to ().

    Raises:
        UserError: If timm has no such network, or it takes no views of this
            size.
    """
    name = cfg.get('timm_name')
    if name is None:
        return
    model = cfg.get('model') or {}
    old = model.get('backbone') or {}
    if model.get('type') != 'CYBORGS' or not isinstance(name, str):
        raise UserError(
            f'timm_name={name!r} in {cfg.filename}: expected the name of a '
            'network, in a config whose model is CYBORGS'
            f' (here {model.get("type")})')
    ours = old.get('type') == _KIND
    if ours and old.get('model_name') == name:
        return
    fresh = ours and old.get('model_name') is None
    new = _backbone(old, name, given, fresh)
    network = MODELS.build({key: value for key, value in new.items()
                            if key != 'init_cfg'})
    network.eval()
    _expect_views(cfg, network, name)
    found = {
        f'{_BACKBONE}.out_indices': network.out_indices,
        'model.neck.in_indices': tuple(range(len(network.out_indices))),
        'model.neck.grid_stride': _grid_stride(cfg, network.strides),
        _LAYER: _layer(network),
        'model.data_preprocessor.mean': network.colours['mean'],
        'model.data_preprocessor.std': network.colours['std'],
    }
    cfg.model.backbone = new
    neck = cfg.model.neck
    if 'model.neck.projector.in_channels' not in given:
        neck.projector.pop('in_channels', None)
    cfg.merge_from_dict({
        key: value for key, value in found.items()
        if key not in given and not (fresh and _value(cfg, key) is not None)})
    cfg.sync_bn = None  # TimmNetwork has its own, which keeps activations
    print_log(
        f'timm_name={name}: outputs {", ".join(network.layers)} with '
        f'{" + ".join(map(str, network.channels))} channels at strides '
        f'{", ".join(map(str, network.strides))}; model.neck.grid_stride='
        f'{_value(cfg, "model.neck.grid_stride")}; masks are made of '
        f'{_value(cfg, _LAYER)}; mean '
        f'{list(_value(cfg, "model.data_preprocessor.mean"))}',
        logger='current')


def _backbone(old: Any, name: str, given: Container[str],
              fresh: bool) -> dict[str, Any]:
    """Config of the network, with what holds for any backbone."""
    kept = {
        key: value for key, value in old.items()
        if fresh or key in ('init_cfg', 'norm_eval')
        or f'{_BACKBONE}.{key}' in given
    }
    return {**kept, 'type': _KIND, 'model_name': name}


def _layer(network: Any) -> str:
    """The layer that timm's stages suggest, if it gives a map."""
    try:
        LayerOutput(network, network.mask_layer)
    except LayerError:
        return choose_layer(network)
    return network.mask_layer


def _sides(cfg: Config) -> list[int]:
    """Sides of the views in pixels."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    return [crop['scale'] for crop in view_crops(dataset).values()
            if isinstance(crop.get('scale'), int)]


def _grid_stride(cfg: Config, strides: tuple[int, ...]) -> int:
    """The coarsest stride of which a view has enough cells."""
    side = min(_sides(cfg), default=224)
    stride = max(strides)
    while stride > 1 and side // stride < MIN_CELLS:
        stride //= 2
    return stride


def _expect_views(cfg: Config, network: Any, name: str) -> None:
    """Refuse views of a size that the network does not take."""
    for side in sorted(set(_sides(cfg))):
        failure = _fails(network, side)
        if failure is None:
            continue
        fitting = [other for other in _SIDES
                   if other > side and _fails(network, other) is None]
        raise UserError(
            f'timm_name={name}: it does not accept views of {side} pixels '
            f'({type(failure).__name__}: {failure}); '
            + (f'set view_size={fitting[0]}' if fitting else
               'choose another network'))


@torch.no_grad()
def _fails(network: Any, side: int) -> Exception | None:
    try:
        network(torch.zeros(1, 3, side, side))
    except Exception as error:  # whatever it says of a size
        return error
    return None


def _value(cfg: Config, key: str) -> Any:
    node: Any = cfg
    for part in key.split('.'):
        node = (node or {}).get(part)
    return node
