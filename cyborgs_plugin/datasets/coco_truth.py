"""Ground truth in COCO's formats, image by image, for evaluation only."""
import contextlib
import io
import os.path as osp
from collections.abc import Sequence
from typing import (
    Any,
    NamedTuple,
)

import mmcv
import numpy as np
from mmengine.fileio import get, load
from pycocotools.coco import COCO

from ..errors import MissingFileError, UserError

TURNED = (
    'images are read upright, by their EXIF orientation, whereas their '
    'annotations were made without it, or width and height are swapped in the '
    'json. Correct the json; or take the orientation out of the files '
    '(exiftool -Orientation= FILES), and make the masks again if there are '
    'any')
"""What it means where :func:`is_turned` holds, and how to mend it."""


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
    categories where those tell nothing: where the annotated objects have
    fewer than two of them, or one is missing, empty or 'none'.

    A file that is listed under several ids, as in jsons that were merged, has
    the annotations of all of them.

    Args:
        ann_file (str): COCO instance json.
        panoptic_file (str, optional): COCO panoptic json; only its images are
            used then. Defaults to None.
        panoptic_dir (str, optional): Folder of its PNG files.
            Defaults to None, ``panoptic_file`` without ``.json``.

    Attributes:
        names (list[str]): ``file_name`` of each image, once, in the order of
            the json.
        classes (list[str]): Names of the classes of instances.
        segment_classes (list[str]): Names of the classes of
            :meth:`semantic`.

    Raises:
        FileNotFoundError: If a json is missing.
        ValueError: If it is not what it should be; names what is wrong.
    """

    def __init__(self,
                 ann_file: str,
                 panoptic_file: str | None = None,
                 panoptic_dir: str | None = None) -> None:
        self.ann_file = ann_file
        self._coco = COCO()
        content = load_coco(ann_file, ('images', 'annotations', 'categories'))
        self._images = list_images(ann_file, content['images'])
        self._coco.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco.createIndex()
        self.classes, self._class_of = _classes(
            ann_file, content['categories'], {
                annotation['category_id']
                for annotation in content['annotations']
                if annotation['image_id'] in self._coco.imgs
            })
        self._panoptic: dict[int, dict] = {}
        if panoptic_file is None:
            self.segment_classes = ['background', *self.classes]
        else:
            content = load_coco(panoptic_file,
                                ('images', 'annotations', 'categories'))
            self._panoptic_dir = panoptic_dir or osp.splitext(panoptic_file)[0]
            self._panoptic = {
                annotation['image_id']: annotation
                for annotation in content['annotations']
            }
            self.segment_classes, self._segment_class_of = _classes(
                panoptic_file, content['categories'], {
                    info['category_id']
                    for annotation in content['annotations']
                    for info in annotation['segments_info']
                })
        self.names: list[str] = [
            name for name in self._images
            if panoptic_file is None or self._panoptic_ids(name)
        ]
        if not self.names:
            raise UserError(f'{ann_file!r} has no image'
                            + (f' that {panoptic_file!r} has too'
                               if panoptic_file else ''))

    def __contains__(self, name: str) -> bool:
        return name in self._images and (not self._panoptic
                                         or bool(self._panoptic_ids(name)))

    def size(self, name: str) -> tuple[int, int]:
        """Height and width of an image in pixels, as annotated."""
        return self._images[name].size

    def instances(self, name: str) -> Instances:
        """Decode the objects of an image.

        Args:
            name (str): The image's ``file_name``.

        Returns:
            Instances: In the order of the json, id by id.

        Raises:
            ValueError: If an annotation has no usable segmentation.
        """
        annotations = [
            annotation for number in self._images[name].ids
            for annotation in self._coco.imgToAnns[number]
        ]
        masks = np.zeros((len(annotations), *self.size(name)), dtype=bool)
        for mask, annotation in zip(masks, annotations):
            try:
                mask[:] = self._coco.annToMask(annotation) > 0
            except Exception as error:  # pycocotools raises bare ones
                raise UserError(
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

    def _read_panoptic(self, name: str) -> tuple[np.ndarray, list[dict]]:
        """Segment ids (H, W), int64, and what the json says of them."""
        ids = self._panoptic_ids(name)
        if len(ids) > 1:
            raise UserError(
                f'{self.ann_file} lists {name!r} under ids {ids}, each of '
                'which has a panoptic picture: leave one')
        annotation = self._panoptic[ids[0]]
        path = osp.join(self._panoptic_dir, annotation['file_name'])
        colours = mmcv.imfrombytes(
            get(path), channel_order='rgb', backend='cv2')
        if colours is None or colours.shape[:2] != self.size(name):
            found = 'no image' if colours is None else colours.shape[:2]
            raise UserError(f'{path}: expected a PNG of size '
                            f'{self.size(name)}, as {name!r} has, but found '
                            f'{found}')
        return (colours.astype(np.int64) @ np.array([1, 256, 65536]),
                annotation['segments_info'])

    def _panoptic_ids(self, name: str) -> list[int]:
        """The ids of a file that have panoptic segments."""
        return [
            number for number in self._images[name].ids
            if number in self._panoptic
        ]


def evenly(names: Sequence[str], count: int | None) -> list[str]:
    """Choose so many of a list, evenly spread; None chooses all."""
    if count is None or len(names) <= count:
        return list(names)
    chosen = np.linspace(0, len(names) - 1, count).round()
    return [names[int(index)] for index in chosen]


def load_coco(path: str, lists: tuple[str, ...]) -> dict:
    """Read a json that must hold these lists.

    Args:
        path (str): The json.
        lists (tuple[str, ...]): Such as ``('images', 'annotations')``.

    Returns:
        dict: What it holds.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If a list is.
    """
    if not osp.isfile(path) and '://' not in path:
        raise MissingFileError(f'The annotation file {path!r} does not exist')
    content: Any = load(path)
    if not isinstance(content, dict) or not all(
            isinstance(content.get(key), list) for key in lists):
        raise UserError(f'{path!r} is no COCO json: expected the lists '
                        f'{", ".join(lists)}')
    return content


class ListedImage(NamedTuple):
    """What a json lists of a file."""

    ids: list[int]
    """Ids that the file is listed under."""
    size: tuple[int, int]
    """Height and width in pixels."""


def list_images(path: str, images: Sequence[dict]) -> dict[str, ListedImage]:
    """Find the ids and the size of each file of a json.

    Args:
        path (str): The json, for messages.
        images (Sequence[dict]): Its images.

    Returns:
        dict[str, ListedImage]: By ``file_name``, in the order of the json.

    Raises:
        ValueError: If an image lacks what it needs, a file has two sizes, or
            two files have one id.
    """
    names: dict[int, str] = {}
    listed: dict[str, ListedImage] = {}
    for image in images:
        try:
            number, name = image['id'], image['file_name']
            size = image['height'], image['width']
        except (KeyError, TypeError) as error:
            raise UserError(
                f'{path}: expected id, file_name, height and width of each '
                f'image, but found {image!r}') from error
        if names.setdefault(number, name) != name:
            raise UserError(
                f'{path}: the files {names[number]!r} and {name!r} have the '
                f'same id {number}, so that it is not known whose annotations '
                'are whose. Give new ids when you merge jsons')
        found = listed.setdefault(name, ListedImage([], size))
        if found.size != size:
            raise UserError(
                f'{path}: {name!r} has height and width {found.size} under id '
                f'{found.ids[0]}, but {size} under id {number}: correct one '
                'of them, or rename one if it is another image')
        if number not in found.ids:
            found.ids.append(number)
    return listed


def is_turned(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether an image stands upright and its annotations lie, or vice versa.

    Of an image that is mirrored or upside down nobody can tell by its shape;
    nor of a nearly square one by that of a label map whose sides are equal.

    Args:
        shape (tuple[int, ...]): Height and width of the image in pixels, or
            of a label map of it in cells (h, w).
        size (tuple[int, int]): Height and width as annotated.
    """
    return (shape[0] - shape[1]) * (size[0] - size[1]) < 0


