"""COCO's formats: the only reader of annotation files, and their content.

Tools write COCO's json in many dialects. What is unambiguous is repaired, and
a line in the log counts the repairs. Anything else is refused in one line that
names the file and the record and says how to fix it.
"""
import json
import logging
import os.path as osp
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, TypeVar

import mmcv
import numpy as np
from mmengine.fileio import get
from mmengine.logging import print_log
from pycocotools import mask as coco_mask

from ..errors import MissingFileError, UserError
from .coco_outlines import encode_outline, repair_outline

TURNED = (
    'images are read upright, by their EXIF orientation, whereas their '
    'annotations were made without it, or width and height are swapped in the '
    'json. Correct the json; or take the orientation out of the files '
    '(exiftool -Orientation= FILES), and make the masks again if there are '
    'any')
"""What it means if :func:`is_turned` is true, and how to fix it."""
_ALL = ('images', 'annotations', 'categories')
_MENDS = dict(
    id='give each of the {kind} one of its own, by which others name it',
    file_name='give the path of each image, relative to the image folder',
    height="write the image's size in pixels into the json, at most 65535 a "
    'side and a billion in all',
    width="write the image's size in pixels into the json, at most 65535 a "
    'side and a billion in all',
    image_id='give the id of the image that it lies in',
    category_id='give the id of its category',
    name='name each category',
    supercategory='give the name of one group, or none',
    segments_info='a panoptic json has a list of segments for each image; '
    'give that of instances as the instance json')
"""How to fix a record that lacks a field or has a wrong value."""
_CROWD = {
    'none': False, '': False, '0': False, '0.0': False, 'false': False,
    '1': True, '1.0': True, 'true': True
}
_OVERHANG = 1.05  # outlines may leave their image by a twentieth of a side
_SIDE, _PIXELS = 65535, 10**9  # of an image; masks are drawn in its size
_AREA = 1e15


Item = TypeVar('Item')


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


class CocoInstances:
    """The annotated objects of each image of a json, whatever their classes.

    A file that is listed under several ids, as in merged jsons, gets the
    annotations of all of them.

    Args:
        ann_file (str): COCO instance json.

    Attributes:
        images (dict[str, ListedImage]): By ``file_name``, in the order of
            the json.

    Raises:
        FileNotFoundError: If the json is missing.
        ValueError: If its content is not valid; the message says what is
            wrong.
    """

    _lists: tuple[str, ...] = ('images', 'annotations')

    def __init__(self, ann_file: str) -> None:
        self.ann_file = ann_file
        self._content = load_coco(ann_file, self._lists)
        self.images = list_images(ann_file, self._content['images'])
        self._images = {
            image['id']: image for image in self._content['images']
        }
        self._of = defaultdict(list)
        for annotation in self._content['annotations']:
            self._of[annotation['image_id']].append(annotation)

    def size(self, name: str) -> tuple[int, int]:
        """Height and width of an image in pixels, as annotated."""
        return self.images[name].size

    def annotations(self, name: str) -> list[dict]:
        """The records of an image's objects, in the order of the json.

        Args:
            name (str): The image's ``file_name``.

        Returns:
            list[dict]: With ``area`` and ``iscrowd``, in the order of the ids.
        """
        return [
            annotation for number in self.images[name].ids
            for annotation in self._of[number]
        ]

    def mask(self, annotation: dict) -> np.ndarray:
        """Draw an object.

        Args:
            annotation (dict): One of :meth:`annotations`.

        Returns:
            np.ndarray: Shape (H, W), bool, as large as the image.

        Raises:
            ValueError: If it has no usable segmentation.
        """
        return _measure(coco_mask.decode, self.ann_file, self._images,
                        annotation) > 0


