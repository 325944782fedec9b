"""Sources of masks: the base class, and fixed procedures."""
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.fileio import get
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from mmpretrain.registry import TASK_UTILS
from torch import nn

from ..datasets.coco_truth import TURNED, CocoInstances, is_turned
from ..datasets.mask_bank import MaskBank
from ..errors import UserError
from ..ops import crop_label_map

STRIDE = 8
"""Side of a cell of a label map, in pixels of the image."""


class NonFiniteFeaturesError(ValueError):
    """A feature is NaN or infinite: the network has diverged."""


class MaskSource:
    """Base class of all sources; makes the label maps of a group of images."""

    uses_network = False
    """Whether the masks change with the network."""

    num_clusterings = 1
    """Label maps of each image; V."""

    layer: str | None = None
    """Submodule up to which the network is used; None: all of it."""

    checkpoint: str | None = None
    """File of weights in place of those of the network in training."""

    def fingerprint(self) -> str | None:
        """Hash what masks depend on besides config, network and images.

        Returns:
            str, optional: SHA-256 of the content of files. A round is reused
            only if it is the same. None: there is no such file.
        """
        return None

    backbone: dict | None = None
    """Config of a network in place of that in training."""

    def architecture(self, backbone: nn.Module) -> nn.Module:
        """The network that is used, with any weights.

        Args:
            backbone (nn.Module): The network in training, which is not
                changed.
        """
        return backbone

    def network(self, backbone: nn.Module) -> nn.Module:
        """The network that is used.

        Args:
            backbone (nn.Module): The network in training, which is not
                changed.

        Returns:
            nn.Module: That network, or a copy with other weights.
        """
        return backbone

    def prepare(self, backbone: nn.Module,
                data_preprocessor: BaseDataPreprocessor) -> None:
        """Prepare for a round.

        Args:
            backbone (nn.Module): The network that :meth:`network` returned, in
                its current state.
            data_preprocessor (BaseDataPreprocessor): Its preprocessing of
                pixels.
        """

    def preprocess(self, image: np.ndarray) -> Any:
        """Compute what needs only one image, in the decoding threads.

        Args:
            image (np.ndarray): BGR, (H, W, 3), uint8.

        Returns:
            Any: What :meth:`label_maps` takes instead of the image. By default
            the image.
        """
        return image

    def label_maps(self, images: Sequence[Any], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Segment a group of images.

        Args:
            images (Sequence): BGR images, each (H, W, 3), uint8, or what
                :meth:`preprocess` returned for them.
            keys (Sequence[str]): The images' keys.
            seed (Sequence[int]): Seed of the run, round, group.

        Returns:
            list[np.ndarray]: Ids for each image, integer: (h, w), or (V, h, w)
            if ``num_clusterings`` V is above 1.
        """
        raise NotImplementedError


@TASK_UTILS.register_module()
class BankMasks(MaskSource):
    """Use the masks of an existing bank.

    Args:
        path (str): Folder of a round, or the root of several rounds, for the
            newest. A newer round may appear while this one is read.

    Raises:
        FileNotFoundError: If there is no bank.
    """

    def __init__(self, path: str) -> None:
        self._bank = MaskBank.open(path)
        self.num_clusterings = self._bank.num_clusterings

    def fingerprint(self) -> str:
        """The bank's hash."""
        return self._bank.hash

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Look up a group of images; see :class:`MaskSource`.

        Raises:
            ValueError: If the bank lacks an image; the message names it.
        """
        bank, number = self._bank, self.num_clusterings
        missing = [key for key in keys if key not in bank]
        if missing:
            raise UserError(
                f'BankMasks: {bank.path} has no masks of {missing[0]!r} (nor '
                f'of {len(missing) - 1} others of its group); its {len(bank)} '
                f'keys are such as {bank.keys(1)[0]!r}. A key is the path '
                'relative to data_root: give a bank of the same data and '
                'data_root')
        return [
            np.stack([bank.label_map(key, i) for i in range(number)])
            if number > 1 else bank.label_map(key) for key in keys
        ]


@TASK_UTILS.register_module()
class GridMasks(MaskSource):
    """Cut every image into the same rectangles.

    Args:
        grid (tuple[int, int]): Rows and columns. Defaults to (4, 4).
    """

    def __init__(self, grid: tuple[int, int] = (4, 4)) -> None:
        self.grid = tuple(grid)

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Cut a group of images; see :class:`MaskSource`."""
        cells = np.arange(self.grid[0] * self.grid[1]).reshape(self.grid)
        return [cells for _ in images]


@TASK_UTILS.register_module()
class FelzenszwalbMasks(MaskSource):
    """Segment by colour (Felzenszwalb and Huttenlocher, scikit-image).

    The default values are DetCon's (Sec. 3.1 and its appendix).

    Args:
        scale (float): Larger values give larger segments. Defaults to 1000.
        sigma (float): Width of the smoothing in pixels. Defaults to 0.8.
        min_size (int): Smallest number of pixels in a segment. Defaults to
            1000.
    """

    def __init__(self,
                 scale: float = 1000,
                 sigma: float = 0.8,
                 min_size: int = 1000) -> None:
        self.scale = scale
        self.sigma = sigma
        self.min_size = min_size

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Segment a group of images; see :class:`MaskSource`."""
        from skimage.segmentation import felzenszwalb
        return [
            _reduce(
                felzenszwalb(image[..., ::-1], self.scale, self.sigma,
                             self.min_size)) for image in images
        ]


@TASK_UTILS.register_module()
class AnnotatedMasks(MaskSource):
    """Use the instances of a COCO json: an upper bound, not a method.

    Pixels without an instance are region 0. If instances overlap, the smaller
    one is on top. An image that lies on its side in the json
    (:func:`~cyborgs_plugin.datasets.coco_truth.is_turned`) gets one region and
    a warning.

    Args:
        ann_file (str): The json.
        key_prefix (str): The part of the images' keys before ``file_name``.
            Defaults to ''.

    Raises:
        FileNotFoundError: If the json is missing.
        ValueError: If its content is not valid.
    """

    _most_turned = 5  # so many are named, and stop it if there are no others

    def __init__(self, ann_file: str, key_prefix: str = '') -> None:
        self._ann_file = ann_file
        self._truth = CocoInstances(ann_file)
        self._names = {key_prefix + name: name for name in self._truth.images}
        self._num_upright = self._num_turned = 0

    def fingerprint(self) -> str:
        """The hash of the json."""
        return hashlib.sha256(get(self._ann_file)).hexdigest()

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Draw the instances of a group; see :class:`MaskSource`.

        Raises:
            ValueError: If the json lacks an image, or if all of the first
                images lie on their side in it.
        """
        maps = [self._draw(key) for key in keys]
        turned = []
        for index, image in enumerate(images):
            shape = image.shape[:2]
            if is_turned(shape, self._truth.size(self._names[keys[index]])):
                turned.append(keys[index])
                maps[index] = _reduce(np.zeros(shape, dtype=np.int64))
        self._num_upright += len(images) - len(turned)
        self._warn_of(turned)
        return maps

    def _warn_of(self, turned: list[str]) -> None:
        """Warn of the first images that lie on their side."""
        named = turned[:max(0, self._most_turned - self._num_turned)]
        self._num_turned += len(turned)
        message = (f'{self._ann_file} has height and width the other way '
                   f'round than {named}: {TURNED}')
        if self._num_turned >= self._most_turned and not self._num_upright:
            raise UserError(f'AnnotatedMasks: {message}')
        if named:
            print_log(
                f'{message}. Such images get one region each; those after the '
                f'first {self._most_turned} are not reported',
                logger='current',
                level=logging.WARNING)

    def _draw(self, key: str) -> np.ndarray:
        if key not in self._names:
            raise UserError(f'AnnotatedMasks knows no image {key!r}: check '
                            'its ann_file and key_prefix')
        name = self._names[key]
        ids = np.zeros(self._truth.size(name), dtype=np.int64)
        instances = sorted(
            self._truth.annotations(name),
            key=lambda annotation: annotation['area'],
            reverse=True)
        for number, annotation in enumerate(instances, 1):
            ids[self._truth.mask(annotation)] = number
        return _reduce(ids)


def _reduce(ids: np.ndarray) -> np.ndarray:
    """Reduce a full-size map (H, W) to its cells, sampling their centres."""
    height, width = ids.shape
    return crop_label_map(ids, (height, width), (0, 0, height, width),
                          (-(-height // STRIDE), -(-width // STRIDE)))
