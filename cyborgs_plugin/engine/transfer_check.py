"""Checks of what a training starts from: nothing may fail in silence.

mmengine only logs it when a file of weights does not fit, and mmdet skips the
categories and masks that an annotation file lacks: training then starts from
random weights, or learns from nothing. Nothing at all is said when the tensors
fit but the images are normalised otherwise, or the strides sit elsewhere.
"""
import ast
import hashlib
import inspect
import json
import os.path as osp
import pickle
import re
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import (
    BaseAveragedModel,
    BaseTTAModel,
    PretrainedInit,
    is_model_wrapper,
)
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import (
    BaseLoop,
    CheckpointLoader,
    Runner,
    find_latest_checkpoint,
)
from torch import nn

Tensors = Dict[str, torch.Tensor]

# What the configs of this package pretrain with, and torchvision as well.
RECIPE: Dict[str, Any] = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
    style='pytorch')
# Heads that tell the classes of the data sets apart. Those of panoptic models
# count things and stuff and have other names.
HEADS = ('bbox_head', 'mask_head', 'mask_iou_head', 'point_head',
         'query_head')


@HOOKS.register_module()
class PretrainedCheckHook(Hook):
    """Stop a run whose weights are not those that it was given.

    Before the weights are initialised it compares each file that an
    ``init_cfg`` of type ``Pretrained`` names with the module, the images and
    the strides; afterwards it compares every tensor of the module with the
    file's. A checkpoint of ``load_from`` or of a resumed run must fit the
    model, at least in part. Registered where mmengine's own hooks are, so that
    a config of any OpenMMLab package can name it.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._loaded = False

    def before_run(self, runner: Runner) -> None:
        """Refuse files that do not fit, if any of them will be read."""
        # Only a training initialises weights, and has built its loop by now.
        if isinstance(runner._train_loop, BaseLoop):
            model = _unwrapped(runner.model)
            check_files(model)
            for line in check_recipe(model, runner.cfg):
                runner.logger.info(line)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint of which nothing would be loaded."""
        source = runner._load_from
        if source is None and runner._resume:
            source = find_latest_checkpoint(runner.work_dir)
        warning = check_checkpoint(
            _unwrapped(runner.model), checkpoint, source or 'The checkpoint')
        if warning:
            runner.logger.warning(warning)
        self._loaded = True

    def before_train(self, runner: Runner) -> None:
        """Compare what was loaded, unless a checkpoint has replaced it."""
        if not self._loaded:
            for line in check_loaded(_unwrapped(runner.model)):
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
        lacking, wrong = _misfits(found, wanted)
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


def check_checkpoint(model: nn.Module, checkpoint: dict,
                     source: str) -> Optional[str]:
    """Check that a checkpoint holds tensors of the model.

    Args:
        model (nn.Module): A model of the toolbox.
        checkpoint (dict): As read from a file, with a ``state_dict`` or
            without.
        source (str): The file, for messages.

    Returns:
        Optional[str]: What will not be loaded, or None if all will.

    Raises:
        ValueError: If nothing will. Says how to start from a backbone.
    """
    state = checkpoint.get('state_dict', checkpoint)
    found = {
        _without(key, 'module.'): value
        for key, value in state.items() if isinstance(value, torch.Tensor)
    }
    wanted = _tensors(model)
    lacking, wrong = _misfits(found, wanted)
    if not lacking and not wrong:
        return None
    parts = (f'{len(lacking)} are missing ({_some(lacking, 4)}), {len(wrong)} '
             f'have other shapes ({_some(wrong, 4)})')
    loaded = len(wanted) - len(lacking) - len(wrong)
    if loaded:
        return (f'{source}: only {loaded} of {len(wanted)} tensors of the '
                f'model are loaded; {parts}. These keep the values that the '
                'model was initialised with')
    meta = checkpoint.get('meta')
    arch = meta.get('arch') if isinstance(meta, dict) else None
    prefix = repr(f'{arch}.') if arch else '...'
    raise ValueError(
        f'{source} fits none of the {len(wanted)} tensors of the model, so '
        f'nothing of it would be loaded: {parts}. The file has '
        f'{_some(sorted(found), 4)}. load_from, --resume and tools/test.py '
        'take a checkpoint of this very model. To start a training from a '
        "backbone, set model.backbone.init_cfg=dict(type='Pretrained', "
        f'checkpoint={source!r}, prefix={prefix}) instead')


