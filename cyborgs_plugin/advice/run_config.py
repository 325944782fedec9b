"""The config that ``cyborgs pretrain`` writes: a child of a recipe."""
import hashlib
from typing import Any

from ..commands import command
from ..errors import UserError
from ..files import written_aside
from ..version import __version__
from .plan import Plan
from .table import SCRATCH, batch_for

NAME = 'config.py'
_MARK = '# As written: '


def config_text(plan: Plan) -> str:
    """Write the config of a plan.

    Args:
        plan (Plan): The plan, measured or not.

    Returns:
        str: Python that inherits from a recipe and sets what the plan has
        chosen, each with the reason. The last line has a hash of the rest.
    """
    row, network = plan.row, plan.network
    published = row is SCRATCH[-1]
    parts = [
        f'"""Pretraining of {network.name} on {plan.photographs:,} '
        'photographs.\n\n'
        f'Written by `cyborgs pretrain` {__version__}. It is yours to change: '
        'every key of\nthe recipe can be set here, and a config of yours can '
        "have this file as its\n`_base_`. `import cyborgs_plugin` comes "
        "first where others read it.\n\"\"\"\n"
        f"_base_ = 'cyborgs_plugin::{_base(plan)}'\n"
    ]
    views = not published and row.view != SCRATCH[0].view
    if views:
        # sigma 2 of 224 pixels, as _base_/datasets/small_scenes.py has it
        blur = round(2 * row.view / 224, 1)
        parts.append(
            'train_pipeline = _base_.train_pipeline\n'
            "for view in train_pipeline[1]['transforms']:\n"
            f'    view[0].update(scale={row.view})  # '
            f'{row.view // row.stride} cells on each side\n'
            f'    view[4].update(magnitude_range=(0.1, {blur}))\n')
    notes: dict[str, str] = {}
    dataset: dict[str, Any] = dict(
        data_prefix=dict(img_path=plan.survey.folder))
    if views:
        dataset['pipeline'] = _Code('train_pipeline')
    loader = dict(batch_size=plan.each, num_workers=plan.workers,
                  persistent_workers=plan.workers > 0, dataset=dataset)
    notes['train_dataloader.batch_size'] = (
        f'of each of {plan.processes} processes' if plan.processes > 1 else
        'what fits into the memory' if plan.batch < batch_for(
            row, plan.photographs) else
        'small, so that an epoch has two steps' if plan.batch < row.batch else
        'of the table')
    notes['train_dataloader.num_workers'] = (
        'views are made on the GPU' if plan.on_device else
        f'{plan.machine.cores} cores')
    model = _model(plan, notes)
    hooks: dict[str, Any] = dict(
        checkpoint=dict(interval=max(1, plan.interval)),
        mask_update=dict(
            interval=plan.interval,
            source=dict(num_clusters=row.clusters)))
    notes['default_hooks.mask_update.interval'] = (
        'good features make good masks at once' if plan.interval < 0 else
        f'epochs between two rounds: {plan.rounds} rounds')
    layer = network.layer()
    if layer or (published and network.depth == 18):
        hooks['mask_update']['source']['layer'] = layer
        notes['default_hooks.mask_update.source.layer'] = (
            f'of {network.recipe}' if layer else
            'the end of its stage of stride 8')
    if plan.on_device:
        hooks['device_data'] = dict(type='DeviceDataHook')
        notes['default_hooks.device_data'] = 'they fit into its memory'
    optim: dict[str, Any] = dict(optimizer=dict(lr=plan.rate))
    own = network.optimizer()
    if own is not None and not published:
        optim = dict(own, optimizer=dict(own['optimizer'], lr=plan.rate,
                                         _delete_=True))
        optim['paramwise_cfg'].pop('_delete_', None)
    notes['optim_wrapper.optimizer.lr'] = (
        f'in proportion to the batch: {row.rate:g} for {row.batch}'
        if own is None else
        f'of {network.rate_recipe}, in proportion to the batch')
    settings: dict[str, Any] = dict(
        train_dataloader=loader, model=model, optim_wrapper=optim,
        train_cfg=dict(max_epochs=plan.epochs),
        auto_scale_lr=dict(base_batch_size=plan.batch),
        default_hooks=hooks)
    notes['train_cfg.max_epochs'] = (
        f'what the budget allows; the table has {plan.most_epochs}'
        if plan.epochs < plan.most_epochs else 'of the table')
    if not settings['model']:
        del settings['model']
    if network.backbone()['type'] == 'TimmNetwork':
        settings['sync_bn'] = None  # it has its own, which keeps activations
    if network.imports():
        settings['custom_imports'] = dict(
            imports=['cyborgs_plugin', *network.imports()])
    parts += [f'{name} = {_write(value, name, notes)}\n'
              for name, value in settings.items()]
    warm_up = _warm_up(plan)
    if warm_up:
        parts.append(warm_up)
    text = '\n'.join(parts)
    return f'{text}\n{_MARK}{_hash(text)}\n'


