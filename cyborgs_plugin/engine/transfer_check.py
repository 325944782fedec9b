"""Checks before a fine-tuning: nothing of it may fail in silence.

mmengine only logs it when a pretrained file does not fit, and mmdet skips the
categories and masks that an annotation file lacks: training then starts from
random weights, or learns from nothing.
"""
import hashlib
import json
import os.path as osp
import pickle
import re
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import PretrainedInit
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import CheckpointLoader, Runner
from mmpretrain.utils import get_ori_model
from torch import nn

Tensors = Dict[str, torch.Tensor]


@HOOKS.register_module()
class PretrainedCheckHook(Hook):
    """Stop the training if a module has not got its pretrained weights.

    Before the weights are initialised it compares each file that an
    ``init_cfg`` of type ``Pretrained`` names with the module, and afterwards
    it compares every tensor of the module with the file's. Registered where
    mmengine's own hooks are, so that a config of any OpenMMLab package can
    name it.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._loaded = False

    def before_run(self, runner: Runner) -> None:
        """Refuse files that do not fit."""
        check_files(get_ori_model(runner.model))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember that a whole checkpoint has replaced the weights."""
        self._loaded = True

    def before_train(self, runner: Runner) -> None:
        """Compare what was loaded, unless a checkpoint has replaced it."""
        if not self._loaded:
            for line in check_loaded(get_ori_model(runner.model)):
                runner.logger.info(line)


def check_files(model: nn.Module) -> List[str]:
    """Check that every pretrained file holds what its module needs.

    Args:
        model (nn.Module): A model of the toolbox, initialised or not.

    Returns:
        List[str]: A line for each file.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one is damaged, asks to run code, lacks tensors or has
            others' shapes. Names them.
    """
    lines = []
    for name, module, init in pretrained_modules(model):
        wanted = _tensors(module)
        found = read_pretrained(init['checkpoint'], init.get('prefix'))
        lacking = [key for key in wanted if key not in found]
        wrong = [
            f'{key} {tuple(found[key].shape)} instead of '
            f'{tuple(wanted[key].shape)}' for key in wanted
            if key in found and found[key].shape != wanted[key].shape
        ]
        if lacking or wrong:
            raise ValueError(
                f'{init["checkpoint"]} does not fit model.{name} (init_cfg '
                f'prefix={init.get("prefix")!r}): of {len(wanted)} tensors '
                f'{len(lacking)} are missing ({_some(lacking)}) and '
                f'{len(wrong)} have other shapes ({_some(wrong)}). The file '
                f'has {_some(sorted(found), 4)}. Set init_cfg.prefix and the '
                "backbone's depth to the file's, or take another file")
        lines.append(f'model.{name}: all of {len(wanted)} tensors are in '
                     f'{init["checkpoint"]}')
    return lines


def check_loaded(model: nn.Module) -> List[str]:
    """Check that every pretrained module holds its file's tensors.

    Args:
        model (nn.Module): The model after ``init_weights``.

    Returns:
        List[str]: A line for each file.

    Raises:
        ValueError: If a tensor is not the file's. Names them.
    """
    check_files(model)
    lines = []
    for name, module, init in pretrained_modules(model):
        found = read_pretrained(init['checkpoint'], init.get('prefix'))
        wanted = _tensors(module)
        other = [
            key for key, value in wanted.items()
            if not torch.equal(value.cpu(), found[key].to(value.dtype))
        ]
        if other:
            raise ValueError(
                f'model.{name}: {len(other)} of {len(wanted)} tensors are '
                f'not those of {init["checkpoint"]} after loading: '
                f'{_some(other)}. Something initialises them after init_cfg, '
                'or init_weights has not run')
        lines.append(f'model.{name}: {len(wanted)} of {len(wanted)} tensors '
                     f'were loaded from {init["checkpoint"]}')
    return lines


def pretrained_modules(
        model: nn.Module) -> Iterator[Tuple[str, nn.Module, dict]]:
    """Give name, module and ``init_cfg`` of all that is pretrained.

    Args:
        model (nn.Module): A model of the toolbox.

    Yields:
        Tuple[str, nn.Module, dict]: One for each file to load.
    """
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        if isinstance(init_cfg, dict):
            init_cfg = [init_cfg]
        for init in init_cfg or ():
            if init.get('type') in ('Pretrained', PretrainedInit):
                yield name, module, init


