"""A backbone between start and end, with recomputed batch norms."""
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CenterCrop, ResizeEdge
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from ..errors import UserError
from ..safe_load import Tensors
from ..start_file import content_hash, fit_names

_BATCH, MIN_PICTURES = 32, 8


def blend(start: Tensors, end: Tensors, share: float, path: str,
          expected: str | None = None) -> Tensors:
    """Average the weights of two networks, one of which became the other.

    Statistics of batch norms are averaged as well.

    Args:
        start (Tensors): Tensors read from a file.
        end (Tensors): Tensors of the trained backbone.
        share (float): Weight of the end, 0 to 1.
        path (str): File of the start, for messages.
        expected (str, optional): Hash of the start in the checkpoint. Defaults
            to None, unknown.

    Returns:
        Tensors: With the names and dtypes of ``end``.

    Raises:
        UserError: If the start has other names or shapes, or is a different
            one.
    """
    if not 0 <= share <= 1:
        raise UserError('--blend is the share of the trained weights, from 0 '
                        f'to 1, but is {share}')
    found, _ = fit_names(start, end, path)
    found = {key: value.to(end[key].dtype) for key, value in found.items()}
    if expected is not None and content_hash(found) != expected:
        raise UserError(
            f'{path} is not what the run started from: its tensors have the '
            f'hash {content_hash(found)[:12]}, those of the start '
            f'{expected[:12]}. The average of networks of which none became '
            'the other is of no use: give the start')
    return {
        key: torch.lerp(found[key], value, share)
        if key in found and value.is_floating_point() else value
        for key, value in end.items()
    }


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Recompute the statistics of all batch norms.

    Each gets the mean, over the batches, of their means and variances.
    Everything else is in evaluation mode.

    Args:
        network (nn.Module): Changed in place; in evaluation mode afterwards.
        batches (Iterable[Tensor]): Normalised pictures, each (B, 3, H, W),
            float32; B is 2 or more.

    Returns:
        int: The number of batch norms.

    Raises:
        UserError: If there are none.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        raise UserError(f'{type(network).__name__} has no batch norms, whose '
                        'statistics could be recomputed')
    update_bn(batches, _NormsInTraining(network))
    network.eval()
    return len(norms)


def recalibrated(tensors: Tensors, cfg: Config,
                 pictures: Sequence[np.ndarray],
                 path: str) -> tuple[Tensors, int]:
    """Recompute the statistics of a backbone's batch norms.

    Args:
        tensors (Tensors): Tensors of the backbone.
        cfg (Config): Config of its run, with ``model.backbone`` and
            ``model.data_preprocessor``.
        pictures (Sequence[np.ndarray]): 8 or more pictures of one size, each
            (H, W, 3), BGR, uint8. Those beyond whole batches of 32 are left
            out, except for a first batch.
        path (str): The file of the tensors, for messages.

    Returns:
        tuple[Tensors, int]: Tensors with the new statistics, and the number of
        pictures used.

    Raises:
        UserError: If there are too few pictures, or if the config's backbone
            differs or has no batch norms.
    """
    if len(pictures) < MIN_PICTURES:
        raise UserError(
            f'{len(pictures)} pictures can be read, but at least '
            f'{MIN_PICTURES} are needed')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    network = MODELS.build({
        key: value
        for key, value in cfg.model.backbone.items() if key != 'init_cfg'
    })
    network.load_state_dict(
        fit_names(tensors, network.state_dict(), path)[0], strict=False)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    whole = len(pictures) // _BATCH * _BATCH or len(pictures)
    recalibrate(network, (
        preprocessor(dict(
            inputs=torch.from_numpy(
                np.stack(pictures[first:first + _BATCH])).permute(0, 3, 1, 2),
            data_samples=None))['inputs'] for first in range(0, whole, _BATCH)
    ))
    return dict(network.state_dict()), whole


def centre(image: np.ndarray) -> np.ndarray:
    """Crop a picture as in tests of networks: 224 pixels of 256.

    Args:
        image (np.ndarray): Shape (H, W, 3), uint8.

    Returns:
        np.ndarray: Shape (224, 224, 3), uint8.
    """
    return CenterCrop(224)(ResizeEdge(256)(dict(img=image)))['img']


class _NormsInTraining(nn.Module):
    """A copy whose ``train`` affects only batch norms, even frozen ones.

    A backbone keeps them in evaluation mode by ``norm_eval`` and
    ``frozen_stages``, and drops paths in training.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> '_NormsInTraining':
        super().train(False)
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.training = mode
        return self

    def forward(self, images: Tensor) -> object:
        return self.network(images)
