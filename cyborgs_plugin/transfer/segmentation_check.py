"""Checks of the masks that a segmentor learns from.

mmseg learns from what it finds: a folder without pictures, pixels of a value
that no class has, masks in which the only object is 255 and thereby ignored.
"""
import os
import os.path as osp
from collections import Counter
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image, UnidentifiedImageError

from ..errors import MissingFileError, UserError
from .annotation_check import kind_of, masked_datasets
from .pretrained_check import some

_LOOKED_AT = 16
"""Masks of each data set that are compared with their pictures."""
_CONVERTERS = dict(CityscapesDataset='cityscapes.py',
                   PascalVOCDataset='voc_aug.py')
"""Of mmseg's tools/dataset_converters, by the data set they write."""


def check_masks(cfg: Config) -> list[str]:
    """Check that pictures and masks are there and hold the classes.

    Existence is checked of all, the content of some of each data set, spread
    over it.

    Args:
        cfg (Config): A config of mmseg; others have nothing to check.

    Returns:
        list[str]: A line for each data set.

    Raises:
        MissingFileError: If a folder, a list, a picture or a mask is missing.
        UserError: If masks are of colours, of another size than the picture
            or of values that are no class, or if all are of one class.
    """
    if cfg.get('default_scope') != 'mmseg':
        return []
    lines: dict[str, str] = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for node in masked_datasets(cfg.get(loader)):
            key = repr((node.get('data_root'), node['data_prefix'],
                        node.get('ann_file')))
            if key not in lines and not node.get('backend_args'):
                place = f'{loader} ({kind_of(node)})'
                lines[key] = _check(node, place, loader.startswith('train'))
    return list(lines.values())


def _check(node: dict, place: str, trains: bool) -> str:
    """Check one data set, and say what it holds."""
    _check_paths(node, place)
    steps = [step for step in node.get('pipeline') or ()
             if kind_of(step) in ('LoadImageFromFile', 'LoadAnnotations')]
    dataset: Any = DATASETS.build(dict(
        node, _scope_='mmseg', pipeline=steps, lazy_init=False,
        serialize_data=False))  # which fails for none
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    if not infos:
        _say_what_is_there(node, dataset, place)
    masked = any(kind_of(step) == 'LoadAnnotations' for step in steps)
    for name, key in (('pictures', 'img_path'), ('masks', 'seg_map_path')):
        lacking = [info[key] for info in infos if key in info
                   and not osp.isfile(info[key])]
        if lacking and (masked or key == 'img_path'):
            raise MissingFileError(
                f'{place}: {len(lacking)} of {len(infos)} {name} do not '
                f'exist: {some(lacking, 3)}. Each picture needs a mask of its '
                f'own name with the ending {dataset.seg_map_suffix}'
                + _converter(node))
    if not masked:
        return f'{place}: {len(infos)} pictures, of which no masks are read'
    found: set[int] = set()
    chosen = {int(i) for i in np.linspace(0, len(infos) - 1, _LOOKED_AT)}
    for number in sorted(chosen):
        found |= _classes_in(dataset, number, place)
    if trains:
        _check_variety(dataset, found, place)
    return (f'{place}: {len(infos)} pictures with masks; in {len(chosen)} of '
            f'them are {len(found)} of '
            f'{len(dataset.metainfo.get("classes", ()))} classes')


def _check_paths(node: dict, place: str) -> None:
    """Refuse folders and lists that are not there."""
    root = node.get('data_root') or ''
    paths = [osp.join(root, path) for path in node['data_prefix'].values()
             if path is not None]
    if node.get('ann_file'):
        paths.append(osp.join(root, node['ann_file']))
    for path in paths:
        if not osp.exists(path):
            raise MissingFileError(
                f'{place}: {path} does not exist: set data_root, or the '
                'variable of the shell that the config takes it from, to the '
                'folder that holds it' + _converter(node))


def _converter(node: dict) -> str:
    tool = _CONVERTERS.get(kind_of(node))
    return f". mmseg's tools/dataset_converters/{tool} writes what the data " \
        'set itself has not' if tool else ''


def _say_what_is_there(node: dict, dataset: Any, place: str) -> None:
    """Refuse a data set without a picture, and name what it has instead."""
    folder = dataset.data_prefix['img_path']
    endings = Counter(
        osp.splitext(name)[1] for _, _, names in os.walk(folder)
        for name in names)
    raise UserError(
        f'{place}: {node.get("ann_file") or folder} names no picture that '
        f'ends with img_suffix={dataset.img_suffix!r}; the files in {folder} '
        'end with ' + (some([
            f'{ending!r} ({count})' for ending, count in endings.most_common()
        ], 4)) + ': set img_suffix of the data sets')


def _classes_in(dataset: Any, number: int, place: str) -> set[int]:
    """Which classes a mask has, once it is found to fit its picture."""
    info = dataset.get_data_info(number)
    path = info['seg_map_path']
    try:
        with Image.open(path) as image:
            mode = image.mode
        loaded = dataset.pipeline(info)
        # without a step that loads it, the picture is as large as its mask
        size = loaded.get('img', loaded['gt_seg_map']).shape[:2]
    except (OSError, UnidentifiedImageError, ValueError,
            AttributeError) as error:
        raise UserError(f'{place}: {info["img_path"]} or its mask {path} '
                        f'cannot be read: {error}') from error
    mask = loaded['gt_seg_map']
    if mode not in ('1', 'L', 'P'):
        raise UserError(
            f'{place}: {path} is an image of mode {mode}, but a mask has one '
            'channel of eight bits with the number of the class of each '
            'pixel: save it as such')
    if mask.shape != size:
        raise UserError(
            f'{place}: {path} has {mask.shape[1]}x{mask.shape[0]} pixels, but '
            f'its picture {size[1]}x{size[0]}, upright as mmseg reads it')
    classes = len(dataset.metainfo.get('classes', ()))
    values = {int(value) for value in np.unique(mask)}
    values -= {dataset.ignore_index}
    wrong = sorted(value for value in values if value >= classes)
    if classes and wrong:
        raise UserError(
            f'{place}: {path} has pixels of the values {some(wrong)}, but the '
            f'{classes} classes are 0 to {classes - 1}, and '
            f'{dataset.ignore_index} is ignored. Set metainfo.classes and '
            'num_classes of the heads to all that there are, or write the '
            'masks again')
    return values


def _check_variety(dataset: Any, found: set[int], place: str) -> None:
    """Refuse masks that are all of one class.

    Read until two are found: of some pictures that may be all, a rare object
    is no mistake.
    """
    classes = dataset.metainfo.get('classes', ())
    if len(classes) < 2:
        return
    for number in range(len(dataset)):
        if len(found) > 1:
            return
        found = found | _classes_in(dataset, number, place)
    if len(found) < 2:
        only = ', '.join(f'{value} ({classes[value]})' for value in found)
        raise UserError(
            f'{place}: of {len(classes)} classes all masks together have '
            f'{only or "none"}, besides {dataset.ignore_index}, which is '
            'ignored: nothing could be learnt. Masks of 0 and 255, say, must '
            'be saved as 0 and 1')