def read_pretrained(checkpoint: str, prefix: Optional[str] = None) -> Tensors:
    """Read the tensors that mmengine would load, running no code.

    Args:
        checkpoint (str): Path, or an address that mmengine knows, such as
            ``torchvision://resnet50``.
        prefix (str, optional): What the keys begin with. Defaults to None.

    Returns:
        Tensors: By their keys without the prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, asks to run code or has no such keys.
    """
    if '://' in checkpoint:
        content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    elif not osp.isfile(osp.expanduser(checkpoint)):
        raise FileNotFoundError(
            f'{checkpoint} does not exist: make it with tools/'
            'model_converters/publish_backbone.py and name it by BACKBONE=... '
            'or --cfg-options model.backbone.init_cfg.checkpoint=...')
    else:
        path = osp.expanduser(checkpoint)
        check_name_hash(path)
        try:
            content = torch.load(
                path,
                map_location='cpu',
                weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError,
                KeyError) as error:
            raise ValueError(
                f'{checkpoint} is damaged, or holds objects whose code would '
                'run when they are read, as a training checkpoint does: take '
                'a file of tools/model_converters/publish_backbone.py or '
                f'from_published.py ({str(error).splitlines()[0]})') from error
    state = content.get('state_dict', content)
    tensors = {
        key: value
        for key, value in state.items() if isinstance(value, torch.Tensor)
    }
    if prefix is None:
        return {_without(key, 'module.'): v for key, v in tensors.items()}
    prefix = prefix.rstrip('.') + '.'
    chosen = {
        key[len(prefix):]: value
        for key, value in tensors.items() if key.startswith(prefix)
    }
    if not chosen:
        groups = sorted({key.split('.')[0] for key in tensors})
        raise ValueError(
            f'{checkpoint} has no keys that begin with {prefix!r}, but such '
            f'as begin with {_some(groups)}: set init_cfg.prefix to what the '
            'file has, or publish the checkpoint with tools/'
            'model_converters/publish_backbone.py')
    return chosen


def check_name_hash(path: str) -> None:
    """Compare a file with the hash in its name, if there is one.

    Args:
        path (str): Such as ``x-0123abcd.pth``: the beginning of the SHA-256.

    Raises:
        ValueError: If the file is not the one that got this name.
    """
    match = re.search(r'-([0-9a-f]{8})\.(pth|safetensors|pkl)$', path)
    if match is None:
        return
    found = sha256(path)[:8]
    if found != match[1]:
        raise ValueError(
            f'{path} is truncated or altered: by its name its SHA-256 begins '
            f'with {match[1]}, but it begins with {found}. Copy or publish it '
            'again')


def sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def check_annotations(cfg: Config) -> List[str]:
    """Check that the annotation files hold what a detection config needs.

    Args:
        cfg (Config): A config of mmdet; others have nothing to check.

    Returns:
        List[str]: A line for each annotation file.

    Raises:
        FileNotFoundError: If a file is missing.
        ImportError: If the LVIS evaluation lacks its package.
        ValueError: If a file is not json, lacks categories or masks, or if
            training and validation order their categories differently.
    """
    _check_lvis(cfg)
    lines = []
    orders: Dict[str, List[str]] = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in _datasets(cfg.get(loader) or {}):
            path = osp.join(dataset.get('data_root') or '',
                            dataset['ann_file'])
            if path in orders:
                continue
            place = f'{path} ({loader}, {dataset["type"]})'
            if not osp.isfile(path):
                raise FileNotFoundError(
                    f'{place} does not exist: set data_root to the folder '
                    f'that holds {dataset["ann_file"]}')
            content = _read_json(path, place)
            orders[path] = _check_categories(content, dataset, place)
            if _needs_masks(dataset):
                _check_masks(content, place)
            lines.append(f'{path}: {len(content["images"])} images, '
                         f'{len(content.get("annotations", []))} annotations')
    if len({tuple(order) for order in orders.values()}) > 1:
        raise ValueError(
            f'{" and ".join(orders)} list their categories in different '
            'orders, but mmdet numbers the classes by this order: write one '
            'of them anew with the order of the other')
    return lines


