"""Table, bars and plots of mini_coco.py."""
import glob
import json
import os.path as osp
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cyborgs_plugin.visualization import contact_sheet

PROBES = (('regions', 'accuracy', 'regions: accuracy'),
          ('segments', 'mIoU', 'segments: mIoU'),
          ('images', 'mAP', 'images: mAP'))


def read_log(folder: str, keys: Sequence[str]) -> list[list[float]]:
    """Read a curve that a run has logged.

    Args:
        folder (str): The run's work dir.
        keys (Sequence[str]): Names of the value and of its position.

    Returns:
        list[list[float]]: Position and value; where a run resumed after an
        interruption, the later one counts.
    """
    curve: dict[float, float] = {}
    files = glob.glob(osp.join(folder, '*', 'vis_data', 'scalars.json'))
    for file in sorted(files):
        with open(file, encoding='utf-8') as lines:
            for line in lines:
                logged = json.loads(line)
                if all(key in logged for key in keys):
                    curve[logged[keys[1]]] = logged[keys[0]]
    return [[step, curve[step]] for step in sorted(curve)]


def one_line(point: dict[str, Any]) -> str:
    """Say the scores of one network."""
    said = [
        f'{title} {point[kind][name]:.3f}' for kind, name, title in PROBES
        if kind in point
    ]
    said += [
        f'K={k}: mBO {scores["mBO"]:.3f} ARI {scores["ARI"]:.3f}'
        for k, scores in point.get('masks', {}).items()
    ]
    return ', '.join(said)


def _last(run: dict[str, Any]) -> dict[str, Any]:
    return run['points'][str(run['epochs'][-1])]