class CocoTruth(CocoInstances):
    """Instance and optional panoptic annotations of a set of images.

    Classes are supercategories (12 for COCO's things, 27 with its stuff).
    Categories are used instead if the annotated objects have fewer than two
    supercategories, or one is missing, empty or 'none'.

    Args:
        ann_file (str): COCO instance json.
        panoptic_file (str, optional): COCO panoptic json. Its PNG files must
            be in a folder of the same name without ``.json``. Only its images
            are used then. Defaults to None.

    Attributes:
        names (list[str]): ``file_name`` of each image, once, in the order of
            the json.
        classes (list[str]): Names of the classes of instances.
        segment_classes (list[str]): Names of the classes of
            :meth:`semantic`.

    Raises:
        FileNotFoundError: If a json is missing.
        ValueError: If its content is not valid; the message says what is
            wrong.
    """

    _lists = _ALL

    def __init__(self, ann_file: str, panoptic_file: str | None = None
                 ) -> None:
        super().__init__(ann_file)
        found = self._content['annotations']
        if found and all(annotation['iscrowd'] for annotation in found):
            raise UserError(
                f'{ann_file}: each of its {len(found)} annotations is a crowd '
                '(iscrowd=1), which is no object. CVAT marks what was painted '
                'with a brush so: set iscrowd to 0 where a mask is one object')
        self._categories = _Categories(
            ann_file, self._content['categories'], {
                annotation['category_id'] for annotation in found
                if annotation['image_id'] in self._images
            })
        self._segment_categories = None
        self._panoptic: dict[int, dict] = {}
        if panoptic_file is not None:
            content = load_coco(panoptic_file, ('annotations', 'categories'),
                                panoptic=True)
            self._panoptic_dir = osp.splitext(panoptic_file)[0]
            self._panoptic = {
                annotation['image_id']: annotation
                for annotation in content['annotations']
            }
            self._segment_categories = _Categories(
                panoptic_file, content['categories'], {
                    info['category_id']
                    for annotation in content['annotations']
                    for info in annotation['segments_info']
                })
        self._name_classes()
        self.names: list[str] = [
            name for name in self.images
            if panoptic_file is None or self._panoptic_ids(name)
        ]
        if not self.names:
            raise UserError(f'{ann_file!r} has no image'
                            + (f' that {panoptic_file!r} has too'
                               if panoptic_file else ''))

    def __contains__(self, name: str) -> bool:
        return name in self.images and (not self._panoptic
                                        or bool(self._panoptic_ids(name)))

    def _name_classes(self, other: 'CocoTruth | None' = None) -> None:
        """Choose the classes by what is used here and in another json."""
        groups = self._categories.groups
        if other is not None:
            groups = groups | other._categories.groups
        self.classes, self._class_of = self._categories.classes(groups)
        if self._segment_categories is None:
            self.segment_classes = ['background', *self.classes]
            return
        groups = self._segment_categories.groups
        if other is not None and other._segment_categories is not None:
            groups = groups | other._segment_categories.groups
        self.segment_classes, self._segment_class_of = (
            self._segment_categories.classes(groups))

    def beside(self, other: 'CocoTruth') -> 'CocoTruth':
        """The same annotations, with classes chosen for another json as well.

        The objects of one json alone may need the names of categories even if
        those of the other have several supercategories.

        Args:
            other (CocoTruth): The other annotations for training or scoring.

        Returns:
            CocoTruth: A copy that shares the annotations.
        """
        chosen = copy(self)
        chosen._name_classes(other)
        return chosen

    def instances(self, name: str) -> Instances:
        """Decode the objects of an image.

        Args:
            name (str): The image's ``file_name``.

        Returns:
            Instances: In the order of the json and the ids.

        Raises:
            ValueError: If an annotation has no usable segmentation.
        """
        annotations = self.annotations(name)
        masks = np.zeros((len(annotations), *self.size(name)), dtype=bool)
        for index, annotation in enumerate(annotations):
            masks[index] = self.mask(annotation)
        return Instances(
            masks,
            np.array([self._class_of[a['category_id']] for a in annotations],
                     dtype=np.int64),
            np.array([a['area'] for a in annotations], dtype=np.float64),
            np.array([a['iscrowd'] for a in annotations], dtype=bool))

    def segments(self, name: str) -> np.ndarray:
        """Find the segment of each pixel of an image.

        These are the panoptic segments if there are any, else the instances,
        with the smaller ones on top. Crowds are unlabelled because they hold
        several objects.

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
        """Find the class of each pixel of an image.

        With panoptic annotations, these are things and stuff by
        ``segment_classes``; without, the classes of instances, and class 0 for
        all other pixels.

        Args:
            name (str): The image's ``file_name``.
            ignore (int): Class of unlabelled pixels and, without panoptic
                annotations, of crowds. Defaults to 255.

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
        """Segment ids (H, W), int64, and their records in the json."""
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
            number for number in self.images[name].ids
            if number in self._panoptic
        ]


