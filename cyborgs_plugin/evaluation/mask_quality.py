"""How well label maps cut images into their objects."""
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmpretrain.registry import METRICS
from scipy.ndimage import distance_transform_edt
from skimage.metrics import variation_of_information
from skimage.segmentation import find_boundaries

from ..datasets.coco_truth import TURNED, CocoTruth, evenly, is_turned
from ..datasets.mask_bank import MaskBank
from ..errors import UserError
from ..ops.label_maps import resize_label_map
from .names import find_annotated
from .object_centric import object_centric_scores
from .overlaps import best_overlaps

SIZES = dict(small=(0., 32.**2), medium=(32.**2, 96.**2),
             large=(96.**2, float('inf')))
"""COCO's size classes: from, and below, this area in pixels."""
_NAMED = 5  # number of images in a message


@METRICS.register_module()
class MaskQuality(BaseMetric):
    r"""Compare label maps with COCO annotations; no label is learnt from.

    - ``mBO``: mean best overlap. The best intersection over union of an
      object with any one region of its image, averaged over all objects;
      ``mBO_small``, ``mBO_medium`` and ``mBO_large`` by COCO's size classes.
    - ``ARI``: adjusted Rand index over the labelled pixels of an image,
      averaged over images.
    - ``over_segmentation``: bits that the region says beyond the segment,
      :math:`H(\text{region} | \text{segment})`, over the labelled pixels,
      averaged over images; ``under_segmentation``: bits that it fails to say,
      :math:`H(\text{segment} | \text{region})` (Meila, 2007).
    - ``boundary_F``: harmonic mean of the parts of region boundaries and of
      segment boundaries that lie within a tolerance of one of the other
      kind, averaged over images. Region boundaries elsewhere in unlabelled
      pixels are neither right nor wrong.
    - ``regions``: regions per image. Overlap and ARI depend on it: compare at
      equal numbers only.
    - ``FG_ARI``, ``mBO_i`` and ``mBO_c`` with ``object_centric``
      (:func:`object_centric_scores`), averaged over images.

    Crowds are no objects and their pixels are unlabelled. Objects of fewer
    than ``min_area`` visible pixels are left out of the overlaps, since no
    region on a stride-8 grid can fit them, but their pixels stay labelled.
    Images with fewer than two segments have no grouping to find and count
    for overlaps only.

    Images are read upright. One whose annotations lie on their side, as the
    shape of its map tells (``is_turned``), is left out with a warning. The map
    of a nearly square image has as many rows as columns and does not tell.

    Args:
        ann_file (str): COCO instance json.
        key_prefix (str): What the images' keys in a bank have before
            ``file_name``. Defaults to ''.
        panoptic_file (str, optional): COCO panoptic json. Its segments, things
            and stuff, label the pixels and only its images are scored.
            Defaults to None: the instances label the pixels.
        min_area (int): Fewest pixels of an object. Defaults to 100.
        tolerance (float): How far boundaries may be apart, as a fraction of
            the image's diagonal. Defaults to 0.0075, as in the Berkeley
            benchmark (Martin et al., 2004).
        max_images (int, optional): Score so many of the images, evenly
            spread. Defaults to None, all.
        object_centric (bool): Score the central square of each image by the
            instances as object-centric papers do, too. Defaults to False.
        collect_device (str): Where results of several ranks are collected.
            Defaults to 'cpu'.
        prefix (str, optional): Prefix of the names of the scores.
            Defaults to None, 'masks'.
    """

    default_prefix = 'masks'

    def __init__(self,
                 ann_file: str,
                 key_prefix: str = '',
                 panoptic_file: str | None = None,
                 min_area: int = 100,
                 tolerance: float = 0.0075,
                 max_images: int | None = None,
                 object_centric: bool = False,
                 collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if min_area < 1:
            raise UserError('MaskQuality.min_area must be at least 1 pixel, '
                            f'but is {min_area}')
        self.truth = CocoTruth(ann_file, panoptic_file)
        self.key_prefix = key_prefix
        self.min_area = min_area
        self.tolerance = tolerance
        self.max_images = max_images
        self.object_centric = object_centric
        self._turned: list[str] = []
        self._names: dict[str, str] = {}

    def keys(self) -> list[str]:
        """Keys of the images that are scored, as far as a bank has them."""
        return [
            self.key_prefix + name
            for name in evenly(self.truth.names, self.max_images)
        ]

    def evaluate_bank(self, bank: MaskBank) -> dict[str, float]:
        """Score a round; all ranks call it and share the work.

        Args:
            bank (MaskBank): The round. Its images without annotations are
                passed over.

        Returns:
            dict[str, float]: The scores, on every rank.

        Raises:
            UserError: If no image of the bank is annotated.
        """
        keys = self.known_keys(bank.keys(), bank.path)
        mine = keys[get_rank()::get_world_size()]
        return self.evaluate_maps(
            ((key, bank.label_map(key)) for key in mine), len(keys))

    def known_keys(self, keys: Iterable[str], source: str) -> list[str]:
        """The images that are scored and there, by their own keys.

        Names need not be alike to the letter (``match_names``). A warning
        tells of those that are not there.

        Args:
            keys (Iterable[str]): Keys of images.
            source (str): Whose they are, for messages.

        Returns:
            list[str]: Keys, in the order of the annotations.

        Raises:
            UserError: If there are none, or a name may mean several.
        """
        known = set(keys)
        start = len(self.key_prefix)
        files = [key[start:] for key in known
                 if key.startswith(self.key_prefix)]
        names = evenly(self.truth.names, self.max_images)
        matched = find_annotated(self.truth.names, files, '',
                                 self.truth.ann_file)
        self._names = {
            self.key_prefix + matched[name]: name
            for name in names if name in matched
        }
        if not self._names:
            raise UserError(
                f'{source} has none of the images of {self.truth.ann_file}: '
                f'its keys look like {min(known)!r}, those of the annotations '
                f'like {self.keys()[0]!r}. Set key_prefix (of the tool: '
                '--img-prefix; in a config: '
                'default_hooks.mask_update.evaluator.key_prefix) to what is '
                'lacking in front')
        missing = [name for name in names if name not in matched]
        if missing:
            print_log(
                f'{source} has no masks of {len(missing)} of {len(names)} '
                f'images of {self.truth.ann_file}, such as '
                f'{missing[:_NAMED]}: they are not scored',
                logger='current',
                level=logging.WARNING)
        return list(self._names)

    def evaluate_maps(self, maps: Iterable[tuple[str, np.ndarray]],
                      size: int) -> dict[str, float]:
        """Score label maps.

        Args:
            maps (Iterable): Key and label map, integer (h, w), of each image
                of this rank. A map covers the whole image at any resolution.
            size (int): Images of all ranks.

        Returns:
            dict[str, float]: The scores, on every rank.

        Raises:
            ValueError: If the annotations of all images lie on their side.
        """
        for key, label_map in maps:
            self.process({}, [dict(key=key, label_map=label_map)])
        return self.evaluate(size)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score images one by one.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): ``key`` and ``label_map``, integer
                (h, w), of each image.
        """
        for sample in data_samples:
            key = sample['key']
            name = self._names.get(key, key[len(self.key_prefix):])
            if not key.startswith(self.key_prefix) or name not in self.truth:
                raise UserError(f'{self.truth.ann_file} has no annotations '
                                f'of {key!r} (key_prefix is '
                                f'{self.key_prefix!r})')
            label_map = np.asarray(sample['label_map'])
            # Cells that are regions each, GridMasks', have no image's shape.
            if (is_turned(label_map.shape, self.truth.size(name))
                    and len(np.unique(label_map)) < label_map.size):
                self._turned.append(key)
            else:
                self.results.append(self._score(name, label_map))

    def evaluate(self, size: int) -> dict[str, float]:
        """Average what was scored, and tell what was left out.

        Args:
            size (int): Images of all ranks.

        Returns:
            dict[str, float]: The scores, on every rank.

        Raises:
            ValueError: If all images were left out.
        """
        turned: list[str] = sum(all_gather_object(self._turned), [])
        self._turned = []
        if turned:
            message = (
                f'{self.truth.ann_file} has height and width the other way '
                f'round than the masks of {len(turned)} of {size} images, '
                f'such as {turned[:_NAMED]}: {TURNED}')
            if len(turned) >= size:
                raise UserError(message)
            print_log(
                f'Left out of the scores: {message}',
                logger='current',
                level=logging.WARNING)
        return super().evaluate(size)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Average the scores of objects and of images.

        Args:
            results (list[dict]): What :meth:`process` has appended, of all
                ranks.

        Returns:
            dict[str, float]: The scores; one that no object or image has is
            left out.
        """
        overlaps = np.concatenate([part['overlaps'] for part in results])
        areas = np.concatenate([part['areas'] for part in results])
        parts = dict(mBO=overlaps)
        for size, (low, high) in SIZES.items():
            parts[f'mBO_{size}'] = overlaps[(areas >= low) & (areas < high)]
        for name in ('ARI', 'over_segmentation', 'under_segmentation',
                     'boundary_F', 'regions', 'FG_ARI', 'mBO_i', 'mBO_c'):
            parts[name] = np.array(
                [part[name] for part in results if name in part])
        metrics = {
            name: float(values.mean())
            for name, values in parts.items() if len(values)
        }
        metrics.update(images=len(results), objects=len(overlaps))
        return metrics

    def _score(self, name: str, label_map: np.ndarray) -> dict[str, Any]:
        found = self.truth.instances(name)
        segments = self.truth.segments(name)
        ids = resize_label_map(label_map, segments.shape)
        ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
        kept = ~found.crowd & (found.masks.sum((1, 2)) >= self.min_area)
        scores: dict[str, Any] = dict(
            overlaps=best_overlaps(ids, found.masks[kept]),
            areas=found.areas[kept],
            regions=int(ids.max()) + 1)
        if self.object_centric:
            scores.update(object_centric_scores(
                ids, found.masks, found.classes, found.crowd))
        labelled = segments > 0
        if len(np.unique(segments[labelled])) > 1:
            # a second of the start of every command, were it at the top
            from sklearn.metrics import adjusted_rand_score
            over, under = variation_of_information(
                segments[labelled], ids[labelled])
            scores.update(
                ARI=adjusted_rand_score(segments[labelled], ids[labelled]),
                over_segmentation=over,
                under_segmentation=under,
                boundary_F=boundary_f(ids, segments, self.tolerance))
        return scores


