"""Changes of a config by the command line."""
import logging
import os.path as osp
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.utils import import_modules_from_strings

from ..datasets.view_laws import COLOURS, colour_law
from ..errors import UserError
from .config_checks import check_options
from .timm_option import use_timm
from .view_crops import MIN_CELLS, view_crops

_COLOURS = tuple(kind.__name__ for kind in COLOURS)


def merge_options(cfg: Config,
                  options: dict,
                  launcher: str = 'none',
                  work_dir: str | None = None) -> None:
    """Merge the options that all tools have into a config.

    Args:
        cfg (Config): The config; changed in place.
        options (dict): The options of ``--cfg-options``. ``data_root`` moves
            all data sets, ``data`` is a folder of photographs to pretrain on,
            ``view_size`` is the size of the views in pixels, ``timm_name``
            is a network of timm that becomes the backbone, ``data_on_device``
            keeps the photographs on the device and ``colours_on_device``
            changes colours there.
        launcher (str): The launcher of the processes. Defaults to 'none'.
        work_dir (str, optional): Folder of the run. Defaults to None, the
            folder set in the config, or else ``work_dirs/`` and the config's
            name.

    Raises:
        UserError: If nothing would read one of the options.
    """
    _check_empty(options, work_dir)
    options = _in_full(cfg, options)
    colours = 'colours_on_device' not in cfg and _switch(
        options, 'colours_on_device')
    if 'timm_name' in options:
        cfg.timm_name = options.pop('timm_name')
    check_options(cfg, options)
    old_root = cfg.get('data_root')
    cfg.merge_from_dict(options)
    use_timm(cfg, options)
    if colours:
        move_colours(cfg)
    if cfg.get('custom_imports'):  # an option may have named more
        import_modules_from_strings(**cfg.custom_imports)
    if 'data_root' in options:
        move_data(cfg, old_root, options['data_root'])
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        stem = osp.splitext(osp.basename(cfg.filename))[0]
        cfg.work_dir = osp.join('work_dirs', stem)
    # The dumped config is used from other folders, too.
    cfg.work_dir = osp.abspath(cfg.work_dir)


def _check_empty(options: dict, work_dir: str | None) -> None:
    """Refuse paths that are empty because a shell variable is not set.

    An empty folder would mean the current one, and an empty file none.
    """
    given = {
        f'--cfg-options {key}=': value
        for key, value in options.items()
        if key in ('data', 'data_root', 'load_from')
        or key.endswith('.checkpoint')
    }
    for name, value in {**given, '--work-dir ': work_dir}.items():
        if value == '':
            raise UserError(f'{name.rstrip("= ")} is empty: give a path, or '
                            'set the variable of the shell that it is from')


def _in_full(cfg: Config, options: dict) -> dict:
    """Write out the short options.

    Raises:
        UserError: If the config has no setting for one of them.
    """
    full = dict(options)
    dataset = (cfg.get('train_dataloader') or {}).get('dataset', {})
    at = 'train_dataloader.dataset'
    if 'data' in full and 'data' not in cfg:
        prefix = dataset.get('data_prefix')
        folders = _folders(full.pop('data'))
        if prefix is None:
            raise UserError(
                f'--cfg-options data={folders[0]}: the train_dataloader of '
                f'{cfg.filename} has no data set with a data_prefix; set the '
                'data sets themselves')
        if len(folders) > 1 and dataset.get('type') != 'SceneDataset':
            raise UserError(
                f'--cfg-options data=[{", ".join(folders)}]: the '
                f'{dataset.get("type")} of {cfg.filename} takes one folder; '
                'only SceneDataset takes several')
        key = 'data_prefix' if isinstance(
            prefix, str) else 'data_prefix.img_path'
        folder = folders[0] if len(folders) == 1 else folders
        # A list of other pictures does not name the pictures of this folder.
        full = {f'{at}.{key}': folder, f'{at}.ann_file': '', **full}
    if full.get(f'{at}.index'):  # the dumped config serves other folders, too
        full[f'{at}.index'] = osp.abspath(
            osp.expanduser(str(full[f'{at}.index'])))
    if 'data_on_device' in full and 'data_on_device' not in cfg:
        on = _switch(full, 'data_on_device')
        if on:
            full = {'default_hooks.device_data.type': 'DeviceDataHook', **full}
        else:
            cfg.get('default_hooks', {}).pop('device_data', None)
    if 'view_size' in full and 'view_size' not in cfg:
        side = full.pop('view_size')
        _check_view_size(cfg, full, side)
        crops = {f'{at}.{key}.scale': side for key in view_crops(dataset)}
        if not crops:
            raise UserError(
                f'--cfg-options view_size={side}: the pipeline of '
                f'{cfg.filename} has no views with a RandomResizedCrop')
        full = {**crops, **full}
    return full


def _folders(data: Any) -> list[str]:
    """The folders of photographs that the option ``data`` names."""
    given = data if isinstance(data, (list, tuple)) else [data]
    if not given:
        raise UserError('--cfg-options data=[]: expected a folder, or several '
                        'as "[a,b]"')
    return [osp.abspath(osp.expanduser(str(folder))) for folder in given]