def evenly(names: Sequence[Item], count: int | None) -> list[Item]:
    """Choose this many items of a list, evenly spread; None chooses all."""
    if count is None or len(names) <= count:
        return list(names)
    chosen = np.linspace(0, len(names) - 1, count).round()
    return [names[int(index)] for index in chosen]


def load_coco(path: str,
              lists: tuple[str, ...] = _ALL,
              backend_args: dict | None = None,
              panoptic: bool = False) -> dict:
    """Read an annotation file and repair what is unambiguous.

    It is parsed as JSON whatever the ending of its name.

    Args:
        path (str): The json.
        lists (tuple[str, ...]): The lists that are used. Records need only the
            fields that these lists require: for ``('images', )`` alone a
            ``file_name``. Defaults to images, annotations and categories.
        backend_args (dict, optional): Arguments of the file backend.
            Defaults to None.
        panoptic (bool): Whether annotations are panoptic. Defaults to False.

    Returns:
        dict: The content. Ids and sizes are int, and every annotation has
        ``area`` and ``iscrowd``.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is not a complete json of that form. The message
            names the file, the record, what was expected and how to fix it.
    """
    content = _parse(path, backend_args)
    lacking = [
        key for key in lists if not isinstance(content, dict)
        or not isinstance(content.get(key), list)
    ]
    if lacking:
        found = (f'an object with {", ".join(map(repr, content)) or "nothing"}'
                 if isinstance(content, dict) else
                 f'a {type(content).__name__}')
        raise UserError(
            f'{path!r} is no COCO json: expected an object with the lists '
            f'{", ".join(lists)}, but found {found:.200}. Export it again in '
            "the format COCO, not as the tool's own project")
    repaired: Counter[str] = Counter()
    numbers = dict(
        images=('id', 'height', 'width') if 'annotations' in lists else (),
        annotations=('image_id', 'category_id')
        if 'categories' in lists and not panoptic else ('image_id', ),
        categories=('id', ))
    words = dict(images='file_name', categories='name')
    for key in lists:
        for index, record in enumerate(content[key]):
            place = f'{path}: {key}[{index}]'
            if not isinstance(record, dict):
                raise UserError(f'{place} is {record!r:.80}: expected an '
                                'object')
            word = words.get(key)
            if key == 'categories':
                _repair_names(record, repaired)
            if word and (not isinstance(record.get(word), str)
                         or not record[word]):
                raise _wrong(place, record, word)
            for field in numbers[key]:
                _repair_number(place, record, field, repaired)
            if 'height' in numbers[key] and (
                    record['height'] * record['width'] > _PIXELS):
                raise _wrong(place, record, 'height')
    if 'categories' in lists:
        _check_categories(path, content['categories'])
    if panoptic:
        _check_segments(path, content['annotations'], repaired)
    elif 'annotations' in lists:
        _repair_annotations(path, content, repaired)
    if repaired:
        print_log(
            f'{path}: read with ' + '; '.join(
                f'{count} {what}' for what, count in repaired.items()),
            logger='current',
            level=logging.WARNING)
    return content


