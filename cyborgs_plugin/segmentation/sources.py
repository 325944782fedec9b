"""Where masks come from: the network itself, or a fixed procedure."""
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.fileio import load
from mmpretrain.registry import TASK_UTILS
from torch import Tensor, nn

from .features import FeatureExtractor
from .kmeans import kmeans

GRID = 8
"""Pixels of an image on each side of a cell of a label map."""


class NonFiniteFeaturesError(ValueError):
    """A feature is NaN or infinite: the network has diverged."""


class MaskSource:
    """Base of all sources: makes the label maps of a group of images."""

    uses_network = False
    """Whether the masks change with the network."""

    num_clusterings = 1
    """Label maps of each image; V."""

    def prepare(self, backbone: nn.Module, mean: Sequence[float],
                std: Sequence[float], to_rgb: bool) -> None:
        """Get ready for a round.

        Args:
            backbone (nn.Module): The network as it is now.
            mean (Sequence[float]): Mean of each channel.
            std (Sequence[float]): Standard deviation of each channel.
            to_rgb (bool): Whether the network sees RGB images.
        """

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> List[np.ndarray]:
        """Segment a group of images.

        Args:
            images (Sequence[np.ndarray]): BGR images, each (H, W, 3), uint8.
            keys (Sequence[str]): The image's keys.
            seed (Sequence[int]): Seed of the run, round, group.

        Returns:
            List[np.ndarray]: Ids for each image, integer: (h, w), or
            (V, h, w) where ``num_clusterings`` V is above 1.
        """
        raise NotImplementedError


@TASK_UTILS.register_module()
class NetworkMasks(MaskSource):
    """Cluster the network's own features (CYBORGS, Sec. 3.3).

    The unit vectors of one layer, of all locations of all images of a group,
    are clustered by k-means; K is drawn anew for each group.

    Args:
        layer (str): Name of the backbone's submodule. Defaults to 'layer2.2'.
        num_clusters (int or Tuple[int, int]): K, or the closed range from
            which it is drawn uniformly; lowered to the number of locations of
            the smallest image. Defaults to (2, 256).
        num_iters (int): Largest number of iterations. Defaults to 20.
    """

    uses_network = True

    def __init__(self,
                 layer: str = 'layer2.2',
                 num_clusters: Union[int, Tuple[int, int]] = (2, 256),
                 num_iters: int = 20) -> None:
        span = (num_clusters if isinstance(num_clusters, (tuple, list)) else
                (num_clusters, num_clusters))
        if len(span) != 2 or not 1 <= span[0] <= span[1] <= 65536:
            raise ValueError(
                'default_hooks.mask_update.source.num_clusters must be a '
                'number or a range (low, high) within 1 to 65536, but is '
                f'{num_clusters}')
        self.layer = layer
        self.num_clusters = span
        self.num_iters = num_iters
        self._extractor: Optional[FeatureExtractor] = None

    def prepare(self, backbone: nn.Module, mean: Sequence[float],
                std: Sequence[float], to_rgb: bool) -> None:
        """Copy the network as it is now."""
        self._extractor = FeatureExtractor(backbone, self.layer, mean, std,
                                           to_rgb)

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> List[np.ndarray]:
        """Cluster a group of images; see :class:`MaskSource`.

        Raises:
            NonFiniteFeaturesError: If a feature is NaN or infinite; names
                the image.
        """
        if self._extractor is None:
            raise RuntimeError('NetworkMasks.prepare() comes first')
        features = self._extractor(images)
        for key, feature in zip(keys, features):
            if not torch.isfinite(feature.sum()):
                raise NonFiniteFeaturesError(
                    f'The features of {key!r} at {self.layer} hold NaN or '
                    'infinite values: the network has diverged, lower the '
                    'learning rate')
        random = np.random.default_rng(list(seed))
        low, high = self.num_clusters
        smallest = min(feature[..., 0].numel() for feature in features)
        count = min(int(random.integers(low, high + 1)), smallest)
        points = torch.cat([feature.flatten(0, 1) for feature in features])
        labels, _ = kmeans(points, count, self.num_iters,
                           int(random.integers(2**31)))
        return _split(labels, [feature.shape[:2] for feature in features])


