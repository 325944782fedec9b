"""Any network of timm as a backbone."""
import difflib
from collections.abc import Sequence
from typing import Any

from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..errors import MissingPackageError, UserError
from .foreign_network import ForeignNetwork

_FINEST = 8
"""Stride in pixels of the finest output that is used by default."""
# What networks of one image size take, so that they accept any.
_ANY_SIZE: tuple[dict[str, bool], ...] = (
    dict(strict_img_size=False), dict(dynamic_img_size=True))


@MODELS.register_module()
class TimmNetwork(ForeignNetwork):
    """A network of timm, whole, with maps of its stages as outputs.

    All its tensors have timm's names after ``network.``, also those of layers
    after the last output, which are not run and stay as they are. Nothing is
    downloaded: weights to start from are given by ``init_cfg``.

    Args:
        model_name (str, optional): Its name in timm. Defaults to None, which
            is refused: see the key ``timm_name`` of
            configs/backbones/timm.py.
        out_indices (Sequence[int], optional): Which of timm's
            ``feature_info`` are outputs. Defaults to None: the last of each
            stride from 8 pixels on; where there is but one stride, as in a
            ViT, the ends of the quarters.
        norm_eval (bool): See :class:`ForeignNetwork`. Defaults to False.
        init_cfg (dict or list[dict], optional): Weights to start from.
            Defaults to None, random ones.
        **kwargs: Further arguments of ``timm.create_model``.
    """

    def __init__(self,
                 model_name: str | None = None,
                 out_indices: Sequence[int] | None = None,
                 norm_eval: bool = False,
                 init_cfg: dict | list[dict] | None = None,
                 **kwargs: Any) -> None:
        network = create_network(model_name, **kwargs)
        super().__init__(network, norm_eval, init_cfg)
        info = _feature_info(network, str(model_name))
        strides = [stage['reduction'] for stage in info]
        self.out_indices = tuple(
            choose_outputs(strides) if out_indices is None else out_indices)
        if not self.out_indices or not all(
                0 <= index < len(info) for index in self.out_indices):
            raise UserError(
                f'model.backbone.out_indices={self.out_indices}: '
                f'{model_name} has {len(info)} outputs, 0 to {len(info) - 1}, '
                f'at strides {strides}')
        chosen = [info[index] for index in self.out_indices]
        self.strides = tuple(stage['reduction'] for stage in chosen)
        self.channels = tuple(stage['num_chs'] for stage in chosen)
        self.layers = tuple(f'network.{stage["module"]}' for stage in chosen)
        """Submodules that give the outputs."""

    @property
    def mask_layer(self) -> str:
        """What masks are made from: the end of the stage of stride 8.

        If there is none, that of the next coarser one; if all have the same
        stride, the one after three quarters.
        """
        if len(set(self.strides)) == 1:
            return self.layers[max(0, len(self.layers) - 2)]
        fitting = [layer for layer, stride in zip(self.layers, self.strides)
                   if stride >= _FINEST]
        return (fitting or self.layers)[0]

    @property
    def colours(self) -> dict[str, list[float]]:
        """Mean and standard deviation of its images, RGB, 0 to 255."""
        found: Any = self.network.pretrained_cfg
        return {key: [round(255 * value, 3) for value in found[key]]
                for key in ('mean', 'std')}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs.

        Args:
            images (Tensor): Shape (B, 3, H, W), float32.

        Returns:
            tuple[Tensor, ...]: Each (B, C_i, H_i, W_i).
        """
        network: Any = self.network
        return tuple(network.forward_intermediates(
            images, indices=list(self.out_indices), stop_early=True,
            output_fmt='NCHW', intermediates_only=True))


def create_network(name: str | None, **kwargs: Any) -> nn.Module:
    """Build a network of timm with random weights, for images of any size.

    Args:
        name (str, optional): Its name, with its tag or without.
        **kwargs: Further arguments of ``timm.create_model``.

    Raises:
        UserError: If timm is missing or has no such network.
    """
    if name is None:
        raise UserError(
            'model.backbone.model_name is not set. tools/train.py derives it '
            'from timm_name, in a config or as --cfg-options timm_name=NAME; '
            'other programs need model.backbone.model_name')
    try:
        import timm
        from timm.layers import convert_sync_batchnorm
    except ImportError as error:
        raise MissingPackageError(
            f'{name} is a network of timm, which is not installed: '
            'pip install timm') from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        raise UserError(
            f'timm {timm.__version__} has no network {name!r}'
            + (f'; did you mean {", ".join(near)}?' if near else
               ': timm.list_models() has all'))

    def create(**more: Any) -> nn.Module:
        return timm.create_model(name, num_classes=0, **more)

    try:
        network = create(**kwargs)
    except (RuntimeError, TypeError) as error:  # of a tag, or an argument
        raise UserError(f'timm cannot build {name!r}: {error}') from error
    patches = getattr(network, 'patch_embed', None)
    if getattr(patches, 'strict_img_size', False):
        for option in _ANY_SIZE:
            try:
                network = create(**option, **kwargs)
            except TypeError:
                continue
            break
    if is_distributed() and get_device() != 'cpu':
        # torch's own conversion, that of the Runner, drops activations
        network = convert_sync_batchnorm(network)
    return network


def choose_outputs(strides: Sequence[int]) -> list[int]:
    """Choose outputs by their strides.

    Args:
        strides (Sequence[int]): Of all that a network has, in order.

    Returns:
        list[int]: Indices: of the last one of each stride from 8 on; of the
        coarsest if all are finer; of the ends of the quarters if there is but
        one stride.
    """
    count = len(strides)
    if count > 1 and len(set(strides)) == 1:
        quarters = {count * part // 4 - 1 for part in (1, 2, 3, 4)}
        return sorted(index for index in quarters if index >= 0)
    last = {stride: index for index, stride in enumerate(strides)}
    return sorted(index for stride, index in last.items()
                  if stride >= min(_FINEST, max(strides)))


def _feature_info(network: nn.Module, name: str) -> list[dict[str, Any]]:
    """What timm knows of the outputs of a network.

    Raises:
        UserError: If it knows nothing, or gives no intermediate maps.
    """
    found: Any = getattr(network, 'feature_info', None)
    info = list(getattr(found, 'info', found) or [])
    if not info or not hasattr(network, 'forward_intermediates'):
        raise UserError(
            f'timm has no intermediate maps of {name!r} (feature_info, '
            'forward_intermediates): choose another network, or update timm')
    return info
