"""Ground truth in COCO's formats, image by image, for evaluation only."""
import contextlib
import io
import os.path as osp
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import mmcv
import numpy as np
from mmengine.fileio import get, load
from pycocotools.coco import COCO


class Instances(NamedTuple):
    """The annotated objects of an image; crowds are marked, not left out."""

    masks: np.ndarray
    """Shape (N, H, W), bool."""
    classes: np.ndarray
    """Index into ``CocoTruth.classes``, shape (N, ), int64."""
    areas: np.ndarray
    """Area as annotated, shape (N, ), float64."""
    crowd: np.ndarray
    """Shape (N, ), bool."""


class CocoTruth:
    """Instance and, where given, panoptic annotations of a set of images.

    Classes are supercategories (12 of COCO's things, 27 with its stuff), or
    categories in a json whose categories have no supercategory.

    Args:
        ann_file (str): COCO instance json.
        panoptic_file (str, optional): COCO panoptic json; only its images are
            used then. Defaults to None.
        panoptic_dir (str, optional): Folder of its PNG files.
            Defaults to None, ``panoptic_file`` without ``.json``.

    Attributes:
        names (List[str]): ``file_name`` of each image, in the order of the
            json.
        classes (List[str]): Names of the classes of instances.
        segment_classes (List[str]): Names of the classes of
            :meth:`semantic`.

    Raises:
        FileNotFoundError: If a json is missing.
        ValueError: If it is not what it should be.
    """

    def __init__(self,
                 ann_file: str,
                 panoptic_file: Optional[str] = None,
                 panoptic_dir: Optional[str] = None) -> None:
        self.ann_file = ann_file
        self._coco = COCO()
        self._coco.dataset = _load(ann_file,
                                   ('images', 'annotations', 'categories'))
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco.createIndex()
        self._ids = {
            image['file_name']: image['id']
            for image in self._coco.dataset['images']
        }
        categories = self._coco.dataset['categories']
        self.classes, self._class_of = _classes(categories)
        self._panoptic: Dict[int, dict] = {}
        if panoptic_file is None:
            self.segment_classes = ['background', *self.classes]
        else:
            content = _load(panoptic_file,
                            ('images', 'annotations', 'categories'))
            self._panoptic_dir = panoptic_dir or osp.splitext(panoptic_file)[0]
            self._panoptic = {
                annotation['image_id']: annotation
                for annotation in content['annotations']
            }
            self.segment_classes, self._segment_class_of = _classes(
                content['categories'])
        self.names: List[str] = [
            name for name, number in self._ids.items()
            if panoptic_file is None or number in self._panoptic
        ]
        if not self.names:
            raise ValueError(f'{ann_file!r} has no image'
                             + (f' that {panoptic_file!r} has too'
                                if panoptic_file else ''))

    def __contains__(self, name: str) -> bool:
        number = self._ids.get(name)
        return number is not None and (not self._panoptic
                                       or number in self._panoptic)

    def size(self, name: str) -> Tuple[int, int]:
        """Height and width of an image in pixels."""
        image = self._coco.imgs[self._ids[name]]
        return image['height'], image['width']

    def instances(self, name: str) -> Instances:
        """Decode the objects of an image.

        Args:
            name (str): The image's ``file_name``.

        Returns:
            Instances: In the order of the json.

        Raises:
            ValueError: If an annotation has no usable segmentation.
        """
        annotations = self._coco.imgToAnns[self._ids[name]]
        masks = np.zeros((len(annotations), *self.size(name)), dtype=bool)
        for mask, annotation in zip(masks, annotations):
            try:
                mask[:] = self._coco.annToMask(annotation) > 0
            except Exception as error:  # pycocotools raises bare ones
                raise ValueError(
                    f'{self.ann_file}: annotation {annotation.get("id")} of '
                    f'{name!r} has no usable segmentation ({error!r}): '
                    'expected polygons or RLE of the size of the image'
                ) from error
        return Instances(
            masks,
            np.array([self._class_of[a['category_id']] for a in annotations],
                     dtype=np.int64),
            np.array([a['area'] for a in annotations], dtype=np.float64),
            np.array([a.get('iscrowd', 0) for a in annotations], dtype=bool))

    def segments(self, name: str) -> np.ndarray:
        """Tell to which segment each pixel of an image belongs.

        The panoptic segments where there are any, else the instances, the
        smaller ones on top. Crowds are unlabelled: they hold several objects.

        Args:
            name (str): The image's ``file_name``.

        Returns:
            np.ndarray: Shape (H, W), int32; 0 is unlabelled.
        """
        if self._panoptic:
            ids, infos = self._read_panoptic(name)
            known = [info['id'] for info in infos if not info['iscrowd']]
            return _rename(ids, {number: i for i, number in
                                 enumerate(known, 1)}, 0).astype(np.int32)
        found = self.instances(name)
        segments = np.zeros(self.size(name), dtype=np.int32)
        for index in _large_to_small(found):
            segments[found.masks[index]] = index + 1
        return segments

    def semantic(self, name: str, ignore: int = 255) -> np.ndarray:
        """Tell the class of each pixel of an image.

        With panoptic annotations things and stuff by ``segment_classes``;
        without, the classes of instances, and class 0 for all other pixels.

        Args:
            name (str): The image's ``file_name``.
            ignore (int): Class of unlabelled pixels and, where there are no
                panoptic annotations, of crowds. Defaults to 255.

        Returns:
            np.ndarray: Shape (H, W), uint8.
        """
        if self._panoptic:
            ids, infos = self._read_panoptic(name)
            kinds = {
                info['id']: self._segment_class_of[info['category_id']]
                for info in infos
            }
            return _rename(ids, kinds, ignore).astype(np.uint8)
        found = self.instances(name)
        classes = np.zeros(self.size(name), dtype=np.uint8)
        for mask in found.masks[found.crowd]:
            classes[mask] = ignore
        for index in _large_to_small(found):
            classes[found.masks[index]] = found.classes[index] + 1
        return classes

    def _read_panoptic(self, name: str) -> Tuple[np.ndarray, List[dict]]:
        """Segment ids (H, W), int64, and what the json says of them."""
        annotation = self._panoptic[self._ids[name]]
        path = osp.join(self._panoptic_dir, annotation['file_name'])
        colours = mmcv.imfrombytes(
            get(path), channel_order='rgb', backend='cv2')
        if colours is None or colours.shape[:2] != self.size(name):
            found = 'no image' if colours is None else colours.shape[:2]
            raise ValueError(f'{path}: expected a PNG of size '
                             f'{self.size(name)}, as {name!r} has, but found '
                             f'{found}')
        ids = colours.astype(np.int64) @ np.array([1, 256, 65536])
        return ids, annotation['segments_info']


