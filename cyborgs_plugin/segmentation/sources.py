"""Where masks come from: the network itself, or a fixed procedure."""
import hashlib
import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.fileio import get
from mmengine.logging import print_log
from mmpretrain.registry import TASK_UTILS
from torch import Tensor, nn

from ..datasets.coco_truth import (
    TURNED,
    is_turned,
    list_images,
    load_coco,
)
from ..datasets.mask_bank import MaskBank
from ..errors import MissingPackageError, UserError
from ..ops import crop_label_map, kmeans
from ..precision import warn_if_bfloat16_is_slow
from .features import FeatureExtractor

GRID = 8
"""Pixels of an image on each side of a cell of a label map."""
_PCA_SAMPLE = 16384
"""Points of a group that tell its principal components, about."""


class NonFiniteFeaturesError(ValueError):
    """A feature is NaN or infinite: the network has diverged."""


class MaskSource:
    """Base of all sources: makes the label maps of a group of images."""

    uses_network = False
    """Whether the masks change with the network."""

    num_clusterings = 1
    """Label maps of each image; V."""

    checkpoint: str | None = None
    """File of weights in place of those of the network in training."""

    def fingerprint(self) -> str | None:
        """Hash what the masks depend on beside config, network and images.

        Returns:
            str, optional: SHA-256 of the content of files. A round is used
            again only where it is the same. None: of no file.
        """
        return None

    def network(self, backbone: nn.Module) -> nn.Module:
        """The network that is clustered, with the checkpoint's weights if any.

        Args:
            backbone (nn.Module): The network in training; left as it is.

        Returns:
            nn.Module: It, or a copy with other weights.

        Raises:
            UserError: If the checkpoint's weights do not fit.
        """
        if self.checkpoint is None:
            return backbone
        return _with_weights(backbone, self.checkpoint)

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
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Segment a group of images.

        Args:
            images (Sequence[np.ndarray]): BGR images, each (H, W, 3), uint8.
            keys (Sequence[str]): The image's keys.
            seed (Sequence[int]): Seed of the run, round, group.

        Returns:
            list[np.ndarray]: Ids for each image, integer: (h, w), or
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
        num_clusters (int or tuple[int, int]): K, or the closed range from
            which it is drawn uniformly; lowered to the number of locations of
            the smallest image, which is logged once a round. Tiny images do
            not count for that: those with fewer locations than the lower end
            of the range, or than a hundredth of the group's median.
            Defaults to (2, 256).
        num_iters (int): Largest number of iterations. Defaults to 20.
        kmeans_init (str): Where k-means starts: 'random', at random points
            as published, or 'k-means++', at points far apart, which only the
            backend 'torch' has. Defaults to 'random'.
        num_clusterings (int): Label maps of each image, each with a K and a
            start of its own; every epoch of training draws one.
            Defaults to 1.
        pca_dim (int, optional): Keep so many principal components of the
            group's vectors. Defaults to None, all of the vectors.
        position_weight (float): Add to each vector its location, row and
            column from -1 to 1 across the image, times this weight.
            Defaults to 0.
        backend (str): 'torch', or 'faiss' (pip install faiss-cpu), which
            clusters on the CPU as published. Defaults to 'torch'.
        reflect (int): Pixels mirrored beyond each border for the forward; a
            multiple of 32. Without them the zeros that convolutions pad with
            make the border of every image a region of its own. Defaults to
            0, as published.
        smooth (float): Average the unit vectors over their neighbours first,
            by a Gaussian of this standard deviation in pixels of the image:
            what a region is told by is its mean, not the texture of a single
            cell. Defaults to 0, as published.
        long_side (int, optional): Bring every image to this long side in
            pixels before the forward, of which ``reflect`` and ``smooth``
            then count the pixels. Defaults to None, each at its own size, as
            published: COCO's is 640, other photographs may be far from it.
        max_pixels (int, optional): Reduce images of more pixels to about so
            many before the forward, since the features of a group are held
            at once; ``reflect`` and ``smooth`` then count the pixels that are
            left. Not with ``long_side``, which bounds them too. None: no
            limit. Defaults to 2097152, of which 1920x1080 stays below.
        dtype (str): Precision of the network's forward, 'float32' or
            'bfloat16', which takes half the time where the hardware has it
            and many times as long on a CPU that does not, which is warned
            of. Defaults to 'float32'.
        checkpoint (str, optional): File of weights for the backbone, with
            or without the prefix ``backbone.``. Defaults to None, those of
            the network in training.
    """

    uses_network = True

    def __init__(self,
                 layer: str = 'layer2.2',
                 num_clusters: int | tuple[int, int] = (2, 256),
                 num_iters: int = 20,
                 kmeans_init: str = 'random',
                 num_clusterings: int = 1,
                 pca_dim: int | None = None,
                 position_weight: float = 0.,
                 reflect: int = 0,
                 smooth: float = 0.,
                 long_side: int | None = None,
                 max_pixels: int | None = 1 << 21,
                 backend: str = 'torch',
                 dtype: str = 'float32',
                 checkpoint: str | None = None) -> None:
        span = (num_clusters if isinstance(num_clusters, (tuple, list)) else
                (num_clusters, num_clusters))
        _expect(
            len(span) == 2 and 1 <= span[0] <= span[1] <= 65536,
            'num_clusters', num_clusters,
            'a number or a range (low, high) within 1 to 65536')
        _expect(num_iters >= 0, 'num_iters', num_iters, '0 or more')
        _expect(kmeans_init in ('random', 'k-means++'), 'kmeans_init',
                kmeans_init, "'random' or 'k-means++'")
        _expect(kmeans_init == 'random' or backend == 'torch', 'kmeans_init',
                kmeans_init, "'random' where backend='faiss'")
        _expect(num_clusterings >= 1, 'num_clusterings', num_clusterings,
                '1 or more')
        _expect(pca_dim is None or pca_dim >= 1, 'pca_dim', pca_dim,
                'None, or 1 or more')
        _expect(position_weight >= 0, 'position_weight', position_weight,
                '0 or more')
        _expect(reflect >= 0 and reflect % 32 == 0, 'reflect', reflect,
                'a multiple of 32')
        _expect(smooth >= 0, 'smooth', smooth, '0 or more')
        _expect(long_side is None or long_side >= 32, 'long_side', long_side,
                'None, or 32 or more')
        _expect(max_pixels is None or max_pixels >= 32 * 32, 'max_pixels',
                max_pixels, 'None, or 1024 or more')
        _expect(backend in ('torch', 'faiss'), 'backend', backend,
                "'torch' or 'faiss'")
        _expect(dtype in ('float32', 'bfloat16'), 'dtype', dtype,
                "'float32' or 'bfloat16'")
        if backend == 'faiss' and find_spec('faiss') is None:
            raise MissingPackageError(
                "default_hooks.mask_update.source.backend='faiss', but faiss "
                'is not installed: pip install faiss-cpu, or take '
                "backend='torch'")
        self.layer = layer
        self.num_clusters = span
        self.num_iters = num_iters
        self.num_clusterings = num_clusterings
        self.pca_dim = pca_dim
        self.position_weight = position_weight
        self.reflect = reflect
        self.smooth = smooth
        self.long_side = long_side
        self.max_pixels = max_pixels
        self.checkpoint = checkpoint
        self._kmeans: Callable[..., tuple[Tensor, Tensor]] = (
            partial(kmeans, init=kmeans_init) if backend == 'torch' else
            _faiss_kmeans)
        self._dtype = getattr(torch, dtype)
        self._extractor: FeatureExtractor | None = None
        self._lowered = False

    def prepare(self, backbone: nn.Module, mean: Sequence[float],
                std: Sequence[float], to_rgb: bool) -> None:
        """Copy the network as it is now, or with the checkpoint's weights.

        Raises:
            ValueError: If the checkpoint's weights do not fit, or the
                backbone has no such layer, or the layer gives no maps.
        """
        backbone = self.network(backbone)
        if (self._dtype == torch.bfloat16
                and next(backbone.parameters()).device.type == 'cpu'):
            warn_if_bfloat16_is_slow(
                "Take default_hooks.mask_update.source.dtype='float32'")
        self._extractor = FeatureExtractor(backbone, self.layer, mean, std,
                                           to_rgb, self._dtype, self.reflect,
                                           self.smooth, self.long_side,
                                           self.max_pixels)
        self._lowered = False

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Cluster a group of images; see :class:`MaskSource`."""
        return self.cluster(self.features(images), keys, seed)

    def features(self, images: Sequence[np.ndarray]) -> list[Tensor]:
        """Compute what is clustered.

        Args:
            images (Sequence[np.ndarray]): BGR images, each (H, W, 3), uint8.

        Returns:
            list[Tensor]: Unit vectors of each image, (h, w, C), float32.
        """
        if self._extractor is None:
            raise RuntimeError('NetworkMasks.prepare() comes first')
        return self._extractor(images)

    def cluster(self, features: list[Tensor], keys: Sequence[str],
                seed: Sequence[int]) -> list[np.ndarray]:
        """Cluster the features of a group; see :meth:`label_maps`.

        Args:
            features (list[Tensor]): As :meth:`features` gives them. The list
                is emptied, so that they are not held twice.
            keys (Sequence[str]): The images' keys.
            seed (Sequence[int]): Seed of the run, round, group.

        Returns:
            list[np.ndarray]: As of :meth:`label_maps`.

        Raises:
            NonFiniteFeaturesError: If a feature is NaN or infinite; names
                the image.
        """
        sizes = [tuple(feature.shape[:2]) for feature in features]
        points = torch.cat([feature.flatten(0, 1) for feature in features])
        if not torch.isfinite(points.sum()):
            key = next(key for key, feature in zip(keys, features)
                       if not torch.isfinite(feature).all())
            raise NonFiniteFeaturesError(
                f'The features of {key!r} at {self.layer} hold NaN or '
                'infinite values: the network has diverged, lower the '
                'learning rate')
        features.clear()  # each as large as its part of the points
        if self.pca_dim is not None:
            points = _principal(points, self.pca_dim)
        if self.position_weight:
            places = _positions(sizes).to(points) * self.position_weight
            points = torch.cat([points, places], dim=1)
        random = np.random.default_rng(list(seed))
        smallest, most = _smallest(sizes, self.num_clusters[0])
        labels = []
        for _ in range(self.num_clusterings):
            count = int(random.integers(self.num_clusters[0],
                                        self.num_clusters[1] + 1))
            if count > most:
                self._log_lowered(count, most, keys[smallest])
            ids, _ = self._kmeans(points, min(count, most), self.num_iters,
                                  int(random.integers(2**31)))
            labels.append(ids)
        return _split(torch.stack(labels), sizes)

    def _log_lowered(self, count: int, most: int, key: str) -> None:
        if not self._lowered:
            print_log(
                f'K = {count} is lowered to {most}, the number of locations '
                f'of {key!r} at {self.layer}; further groups of this round '
                'with too high a K are not reported',
                logger='current')
        self._lowered = True


