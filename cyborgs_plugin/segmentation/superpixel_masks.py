"""Masks of superpixels with colour and place: the floor of any network."""
from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseDataPreprocessor
from mmpretrain.registry import TASK_UTILS
from torch import nn

from ..errors import UserError
from .network_masks import NetworkMasks
from .parts import Parts, Preprocessed


@TASK_UTILS.register_module()
class SuperpixelMasks(NetworkMasks):
    """Cluster superpixels by colour and place, without a network.

    The masks of a network must be better than these to show that it has
    learned anything (``tools/evaluate_masks.py --floor``).

    Args:
        superpixels (dict, optional): As in :class:`NetworkMasks`. Defaults to
            None, ``dict(type='Felzenszwalb')``.
        num_clusters (int or tuple[int, int]): As in :class:`NetworkMasks`.
            Defaults to (2, 256).
        num_iters (int): As in :class:`NetworkMasks`. Defaults to 20.
        kmeans_init (str): As in :class:`NetworkMasks`. Defaults to
            'k-means++'.
        num_clusterings (int): As in :class:`NetworkMasks`. Defaults to 1.
        position_weight (float): Weight of row and column, -1 to 1.
            Defaults to 1.
        colour_weight (float): Weight of CIELAB / 50. Defaults to 1.
        long_side (int, optional): Resize every image to this long side in
            pixels first. Defaults to 640, COCO's.
        max_pixels (int, optional): As in :class:`NetworkMasks`, without
            ``long_side``. Defaults to 2097152.
        linkage (str, optional): As in :class:`NetworkMasks`. Defaults to None,
            k-means.
    """

    uses_network = False

    def __init__(self,
                 superpixels: dict | None = None,
                 num_clusters: int | tuple[int, int] = (2, 256),
                 num_iters: int = 20,
                 kmeans_init: str = 'k-means++',
                 num_clusterings: int = 1,
                 position_weight: float = 1.,
                 colour_weight: float = 1.,
                 long_side: int | None = 640,
                 max_pixels: int | None = 1 << 21,
                 linkage: str | None = None) -> None:
        super().__init__(
            num_clusters=num_clusters,
            num_iters=num_iters,
            kmeans_init=kmeans_init,
            num_clusterings=num_clusterings,
            position_weight=position_weight,
            colour_weight=colour_weight,
            long_side=long_side,
            max_pixels=max_pixels,
            superpixels=superpixels or dict(type='Felzenszwalb'),
            linkage=linkage)
        if not position_weight and not colour_weight:
            raise UserError(
                'default_hooks.mask_update.source: position_weight and '
                'colour_weight are both 0, so nothing tells superpixels '
                'apart: set one of them above 0')

    def prepare(self, backbone: nn.Module,
                data_preprocessor: BaseDataPreprocessor) -> None:
        """Begin a round; the network is not used."""
        self._lowered = False

    def features(self, images: Sequence[Any]) -> list[Parts]:
        """Find the parts of images; see :class:`NetworkMasks`."""
        prepared = [
            image if isinstance(image, Preprocessed) else
            self.preprocess(image) for image in images
        ]
        return [Parts.of_superpixels(None, one.superpixels)
                for one in prepared]