def evenly(names: Sequence[str], count: Optional[int]) -> List[str]:
    """Choose so many of a list, evenly spread; None chooses all."""
    if count is None or len(names) <= count:
        return list(names)
    chosen = np.linspace(0, len(names) - 1, count).round()
    return [names[int(index)] for index in chosen]


def _load(path: str, lists: Tuple[str, ...]) -> dict:
    if not osp.isfile(path) and '://' not in path:
        raise FileNotFoundError(f'The annotation file {path!r} does not exist')
    content: Any = load(path)
    if not isinstance(content, dict) or not all(
            isinstance(content.get(key), list) for key in lists):
        raise ValueError(f'{path!r} is no COCO json: expected the lists '
                         f'{", ".join(lists)}')
    return content


def _classes(categories: List[dict]) -> Tuple[List[str], Dict[int, int]]:
    """Names of the classes and the class of each category id."""
    key = 'supercategory' if all(
        category.get('supercategory') for category in categories) else 'name'
    names = list(dict.fromkeys(category[key] for category in categories))
    return names, {c['id']: names.index(c[key]) for c in categories}


def _large_to_small(found: Instances) -> List[int]:
    """The objects that are no crowds, the smallest one last."""
    order = np.argsort(-found.areas, kind='stable')
    return [int(index) for index in order if not found.crowd[index]]


def _rename(ids: np.ndarray, names: Dict[int, int],
            other: int) -> np.ndarray:
    """Replace ids (H, W) by their new names; ``other`` for the rest."""
    known, inverse = np.unique(ids, return_inverse=True)
    renamed = np.array([names.get(int(number), other) for number in known])
    return renamed[inverse].reshape(ids.shape)
