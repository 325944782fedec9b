"""Collect the results of transfer runs in one json and one table.

Run: python tools/benchmarks/collect.py work_dirs/transfer

Reads the last evaluation of every run below the folder and the jsons of
voc07_svm.py, knn_imagenet.py and frozen_probes.py, and writes
``results.json`` and ``results.md`` into it; a score of NaN or infinity is null
in the json. Where a run has kept its
detections, as transfer.sh makes it, pycocotools scores them again and must
agree with mmdet; it also gives the AP with all classes taken as one, which
tells finding from naming where too few labels leave the other at zero.
"""
import argparse
import contextlib
import glob
import io
import json
import math
import os.path as osp
import sys
from collections.abc import Iterator
from typing import Any

from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.safe_load import one_line
from cyborgs_plugin.transfer.recipe_check import read_settings

# column -> what mmengine's logs call it
COLUMNS = {
    'box AP': ('coco/bbox_mAP', 'pascal_voc/mAP', 'lvis/bbox_AP'),
    'box AP50': ('coco/bbox_mAP_50', 'pascal_voc/AP50', 'lvis/bbox_AP50'),
    'box AP75': ('coco/bbox_mAP_75', 'pascal_voc/AP75', 'lvis/bbox_AP75'),
    'box APs': ('coco/bbox_mAP_s', 'lvis/bbox_APs'),
    'box APm': ('coco/bbox_mAP_m', 'lvis/bbox_APm'),
    'box APl': ('coco/bbox_mAP_l', 'lvis/bbox_APl'),
    'mask AP': ('coco/segm_mAP', 'lvis/segm_AP'),
    'mask AP50': ('coco/segm_mAP_50', 'lvis/segm_AP50'),
    'mask AP75': ('coco/segm_mAP_75', 'lvis/segm_AP75'),
    'mask APs': ('coco/segm_mAP_s', 'lvis/segm_APs'),
    'mask APm': ('coco/segm_mAP_m', 'lvis/segm_APm'),
    'mask APl': ('coco/segm_mAP_l', 'lvis/segm_APl'),
    'box AP, any class': (),  # not logged: pycocotools' alone
    'mask AP, any class': (),
    'top-1': ('accuracy/top1', ),
    'top-5': ('accuracy/top5', ),
    # mmseg has them in percent
    'mIoU (%)': ('mIoU', ),
    'mAcc (%)': ('mAcc', ),
    'aAcc (%)': ('aAcc', )
}
# place in pycocotools' list of statistics
STATISTICS = {'AP': 0, 'AP50': 1, 'AP75': 2, 'APs': 3, 'APm': 4, 'APl': 5}


def read_run(folder: str) -> dict[str, Any] | None:
    """Read the last evaluation of a run of mmengine.

    Args:
        folder (str): Its work dir.

    Returns:
        Optional[dict[str, Any]]: Config, seed, start and scores; None if
        nothing was evaluated.

    Raises:
        UserError: If its config, which is not run, is none of mmengine's.
    """
    last: dict[str, Any] = {}
    source = ''
    for log in _files(folder, '*', 'vis_data', '*.json'):
        with open(log, encoding='utf-8', errors='replace') as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue  # a run that was killed as it wrote
                scores = {
                    column: _score(entry[name])
                    for column, names in COLUMNS.items() for name in names
                    if isinstance(entry, dict) and _is_number(entry.get(name))
                }
                if scores:
                    last, source = dict(entry, scores=scores), log
    if not last:
        return None
    path = osp.join(osp.dirname(source), 'config.py')
    cfg: dict[str, dict] = {}
    if osp.isfile(path):
        with open(path, encoding='utf-8', errors='replace') as file:
            cfg = read_settings(file.read())
    backbone = cfg.get('model', {}).get('backbone')
    if not isinstance(backbone, dict):
        raise UserError(
            f'{path} is missing or not as mmengine writes it next to the log: '
            'it has no model with a backbone; copy the whole folder of the '
            'run again')
    init = backbone.get('init_cfg')
    return dict(
        run=osp.basename(osp.normpath(folder)),
        config=find_config(folder) or osp.basename(path),
        start=init.get('checkpoint') if isinstance(init, dict) else 'random',
        seed=(cfg.get('randomness') or {}).get('seed'),
        step=last.get('step'),
        scores=last['scores'],
        ann_file=(cfg.get('val_evaluator') or {}).get('ann_file'))