def check_recipe(model: nn.Module,
                 cfg: Optional[Config] = None) -> List[str]:
    """Check what tensors cannot tell: images and strides as in pretraining.

    Args:
        model (nn.Module): A model of the toolbox, initialised or not.
        cfg (Config, optional): The config it is built from. Defaults to None.

    Returns:
        List[str]: A line for each file.

    Raises:
        ValueError: If mean, std, order of channels or ``style`` are not those
            that the file was trained with. Names the keys of the config.
    """
    lines = []
    for name, module, init in pretrained_modules(model):
        source = init['checkpoint']
        recipe, recorded = read_recipe(source)
        found = _image_settings(model, cfg or {})
        style = _style(module)
        if style is not None:
            found['style'] = (f'model.{name or "backbone"}.style', style)
        found = {key: found[key] for key in found if key in recipe}
        assumed = '' if recorded >= set(found) else (
            f' {source} itself does not say so: the recipe of this package '
            'is assumed. If it was trained otherwise, add mean, std, to_rgb '
            'and style to its meta.')
        wrong = {
            place: (value, recipe[key])
            for key, (place, value) in found.items()
            if not _same(value, recipe[key])
        }
        if wrong:
            raise ValueError(
                f'The tensors of {source} would fit, but it was trained with '
                'other settings: ' + '; '.join(
                    f'{place} is {value!r}, set it to {wanted!r}'
                    for place, (value, wanted) in wrong.items()) +
                f'.{assumed}')
        places = ', '.join(place for place, _ in found.values())
        lines.append(
            f'{places}: as {source} was trained.{assumed}' if found else
            f'model.{name}: whether images and strides are those that '
            f'{source} was trained with cannot be told')
    return lines


def read_recipe(checkpoint: str) -> Tuple[Dict[str, Any], Set[str]]:
    """Tell what a file was trained with.

    Args:
        checkpoint (str): As :func:`read_pretrained` takes it.

    Returns:
        Tuple[dict, Set[str]]: Those of ``mean``, ``std``, ``to_rgb`` and
        ``style`` that are known, and which of them are no assumption.
        Nothing is assumed of an address, but of torchvision's all is known.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or asks to run code.
    """
    if checkpoint.startswith('torchvision://'):
        return dict(RECIPE), set(RECIPE)
    recorded = recipe_of(_read(checkpoint).get('meta'))
    assumed = {} if '://' in checkpoint else RECIPE
    return {**assumed, **recorded}, set(recorded)


def recipe_of(meta: Any) -> Dict[str, Any]:
    """Tell what a file was trained with by its ``meta``.

    It may say so itself or hold the text of a config, which is not run.

    Args:
        meta (Any): Of a published file or of a training's checkpoint.

    Returns:
        dict: Those of ``mean``, ``std``, ``to_rgb`` and ``style`` that it
        tells.
    """
    if not isinstance(meta, dict):
        return {}
    settings = _read_settings(meta.get('config') or meta.get('cfg'))
    model = settings.get('model', {})
    images = _as_dict(
        model.get('data_preprocessor') or settings.get('data_preprocessor'))
    backbone = _as_dict(model.get('backbone'))
    found: Dict[str, Any] = {key: images.get(key) for key in ('mean', 'std')}
    if found['mean']:
        found['to_rgb'] = bool(
            images.get('to_rgb') or images.get('bgr_to_rgb'))
    if 'ResNe' in str(backbone.get('type')):
        found['style'] = backbone.get('style', 'pytorch')
    found.update((key, meta[key]) for key in RECIPE if key in meta)
    return {k: v for k, v in found.items() if _plausible(k, v)}


def pretrained_modules(
        model: nn.Module) -> Iterator[Tuple[str, nn.Module, dict]]:
    """Give name, module and ``init_cfg`` of all that is pretrained.

    Moving averages are copies that never load a file, though they copied the
    ``init_cfg`` as well.

    Args:
        model (nn.Module): A model of the toolbox.

    Yields:
        Tuple[str, nn.Module, dict]: One for each file to load.
    """
    averages = _averages(model)
    for name, module in model.named_modules():
        if name.startswith(averages):
            continue
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
    content = _read(checkpoint)
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