def boundary_f(ids: np.ndarray, segments: np.ndarray,
               tolerance: float) -> float:
    """Compare the boundaries of regions with those of segments.

    Args:
        ids (np.ndarray): Region of each pixel, shape (H, W), integer.
        segments (np.ndarray): Segment of each pixel, 0 is unlabelled, shape
            (H, W), integer, with at least two values.
        tolerance (float): As a fraction of the diagonal.

    Returns:
        float: Harmonic mean of precision and recall, 0 where either is.
    """
    reach = tolerance * float(np.hypot(*ids.shape))
    found = find_boundaries(ids, mode='thick')
    truth = find_boundaries(segments, mode='thick')
    near_truth = distance_transform_edt(~truth) <= reach
    counted = found & (near_truth | (segments > 0))
    if not counted.any():
        return 0.
    near_found = distance_transform_edt(~found) <= reach
    precision = near_truth[counted].mean()
    recall = near_found[truth].mean()
    if precision + recall == 0:
        return 0.
    return float(2 * precision * recall / (precision + recall))


def color_kmeans(image: np.ndarray, num_clusters: int,
                 seed: int = 0) -> np.ndarray:
    """Segment an image by colour and position, the floor for any network.

    k-means on the pixels' channels, scaled to 0..1, and their row and column,
    scaled to 0..1 as well.

    Args:
        image (np.ndarray): Shape (H, W, 3), uint8.
        num_clusters (int): Number of regions.
        seed (int): Decides the initial centroids. Defaults to 0.

    Returns:
        np.ndarray: Ids, shape (H, W), int32.
    """
    from sklearn.cluster import KMeans
    height, width = image.shape[:2]
    rows, cols = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
    points = np.dstack([image / 255., rows, cols]).reshape(-1, 5)
    clusters = KMeans(num_clusters, n_init=1, random_state=seed)
    return clusters.fit_predict(points).reshape(height, width)
