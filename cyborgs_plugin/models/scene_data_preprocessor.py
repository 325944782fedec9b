"""Views and label maps on their way to the device."""
from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample


@MODELS.register_module()
class SceneDataPreprocessor(SelfSupDataPreprocessor):
    """Normalise the views; copy all label maps to the device at once.

    The base class copies the label maps of each image separately, from memory
    that is not pinned, so the host waits for each.

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
                ``data_samples``, whose ``mask`` is (2, H, W), integer.
            training (bool): Not used. Defaults to False.

        Returns:
            dict: As of ``SelfSupDataPreprocessor``.
        """
        samples = data.get('data_samples') or []
        if samples and all('mask' in sample for sample in samples):
            data = dict(data, data_samples=self._together(samples))
        return super().forward(data, training)

    def _together(self, samples: Sequence[DataSample]) -> list[DataSample]:
        """The samples, with their label maps on the device."""
        masks = torch.stack([sample.mask for sample in samples])
        if self.device.type == 'cuda' and masks.device.type == 'cpu':
            masks = masks.pin_memory()
        moved = []
        for sample, mask in zip(
                samples, masks.to(self.device, non_blocking=True)):
            moved.append(sample.new())
            moved[-1].set_mask(mask)
        return moved
