"""Checks of the annotations that a detector is trained with.

mmdet skips categories and masks that an annotation file lacks: the detector is
then trained with no objects.
"""
import inspect
import json
import os
import os.path as osp
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..errors import MissingFileError, MissingPackageError, UserError
from .pretrained_check import some

# Heads that predict the classes of the data sets. Those of panoptic models
# count things and stuff and have other names.
HEADS = ('bbox_head', 'mask_head', 'mask_iou_head', 'point_head',
         'query_head', 'decode_head', 'auxiliary_head')


# Endings of files that may hold code; the toolbox decides by the ending.
UNSAFE = ('.pkl', '.pickle', '.yaml', '.yml', '.npy', '.npz', '.joblib',
          '.pt', '.pth')


def check_file_kinds(cfg: Config) -> None:
    """Refuse annotations in a file that may run code when it is read.

    Every string below the data sets and the evaluators counts, under any key,
    unless it names an output.

    Args:
        cfg (Config): A config of any OpenMMLab package.

    Raises:
        UserError: If there is one; the message names the key and the file.
    """

    def visit(node: Any, place: str) -> None:
        if not isinstance(node, (dict, list, tuple)):
            return
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            here = f'{place}.{key}'
            if str(key).startswith('out'):  # such files are only written
                continue
            if isinstance(value, (str, os.PathLike)) and str(
                    value).lower().endswith(UNSAFE):
                raise UserError(
                    f'{here}={value} is a {osp.splitext(value)[1]}, which '
                    'the toolbox reads by running what it asks for: write '
                    'the annotations as json')
            visit(value, here)

    for kind in ('dataloader', 'evaluator'):
        for part in ('train', 'val', 'test'):
            visit(cfg.get(f'{part}_{kind}'), f'{part}_{kind}')


def check_config(cfg: Config) -> list[str]:
    """Check that the heads have as many classes as the data.

    Args:
        cfg (Config): A config of mmdet or mmseg; others have nothing to
            check.

    Returns:
        list[str]: A line for each head.

    Raises:
        ValueError: If ``num_classes`` of a head differs. The message names all
            such heads.
    """
    model = cfg.get('model') or {}
    heads = dict(_class_heads(model, 'model'))
    # Classes may be names, and trackers follow only one of the data's classes.
    if 'language_model' in model or 'tracker' in model:
        heads = {}
    segments = cfg.get('default_scope') == 'mmseg'
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        node = cfg.get(loader) if heads else None
        for dataset in (masked_datasets(node)
                        if segments else _datasets(node, '')):
            classes = _classes(dataset, 'mmseg' if segments else 'mmdet')
            if classes is None or 'Panoptic' in kind_of(dataset):
                continue
            wrong = {k: v for k, v in heads.items() if v != len(classes)}
            if wrong:
                raise UserError(
                    f'{loader} ({kind_of(dataset)}) has {len(classes)} '
                    f'classes ({some(classes)}), but the config says ' +
                    ', '.join(f'{k}={v}' for k, v in wrong.items()) +
                    f': set {"it" if len(wrong) == 1 else "them"} to '
                    f'{len(classes)}, or metainfo.classes of the data sets '
                    'to the classes that you mean')
    return [f'{key}={value}' for key, value in heads.items()]


def check_annotations(cfg: Config) -> list[str]:
    """Check that the annotation files hold what a detection config needs.

    Args:
        cfg (Config): A config of mmdet; others have nothing to check.

    Returns:
        list[str]: A line for each annotation file.

    Raises:
        FileNotFoundError: If a file is missing.
        ImportError: If the LVIS evaluation lacks its package.
        ValueError: If a file is not json, lacks categories or masks, or if
            training and validation order their categories differently.
    """
    _check_lvis(cfg)
    lines = []
    orders: dict[str, list[str]] = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in _datasets(cfg.get(loader) or {}):
            path = osp.join(dataset.get('data_root') or '',
                            dataset['ann_file'])
            if path in orders:
                continue
            place = f'{path} ({loader}, {kind_of(dataset)})'
            if not osp.isfile(path):
                raise MissingFileError(
                    f'{place} does not exist: set data_root to the folder '
                    f'that holds {dataset["ann_file"]}')
            content = _read_json(path, place)
            orders[path] = _check_categories(content, dataset, place)
            if _needs_masks(dataset):
                _check_masks(content, place)
            lines.append(f'{path}: {len(content["images"])} images, '
                         f'{len(content.get("annotations", []))} annotations')
    if len({tuple(order) for order in orders.values()}) > 1:
        raise UserError(
            f'{" and ".join(orders)} list their categories in different '
            'orders, but mmdet numbers the classes by this order: rewrite '
            'one of them in the order of the other')
    return lines


def kind_of(node: dict) -> str:
    """Name of the class of a config's component, without the package."""
    kind = node.get('type') or ''
    return str(getattr(kind, '__name__', kind)).split('.')[-1]


def _datasets(node: Any, ending: str = '.json') -> Iterator[dict]:
    """Find the data sets with such a file below a dataloader's config."""
    if isinstance(node, dict):
        file = node.get('ann_file')
        if isinstance(file, str) and file.endswith(ending):
            yield node
        else:
            node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _datasets(child, ending)


