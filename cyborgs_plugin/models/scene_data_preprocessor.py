"""Views and what belongs to them on their way to the device."""
from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample


@MODELS.register_module()
class SceneDataPreprocessor(SelfSupDataPreprocessor):
    """Normalise the views; copy all label maps to the device at once.

    Likewise what a teacher sees, where it is stored. The base class copies
    the tensors of each image separately, from memory that is not pinned, so
    the host waits for each.

    Args:
        non_blocking (bool): Whether the host continues while a batch is
            copied; the loader must pin the views (``pin_memory=True``).
            Defaults to True.
        **kwargs: Arguments of ``SelfSupDataPreprocessor``.
    """

    def __init__(self, *, non_blocking: bool = True, **kwargs: Any) -> None:
        super().__init__(non_blocking=non_blocking, **kwargs)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Copy a batch to the device and normalise it.

        Args:
            data (dict): ``inputs``: views (B, 3, H, W), uint8; and
                ``data_samples``, whose ``mask`` is (2, H, W), integer, and
                ``teacher``, if there, (2, C, h, w), float16.
            training (bool): Not used. Defaults to False.

        Returns:
            dict: As of ``SelfSupDataPreprocessor``.
        """
        samples = data.get('data_samples') or []
        if samples and all('mask' in sample for sample in samples):
            data = dict(data, data_samples=self._together(samples))
        return super().forward(data, training)

    def _together(self, samples: Sequence[DataSample]) -> list[DataSample]:
        """The samples, with their tensors on the device."""
        moved = [sample.new() for sample in samples]
        for name in ('mask', 'teacher'):
            if not all(name in sample for sample in samples):
                continue
            values = torch.stack([sample.get(name) for sample in samples])
            if self.device.type == 'cuda' and values.device.type == 'cpu':
                values = values.pin_memory()
            for sample, value in zip(
                    moved, values.to(self.device, non_blocking=True)):
                sample.set_field(value, name)
        return moved