def check_config(cfg: Config) -> List[str]:
    """Check that the heads of a detector have as many classes as the data.

    Args:
        cfg (Config): A config of mmdet; others have nothing to check.

    Returns:
        List[str]: A line for each head.

    Raises:
        ValueError: If ``num_classes`` of a head is another number. Names all
            such heads.
    """
    model = cfg.get('model') or {}
    heads = dict(_class_heads(model, 'model'))
    # Classes may be words, and trackers follow one of the data's classes.
    if 'language_model' in model or 'tracker' in model:
        heads = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in _datasets(cfg.get(loader) if heads else None, ''):
            classes = _classes(dataset)
            if classes is None or 'Panoptic' in _kind(dataset):
                continue
            wrong = {k: v for k, v in heads.items() if v != len(classes)}
            if wrong:
                raise ValueError(
                    f'{loader} ({_kind(dataset)}) has {len(classes)} classes '
                    f'({_some(classes)}), but the config says ' +
                    ', '.join(f'{k}={v}' for k, v in wrong.items()) +
                    f': set {"it" if len(wrong) == 1 else "them"} to '
                    f'{len(classes)}, or metainfo.classes of the data sets '
                    'to the classes that you mean')
    return [f'{key}={value}' for key, value in heads.items()]


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
            place = f'{path} ({loader}, {_kind(dataset)})'
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


def _read(checkpoint: str) -> dict:
    """Read a file or an address that mmengine knows, running no code."""
    if '://' in checkpoint:
        return CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    if not osp.isfile(osp.expanduser(checkpoint)):
        raise FileNotFoundError(
            f'{checkpoint} does not exist: make it with tools/'
            'model_converters/publish_backbone.py and name it by BACKBONE=... '
            'or --cfg-options model.backbone.init_cfg.checkpoint=...')
    path = osp.expanduser(checkpoint)
    check_name_hash(path)
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError,
            KeyError) as error:
        raise ValueError(
            f'{checkpoint} is damaged, or holds objects whose code would '
            'run when they are read, as a training checkpoint does: take '
            'a file of tools/model_converters/publish_backbone.py or '
            f'from_published.py ({str(error).splitlines()[0]})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{checkpoint} holds no weights by their names but '
                         f'an object of type {type(content).__name__}')
    return content


def _read_settings(text: Any) -> Dict[str, dict]:
    """Read the dicts of a config's text; what is no literal becomes None."""

    def value_of(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and isinstance(
                node.func, ast.Name) and node.func.id == 'dict':
            return {
                keyword.arg: value_of(keyword.value)
                for keyword in node.keywords
            }
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError):
            return None

    try:
        nodes = ast.parse(text if isinstance(text, str) else '').body
    except (SyntaxError, ValueError, RecursionError):
        return {}
    settings = {
        node.targets[0].id: value_of(node.value)
        for node in nodes if isinstance(node, ast.Assign) and isinstance(
            node.targets[0], ast.Name)
    }
    return {k: v for k, v in settings.items() if isinstance(v, dict)}


