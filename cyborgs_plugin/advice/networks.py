"""The networks that ``cyborgs pretrain`` knows by name."""
import inspect
import os
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import nn
from torch.hub import get_dir
from torch.nn.modules.batchnorm import _BatchNorm

from ..config_path import find_config, load_config
from ..engine.timm_option import use_timm
from ..errors import UserError
from ..safe_load import Tensors
from ..start_file import fit_names, read_start
from ..timm_cache import PREFIX

_DEPTHS = dict(resnet18=18, resnet50=50)
_WITHOUT_NORMS = 'cyborgs_plugin::backbones/convnext_tiny.py'
_ANY = 'cyborgs_small_data.py'
"""The recipe that any other network is put into."""
_TIMM = 'timm.py'
"""The recipe of all networks of timm."""


def known_networks() -> list[str]:
    """Names that there are: ResNets, and the recipes of backbones/.

    Those of timm go by ``timm:`` and their name.
    """
    folder = osp.dirname(find_config(_WITHOUT_NORMS))
    return [*_DEPTHS, *sorted(
        osp.splitext(name)[0] for name in os.listdir(folder)
        if name.endswith('.py') and name != _TIMM)]


class Network:
    """A backbone and what goes with it.

    Args:
        name (str): One of :func:`known_networks`, ``timm:`` and a name in
            timm, or a factory of a network
            (:class:`~cyborgs_plugin.models.ModuleBackbone`).
        outputs (Sequence[str], optional): Submodules of what the factory
            makes. Defaults to None.
        colours (dict, optional): ``mean`` and ``std`` of images as the network
            of the factory expects them. Defaults to None, ImageNet's.

    Raises:
        UserError: If it is another, or a factory has no outputs.
    """

    def __init__(self,
                 name: str,
                 outputs: Sequence[str] | None = None,
                 colours: dict[str, list[float]] | None = None) -> None:
        in_timm = name.startswith(PREFIX)
        made = ':' in name and not in_timm
        if not made and (outputs or colours):
            raise UserError(
                f'--outputs, --mean and --std are for --backbone '
                f'package.module:function, but it is {name}')
        if made and not outputs:
            raise UserError(
                f'--backbone {name} needs --outputs: the submodules whose '
                'outputs are maps, from fine to coarse, such as layer2 layer3 '
                'layer4')
        if not (in_timm or made) and name not in known_networks():
            raise UserError(
                f'--backbone {name}: unknown; there are '
                f'{", ".join(known_networks())}, {PREFIX}NAME for those of '
                'timm, and package.module:function for one of your own. For '
                'any other, write a config (docs/backbones.md)')
        self.name = name
        self.depth = _DEPTHS.get(name)
        """Of a ResNet that the recipes have already; None of others."""
        self._recipe: Config | None = None
        self._file = (_ANY if made else
                      f'backbones/{_TIMM if in_timm else name + ".py"}')
        if self.depth is None:
            self._recipe = load_config(f'cyborgs_plugin::{self._file}')
            if in_timm:
                self._recipe.timm_name = name.removeprefix(PREFIX)
                use_timm(self._recipe)
            elif made:
                _use_module(self._recipe, name, list(outputs or ()), colours)

    @property
    def recipe(self) -> str | None:
        """Its config below ``configs/``; None of a plain ResNet."""
        return None if self._recipe is None else self._file

    @property
    def published(self) -> bool:
        """Whether its recipe is the published one, of 800 epochs."""
        return self._recipe is None or (
            self._recipe.train_cfg.max_epochs == 800)

    def backbone(self) -> dict[str, Any]:
        """Config of the backbone."""
        if self._recipe is not None:
            return dict(self._recipe.model.backbone.to_dict())
        return dict(type='ResNet', depth=self.depth, out_indices=(1, 2, 3),
                    norm_cfg=dict(type='BN'))

    def in_indices(self) -> tuple[int, ...]:
        """Which of its outputs regions are told by."""
        if self._recipe is None:
            return 0, 1, 2
        return tuple(self._recipe.model.neck.in_indices)

    def layer(self) -> str | None:
        """What is clustered; None: the end of its stage of stride 8."""
        if self._recipe is None:
            return None
        return self._recipe.default_hooks.mask_update.source.get('layer')

    def optimizer(self) -> dict[str, Any] | None:
        """What an AdamW of its own recipe has; None of the recipes'.

        A foreign network without batch norms is trained as a ConvNeXt.
        """
        recipe = self._recipe
        if recipe is not None and self.is_foreign:
            if any(isinstance(part, _BatchNorm)
                   for part in self.build().modules()):
                return None
            recipe = load_config(_WITHOUT_NORMS)
        if recipe is None or 'paramwise_cfg' not in recipe.optim_wrapper or (
                recipe.optim_wrapper.optimizer.type != 'AdamW'):
            return None
        wrapper = recipe.optim_wrapper.to_dict()
        return {key: wrapper[key] for key in
                ('optimizer', 'clip_grad', 'paramwise_cfg')}

    @property
    def rate_recipe(self) -> str | None:
        """The config below ``configs/`` whose rate :meth:`optimizer` has."""
        return (_WITHOUT_NORMS.partition('::')[2] if self.is_foreign else
                self.recipe)

    @property
    def is_foreign(self) -> bool:
        """Whether it is a network of another library."""
        return self.backbone()['type'] in ('TimmNetwork', 'ModuleBackbone')

    def colours(self) -> dict[str, Any]:
        """Mean, std and order of channels, where it has its own."""
        if self._recipe is None:
            return {}
        usual = load_config(f'cyborgs_plugin::{_ANY}').model.data_preprocessor
        own = self._recipe.model.data_preprocessor
        found = {key: own[key] for key in ('mean', 'std', 'to_rgb')
                 if own[key] != usual[key]}
        return {key: list(value) if isinstance(value, (list, tuple)) else value
                for key, value in found.items()}

    def imports(self) -> list[str]:
        """Modules that know it, besides this package and mmpretrain."""
        if self._recipe is None:
            return []
        return [name for name in self._recipe.custom_imports.imports
                if name != 'cyborgs_plugin']

    def keeps_norms(self) -> bool:
        """Whether batch norms, if it has any, can be held as they are."""
        kind = MODELS.get(self.backbone()['type'])
        return 'norm_eval' in inspect.signature(kind).parameters

    def build(self) -> nn.Module:
        """The backbone with random weights."""
        return MODELS.build(self.backbone())