def _parse(path: str, backend_args: dict | None) -> Any:
    """Parse a json in any Unicode encoding, with or without a BOM."""
    if '://' not in path and osp.exists(path) and not osp.isfile(path):
        raise UserError(f'The annotation file {path!r} is no regular file')
    try:
        text = get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise MissingFileError(
            f'The annotation file {path!r} does not exist') from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{path!r} is no whole json ({str(error) or "too deep"}; '
            f'{len(text)} bytes that begin with {text[:20]!r}): it is '
            'truncated, or no json at all. Copy or export it again') from error


def _wrong(place: str, record: dict, field: str) -> UserError:
    """The message on a record that lacks a field or has a wrong value."""
    name = record.get('file_name', record.get('id'))
    if name is not None and field != 'file_name':
        place += f' ({name!r:.80})'
    found = (f'has the {field} {record[field]!r:.80}'
             if record.get(field) not in (None, '') else f'has no {field}')
    kind = place.split(': ')[-1].split('[')[0]
    return UserError(f'{place} {found}: {_MENDS[field].format(kind=kind)}')


def _repair_number(place: str, record: dict, field: str,
                 repaired: Counter) -> None:
    """Turn '12' and 12.0 into 12; an id may be a word, such as '012'."""
    value = record.get(field)
    is_size = field in ('height', 'width')
    if type(value) is not int:
        text = str(value) if isinstance(value, (str, float)) else ''
        digits = r'[0-9]{1,18}' if is_size else r'(0|-?[1-9][0-9]{0,17})'
        if re.fullmatch(digits + r'(\.0*)?', text.strip()):
            record[field] = int(text.split('.')[0])
            repaired['numbers as text or with a decimal point'] += 1
        elif is_size or not isinstance(value, str) or not value:
            raise _wrong(place, record, field)
    if is_size and not 1 <= record[field] <= _SIDE:
        raise _wrong(place, record, field)


def _repair_names(category: dict, repaired: Counter) -> None:
    """Turn names that are numbers into text."""
    for field in ('name', 'supercategory'):
        if type(category.get(field)) in (int, float):
            category[field] = str(category[field])
            repaired['names of categories that are numbers'] += 1


def _check_segments(path: str, annotations: list[dict],
                    repaired: Counter) -> None:
    """Check the fields of each panoptic annotation that are used."""
    for index, annotation in enumerate(annotations):
        place = f'{path}: annotations[{index}]'
        if not isinstance(annotation.get('segments_info'), list):
            raise _wrong(place, annotation, 'segments_info')
        if not isinstance(annotation.get('file_name'), str):
            raise _wrong(place, annotation, 'file_name')
        for number, info in enumerate(annotation['segments_info']):
            if not isinstance(info, dict):
                raise _wrong(place, annotation, 'segments_info')
            for field in ('id', 'category_id'):
                _repair_number(f'{place}.segments_info[{number}]', info, field,
                             repaired)
            if type(info['id']) is not int:  # it is a colour
                raise _wrong(f'{place}.segments_info[{number}]', info, 'id')
            info['iscrowd'] = _is_crowd(place, info)


def _repair_annotations(path: str, content: dict, repaired: Counter) -> None:
    """Complete annotations with what follows from their other fields."""
    images = {image['id']: image for image in content['images']}
    annotations, strange = content['annotations'], []
    bare = []
    for index, annotation in enumerate(annotations):
        place = f'{path}: annotations[{index}]'
        annotation['iscrowd'] = _is_crowd(place, annotation)
        if annotation.get('id') is None:
            annotation['id'] = f'of index {index}'
            repaired['annotations without an id'] += 1
        image = images.get(annotation['image_id'])
        if image is None:
            strange.append(annotation['image_id'])
            continue
        repair_outline(annotation, (image['height'], image['width']), repaired)
        area = annotation.get('area')
        if type(area) not in (int, float) or not 0 < area < _AREA:
            bare.append(annotation)
    again = len(content['images']) - len(
        {image['file_name'] for image in content['images']})
    if again:
        repaired['files listed once more, whose objects are joined'] += again
    if strange:
        if len(strange) == len(annotations):
            raise UserError(
                f'{path}: none of its {len(annotations)} annotations is of '
                f'one of its {len(images)} images: their image_id is such '
                f'as {strange[0]!r}, the id of an image such as '
                f'{next(iter(images), None)!r}. Make them agree')
        repaired[f'annotations (image_id such as {strange[0]!r}) of images '
               'that are not listed'] += len(strange)
    _check_sides(path, images, annotations, repaired)
    for annotation in bare:
        annotation['area'] = float(
            _measure(coco_mask.area, path, images, annotation))
        repaired['annotations whose area is counted from the outline'] += 1