def _classes(path: str, categories: list[dict],
             used: set[int]) -> tuple[list[str], dict[int, int]]:
    """Names of the classes and the class of each category id.

    Exporters such as Roboflow's put all categories into one supercategory.
    """
    known = {category['id'] for category in categories}
    if not used <= known:
        raise UserError(
            f'{path}: annotations have the category ids '
            f'{sorted(used - known)[:5]}, which its categories lack')
    groups = {
        str(category.get('supercategory') or 'none').lower()
        for category in categories if category['id'] in (used or known)
    }
    key = ('name' if len(groups) < 2 or 'none' in groups else 'supercategory')
    # A category that no object has may lack its supercategory.
    labels = {
        category['id']: category.get(key) or category['name']
        for category in categories
    }
    names = list(dict.fromkeys(labels.values()))
    return names, {number: names.index(label)
                   for number, label in labels.items()}


def _large_to_small(found: Instances) -> list[int]:
    """The objects that are no crowds, the smallest one last."""
    order = np.argsort(-found.areas, kind='stable')
    return [int(index) for index in order if not found.crowd[index]]


def _rename(ids: np.ndarray, names: dict[int, int],
            other: int) -> np.ndarray:
    """Replace ids (H, W) by their new names; ``other`` for the rest."""
    known, inverse = np.unique(ids, return_inverse=True)
    renamed = np.array([names.get(int(number), other) for number in known])
    return renamed[inverse].reshape(ids.shape)
