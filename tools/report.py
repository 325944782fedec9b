"""Write one page about a run: plan, loss, health, masks, what to run next.

Run: python tools/report.py RUN

RUN is the work_dir of a training, finished or not. The page, RUN/report.html
unless --out says otherwise, is one file that a browser opens without network.
"""
import argparse
import os.path as osp
from typing import Any

import numpy as np
from _run_folder import RunFolder

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.commands import command
from cyborgs_plugin.datasets import BrokenImageError, MaskBank, read_image
from cyborgs_plugin.engine.view_crops import view_crops
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.ops.matched_ids import matched_ids
from cyborgs_plugin.segmentation.round_report import agreement
from cyborgs_plugin.visualization import (
    Curve,
    RunReport,
    draw_sheet,
    write_report,
)

# What mmengine logs at each interval beside the numbers of the model.
_TIMES = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory'}
_SCORES = 'masks/'
_HEALTH = 'health/'


@reported()
def main() -> None:
    """Read the run and write the page."""
    parser = argparse.ArgumentParser(description='Write a page about a run')
    parser.add_argument('run', help='work_dir of a training')
    parser.add_argument('--out', help='the page (default: RUN/report.html)')
    parser.add_argument(
        '--num-images',
        type=at_least(1),
        default=6,
        help='photographs shown with their masks (default: 6)')
    args = parser.parse_args()
    out = args.out or osp.join(args.run, 'report.html')
    size = write_report(describe(RunFolder(args.run), args.num_images), out)
    print(f'Wrote {out} ({size / 1e6:.1f} MB). Open it in a browser')


def describe(run: RunFolder, num_images: int) -> RunReport:
    """What the page says of a run."""
    report = RunReport(
        title=f'Run {osp.basename(osp.abspath(run.path))}',
        plan=plan(run))
    notes = []
    logged = [entry for entry in run.scalars if 'loss' in entry]
    if logged:
        report.loss = Curve('loss', [entry['step'] for entry in logged],
                            [entry['loss'] for entry in logged])
    else:
        notes.append('No loss: the run has logged none yet.')
    report.curves = [*logged_curves(run), *health_curves(run)]
    if run.health is None:
        notes.append('No health: the run has written no health.json.')
    else:
        report.verdict = run.health.get('verdict') or ''
        report.alarms = [
            (f'Epoch {alarm.get("epoch")}: {alarm.get("message")}',
             alarm.get('advice') or '')
            for alarm in run.health.get('alarms', [])
        ]
    report.rounds = describe_rounds(run)
    try:
        report.sheet = sheet(run, num_images)
    except UserError as error:
        notes.append(f'No photographs: {error}')
    if not any(_SCORES in name for entry in run.scalars for name in entry):
        notes.append('No scores: training had no annotations to compare the '
                     'masks with (default_hooks.mask_update.evaluator).')
    report.notes = notes
    report.commands = next_commands(run)
    return report


def plan(run: RunFolder) -> list[tuple[str, str]]:
    """The settings that say most, from the config of the run."""
    cfg = run.cfg
    loader = cfg.get('train_dataloader') or {}
    hook = (cfg.get('default_hooks') or {}).get('mask_update') or {}
    source = hook.get('source') or {}
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    start = (backbone.get('init_cfg') or {})
    if isinstance(start, dict):
        start = start.get('checkpoint')
    views = {
        str(crop.get('scale'))
        for crop in view_crops(loader.get('dataset') or {}).values()
    }
    rows = {
        'config': run.config_file,
        'photographs': photographs(run),
        'method': (cfg.get('model') or {}).get('type'),
        'backbone': said(backbone, 'type', 'depth', 'arch'),
        'starts from': cfg.get('load_from') or start or 'random weights',
        'epochs': f'{epochs_done(run)} of {max_epochs(run)} logged',
        'batch': f'{loader.get("batch_size")} images for each process',
        'views': ', '.join(sorted(views)) and (
            f'{", ".join(sorted(views))} pixels'),
        'optimizer': said(optimizer, 'type', 'lr', 'weight_decay'),
        'masks': said(source, 'type', 'layer', 'num_clusters', 'kmeans_init',
                      'superpixels', 'linkage', 'smooth', 'long_side'),
        'new masks': f'every {hook.get("interval")} epochs' if (
            hook.get('interval', -1) > 0) else 'never',
        'seed': (cfg.get('randomness') or {}).get('seed'),
        'checkpoint': run.checkpoint or 'none yet',
    }
    return [(name, str(value)) for name, value in rows.items()
            if value not in (None, '')]


def said(cfg: dict, *names: str) -> str:
    """Some settings of a component, the first of them by its value alone."""
    first, *others = names
    return ', '.join([
        str(cfg.get(first, 'default')),
        *(f'{name} {cfg[name]}' for name in others if name in cfg)
    ])


def photographs(run: RunFolder) -> str:
    """How many there are, and where."""
    try:
        found = []
        for scenes in run.scenes:
            images = scenes.images()
            ends = [osp.dirname(osp.abspath(images[place][1]))
                    for place in (0, len(images) - 1)]
            found.append(f'{len(images)} in {osp.commonpath(ends)}')
        return '; '.join(found)
    except UserError as error:
        return f'not found: {error}'