def _is_crowd(place: str, record: dict) -> bool:
    """Whether it is a crowd; text that says 0 is not."""
    value = record.get('iscrowd')
    text = str(value).strip().lower()
    if text not in _CROWD:
        raise UserError(f'{place} has the iscrowd {value!r:.80}: expected 0 '
                        'or 1')
    return _CROWD[text]


def _check_categories(path: str, categories: Sequence[dict]) -> None:
    """Refuse categories that contradict each other."""
    names: dict[Any, str] = {}
    for index, category in enumerate(categories):
        if not isinstance(category.get('supercategory'), (str, type(None))):
            raise _wrong(f'{path}: categories[{index}]', category,
                         'supercategory')
        number, name = category['id'], category['name']
        if names.setdefault(number, name) != name:
            raise UserError(
                f'{path}: the categories {names[number]!r} and {name!r} have '
                f'the same id {number!r}, so that it is not known whose '
                'objects are whose. Give each of them an id of its own')


def _check_sides(path: str, images: Mapping[Any, dict],
                 annotations: Sequence[dict], repaired: Counter) -> None:
    """Refuse height and width that are swapped, as the outlines show."""
    upright: set = set()
    beyond: dict[Any, str] = {}
    turned: dict[Any, str] = {}
    for annotation in annotations:
        number = annotation['image_id']
        image = images.get(number)
        if image is None:
            continue
        sides = image['height'], image['width']
        found = _extent(annotation.get('segmentation')) or (0, 0)
        fits, lies = (all(
            side <= limit * _OVERHANG for side, limit in zip(found, limits))
                      for limits in (sides, sides[::-1]))
        if fits and not lies:
            upright.add(number)
        elif lies and not fits:
            turned[number] = (f'{image["file_name"]!r} (height {sides[0]}, '
                              f'width {sides[1]})')
        elif not fits:
            beyond[number] = image['file_name']
    if beyond:
        first = next(iter(beyond.values()))
        repaired[f'images, such as {first!r}, whose outlines go beyond them: '
               'are height and width those that they were drawn on?'] += len(
                   beyond)
    if not turned:
        return
    first = next(iter(turned.values()))
    if len(turned) > len(upright):
        raise UserError(
            f'{path}: the outlines of {len(turned)} images, such as {first}, '
            'fit them only with height and width swapped: swap those in the '
            'json')
    repaired[f'images, such as {first}, whose outlines fit them only with '
           'height and width swapped'] += len(turned)


def _extent(outline: Any) -> tuple | None:
    """Height and width that an outline needs, if it is valid."""
    try:
        if isinstance(outline, dict):
            return tuple(map(float, outline['size']))
        return tuple(
            float(max(max(part[axis::2]) for part in outline))
            for axis in (1, 0))
    except (TypeError, ValueError, KeyError, OverflowError):
        return None


def _measure(function: Callable[[dict], Any], path: str,
             images: Mapping[Any, dict], annotation: dict) -> Any:
    """Call a function of pycocotools with the run lengths of an object."""
    image = images[annotation['image_id']]
    size = image['height'], image['width']
    try:
        encoded = encode_outline(annotation.get('segmentation'), size)
    except ValueError as error:
        boxed = annotation.get('bbox') and not annotation.get('segmentation')
        number = ' '.join(str(annotation['id']).split())
        raise UserError(
            f'{path}: annotation {number:.80} of '
            f'{image["file_name"]!r:.300} has no usable segmentation '
            f'({error}): expected polygons or RLE of the size of the image, '
            f'{list(size)}' +
            ('. It has a box only: export outlines' if boxed else '')
        ) from error
    return function(encoded)