def _files(*parts: str) -> list[str]:
    """What fits a pattern: no folders, pipes or links to nothing."""
    return sorted(
        filter(osp.isfile, glob.glob(osp.join(*parts), recursive=True)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _score(value: float) -> float:
    """A number of a json, which may have any number of digits."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def find_config(folder: str) -> str | None:
    """The config that mmengine has copied into a work dir."""
    files = glob.glob(osp.join(folder, '*.py'))
    return osp.basename(files[0]) if len(files) == 1 else None


def rescore(folder: str, ann_file: str) -> dict[str, float]:
    """Score the detections that a run has kept, by pycocotools alone.

    Args:
        folder (str): Holds ``detections.bbox.json``, ``detections.segm.json``.
        ann_file (str): The annotations.

    Returns:
        dict[str, float]: By the names of :data:`COLUMNS`.

    Raises:
        UserError: If the files are not in the format of COCO.
    """
    try:
        return _rescore(folder, ann_file)
    except (ValueError, LookupError, TypeError, AttributeError,
            AssertionError, RecursionError) as error:
        raise UserError(
            f'{folder}: pycocotools cannot score its detections.*.json by '
            f'{ann_file} ({type(error).__name__}: {one_line(error)}): one of '
            'them is damaged, or they are of different data') from error


def _rescore(folder: str, ann_file: str) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    scores: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ann_file)
        for kind, name in (('bbox', 'box'), ('segm', 'mask')):
            path = osp.join(folder, f'detections.{kind}.json')
            if not osp.isfile(path):
                continue
            with open(path, encoding='utf-8') as file:
                found = json.load(file)
            if kind == 'segm':  # areas are those of the masks
                found = [{k: v for k, v in one.items() if k != 'bbox'}
                         for one in found]
            if not found:
                scores.update((f'{name} {s}', 0.)
                              for s in (*STATISTICS, 'AP, any class'))
                continue
            evaluation = COCOeval(truth, truth.loadRes(found), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for statistic, place in STATISTICS.items():
                scores[f'{name} {statistic}'] = float(evaluation.stats[place])
            evaluation.params.useCats = 0
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            scores[f'{name} AP, any class'] = float(evaluation.stats[0])
    return scores


def results_of(root: str) -> Iterator[dict[str, Any]]:
    """Read all results below a folder.

    Args:
        root (str): The folder of the runs.

    Yields:
        dict[str, Any]: One for each run or json.

    Raises:
        UserError: If pycocotools does not agree with mmdet.
    """
    folders = {
        osp.dirname(osp.dirname(osp.dirname(path)))
        for path in _files(root, '**', 'vis_data', '*.json')
    }
    for folder in sorted(folders):
        result = read_run(folder)
        if result is None:
            print(f'{folder}: no score is logged: not evaluated yet, or the '
                  'detector found nothing, of which mmdet logs nothing',
                  file=sys.stderr)
            continue
        ann_file = result.pop('ann_file')
        if isinstance(ann_file, str) and osp.isfile(ann_file):
            result['pycocotools'] = rescore(folder, ann_file)
            for name, value in result['pycocotools'].items():
                logged = result['scores'].setdefault(name, value)
                # mmdet logs three digits; -1 is an empty range of sizes
                if not abs(logged - value) <= 6e-4:  # so is NaN
                    raise UserError(
                        f'{folder}: {name} is {value:.4f} by pycocotools, but '
                        f'{logged:.4f} in the log: the detections next to it '
                        'are of another evaluation, or mmdet counts '
                        'differently')
        yield result
    for path in _files(root, '**', '*.json'):
        if osp.basename(osp.dirname(path)) == 'vis_data':
            continue
        try:
            with open(path, encoding='utf-8') as file:
                content = json.load(file)
        except ValueError:  # a log of several lines
            continue
        except RecursionError as error:
            raise UserError(f'{path} is nested too deep for a json of a '
                            'benchmark: remove it') from error
        if isinstance(content, dict) and {'task', 'scores'} <= set(content):
            scores = content['scores']
            if not {'start', 'seed'} <= set(content) or not (
                    isinstance(scores, dict)
                    and all(map(_is_number, scores.values()))):
                raise UserError(f'{path} is no json of a benchmark: start or '
                                'seed is missing, or scores are no numbers; '
                                'run it again, or remove the file')
            yield dict(
                run=osp.splitext(osp.basename(path))[0],
                config=content['task'],
                start=content['start'],
                seed=content['seed'],
                scores={k: _score(v) for k, v in scores.items()})


def as_json(node: Any, place: str) -> Any:
    """Write null for numbers that json does not know, and say so."""
    if isinstance(node, float) and not math.isfinite(node):
        print(f'{place} is {node}: results.json has null', file=sys.stderr)
        return None
    if isinstance(node, dict):
        return {k: as_json(v, f'{place}.{k}') for k, v in node.items()}
    if isinstance(node, list):
        return [as_json(v, f'{place}.{i}') for i, v in enumerate(node)]
    return node


def table_of(results: list[dict[str, Any]]) -> str:
    """Make one table in Markdown; a cell is blank where there is nothing."""
    columns = [c for c in COLUMNS if any(c in r['scores'] for r in results)]
    for result in results:
        columns += [c for c in result['scores'] if c not in columns]
    head = ['run', 'config', 'start', 'seed', *columns]
    rows = [head, ['---'] * len(head)]
    for result in results:
        rows.append([
            result['run'], result['config'],
            osp.basename(str(result['start'])),
            str(result['seed']),
            *(f'{result["scores"][c]:.3f}' if c in result['scores'] else ''
              for c in columns)
        ])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


@reported()
def main() -> None:
    """Collect, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('root', help='folder of the runs')
    args = parser.parse_args()
    results = list(results_of(args.root))
    if not results:
        raise UserError(f'{args.root} holds no evaluated run and no json of '
                        'a benchmark')
    table = table_of(results)
    plain = [as_json(result, result['run']) for result in results]
    with open(osp.join(args.root, 'results.json'), 'w') as file:
        json.dump(plain, file, indent=1, allow_nan=False)
    with open(osp.join(args.root, 'results.md'), 'w') as file:
        file.write(table + '\n')
    print(table)
    print(f'Wrote {osp.join(args.root, "results.json")} and results.md')


if __name__ == '__main__':
    main()
