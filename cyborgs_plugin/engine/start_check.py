"""Whether a recipe fits the weights that it starts from."""
import inspect
from typing import Any

from mmengine.config import Config
from mmpretrain.registry import MODELS

from ..errors import UserError
from .view_crops import view_crops

_SMALL_VIEW = 160
"""Side in pixels below which views differ much from what good networks saw."""
_SLOW = 0.5
"""Rate of the backbone relative to that of the heads."""


def check_start(cfg: Config) -> list[str]:
    """Report settings that would spoil the good weights of the start.

    Args:
        cfg (Config): The config.

    Returns:
        list[str]: One warning; or none, if the recipe is not a from-scratch
        one, or there are no starting weights.
    """
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    source = _source(backbone) or model.get('pretrained') or (
        None if cfg.get('resume') else cfg.get('load_from'))
    if model.get('type') != 'CYBORGS' or not source:
        return []
    spoils = []
    if _has_running_norms(backbone):
        spoils.append('batch norms take the statistics of jittered views '
                      '(model.backbone.norm_eval=True keeps them)')
    rate = _rate(cfg)
    if rate > _SLOW:
        spoils.append(
            'the backbone learns at '
            + ('the' if rate == 1 else f'{rate:g} of the')
            + ' rate of the new heads '
            '(optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.1)')
    if not spoils:
        return []
    side = _view_side(cfg)
    if side and side < _SMALL_VIEW:
        spoils.append(f'views have {side} pixels (view_size=160 or more)')
    return [
        f'The backbone starts from {source} with a recipe that is made for '
        f'random weights: {"; ".join(spoils)}. It may make good weights '
        'worse, which nobody notices without labels: '
        'cyborgs_plugin::cyborgs_continue.py '
        'continues from them (docs/continue.md)'
    ]


def check_inits(cfg: Config) -> None:
    """Refuse an ``init_cfg`` of the backbone that names no file.

    Raises:
        UserError: If there is one; the message says what is missing.
    """
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    for init in _inits(backbone):
        kind = init.get('type') if isinstance(init, dict) else None
        loads = 'Pretrained' in str(getattr(kind, '__name__', kind))
        # Others, which draw weights, are checked when they are built.
        if not kind or loads is not bool(init.get('checkpoint')):
            raise UserError(
                f'model.backbone.init_cfg is {init!r}: to start from weights '
                "it must be dict(type='Pretrained', checkpoint=FILE), with "
                'prefix=... where the file has one')


def _inits(backbone: Any) -> list[Any]:
    """The parts of a backbone's ``init_cfg``."""
    inits = backbone.get('init_cfg') or []
    return list(inits) if isinstance(inits, (list, tuple)) else [inits]


def _source(backbone: Any) -> str | None:
    """The file named in a backbone's ``init_cfg``."""
    for init in _inits(backbone):
        if init.get('type') == 'Pretrained':
            return init.get('checkpoint')
    return None


def _has_running_norms(backbone: Any) -> bool:
    """Whether a backbone could freeze its batch norms, but does not."""
    kind = MODELS.get(str(backbone.get('type')))
    return (kind is not None and not backbone.get('norm_eval')
            and 'norm_eval' in inspect.signature(kind).parameters)


def _rate(cfg: Config) -> float:
    """The backbone's rate, relative to that of the heads."""
    paramwise = (cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    keys = paramwise.get('custom_keys') or {}
    rates = {key: value.get('lr_mult', 1.) for key, value in keys.items()
             if key.startswith('backbone')}
    # Parameters that no key names are trained at the full rate.
    return float(max({'backbone': 1., **rates}.values()))


def _view_side(cfg: Config) -> int | None:
    """Side of the smallest view in pixels."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    sides = [crop['scale'] for crop in view_crops(dataset).values()]
    return min((side if isinstance(side, int) else min(side)
                for side in sides), default=None)