class ListedImage(NamedTuple):
    """What a json lists for a file."""

    ids: list[int]
    """Ids that the file is listed under."""
    size: tuple[int, int]
    """Height and width in pixels."""


def list_images(path: str, images: Sequence[dict]) -> dict[str, ListedImage]:
    """Find the ids and the size of each file of a json.

    Args:
        path (str): The json, for messages.
        images (Sequence[dict]): Its images, from :func:`load_coco`.

    Returns:
        dict[str, ListedImage]: By ``file_name``, in the order of the json.

    Raises:
        ValueError: If a file has two sizes, or two files have one id.
    """
    names: dict[int, str] = {}
    listed: dict[str, ListedImage] = {}
    for image in images:
        number, name = image['id'], image['file_name']
        size = image['height'], image['width']
        if names.setdefault(number, name) != name:
            raise UserError(
                f'{path}: the files {names[number]!r} and {name!r} have the '
                f'same id {number!r}, so that it is not known whose '
                'annotations are whose. Give each its own: jsons that were '
                "merged share ids, and '1' and '1.0' are read as 1")
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
    """Whether an image and its annotations differ in orientation.

    The shape cannot show that an image is mirrored or upside down; nor can a
    label map with equal sides show the orientation of a nearly square image.

    Args:
        shape (tuple[int, ...]): Height and width of the image in pixels, or of
            its label map in cells (h, w).
        size (tuple[int, int]): Height and width as annotated.
    """
    return (shape[0] - shape[1]) * (size[0] - size[1]) < 0


def is_copy(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether an image may be the annotated one, at any resolution.

    Args:
        shape (tuple[int, ...]): Height and width of the image in pixels.
        size (tuple[int, int]): Height and width as annotated.
    """
    # Each side of the smaller one was rounded by less than a pixel.
    rounded = max(shape[0] + shape[1], size[0] + size[1])
    return abs(shape[0] * size[1] - shape[1] * size[0]) <= rounded


class _Categories:
    """The categories of a json, and those that its objects use."""

    def __init__(self, path: str, categories: list[dict],
                 used: set) -> None:
        known = {category['id'] for category in categories}
        if not used <= known:
            raise UserError(
                f'{path}: annotations have the category ids '
                f'{sorted(used - known, key=str)[:5]!r:.200}, which its '
                'categories lack')
        self._categories = categories
        self.groups = {
            (category.get('supercategory') or 'none').lower()
            for category in categories if category['id'] in (used or known)
        }
        """Supercategories of the objects."""

    def classes(self, groups: set[str]) -> tuple[list[str], dict]:
        """Names of the classes and the class of each category id.

        Exporters such as Roboflow's put all categories into one
        supercategory.

        Args:
            groups (set[str]): Supercategories of all objects that count.
        """
        key = ('name'
               if len(groups) < 2 or 'none' in groups else 'supercategory')
        # A category that no object has may lack its supercategory.
        labels = {
            category['id']: category.get(key) or category['name']
            for category in self._categories
        }
        names = list(dict.fromkeys(labels.values()))
        return names, {number: names.index(label)
                       for number, label in labels.items()}


def _large_to_small(found: Instances) -> list[int]:
    """The objects that are not crowds, the smallest one last."""
    order = np.argsort(-found.areas, kind='stable')
    return [int(index) for index in order if not found.crowd[index]]


def _rename(ids: np.ndarray, names: dict[int, int],
            other: int) -> np.ndarray:
    """Replace ids (H, W) by their new names; ``other`` for the rest."""
    known, inverse = np.unique(ids, return_inverse=True)
    renamed = np.array([names.get(int(number), other) for number in known])
    return renamed[inverse].reshape(ids.shape)