def write_config(plan: Plan, path: str) -> None:
    """Write the config of a plan, but not over one that was changed.

    Raises:
        UserError: If the file is there and was changed by hand.
    """
    refuse_changed(path)
    with written_aside(path) as partial, open(
            partial, 'w', encoding='utf-8') as file:
        file.write(config_text(plan))


def refuse_changed(path: str) -> None:
    """Refuse to replace a config that was changed since it was written.

    Raises:
        UserError: If it is there and was changed by hand.
    """
    try:
        with open(path, encoding='utf-8') as file:
            text, mark, digest = file.read().rpartition(f'\n{_MARK}')
    except FileNotFoundError:
        return
    if not mark or digest.strip() != _hash(text):
        folder = path[:-len(NAME) - 1]
        raise UserError(
            f'{path} was changed by hand, and a new plan would replace it. '
            'Train by it as it is: '
            + command('train', path, '--work-dir', folder)
            + ' ; or take another --out, or remove it')


def _base(plan: Plan) -> str:
    """The recipe that is inherited from, below ``configs/``."""
    if plan.row is SCRATCH[-1] and plan.network.recipe:
        return plan.network.recipe
    if plan.start and plan.network.depth == 18:
        return 'cyborgs_continue_r18.py'
    return plan.row.recipe


def _model(plan: Plan, notes: dict[str, str]) -> dict[str, Any]:
    """What the model has otherwise than the recipe."""
    row, network = plan.row, plan.network
    model: dict[str, Any] = {}
    backbone: dict[str, Any] = {}
    usual = 18 if row.recipe == 'cyborgs_small_data.py' or (
        _base(plan) == 'cyborgs_continue_r18.py') else 50
    if network.depth is not None:
        if network.depth != usual:
            backbone = dict(depth=network.depth)
    elif network.is_foreign or _base(plan) != network.recipe:
        backbone = dict(_delete_=True, **network.backbone())
        backbone.pop('init_cfg', None)
        model['neck'] = dict(in_indices=network.in_indices())
        notes['model.backbone'] = (
            'of your own' if ':' in network.name and not network.name
            .startswith('timm:') else f'that of {network.recipe}')
        if network.colours():
            model['data_preprocessor'] = network.colours()
            notes['model.data_preprocessor'] = (
                'as its weights or its detector have them')
        if plan.start and network.keeps_norms():
            backbone['norm_eval'] = True
    if plan.start:
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=plan.start)
        notes['model.backbone.init_cfg'] = '--start'
    if backbone:
        model = dict(backbone=backbone, **model)
    if row.momentum is not None and row is not SCRATCH[0] and (
            row is not SCRATCH[-1]):
        model['target_ema'] = dict(momentum=row.momentum)
    return model


def _warm_up(plan: Plan) -> str:
    """What a run needs that is too short for the recipe's warm-up."""
    usual = 1 if plan.start else 10 if plan.row is SCRATCH[-1] else 2
    if plan.epochs > 2 * usual or plan.epochs > 2 and usual == 1:
        return ''
    if plan.epochs == 1:
        return ('# one epoch has no room for a warm-up\n'
                'param_scheduler = _base_.param_scheduler[1:]\n')
    return ('param_scheduler = _base_.param_scheduler\n'
            "param_scheduler[0]['end'] = 1  # the warm-up: one epoch\n")


class _Code(str):
    """A name that the config defines."""


def _write(value: Any, path: str, notes: dict[str, str],
           depth: int = 1) -> str:
    """A value as Python: a key on each line where there are notes."""
    if isinstance(value, _Code):
        return str(value)
    if not isinstance(value, dict):
        return repr(value)
    inside = any(note.startswith(f'{path}.') for note in notes)
    words = [f'{key}={_write(one, f"{path}.{key}", notes, depth + 1)}'
             for key, one in value.items()]
    if not all(str(key).isidentifier() for key in value):
        words = [f'{key!r}: {_write(one, f"{path}.{key}", notes, depth + 1)}'
                 for key, one in value.items()]
        return '{' + ', '.join(words) + '}'
    short = f'dict({", ".join(words)})'
    if not inside and len(short) + 4 * depth < 60 and '\n' not in short:
        return short
    pad = ' ' * 4 * depth
    lines = []
    for key, word in zip(value, words):
        note = notes.get(f'{path}.{key}', '')
        if note and '\n' in word:
            lines.append(f'{pad}# {note}')
            note = ''
        lines.append(f'{pad}{word},' + (f'  # {note}' if note else ''))
    return 'dict(\n' + '\n'.join(lines) + '\n' + pad[4:] + ')'


def _hash(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]