def _split(labels: Tensor, sizes: Sequence[Sequence[int]]) -> List[np.ndarray]:
    """Cut the labels of a group (M, ) into its images' maps."""
    flat = labels.cpu().numpy()
    ends = np.cumsum([height * width for height, width in sizes])[:-1]
    return [
        part.reshape(tuple(size)) for part, size in zip(
            np.split(flat, ends), sizes)
    ]


@TASK_UTILS.register_module()
class GridMasks(MaskSource):
    """Cut every image into the same rectangles.

    Args:
        grid (Tuple[int, int]): Rows and columns. Defaults to (4, 4).
    """

    def __init__(self, grid: Tuple[int, int] = (4, 4)) -> None:
        self.grid = tuple(grid)

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> List[np.ndarray]:
        """Cut a group of images; see :class:`MaskSource`."""
        cells = np.arange(self.grid[0] * self.grid[1]).reshape(self.grid)
        return [cells for _ in images]


@TASK_UTILS.register_module()
class FelzenszwalbMasks(MaskSource):
    """Segment by colour (Felzenszwalb and Huttenlocher, scikit-image).

    The default values are DetCon's (Sec. 3.1 and its appendix).

    Args:
        scale (float): Larger values give larger segments.
            Defaults to 1000.
        sigma (float): Width of the smoothing in pixels. Defaults to 0.8.
        min_size (int): Fewest pixels of a segment. Defaults to 1000.
    """

    def __init__(self,
                 scale: float = 1000,
                 sigma: float = 0.8,
                 min_size: int = 1000) -> None:
        self.scale = scale
        self.sigma = sigma
        self.min_size = min_size

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> List[np.ndarray]:
        """Segment a group of images; see :class:`MaskSource`."""
        from skimage.segmentation import felzenszwalb
        return [
            _reduce(
                felzenszwalb(image[..., ::-1], self.scale, self.sigma,
                             self.min_size)) for image in images
        ]


@TASK_UTILS.register_module()
class AnnotatedMasks(MaskSource):
    """Take the instances of a COCO json: an upper bound, not a method.

    Pixels of no instance are region 0; where instances overlap, the smaller
    one is on top.

    Args:
        ann_file (str): The json.
        key_prefix (str): What the images' keys have before ``file_name``.
            Defaults to ''.
    """

    def __init__(self, ann_file: str, key_prefix: str = '') -> None:
        content = load(ann_file)
        names = {image['id']: image for image in content['images']}
        self._sizes = {
            key_prefix + image['file_name']: (image['height'], image['width'])
            for image in names.values()
        }
        self._instances: dict = {key: [] for key in self._sizes}
        for annotation in content['annotations']:
            name = names[annotation['image_id']]['file_name']
            self._instances[key_prefix + name].append(annotation)

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> List[np.ndarray]:
        """Draw the instances of a group; see :class:`MaskSource`."""
        return [self._draw(key) for key in keys]

    def _draw(self, key: str) -> np.ndarray:
        from pycocotools import mask as coco_mask
        if key not in self._sizes:
            raise ValueError(f'AnnotatedMasks knows no image {key!r}: check '
                             'its ann_file and key_prefix')
        size = self._sizes[key]
        ids = np.zeros(size, dtype=np.int64)
        instances = sorted(
            self._instances[key], key=lambda a: a['area'], reverse=True)
        for number, annotation in enumerate(instances, 1):
            segmentation = annotation['segmentation']
            if isinstance(segmentation, list):
                rles = coco_mask.frPyObjects(segmentation, *size)
                rle = coco_mask.merge(rles)
            elif isinstance(segmentation['counts'], list):
                rle = coco_mask.frPyObjects(segmentation, *size)
            else:
                rle = segmentation
            ids[coco_mask.decode(rle) > 0] = number
        return _reduce(ids)


def _reduce(ids: np.ndarray) -> np.ndarray:
    """Bring a full-size map (H, W) to the grid, sampling cell centres."""
    height, width = ids.shape
    rows, cols = -(-height // GRID), -(-width // GRID)
    row = np.minimum((2 * np.arange(rows) + 1) * height // (2 * rows), height)
    col = np.minimum((2 * np.arange(cols) + 1) * width // (2 * cols), width)
    return ids[row[:, None], col]