def masked_datasets(node: Any) -> Iterator[dict]:
    """Find mmseg's data sets, which have no such file, likewise.

    Args:
        node (Any): A dataloader's config, or a part of one.

    Yields:
        dict: The config of each.
    """
    if isinstance(node, dict):
        if 'seg_map_path' in (node.get('data_prefix') or {}):
            yield node
        else:
            node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from masked_datasets(child)


def _read_json(path: str, place: str) -> dict:
    with open(path, encoding='utf-8-sig') as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError) as error:
            raise UserError(f'{place} is no json, or a truncated one: '
                            f'{error}') from error
    lacking = [
        key for key in ('images', 'categories')
        if not isinstance(content, dict) or not content.get(key)
    ]
    for key in ('images', 'categories', 'annotations'):
        records = content.get(key, []) if not lacking else []
        needed = dict(categories='name', annotations='id').get(key, 'id')
        wrong = [
            number for number, record in enumerate(records)
            if not isinstance(record, dict) or needed not in record
        ] if isinstance(records, list) else ['all']
        if wrong:
            raise UserError(
                f'{place} is not in the COCO format: of its {key} '
                f'{some(wrong)} (from 0) are no objects with {needed!r}')
    if lacking:
        raise UserError(f'{place} is not in the COCO format: it has no '
                        f'{" and no ".join(lacking)}')
    return content


def _classes(dataset: dict, scope: str = 'mmdet') -> Sequence[str] | None:
    classes = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(classes, str):
        if not osp.isfile(classes):
            raise UserError(
                f'metainfo.classes of a {kind_of(dataset)} is the text '
                f'{classes!r}, which is no file either: one class is written '
                f'({classes!r}, ), with a comma')
        with open(classes, encoding='utf-8') as file:
            classes = file.read().splitlines()
    if classes:
        return classes
    kind = dataset['type']
    if not inspect.isclass(kind):
        kind = DATASETS.get(f'{scope}.{kind_of(dataset)}')
    return kind.METAINFO.get('classes') if kind else None


def _class_heads(node: Any, place: str) -> Iterator[tuple[str, int]]:
    """Find ``num_classes`` of the heads below a model's config."""
    if isinstance(node, dict):
        for key, child in node.items():
            for number, head in enumerate(
                    child if isinstance(child, (list, tuple)) else [child]):
                below = f'{place}.{key}' + (
                    f'.{number}' if isinstance(child, (list, tuple)) else '')
                if not isinstance(head, dict) or 'panoptic' in key:
                    continue
                if key in HEADS and isinstance(
                        head.get('num_classes'), int) and (
                            not head.get('class_agnostic')):
                    yield f'{below}.num_classes', head['num_classes']
                yield from _class_heads(head, below)


def _check_categories(content: dict, dataset: dict, place: str) -> list[str]:
    """Compare the categories with the classes; return those in both."""
    names = [category['name'] for category in content['categories']]
    classes = _classes(dataset)
    if classes is None:
        return names
    if 'LVIS' in kind_of(dataset):  # goes by the ids, not by the names
        lacking = [] if len(names) == len(classes) else [
            f'{len(classes)} categories, but it has {len(names)}'
        ]
    else:
        lacking = [name for name in classes if name not in names]
    if lacking:
        raise UserError(
            f'{place}: the classes of the config do not match the categories '
            f'of the file. {len(lacking)} of {len(classes)} are missing: '
            f'{some(lacking)}; the file has {some(names)}. Set '
            'dataset.metainfo.classes (and num_classes of the heads) to the '
            "file's")
    return [name for name in names if name in set(classes)]


def _needs_masks(dataset: dict) -> bool:
    return any(
        kind_of(step) == 'LoadAnnotations' and step.get('with_mask')
        for step in dataset.get('pipeline') or ())


def _check_masks(content: dict, place: str) -> None:
    annotations = content.get('annotations', [])
    lacking = [a['id'] for a in annotations if not a.get('segmentation')]
    if lacking:
        raise UserError(
            f'{place}: {len(lacking)} of {len(annotations)} annotations have '
            f'no segmentation (ids {some(lacking)}), but the config trains '
            'masks: add them, or take a config that only finds boxes')


def _check_lvis(cfg: Config) -> None:
    evaluator = cfg.get('val_evaluator') or {}
    if not isinstance(evaluator, dict) or kind_of(evaluator) != 'LVISMetric':
        return
    remedy = ('pip install --no-deps git+https://github.com/lvis-dataset/'
              'lvis-api.git')
    try:
        import lvis.eval as lvis_eval
    except ImportError as error:
        raise MissingPackageError(
            'LVIS data and their evaluation need the package lvis '
            f'({error}): {remedy}') from error
    import numpy as np
    with open(lvis_eval.__file__, encoding='utf-8') as file:
        if 'np.float)' in file.read() and not hasattr(np, 'float'):
            raise MissingPackageError(
                f'lvis in {osp.dirname(lvis_eval.__file__)} is the release of '
                f'PyPI, which asks numpy {np.__version__} for np.float and '
                f'would stop in the evaluation: {remedy}')