def _expect(valid: bool, name: str, found: Any, expected: str) -> None:
    """Check an option of :class:`NetworkMasks`."""
    if not valid:
        raise UserError(f'default_hooks.mask_update.source.{name} must be '
                        f'{expected}, but is {found!r}')


def _smallest(sizes: Sequence[tuple[int, ...]],
              fewest: int) -> tuple[int, int]:
    """The smallest image of a group that is not tiny, and its locations.

    A single icon among photographs would decide K for all of them.
    """
    counts = np.prod(sizes, axis=1)
    tiny = counts < max(fewest, np.median(counts) / 100)
    ordinary = np.where(tiny & ~tiny.all(), counts.max() + 1, counts)
    smallest = int(ordinary.argmin())
    return smallest, int(counts[smallest])


def _with_weights(backbone: nn.Module, path: str) -> nn.Module:
    """A copy of the backbone with the weights of a file, all of them."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f'{path} holds more than tensors, as a training checkpoint does: '
            'take its backbone out by tools/model_converters/'
            'publish_backbone.py first') from error
    state = content.get('state_dict', content)
    prefix = 'backbone.' if any(
        name.startswith('backbone.') for name in state) else ''
    own = backbone.state_dict()
    missing = [
        name for name in own
        if prefix + name not in state and 'num_batches_tracked' not in name
    ]
    if missing:
        raise UserError(
            f'{path} lacks {len(missing)} of the {len(own)} tensors of '
            f'{type(backbone).__name__}, such as {prefix}{missing[0]}; it has '
            f'{sorted(state)[:3]} and so on')
    copy = deepcopy(backbone)
    copy.load_state_dict({
        name: state.get(prefix + name, value)
        for name, value in own.items()
    })
    return copy


def _principal(points: Tensor, dim: int) -> Tensor:
    """Project points (M, D) to their first principal components (M, dim)."""
    _expect(dim <= points.shape[1], 'pca_dim', dim,
            f"at most the layer's {points.shape[1]} channels")
    sample = points[::-(-len(points) // _PCA_SAMPLE)]
    _, vectors = torch.linalg.eigh(sample.double().T.cov())
    return points @ vectors[:, -dim:].to(points)


def _positions(sizes: Sequence[tuple[int, ...]]) -> Tensor:
    """Row and column of each location of images, -1 to 1, (M, 2)."""
    return torch.cat([
        torch.cartesian_prod(*((2 * torch.arange(side) + 1) / side - 1
                               for side in size)) for size in sizes
    ])


def _faiss_kmeans(points: Tensor, num_clusters: int, num_iters: int,
                  seed: int) -> tuple[Tensor, Tensor]:
    """The published k-means: all points, random starts, on the CPU."""
    import faiss
    data = points.cpu().numpy()
    trained = faiss.Kmeans(
        data.shape[1],
        num_clusters,
        niter=num_iters,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(data))
    trained.train(data)
    labels = trained.index.search(data, 1)[1][:, 0]
    return torch.from_numpy(labels), torch.from_numpy(trained.centroids)


def _split(labels: Tensor, sizes: Sequence[tuple[int, ...]]
           ) -> list[np.ndarray]:
    """Cut labels (V, M) of a group into its images' (h, w) or (V, h, w)."""
    ends = np.cumsum([height * width for height, width in sizes])[:-1]
    parts = np.split(labels.cpu().numpy(), ends, axis=1)
    shape = labels.shape[:1] if len(labels) > 1 else ()
    return [part.reshape(*shape, *size) for part, size in zip(parts, sizes)]


