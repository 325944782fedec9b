"""What a teacher sees in whole pictures, made as a mask round is."""
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.registry import TASK_UTILS
from torch import Tensor, nn

from ..datasets.teacher_bank import read_components, write_components
from ..errors import UserError
from .sources import MaskSource, NonFiniteFeaturesError


@TASK_UTILS.register_module()
class TeacherFeatures(MaskSource):
    """Run a distillation's teacher once a picture.

    Of the whole picture the features of each cell are kept as principal
    components of the standardised channels, in half precision, whose bits are
    its ``label maps``: see :class:`~cyborgs_plugin.datasets.teacher_bank.
    TeacherBank`.

    Args:
        long_side (int): Pixels of the picture's long side, as the teacher
            sees it. Defaults to 320.
        stride (int): Of these, on each side of a cell. Defaults to 16.
        num_components (int): Kept of each cell, 2 bytes each; at most the
            teacher's channels. Defaults to 64.
        num_pictures (int): Pictures that tell the components.
            Defaults to 256.
    """

    uses_network = True

    def __init__(self,
                 long_side: int = 320,
                 stride: int = 16,
                 num_components: int = 64,
                 num_pictures: int = 256) -> None:
        for name, value in dict(
                long_side=long_side, stride=stride,
                num_components=num_components,
                num_pictures=num_pictures).items():
            if value < 1:
                raise UserError('default_hooks.teacher_features.source.'
                                f'{name} must be at least 1, but is {value}')
        self.long_side = long_side
        self.stride = stride
        self.num_clusterings = num_components
        self.num_pictures = num_pictures

    def prepare(self, backbone: nn.Module,
                data_preprocessor: BaseDataPreprocessor) -> None:
        """Take the teacher, a ``FrozenTeacher``, and how it sees pixels."""
        self._teacher = backbone
        self._preprocessor = data_preprocessor

    def settings(self) -> str:
        """What the features depend on beside the pictures, as text."""
        teacher: Any = self._teacher
        pixels: Any = self._preprocessor
        normalised = pixels._enable_normalize
        return json.dumps(dict(
            teacher=bytes(teacher.digest.tolist()).hex(),
            in_indices=teacher.in_indices,
            mean=pixels.mean.flatten().tolist() if normalised else None,
            std=pixels.std.flatten().tolist() if normalised else None,
            channels_turned=pixels._channel_conversion,
            long_side=self.long_side, stride=self.stride,
            num_components=self.num_clusterings))

    def fit(self, pictures: Iterable[np.ndarray], root: str) -> float:
        """Find the components and write them to the bank's folder.

        Args:
            pictures (Iterable[np.ndarray]): BGR, each (H, W, 3), uint8.
            root (str): The folder.

        Returns:
            float: The part of the variance that they hold.
        """
        count = 0
        total, products = torch.zeros(2, 1, dtype=torch.float64)
        for picture in pictures:
            cells = self.cells(picture).flatten(1).double().cpu()  # (C, M)
            count += cells.shape[1]
            total = total + cells.sum(1)
            products = products + cells @ cells.T
        if not count:
            raise UserError('None of the pictures that tell the components of '
                            'the teacher can be read')
        mean = total / count
        covariance = products / count - mean[:, None] * mean
        std = covariance.diag().sqrt().nan_to_num().clamp(min=1e-6)
        kept = self.num_clusterings
        if kept > len(std):
            raise UserError(
                'default_hooks.teacher_features.source.num_components='
                f'{kept}, but the teacher has {len(std)} channels: set it to '
                'at most that')
        values, vectors = torch.linalg.eigh(covariance / std / std[:, None])
        vectors = vectors[:, -kept:]
        write_components(
            root, self.settings(), mean=mean.float().numpy(),
            encode=(vectors / std[:, None]).float().numpy(),
            decode=(vectors * std[:, None]).float().numpy())
        return float(values[-kept:].sum() / values.sum())

    def load(self, root: str) -> str:
        """Read the components, and give the SHA-256 of their file."""
        _, arrays, digest = read_components(root)
        self._mean, self._encode = (
            torch.from_numpy(arrays[name]) for name in ('mean', 'encode'))
        return digest

    @torch.no_grad()
    def cells(self, picture: np.ndarray) -> Tensor:
        """What the teacher sees in a picture (H, W, 3): (C, h, w)."""
        pixels = torch.from_numpy(np.ascontiguousarray(picture))
        view = self._preprocessor(
            dict(inputs=pixels.permute(2, 0, 1)[None],
                 data_samples=None))['inputs']
        scale = self.long_side / max(picture.shape[:2])
        grid = tuple(max(1, round(scale * side / self.stride))
                     for side in picture.shape[:2])
        return self._teacher(view, grid, self.long_side)[0]

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Give the bits of each picture's features, (D, h, w), uint16."""
        maps = []
        for image, key in zip(images, keys):
            cells = self.cells(image).cpu()
            kept = torch.einsum('chw,cd->dhw', cells - self._mean[
                :, None, None], self._encode).half()
            if not torch.isfinite(kept).all():
                raise NonFiniteFeaturesError(
                    f'What the teacher sees in {key!r} is NaN, infinite or '
                    'too large for half precision')
            maps.append(kept.numpy().astype('<f2').view('<u2'))
        return maps
