"""Views and label maps on their way to the device."""
from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample


@MODELS.register_module()
class SceneDataPreprocessor(SelfSupDataPreprocessor):
    """Normalise the views; bring all label maps to the device at once.

    Its base copies the label maps of each image by themselves, from memory
    that is not pinned, so that the host waits for each.

    Args:
        non_blocking (bool): Whether the host goes on while a batch is copied;
            the loader has to pin the views (``pin_memory=True``).
            Defaults to True.
        **kwargs: Arguments of ``SelfSupDataPreprocessor``.
    """

    def __init__(self, *, non_blocking: bool = True, **kwargs: Any) -> None:
        super().__init__(non_blocking=non_blocking, **kwargs)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Bring a batch to the device and normalise it.

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
        """The samples, their label maps on the device."""
        masks = torch.stack([sample.mask for sample in samples])
        if self.device.type == 'cuda' and masks.device.type == 'cpu':
            masks = masks.pin_memory()
        moved = []
        for sample, mask in zip(
                samples, masks.to(self.device, non_blocking=True)):
            moved.append(sample.new())
            moved[-1].set_mask(mask)
        return moved