def final(results: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Scores of the last network of each run, by method and score."""
    scores: dict[str, dict[str, list[float]]] = {}
    for run in results['runs'].values():
        found = scores.setdefault(run['method'], defaultdict(list))
        point = _last(run)
        for kind, name, _ in PROBES:
            # NaN of a probe that the images did not allow
            found[kind].append(point.get(kind, {}).get(name, float('nan')))
        for k, masks in point['masks'].items():
            for name in ('mBO', 'ARI'):
                found[f'{name}, K={k}'].append(masks[name])
        found['minutes'].append(run['seconds'] / 60)
    return scores


def _ks(results: dict[str, Any]) -> list[str]:
    """Numbers of regions that masks were scored with."""
    return list(next(iter(results['floors'].values()), {}))


def table(results: dict[str, Any]) -> str:
    """Write the scores of all methods as a Markdown table."""
    scores = final(results)
    ks = _ks(results)
    columns = [kind for kind, _, _ in PROBES]
    columns += [f'{name}, K={k}' for name in ('mBO', 'ARI') for k in ks]
    heads = [title for _, _, title in PROBES] + columns[len(PROBES):]
    lines = ['| method | minutes | ' + ' | '.join(heads) + ' |',
             '|---' * (2 + len(heads)) + '|']

    def cell(values: list[float], digits: int = 3) -> str:
        text = f'{np.mean(values):.{digits}f}'
        if len(values) > 1:
            text += ' (' + ', '.join(f'{v:.{digits}f}' for v in values) + ')'
        return text

    for title, floor in results['floors'].items():
        cells = [f'{floor[k][name]:.3f}' for name in ('mBO', 'ARI')
                 for k in ks]
        lines.append(f'| {title} | | | | | ' + ' | '.join(cells) + ' |')
    for method, found in scores.items():
        lines.append(f'| {method} | {cell(found["minutes"], 1)} | '
                     + ' | '.join(cell(found[c]) for c in columns) + ' |')
    return '\n'.join(lines)


def bars(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare CYBORGS with what it should beat, as far as that was run."""
    scores = {
        method: {name: float(np.mean(values))
                 for name, values in found.items()}
        for method, found in final(results).items()
    }
    found: list[dict[str, Any]] = []
    own = scores.get('cyborgs')
    if own is None:
        return found

    def bar(name: str, value: float, reference: float, factor: float) -> None:
        found.append(
            dict(
                bar=name,
                value=value,
                reference=reference,
                passed=bool(value > reference * factor)))

    for other in ('random', 'byol', 'densecl', 'detcon-fh'):
        for kind, _, title in PROBES[:2]:
            if other == 'detcon-fh' and other in scores:
                bar(f'{title}, level with {other} (to 1 %)', own[kind],
                    scores[other][kind], 0.99)
            elif other in scores:
                bar(f'{title}, above {other}', own[kind],
                    scores[other][kind], 1)
    for k, name in product(_ks(results), ('mBO', 'ARI')):
        value = own[f'{name}, K={k}']
        if 'random' in scores:
            bar(f'{name} at K={k}, 15 % above the random network', value,
                scores['random'][f'{name}, K={k}'], 1.15)
        for title, floor in results['floors'].items():
            bar(f'{name} at K={k}, above {title}', value, floor[k][name], 1)
    return found


def bars_text(results: dict[str, Any]) -> str:
    """Say which bars were passed."""
    return '\n'.join(
        f'{"pass" if bar["passed"] else "MISS"}  {bar["bar"]}: '
        f'{bar["value"]:.3f} ({bar["reference"]:.3f})'
        for bar in results['bars'])


def write(results: dict[str, Any], folder: str) -> list[str]:
    """Write the table and the plots.

    Args:
        results (dict[str, Any]): What results.json holds.
        folder (str): Where to.

    Returns:
        list[str]: The files.
    """
    path = osp.join(folder, 'table.md')
    about = results['about']
    with open(path, 'w', encoding='utf-8') as file:
        file.write(f'{table(results)}\n\n'
                   f'`{about["command"]}`; {about["machine"]}; '
                   f'{about["date"]}; commit {about["commit"]}\n\n'
                   f'{bars_text(results)}\n')
    return [
        osp.join(folder, 'results.json'), path,
        _plot_masks(results, osp.join(folder, 'masks_by_round.png')),
        _plot_probes(results, osp.join(folder, 'probes_by_epoch.png')),
        _plot_loss(results, osp.join(folder, 'loss.png'))
    ]


def sheet(images: list[np.ndarray], columns: dict[str, list[np.ndarray]],
          folder: str) -> str:
    """Write the contact sheet; ``images`` are BGR."""
    return contact_sheet([image[..., ::-1] for image in images], columns,
                         osp.join(folder, 'masks.png'))


def _plot_masks(results: dict[str, Any], path: str) -> str:
    figure = Figure(figsize=(10, 4))
    for axis, name in zip(figure.subplots(1, 2), ('mBO', 'ARI')):
        for colour, k in enumerate(_ks(results)):
            for run in results['runs'].values():
                if run['method'] != 'cyborgs':
                    continue
                start = results['runs'].get(f'random_s{run["seed"]}')
                points = {**(start['points'] if start else {}),
                          **run['points']}
                epochs = sorted(map(int, points))
                axis.plot(
                    epochs,
                    [points[str(e)]['masks'][k][name] for e in epochs],
                    f'C{colour}o-',
                    label=f'K={k}' if run['seed'] == 0 else None)
            for floor, line in zip(results['floors'].values(),
                                   (':', '--', '-.')):
                axis.axhline(floor[k][name], color=f'C{colour}',
                             linestyle=line)
        axis.set_xlabel('epoch of the network')
        axis.set_title(f'{name} on val images (dotted: colour and position, '
                       'dashed: superpixels, dash-dotted: merged)',
                       fontsize=8)
        axis.legend()
    return _save(figure, path)


def _plot_probes(results: dict[str, Any], path: str) -> str:
    figure = Figure(figsize=(13, 4))
    methods = list(dict.fromkeys(
        run['method'] for run in results['runs'].values()))
    for axis, (kind, name, title) in zip(
            figure.subplots(1, len(PROBES)), PROBES):
        for run in results['runs'].values():
            colour = f'C{methods.index(run["method"])}'
            steps = dict(zip(map(str, run['epochs']), run['steps']))
            points = sorted((steps[epoch], point[kind][name])
                            for epoch, point in run['points'].items()
                            if kind in point)
            label = run['method'] if run['seed'] == 0 else None
            if run['method'] == 'random':
                axis.axhline(points[0][1], color=colour, linestyle=':',
                             label=label)
            else:
                axis.plot(*zip(*points), 'o-', color=colour, label=label)
        axis.set_xlabel('step')
        axis.set_title(title, fontsize=9)
    axis.legend(fontsize=7)
    return _save(figure, path)


def _plot_loss(results: dict[str, Any], path: str) -> str:
    runs = {name: run for name, run in results['runs'].items() if run['loss']}
    figure = Figure(figsize=(2.8 * max(1, len(runs)), 3))
    axes = figure.subplots(1, max(1, len(runs)), squeeze=False)[0]
    for axis, (name, run) in zip(axes, runs.items()):
        axis.plot(*zip(*run['loss']))
        axis.set_title(name, fontsize=9)
        axis.set_xlabel('step')
    return _save(figure, path)


def _save(figure: Figure, path: str) -> str:
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(path)
    return path