def _use_module(cfg: Config, factory: str, outputs: list[str],
                colours: dict[str, list[float]] | None) -> None:
    """Make what a factory makes the backbone of a config."""
    cfg.merge_from_dict({
        'model.backbone': dict(
            _delete_=True, type='ModuleBackbone', factory=factory,
            outputs=outputs),
        'model.neck.in_indices': tuple(range(len(outputs))),
        **{f'model.data_preprocessor.{key}': value
           for key, value in (colours or {}).items()}
    })


def network_of(path: str, wanted: Network | None) -> tuple[Network, str]:
    """Find the network that a file of weights is of.

    Args:
        path (str): As :func:`~cyborgs_plugin.start_file.read_start` takes it.
        wanted (Network, optional): The network, if it is known.

    Returns:
        tuple[Network, str]: The network, and how its tensors are called in
        the file.

    Raises:
        UserError: If the file is of no such network.
    """
    found = read_start(path)
    if wanted is not None:
        return wanted, _fit(wanted, found, path)
    for name in _DEPTHS:
        network = Network(name)
        try:
            return network, _fit(network, found, path)
        except UserError:
            continue
    raise UserError(
        f'--start {path} is of neither {" nor ".join(_DEPTHS)}, which has '
        f'tensors such as {list(found)[:3]}: name its network with --backbone '
        f'({", ".join(known_networks())})')


def _fit(network: Network, found: Tensors, path: str) -> str:
    return fit_names(found, network.build().state_dict(), path)[1]


def weights_at_hand(network: Network) -> str | None:
    """Weights of ImageNet that torch has brought to this machine before."""
    folder = osp.join(get_dir(), 'checkpoints')
    names = sorted(os.listdir(folder)) if osp.isdir(folder) else []
    return next((osp.join(folder, name) for name in names
                 if name.startswith(f'{network.name}-')
                 and name.endswith('.pth')), None)
