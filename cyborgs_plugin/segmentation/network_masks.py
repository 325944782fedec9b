"""Masks from the network itself: its features, clustered."""
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from mmpretrain.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from ..errors import MissingPackageError, UserError
from ..ops import kmeans
from ..ops.superpixels import check_superpixels
from ..precision import warn_if_bfloat16_is_slow
from ..start_file import load_start
from .features import FeatureExtractor, resized
from .known_superpixels import known_superpixels
from .layer_choice import choose_layer
from .linkage import LINKAGES, clusters, merges
from .network_state import copy_of
from .parts import Parts, Preprocessed
from .sources import MaskSource, NonFiniteFeaturesError

_PCA_SAMPLE = 16384
"""Approximate number of points used for the principal components."""


@TASK_UTILS.register_module()
class NetworkMasks(MaskSource):
    """Cluster the network's own features (CYBORGS, Sec. 3.3).

    k-means clusters the unit vectors of one layer, for all locations of all
    images of a group. K is drawn again for each group.

    Args:
        layer (str, optional): Name of a submodule of the backbone. Defaults to
            None: the end of the stage with stride 8, for a ResNet-50 the
            published 'layer2.2' (:func:`choose_layer`).
        num_clusters (int or tuple[int, int]): K, or the closed range from
            which it is drawn uniformly. It is lowered to the number of
            locations in the smallest image, which is logged once per round.
            Tiny images do not count for this: those with fewer locations than
            the lower end of the range, or than a hundredth of the group's
            median. Defaults to (2, 256).
        num_iters (int): Largest number of iterations. Defaults to 20.
        kmeans_init (str): Where k-means starts: 'random', at random points, as
            published; or 'k-means++', at points far apart, only with the
            backend 'torch'. Defaults to 'random'.
        num_clusterings (int): Label maps per image, each with its own K and
            start; every epoch of training draws one of them. Defaults to 1.
        pca_dim (int, optional): Keep this many principal components of the
            group's vectors. Defaults to None, the full vectors.
        position_weight (float): Add to each vector its location, row and
            column from -1 to 1 across the image, times this weight.
            Defaults to 0.
        colour_weight (float): Add to each vector its colour, CIELAB / 50,
            times this weight. Defaults to 0.
        superpixels (dict, optional): Cluster superpixels of the image instead
            of cells, so that regions follow edges. A superpixel is represented
            by the mean of its cells' vectors and counts as often as it has
            cells. Options: ``type`` 'Felzenszwalb' or 'SLIC', ``stride`` of
            the label maps, and options
            (:func:`~cyborgs_plugin.ops.superpixels.find_superpixels`). With
            ``smooth``, a superpixel has the averaged vectors and the plain
            ones side by side. K is lowered to the number of superpixels in the
            group. The decoding threads compute them, once per photograph and
            process. Defaults to None, cells, as published.
        plain_weight (float): With ``superpixels`` and ``smooth``, the length
            of the plain vectors beside the averaged ones of length 1. Without
            them (0), many small regions overlap better with objects, at a
            lower ARI. Defaults to 1.
        linkage (str, optional): With ``superpixels``, merge them step by step
            instead of by k-means: 'average', the two groups of superpixels
            with the smallest mean distance, or 'ward', those that add least to
            the variance (SciPy). Each superpixel counts once, whatever its
            size, and chance draws K alone; ``kmeans_init``, ``num_iters`` and
            ``backend`` have no effect. Distances of all pairs are held: at
            most 20,000 superpixels per group of images. Defaults to None,
            k-means.
        backend (str): 'torch', or 'faiss' (pip install faiss-cpu), which
            clusters on the CPU, as published. Defaults to 'torch'.
        reflect (int): Pixels mirrored beyond each border for the forward; a
            multiple of 32. Without them, the zeros that convolutions pad with
            make the border of every image a region of its own. Defaults to 0,
            as published.
        smooth (float): Average the unit vectors over their neighbours first,
            by a Gaussian of this standard deviation in pixels of the image. A
            region is recognised by its mean, not by the texture of a single
            cell. Defaults to 0, as published.
        long_side (int, optional): Resize every image to this long side in
            pixels before the forward; ``reflect`` and ``smooth`` then count
            these pixels. Defaults to None, each image at its own size, as
            published. COCO's long side is 640; other photographs may differ
            much.
        max_pixels (int, optional): Reduce images of more pixels to about this
            number before the forward, since the features of a whole group are
            held in memory; ``reflect`` and ``smooth`` then count the remaining
            pixels. Ignored with ``long_side``, which also limits the size.
            None: no limit. Defaults to 2097152, which is more than 1920x1080.
        dtype (str): Precision of the network's forward, 'float32' or
            'bfloat16'. The latter halves the time if the hardware supports it.
            A CPU that does not takes many times as long, and a warning says
            so. Defaults to 'float32'.
        checkpoint (str, optional): File of weights for the backbone, from any
            common source (:func:`start_file.fit_names`). Defaults to None, the
            weights of the network in training.
        backbone (dict, optional): Config of another network, which needs a
            ``checkpoint``. It uses the preprocessing of the network in
            training. Defaults to None, the network in training.
    """

    uses_network = True
    layer: str
    """'' until the network that is clustered is known."""

    def __init__(self,
                 layer: str | None = None,
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
                 checkpoint: str | None = None,
                 backbone: dict | None = None,
                 colour_weight: float = 0.,
                 superpixels: dict | None = None,
                 plain_weight: float = 1.,
                 linkage: str | None = None) -> None:
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
        _expect(colour_weight >= 0, 'colour_weight', colour_weight,
                '0 or more')
        _check_superpixels(superpixels)
        _expect(plain_weight >= 0, 'plain_weight', plain_weight, '0 or more')
        _expect(linkage in (None, *LINKAGES), 'linkage', linkage,
                f'None or one of {LINKAGES}')
        _expect(linkage is None or superpixels is not None, 'linkage', linkage,
                'None without superpixels (there are too many cells)')
        _expect(linkage is None or num_clusterings == 1 or span[0] < span[1],
                'num_clusterings', num_clusterings, '1 where linkage is set '
                'and num_clusters is one number (all would be the same)')
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
        _expect(backbone is None or checkpoint is not None, 'checkpoint',
                checkpoint, 'the file of the weights of its `backbone`')
        _expect(not (backbone or {}).get('pretrained')
                and not (backbone or {}).get('init_cfg'), 'backbone',
                backbone, 'without weights of its own (pretrained, init_cfg):'
                ' `checkpoint` names their file')
        if backend == 'faiss' and find_spec('faiss') is None:
            raise MissingPackageError(
                "default_hooks.mask_update.source.backend='faiss', but faiss "
                'is not installed: pip install faiss-cpu, or take '
                "backend='torch'")
        self.layer = layer or ''
        self.num_clusters = span
        self.num_iters = num_iters
        self.num_clusterings = num_clusterings
        self.pca_dim = pca_dim
        self.position_weight = position_weight
        self.colour_weight = colour_weight
        self.superpixels = superpixels
        self.plain_weight = plain_weight
        self.linkage = linkage
        self.reflect = reflect
        self.smooth = smooth
        self.long_side = long_side
        self.max_pixels = max_pixels
        self.checkpoint = checkpoint
        self.backbone = backbone
        self._kmeans: Callable[..., tuple[Tensor, Tensor]] = (
            partial(kmeans, init=kmeans_init) if backend == 'torch' else
            _faiss_kmeans)
        self._dtype = getattr(torch, dtype)
        self._extractor: FeatureExtractor | None = None
        self._lowered = False

    @property
    def _keeps_plain(self) -> bool:
        """Whether plain vectors stand beside the averaged ones."""
        return bool(self.superpixels and self.smooth and self.plain_weight)

    def architecture(self, backbone: nn.Module) -> nn.Module:
        """The network whose features are clustered, with any weights."""
        if self.backbone is None:
            return backbone
        built = MODELS.build(self.backbone)
        return built.to(next(backbone.parameters()).device)

    def network(self, backbone: nn.Module) -> nn.Module:
        """The network whose features are clustered, with its weights.

        Raises:
            UserError: If the checkpoint's weights do not fit.
        """
        if self.checkpoint is not None:
            backbone = copy_of(self.architecture(backbone))
            load_start(backbone, self.checkpoint)
        self._know_layer(backbone)
        return backbone

    def _know_layer(self, backbone: nn.Module) -> None:
        self.layer = self.layer or choose_layer(backbone)

    def prepare(self, backbone: nn.Module,
                data_preprocessor: BaseDataPreprocessor) -> None:
        """Copy what :meth:`network` returned, in its current state.

        Raises:
            ValueError: If the backbone has no such layer, or the output of the
                layer is not a map.
        """
        if self._dtype == torch.bfloat16:
            warn_if_bfloat16_is_slow(
                "Take default_hooks.mask_update.source.dtype='float32'",
                next(backbone.parameters()).device.type)
        self._know_layer(backbone)
        self._extractor = FeatureExtractor(backbone, self.layer,
                                           data_preprocessor, self._dtype,
                                           self.reflect, self.smooth,
                                           self.long_side, self.max_pixels,
                                           self._keeps_plain)
        self._lowered = False

    def preprocess(self, image: np.ndarray) -> Any:
        """Find the superpixels of an image, if configured."""
        if self.superpixels is None:
            return image
        image = resized(image, self.long_side, self.max_pixels)
        return Preprocessed(image,
                            known_superpixels(image, **self.superpixels))

    def label_maps(self, images: Sequence[Any], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Cluster a group of images; see :class:`MaskSource`."""
        return self.cluster(self.features(images), keys, seed)

    def features(self, images: Sequence[Any]) -> list[Any]:
        """Compute the features to be clustered.

        Args:
            images (Sequence): BGR images, each (H, W, 3), uint8, or what
                :meth:`preprocess` returned for them.

        Returns:
            list[Tensor] or list[Parts]: Unit vectors of each image, (h, w, C),
            float32; with ``superpixels`` or ``colour_weight``, the parts of
            each image.
        """
        if self._extractor is None:
            raise RuntimeError('NetworkMasks.prepare() comes first')
        if self.superpixels is None and not self.colour_weight:
            return self._extractor(images)
        prepared = [
            image if isinstance(image, Preprocessed) else
            self.preprocess(image) for image in images
        ]
        pictures = [one.image if isinstance(one, Preprocessed) else one
                    for one in prepared]
        # Only the means of each batch are kept.
        parts = {
            index: Parts.of_superpixels(maps, prepared[index].superpixels,
                                        (self.plain_weight, 1.)
                                        if self._keeps_plain else (1., ))
            if self.superpixels else Parts.of_cells(maps, pictures[index])
            for index, maps in self._extractor.each(pictures)
        }
        return [parts[index] for index in range(len(images))]

    def cluster(self, features: list[Any], keys: Sequence[str],
                seed: Sequence[int]) -> list[np.ndarray]:
        """Cluster the features of a group; see :meth:`label_maps`.

        Args:
            features (list): From :meth:`features`. The list is emptied, so
                that features are not held twice.
            keys (Sequence[str]): The images' keys.
            seed (Sequence[int]): Seed of the run, round, group.

        Returns:
            list[np.ndarray]: As from :meth:`label_maps`.

        Raises:
            NonFiniteFeaturesError: If a feature is NaN or infinite; the
                message names the image.
        """
        parts = [feature if isinstance(feature, Parts) else
                 Parts.of_cells(feature) for feature in features]
        points = torch.cat([part.vectors for part in parts])
        if not torch.isfinite(points.sum()):
            key = next(key for key, part in zip(keys, parts)
                       if not torch.isfinite(part.vectors).all())
            raise NonFiniteFeaturesError(
                f'The features of {key!r} at {self.layer} hold NaN or '
                'infinite values: the network has diverged, lower the '
                'learning rate')
        maps = [part.ids for part in parts]
        counts = _joined([part.counts for part in parts])
        places = _joined([part.places for part in parts])
        colours = _joined([part.colours for part in parts])
        del parts
        features.clear()  # each as large as its part of the points
        if self.pca_dim is not None:
            points = _principal(points, self.pca_dim, counts)
        for values, weight in ((places, self.position_weight),
                               (colours, self.colour_weight)):
            if values is not None and weight:
                points = torch.cat([points, values * weight], dim=1)
        random = np.random.default_rng(list(seed))
        if counts is None:
            smallest, most = _smallest([ids.shape for ids in maps],
                                       self.num_clusters[0])
            limit = f'locations of {keys[smallest]!r} at {self.layer}'
        else:
            most = len(points)
            limit = f'superpixels of the group of {keys[0]!r}'
        tree = merges(points, self.linkage, keys[0]) if self.linkage else None
        labels = []
        for _ in range(self.num_clusterings):
            count = int(random.integers(self.num_clusters[0],
                                        self.num_clusters[1] + 1))
            if count > most:
                self._log_lowered(count, most, limit)
            count, start = min(count, most), int(random.integers(2**31))
            labels.append(
                self._kmeans(points, count, self.num_iters, start,
                             weights=counts)[0]
                if tree is None else clusters(tree, count))
        return _split(torch.stack(labels), maps)

    def _log_lowered(self, count: int, most: int, limit: str) -> None:
        if not self._lowered:
            print_log(
                f'K = {count} is lowered to {most}, the number of {limit}; '
                'further groups of this round with too high a K are not '
                'reported',
                logger='current')
        self._lowered = True


def _expect(valid: bool, name: str, found: Any, expected: str) -> None:
    """Check an option of :class:`NetworkMasks`."""
    if not valid:
        raise UserError(f'default_hooks.mask_update.source.{name} must be '
                        f'{expected}, but is {found!r}')


def _check_superpixels(found: Any) -> None:
    """Check the option ``superpixels`` of :class:`NetworkMasks`."""
    _expect(found is None or isinstance(found, dict) and 'type' in found,
            'superpixels', found,
            "None, or dict(type='Felzenszwalb') or dict(type='SLIC')")
    try:
        check_superpixels(**(found or {}))
    except ValueError as error:
        raise UserError(
            f'default_hooks.mask_update.source.superpixels: {error}'
        ) from error


def _joined(values: Sequence[Tensor | None]) -> Tensor | None:
    """Values of all images; None if images have none."""
    there = [value for value in values if value is not None]
    return torch.cat(there) if there else None


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


def _principal(points: Tensor, dim: int,
               weights: Tensor | None = None) -> Tensor:
    """Project points (M, D) to their first principal components (M, dim)."""
    _expect(dim <= points.shape[1], 'pca_dim', dim,
            f"at most the layer's {points.shape[1]} channels")
    step = -(-len(points) // _PCA_SAMPLE)
    times = None if weights is None else weights[::step].double()
    covariance = points[::step].double().T.cov(aweights=times)
    _, vectors = torch.linalg.eigh(covariance)
    return points @ vectors[:, -dim:].to(points)


def _faiss_kmeans(points: Tensor, num_clusters: int, num_iters: int,
                  seed: int, weights: Tensor | None = None
                  ) -> tuple[Tensor, Tensor]:
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
    trained.train(data, None if weights is None else weights.cpu().numpy())
    labels = trained.index.search(data, 1)[1][:, 0]
    return torch.from_numpy(labels), torch.from_numpy(trained.centroids)


def _split(labels: Tensor, maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Give cells the labels (V, M) of their parts: (h, w) or (V, h, w)."""
    ends = np.cumsum([ids.max() + 1 for ids in maps])[:-1]
    found = np.split(labels.cpu().numpy(), ends, axis=1)
    if len(labels) == 1:
        return [part[0][ids] for part, ids in zip(found, maps)]
    return [part[:, ids] for part, ids in zip(found, maps)]