def _switch(options: dict, name: str) -> bool:
    """Remove a switch from the options and return its value."""
    value = options.pop(name, False)
    if not isinstance(value, bool):
        raise UserError(f'--cfg-options {name}={value}: expected True or '
                        'False')
    return value


def move_colours(cfg: Config) -> None:
    """Move the colour transforms of the pipeline to the data preprocessor.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        UserError: If its pipeline changes no colours, or the preprocessor is
            of another type.
    """
    dataset = (cfg.get('train_dataloader') or {}).get('dataset', {})
    views: list[dict] = []
    for step in dataset.get('pipeline', []):
        if not isinstance(step.get('num_views'), list):
            continue
        for transforms, number in zip(step.transforms, step.num_views):
            colours = [one for one in transforms
                       if any(kind in str(one) for kind in _COLOURS)]
            views += [colour_law(colours) for _ in range(number)]
            transforms[:] = [
                one for one in transforms if one not in colours
            ]
    kind = (cfg.get('model') or {}).get('data_preprocessor', {}).get('type')
    replaced = ('SceneDataPreprocessor', 'SelfSupDataPreprocessor')
    if not any(views) or kind not in replaced:
        raise UserError(
            f'colours_on_device=True: {cfg.filename} has '
            + (f'the data preprocessor {kind}; only {" and ".join(replaced)} '
               'are replaced' if any(views) else
               'no views with colours to augment'))
    cfg.model.data_preprocessor.update(
        type='ColourDataPreprocessor', views=views)


def _check_view_size(cfg: Config, options: dict, side: Any) -> None:
    """Refuse an invalid size of a view; warn of a view with too few cells."""
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise UserError(
            f'--cfg-options view_size={side}: expected the pixels on each '
            'side of a view, a positive whole number such as 96')
    key = 'model.neck.grid_stride'
    neck = (cfg.get('model') or {}).get('neck') or {}
    stride = options.get(key, neck.get('grid_stride'))
    if isinstance(stride, int) and 0 < stride and (
            side // stride < MIN_CELLS):
        print_log(
            f'--cfg-options view_size={side}: {key}={stride} cuts a view '
            f'into {side // stride} whole cells on each side, few to tell '
            f'regions apart; take {MIN_CELLS * stride} pixels or more, or a '
            f'smaller {key}',
            logger='current',
            level=logging.WARNING)


def use_mixed_precision(cfg: Config) -> None:
    """Train in mixed precision; on a CPU in bfloat16.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        UserError: If it trains a detector and there is no accelerator.
    """
    if get_device() != 'cpu':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        return
    if cfg.get('default_scope') == 'mmdet':
        raise UserError(
            f'--amp with {cfg.filename} needs a GPU: on a CPU it means '
            'bfloat16, which the ops of mmcv (NMS, RoIAlign) do not take '
            'there. Leave --amp out')
    cfg.optim_wrapper.type = 'mmpretrain.BFloat16OptimWrapper'
    for key in ('loss_scale', 'dtype'):  # AmpOptimWrapper's
        cfg.optim_wrapper.pop(key, None)


def complete_loaders(cfg: Config,
                     pin_memory: bool = True,
                     persistent_workers: bool = True) -> None:
    """Fill in settings that the data loaders of the config leave out.

    Args:
        cfg (Config): The config; changed in place.
        pin_memory (bool): Default of the loaders; False overrides the config.
            Defaults to True.
        persistent_workers (bool): The same for persistent workers. Defaults to
            True.
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if not loader:
            continue
        if cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', dict(type='default_collate'))
        if isinstance(loader.get('collate_fn'), dict):
            # mmengine puts it into dicts of `package::` bases, and the
            # function would get it as an argument.
            loader.collate_fn.pop('_scope_', None)
        loader.setdefault('pin_memory', True)
        loader.setdefault('persistent_workers', True)
        if not pin_memory:
            loader.pin_memory = False
        if not persistent_workers or loader.get('num_workers', 0) == 0:
            loader.persistent_workers = False


def move_data(cfg: Config, old: Any, new: str) -> None:
    """Replace the data root in every path that was made from it.

    A config file has already built its nested settings when its top-level
    ``data_root`` is overridden. The variables of the configs (``COCO_ROOT``)
    also move the data, but are not options.

    Raises:
        ValueError: If no path was made from it.
    """
    moved: list[str] = []

    def visit(node: Any, path: str) -> None:
        items = enumerate(node) if isinstance(node, list) else list(
            node.items())
        for key, value in items:
            here = f'{path}.{key}' if path else str(key)
            if isinstance(value, (dict, list)):
                visit(value, here)
            elif isinstance(value, str) and path and value.startswith(old):
                node[key] = osp.join(new, value[len(old):])
                moved.append(here)

    if old:
        visit(cfg._cfg_dict, '')
    if not moved:
        raise UserError(f'--cfg-options data_root={new}: nothing in the '
                        f'config was made from data_root={old!r}; set the '
                        'data sets themselves')
    print_log(f'data_root {new} is used by {", ".join(moved)}')