def _unwrapped(model: Any) -> nn.Module:
    """The model whose tensors mmengine loads."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _averages(module: nn.Module) -> Tuple[str, ...]:
    """What the names of all in moving averages begin with."""
    return tuple(f'{name}.' for name, child in module.named_modules()
                 if name and isinstance(child, BaseAveragedModel))


def _tensors(module: nn.Module) -> Tensors:
    """The tensors that a file gives: no counts, no moving averages."""
    averages = _averages(module)
    return {
        key: value
        for key, value in module.state_dict().items()
        if not key.endswith('num_batches_tracked')
        and not key.startswith(averages)
    }


def _misfits(found: Tensors, wanted: Tensors) -> Tuple[List[str], List[str]]:
    """The names that are not found, and those found in other shapes."""
    lacking = [key for key in wanted if key not in found]
    wrong = [
        f'{key} {tuple(found[key].shape)} instead of '
        f'{tuple(wanted[key].shape)}' for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    return lacking, wrong


def _image_settings(model: nn.Module,
                    cfg: dict) -> Dict[str, Tuple[str, Any]]:
    """Mean, std and order of channels, each with its key in the config.

    Empty if it cannot be told how the images are normalised.
    """
    images: Any = getattr(model, 'data_preprocessor', None)
    place = 'model.data_preprocessor'
    shared = cfg.get('data_preprocessor')  # mmengine gives it to the model
    if shared and cfg.get('default_scope') == 'mmpretrain' and _as_dict(
            cfg.get('model')).get('data_preprocessor', shared) == shared:
        place = 'data_preprocessor'
    while hasattr(images, 'data_preprocessor'):  # one for several branches
        images, place = images.data_preprocessor, f'{place}.data_preprocessor'
    normalises = getattr(images, '_enable_normalize', None)
    if normalises is None or not normalises and _has_step(
            cfg.get('train_dataloader'), 'Normalize'):
        return {}
    settings: Dict[str, Tuple[str, Any]] = {}
    for key in ('mean', 'std'):
        value = [
            round(number, 4)
            for number in getattr(images, key).flatten().tolist()
        ] if normalises else None
        settings[key] = (f'{place}.{key}', value)
    swaps = getattr(images, '_channel_conversion',
                    getattr(images, 'to_rgb', None))
    name = 'to_rgb' if 'to_rgb' in inspect.signature(
        type(images)).parameters else 'bgr_to_rgb'
    settings['to_rgb'] = (f'{place}.{name}', swaps)
    return settings


def _has_step(node: Any, name: str) -> bool:
    """Whether a step of that name is somewhere in a config."""
    if isinstance(node, dict):
        return _kind(node).endswith(name) or _has_step(
            list(node.values()), name)
    return isinstance(node, (list, tuple)) and any(
        _has_step(child, name) for child in node)


def _style(module: nn.Module) -> Optional[str]:
    """Tell by its strides where bottlenecks have theirs; None without any."""
    for block in module.modules():
        if hasattr(block, 'conv3'):
            for conv, style in (('conv1', 'caffe'), ('conv2', 'pytorch')):
                stride = getattr(getattr(block, conv, None), 'stride', 1)
                if stride not in (1, (1, 1)):
                    return style
    return None


def _plausible(key: str, value: Any) -> bool:
    """Whether a file's record may be one of these settings."""
    if isinstance(RECIPE[key], list):
        return isinstance(value, (list, tuple)) and all(
            isinstance(number, (int, float)) for number in value)
    return isinstance(value, type(RECIPE[key]))


def _as_dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(
            wanted, (list, tuple)) and len(value) == len(wanted):
        return all(abs(a - b) < 1e-3 for a, b in zip(value, wanted))
    return bool(value == wanted)


def _kind(node: dict) -> str:
    """Name of the class of a config's component, without the package."""
    kind = node.get('type') or ''
    return str(getattr(kind, '__name__', kind)).split('.')[-1]


def _without(key: str, prefix: str) -> str:
    return key[len(prefix):] if key.startswith(prefix) else key


def _some(names: Sequence[Any], count: int = 8) -> str:
    shown = ', '.join(str(name) for name in names[:count]) or 'none'
    return f'{shown}, ...' if len(names) > count else shown


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
    classes = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(classes, str):
        if not osp.isfile(classes):
            raise ValueError(
                f'metainfo.classes of a {_kind(dataset)} is the text '
                f'{classes!r}, which is no file either: one class is written '
                f'({classes!r}, ), with a comma')
        with open(classes, encoding='utf-8') as file:
            classes = file.read().splitlines()
    if classes:
        return classes
    kind = dataset['type']
    if not inspect.isclass(kind):
        kind = DATASETS.get(f'mmdet.{_kind(dataset)}')
    return kind.METAINFO.get('classes') if kind else None


def _class_heads(node: Any, place: str) -> Iterator[Tuple[str, int]]:
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


def _check_categories(content: dict, dataset: dict, place: str) -> List[str]:
    """Compare the categories with the classes; give those in both."""
    names = [category['name'] for category in content['categories']]
    classes = _classes(dataset)
    if classes is None:
        return names
    if 'LVIS' in _kind(dataset):  # goes by the ids, not by the names
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
        _kind(step) == 'LoadAnnotations' and step.get('with_mask')
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
    if not isinstance(evaluator, dict) or _kind(evaluator) != 'LVISMetric':
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
