"""Colours augmented on the batch, on the device that trains."""
from typing import Any

import numpy as np
from mmpretrain.registry import MODELS

from ..errors import UserError
from ..ops.batch_views import recolour_batch
from ..ops.view_draws import NUM_COLOURS, ViewLaw, draw_colours
from .scene_data_preprocessor import SceneDataPreprocessor


def _law(**colours: Any) -> ViewLaw:
    """The colour distribution of a view that is already cropped."""
    for name, value in colours.items():
        if isinstance(value, list):
            colours[name] = tuple(value)
    return ViewLaw(size=(0, 0), **colours)


@MODELS.register_module()
class ColourDataPreprocessor(SceneDataPreprocessor):
    """Change the colours of the views, blur and normalise them.

    Jitter, grey, blur and solarisation run here on the whole batch, so the
    data workers only decode and crop. Set ``colours_on_device=True`` in a
    config to use it. Random numbers come from numpy's generator, which
    ``EpochSeedHook`` seeds for each epoch.

    Args:
        views (list[dict]): For each view, the arguments of
            :class:`~cyborgs_plugin.ops.view_draws.ViewLaw` for colours, such
            as ``dict(jitter=0.8, brightness=(0.6, 1.4), grey=0.2)``.
        **kwargs: Arguments of :class:`SceneDataPreprocessor`.
    """

    def __init__(self, views: list[dict], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.laws = [_law(**view) for view in views]

    def forward(self, data: dict, training: bool = False) -> dict:
        """Augment when training, and normalise.

        Args:
            data (dict): ``inputs``: views (B, 3, H, W), uint8, BGR; and
                ``data_samples``.
            training (bool): Whether to augment. Defaults to False.

        Returns:
            dict: As of ``SelfSupDataPreprocessor``.
        """
        if training:
            views = self.cast_data(data['inputs'])
            if len(views) != len(self.laws):
                raise UserError(
                    f'model.data_preprocessor.views has {len(self.laws)} '
                    f'views, but the pipeline makes {len(views)}')
            data = dict(
                data,
                inputs=[
                    recolour_batch(
                        view, law,
                        draw_colours(
                            law, np.random.random((len(view), NUM_COLOURS))))
                    for view, law in zip(views, self.laws)
                ])
        return super().forward(data, training)
