"""Checks of what tensors do not show: images and strides in pretraining.

If the tensors fit but images are normalised differently, or strides are in
other layers, the toolbox does not report it.
"""
import ast
import inspect
import re
from typing import Any

from mmengine.config import Config
from torch import nn

from ..errors import UserError
from .annotation_check import kind_of
from .pretrained_check import pretrained_modules, read_file

# Used for pretraining by the configs of this package and by torchvision.
RECIPE: dict[str, Any] = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
    style='pytorch')
# What images have that no model normalises.
_RAW = dict(mean=[0., 0., 0.], std=[1., 1., 1.])


def check_recipe(model: nn.Module,
                 cfg: Config | None = None) -> list[str]:
    """Check that images and strides are those of pretraining.

    Args:
        model (nn.Module): A model of the toolbox, initialised or not.
        cfg (Config, optional): The config it is built from. Defaults to None.

    Returns:
        list[str]: A line for each file.

    Raises:
        ValueError: If mean, std, order of channels or ``style`` differ from
            those that the file was trained with. The message names the keys of
            the config.
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
            if not _same(_RAW.get(key) if value is None else value,
                         recipe[key])
        }
        if wrong:
            raise UserError(
                f'The tensors of {source} would fit, but it was trained with '
                'other settings: ' + '; '.join(
                    f'{place} is {value!r}, set it to {wanted!r}'
                    for place, (value, wanted) in wrong.items()) +
                f'.{assumed}')
        places = ', '.join(place for place, _ in found.values())
        lines.append(
            f'{places}: as {source} was trained.{assumed}' if found else
            f'model.{name}: {source} does not say which images and strides '
            'it was trained with')
    return lines


def read_recipe(checkpoint: str) -> tuple[dict[str, Any], set[str]]:
    """Find the settings that a file was trained with.

    Args:
        checkpoint (str): See :func:`read_pretrained`.

    Returns:
        tuple[dict, set[str]]: The known values among ``mean``, ``std``,
        ``to_rgb`` and ``style``, and which of them are certain rather than
        assumed. Nothing is assumed for an address, except for torchvision's,
        where all values are known.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or asks to run code.
    """
    if checkpoint.startswith('torchvision://'):
        return dict(RECIPE), set(RECIPE)
    recorded = recipe_of(read_file(checkpoint).get('meta'))
    assumed = {} if '://' in checkpoint else RECIPE
    return {**assumed, **recorded}, set(recorded)


def recipe_of(meta: Any) -> dict[str, Any]:
    """Find the settings that a file was trained with in its ``meta``.

    It may contain them or the text of a config, which is not run.

    Args:
        meta (Any): The ``meta`` of a published file or of a training
            checkpoint.

    Returns:
        dict: The values among ``mean``, ``std``, ``to_rgb`` and ``style`` that
        it contains.
    """
    if not isinstance(meta, dict):
        return {}
    settings = read_settings(meta.get('config') or meta.get('cfg'))
    model = settings.get('model', {})
    images = _as_dict(
        model.get('data_preprocessor') or settings.get('data_preprocessor'))
    backbone = _as_dict(model.get('backbone'))
    found: dict[str, Any] = {key: images.get(key) for key in ('mean', 'std')}
    if found['mean']:
        found['to_rgb'] = bool(
            images.get('to_rgb') or images.get('bgr_to_rgb'))
    if re.search('ResNe|RegNet', str(backbone.get('type'))):
        found['style'] = backbone.get('style', 'pytorch')
    found.update((key, meta[key]) for key in RECIPE if key in meta)
    return {k: v for k, v in found.items() if _plausible(k, v)}


def pixels_of(meta: Any) -> tuple[list[float], list[float], str]:
    """Describe the pixels that a network was trained with.

    Args:
        meta (Any): As of :func:`recipe_of`.

    Returns:
        tuple[list[float], list[float], str]: Mean and standard deviation of
        the channels, of 0 to 255, and their order, ``'RGB'`` or ``'BGR'``.
        What ``meta`` does not contain is that of this package's recipes.
    """
    recipe = {**RECIPE, **recipe_of(meta)}
    order = 'RGB' if recipe['to_rgb'] else 'BGR'
    return list(recipe['mean']), list(recipe['std']), order


def pixels_line(meta: Any) -> str:
    """Say in a line what pixels a network expects."""
    mean, std, order = pixels_of(meta)
    return (f'It expects {order} pixels of 0 to 255, normalised with mean '
            f'{mean} and standard deviation {std}')


def backbone_settings(meta: dict[str, Any]) -> dict[str, str]:
    """Type and name of the backbone in a checkpoint's config, if any."""
    settings = read_settings(meta.get('config') or meta.get('cfg'))
    backbone = _as_dict(settings.get('model', {}).get('backbone'))
    return {key: backbone[key] for key in ('type', 'model_name')
            if isinstance(backbone.get(key), str)}


def read_settings(text: Any) -> dict[str, dict]:
    """Read the dicts in the text of a config, which is not run.

    Args:
        text (Any): A config as dumped by mmengine.

    Returns:
        dict[str, dict]: By their names; values that are not literals become
        None. Empty if it is not a string or not valid Python.
    """

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
        settings = {
            node.targets[0].id: value_of(node.value)
            for node in nodes if isinstance(node, ast.Assign) and isinstance(
                node.targets[0], ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {k: v for k, v in settings.items() if isinstance(v, dict)}


def _image_settings(model: nn.Module,
                    cfg: dict) -> dict[str, tuple[str, Any]]:
    """Mean, std and order of channels, each with its key in the config.

    Empty if the normalisation of the images is not known.
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
    settings: dict[str, tuple[str, Any]] = {}
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
        return kind_of(node).endswith(name) or _has_step(
            list(node.values()), name)
    return isinstance(node, (list, tuple)) and any(
        _has_step(child, name) for child in node)


def _style(module: nn.Module) -> str | None:
    """Which convolution of bottlenecks has the stride; None without any."""
    for block in module.modules():
        if hasattr(block, 'conv3'):
            for conv, style in (('conv1', 'caffe'), ('conv2', 'pytorch')):
                stride = getattr(getattr(block, conv, None), 'stride', 1)
                if stride not in (1, (1, 1)):
                    return style
    return None


def _plausible(key: str, value: Any) -> bool:
    """Whether a value in a file is possible for one of these settings."""
    if isinstance(RECIPE[key], list):
        return isinstance(value, (list, tuple)) and all(
            isinstance(number, (int, float)) for number in value)
    return isinstance(value, type(RECIPE[key]))


def _as_dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(
            wanted, (list, tuple)) and len(value) == len(wanted):
        # Some write 58.4 for 58.395.
        return all(
            abs(a - b) <= 0.01 * abs(b) for a, b in zip(value, wanted))
    return bool(value == wanted)