def max_epochs(run: RunFolder) -> int | str:
    """Epochs that were asked for."""
    return (run.cfg.get('train_cfg') or {}).get('max_epochs', '?')


def epochs_done(run: RunFolder) -> int:
    """The last epoch that was logged."""
    return max((entry.get('epoch', 0) for entry in run.scalars), default=0)


def logged_curves(run: RunFolder) -> list[Curve]:
    """What the log holds beside the loss, mask scores and health."""
    names = dict.fromkeys(
        name for entry in run.scalars for name, value in entry.items()
        if isinstance(value, (int, float)) and name not in _TIMES
        and name != 'loss' and not name.startswith((_SCORES, _HEALTH)))
    found = []
    for name in names:
        steps, values = zip(*((entry['step'], entry[name])
                              for entry in run.scalars if name in entry),
                            strict=True)
        # A part of the loss that is all of it is no news.
        if name.startswith('loss') and all(
                entry[name] == entry.get('loss') for entry in run.scalars
                if name in entry):
            continue
        found.append(Curve(name, steps, values))
    return found


def health_curves(run: RunFolder) -> list[Curve]:
    """The numbers of ``health.json``, by epoch and by round."""
    found = []
    health = run.health or {}
    for kind, unit in (('epochs', 'epoch'), ('rounds', 'round')):
        entries = health.get(kind, [])
        names = dict.fromkeys(
            name for entry in entries for name, value in entry.items()
            if isinstance(value, (int, float)) and name not in
            ('epoch', 'iter', 'round', 'seconds'))
        for name in names:
            having = [entry for entry in entries
                      if isinstance(entry.get(name), (int, float))]
            found.append(Curve(name, [entry[unit] for entry in having],
                               [entry[name] for entry in having], unit))
    return found


def describe_rounds(run: RunFolder) -> list[dict[str, Any]]:
    """Numbers of each round, and its scores where it was scored."""
    rows = []
    previous: MaskBank | None = None
    for bank in run.rounds:
        meta = bank.manifest
        counts = meta.get('counts') or {}
        row: dict[str, Any] = dict(
            round=bank.round, epoch=meta.get('epoch'),
            iteration=meta.get('iter'), images=len(bank))
        if counts:
            row['regions per image'] = counts['regions']
        row['broken images'] = len(meta.get('broken_images', ()))
        row['ARI with the round before'] = '' if previous is None else (
            agreement(previous, bank)[0])
        for entry in run.scalars:
            if entry['step'] == meta.get('iter'):
                row.update((name.removeprefix(_SCORES), value)
                           for name, value in entry.items()
                           if name.startswith(_SCORES))
        rows.append(row)
        previous = bank
    return rows


def sheet(run: RunFolder, num_images: int) -> np.ndarray | None:
    """Photographs, and their masks of the first, middle and last round."""
    if not run.rounds:
        return None
    places = [0, len(run.rounds) // 2, len(run.rounds) - 1]
    banks = [run.rounds[place] for place in sorted({*places})]
    files = {
        key: (path, scenes.read_args)
        for scenes in run.scenes for key, path in scenes.images()
    }
    images: list[np.ndarray] = []
    columns: list[list[np.ndarray]] = [[] for _ in banks]
    for key in banks[-1].keys(num_images):
        if key not in files or any(key not in bank for bank in banks):
            continue
        path, options = files[key]
        try:
            images.append(read_image(path, **options)[..., ::-1])
        except BrokenImageError:
            continue  # the table counts them
        previous = None
        for bank, column in zip(banks, columns, strict=True):
            ids = bank.label_map(key)
            if previous is not None:
                ids = matched_ids(ids, previous)
            column.append(ids)
            previous = ids
    if not images:
        raise UserError('none of those that were chosen can be read')
    return draw_sheet(images, {
        f'round {bank.round}': column
        for bank, column in zip(banks, columns, strict=True)
    })


def next_commands(run: RunFolder) -> list[tuple[str, str]]:
    """What can be run now, and what for."""
    found = []
    done, most = epochs_done(run), max_epochs(run)
    # an epoch is logged from its first steps on
    if isinstance(most, int) and osp.basename(
            run.checkpoint or '') != f'epoch_{most}.pth':
        left = (f'{most - done} of {most} epochs are left' if done < most else
                f'No checkpoint of epoch {most}, the last, is there')
        found.append((
            f'{left}. If the run has stopped, resume it:',
            command('train', run.config_file, '--resume', '--work-dir',
                    run.path)))
    if run.rounds:
        found.append(('Browse the masks of all rounds:',
                      command('browse_masks', run.path)))
        found.append(('Compare the masks with annotations, if there are any:',
                      command('evaluate_masks', osp.dirname(
                          run.rounds[-1].path), '--ann', 'ANNOTATIONS.json')))
    if run.checkpoint:
        found.append(('Publish the backbone, and see how a detector starts '
                      'from it:',
                      command('model_converters/publish_backbone',
                              run.checkpoint)))
    return found or [('Nothing is there yet. Start the run again:',
                      command('train', run.config_file, '--work-dir',
                              run.path))]


if __name__ == '__main__':
    main()