@TASK_UTILS.register_module()
class BankMasks(MaskSource):
    """Take the masks of a bank that is there already, as they are.

    Args:
        path (str): A round's folder, or the root of several: the newest.
            A newer round may appear while this one is read.

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
            ValueError: If the bank lacks an image; names it.
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
    """Take the instances of a COCO json: an upper bound, not a method.

    Pixels of no instance are region 0; where instances overlap, the smaller
    one is on top. An image that lies on its side in the json
    (:func:`~cyborgs_plugin.datasets.coco_truth.is_turned`) gets one region,
    and a warning.

    Args:
        ann_file (str): The json.
        key_prefix (str): What the images' keys have before ``file_name``.
            Defaults to ''.

    Raises:
        FileNotFoundError: If the json is missing.
        ValueError: If it is not what it should be.
    """

    _most_turned = 5  # so many are named, and stop it if there are no others

    def __init__(self, ann_file: str, key_prefix: str = '') -> None:
        content = load_coco(ann_file, ('images', 'annotations'))
        listed = list_images(ann_file, content['images'])
        self._ann_file = ann_file
        self._sizes = {
            key_prefix + name: image.size for name, image in listed.items()
        }
        self._instances: dict = {key: [] for key in self._sizes}
        keys = {
            number: key_prefix + name
            for name, image in listed.items() for number in image.ids
        }
        for annotation in content['annotations']:
            if annotation['image_id'] in keys:
                self._instances[keys[annotation['image_id']]].append(
                    annotation)
        self._num_upright = self._num_turned = 0

    def fingerprint(self) -> str:
        """The hash of the json."""
        return hashlib.sha256(get(self._ann_file)).hexdigest()

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Draw the instances of a group; see :class:`MaskSource`.

        Raises:
            ValueError: If the json lacks an image, or the first images that
                come all lie on their side in it.
        """
        maps = [self._draw(key) for key in keys]
        turned = []
        for index, image in enumerate(images):
            shape = image.shape[:2]
            if is_turned(shape, self._sizes[keys[index]]):
                turned.append(keys[index])
                maps[index] = _reduce(np.zeros(shape, dtype=np.int64))
        self._num_upright += len(images) - len(turned)
        self._warn_of(turned)
        return maps

    def _warn_of(self, turned: list[str]) -> None:
        """Tell of the first images that lie on their side."""
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
        from pycocotools import mask as coco_mask
        if key not in self._sizes:
            raise UserError(f'AnnotatedMasks knows no image {key!r}: check '
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
    return crop_label_map(ids, (height, width), (0, 0, height, width),
                          (-(-height // GRID), -(-width // GRID)))