def _tensors(module: nn.Module) -> Tensors:
    """The tensors that pretraining gives (a count of batches is none)."""
    return {
        key: value
        for key, value in module.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }


def _without(key: str, prefix: str) -> str:
    return key[len(prefix):] if key.startswith(prefix) else key


def _some(names: Sequence[Any], count: int = 8) -> str:
    shown = ', '.join(str(name) for name in names[:count]) or 'none'
    return f'{shown}, ...' if len(names) > count else shown


def _datasets(node: Any) -> Iterator[dict]:
    """Find the data sets with a json below a dataloader's config."""
    if isinstance(node, dict):
        if str(node.get('ann_file', '')).endswith('.json'):
            yield node
        else:
            node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _datasets(child)


def _read_json(path: str, place: str) -> dict:
    with open(path, encoding='utf-8') as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f'{place} is no json, or a truncated one: '
                             f'{error}') from error
    lacking = [
        key for key in ('images', 'categories')
        if not isinstance(content, dict) or not content.get(key)
    ]
    if lacking:
        raise ValueError(f'{place} is not in the COCO format: it has no '
                         f'{" and no ".join(lacking)}')
    return content


def _classes(dataset: dict) -> Optional[Sequence[str]]:
    metainfo = dataset.get('metainfo') or {}
    if metainfo.get('classes'):
        return metainfo['classes']
    kind = DATASETS.get(f'mmdet.{dataset["type"].split(".")[-1]}')
    return kind.METAINFO.get('classes') if kind else None


def _check_categories(content: dict, dataset: dict, place: str) -> List[str]:
    """Compare the categories with the classes; give those in both."""
    names = [category['name'] for category in content['categories']]
    classes = _classes(dataset)
    if classes is None:
        return names
    if 'LVIS' in dataset['type']:  # goes by the ids, not by the names
        lacking = [] if len(names) == len(classes) else [
            f'{len(classes)} categories, but it has {len(names)}'
        ]
    else:
        lacking = [name for name in classes if name not in names]
    if lacking:
        raise ValueError(
            f'{place}: the classes of the config do not match the categories '
            f'of the file. {len(lacking)} of {len(classes)} are missing: '
            f'{_some(lacking)}; the file has {_some(names)}. Set '
            'dataset.metainfo.classes (and num_classes of the heads) to the '
            "file's")
    return [name for name in names if name in set(classes)]


def _needs_masks(dataset: dict) -> bool:
    return any(
        step.get('type') == 'LoadAnnotations' and step.get('with_mask')
        for step in dataset.get('pipeline') or ())


def _check_masks(content: dict, place: str) -> None:
    annotations = content.get('annotations', [])
    lacking = [a['id'] for a in annotations if not a.get('segmentation')]
    if lacking:
        raise ValueError(
            f'{place}: {len(lacking)} of {len(annotations)} annotations have '
            f'no segmentation (ids {_some(lacking)}), but the config trains '
            'masks: add them, or take a config that only finds boxes')


def _check_lvis(cfg: Config) -> None:
    evaluator = cfg.get('val_evaluator') or {}
    if not isinstance(evaluator, dict) or evaluator.get(
            'type') != 'LVISMetric':
        return
    remedy = ('pip install --no-deps git+https://github.com/lvis-dataset/'
              'lvis-api.git')
    try:
        import lvis.eval as lvis_eval
    except ImportError as error:
        raise ImportError('LVIS data and their evaluation need the package '
                          f'lvis ({error}): {remedy}') from error
    import numpy as np
    with open(lvis_eval.__file__, encoding='utf-8') as file:
        if 'np.float)' in file.read() and not hasattr(np, 'float'):
            raise ImportError(
                f'lvis in {osp.dirname(lvis_eval.__file__)} is the release of '
                f'PyPI, which asks numpy {np.__version__} for np.float and '
                f'would stop in the evaluation: {remedy}')
