"""The whole way on toy scenes: pretrain, fine-tune, evaluate (make demo).

Every stage is skipped where an earlier run has finished it, and training goes
on from its last checkpoint, so that interrupting and repeating are harmless.

Run: python tools/demo.py [--fresh]
"""
import argparse
import glob
import hashlib
import json
import os
import os.path as osp
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.files import written_aside

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
WORK = osp.join('work_dirs', 'demo')
DATA = osp.join('data', 'toy_scenes')
STATE = osp.join(WORK, 'state.json')
PRETRAIN = 'configs/cyborgs_toy_rtmdet_tiny.py'
TRANSFER = 'configs/transfer/faster-rcnn_cspnext-tiny_fpn_{}_toy.py'
STARTS = {'CYBORGS': 'cyborgs-pre', 'random': 'random'}
"""Name of the config that fine-tunes from each start."""
SHOWN = ('Epoch(train)', 'Mask round', 'coco/', 'Saving', 'Continuing',
         'Published', 'wrote', 'Wrote', '| round', '| masks')
_ONE_WRITES = Lock()


@reported()
def main() -> None:
    """Run what is not done yet and report."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--fresh', action='store_true', help='delete earlier results first')
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK, exist_ok=True)
    pretrained = osp.join(WORK, osp.basename(PRETRAIN)[:-len('.py')])
    stage('scenes', 'tools/dataset_converters/make_toy_scenes.py', '--out',
          DATA)
    stage('pretrain', 'tools/train.py', PRETRAIN, '--resume', '--work-dir',
          pretrained)
    with open(osp.join(pretrained, 'last_checkpoint')) as file:
        checkpoint = file.read().strip()
    stage('publish', 'tools/model_converters/publish_backbone.py', checkpoint,
          '--out-dir', WORK)
    backbone = published()
    # A second thread hardly makes the small detector faster: two runs at once
    # end sooner than one after the other.
    with ThreadPoolExecutor(len(STARTS)) as pool:
        scores = dict(zip(STARTS, pool.map(
            lambda start: fine_tune(start, backbone), STARTS)))
    stage('masks', 'tools/evaluate_masks.py', osp.join(pretrained, 'masks'),
          '--ann', osp.join(DATA, 'annotations', 'instances_train2017.json'))
    sheet = draw_sheet(osp.join(pretrained, 'masks'))
    report(scores, backbone, sheet, pretrained)


def fine_tune(start: str, backbone: str) -> dict:
    """Train a detector, beside that of the other start; its scores."""
    config = TRANSFER.format(STARTS[start])
    # a folder of each config: another one's training is not resumed
    folder = osp.join(WORK, osp.basename(config)[:-len('.py')])
    options = [] if start == 'random' else [
        '--cfg-options', f'model.backbone.init_cfg.checkpoint={backbone}'
    ]
    stage(STARTS[start], 'tools/train.py', config, '--resume', '--work-dir',
          folder, *options, share=len(STARTS))
    return read_scores(folder)


def stage(name: str, script: str, *arguments: str, share: int = 1) -> None:
    """Run a script unless the same call has finished before.

    Args:
        name (str): Of the stage.
        script (str): What is run.
        arguments (str): Its command line.
        share (int): How many stages share the cores. Defaults to 1.
    """
    state = read_state()
    call = hashlib.sha256(' '.join([script, *arguments]).encode()).hexdigest()
    if state.get(name, {}).get('call') == call:
        print(f'[{name}] done before, in {state[name]["seconds"]:.0f} s')
        return
    log = osp.join(WORK, f'{name}.log')
    print(f'[{name}] python {script} {" ".join(arguments)}\n'
          f'[{name}] log: {log}', flush=True)
    start = time.time()
    command = [sys.executable, '-u', script, *arguments]
    environment = dict(os.environ)
    if share > 1:
        environment.setdefault('OMP_NUM_THREADS', str(
            max(1, (os.cpu_count() or 1) // share)))
    with open(log, 'a', encoding='utf-8') as file, subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env=environment) as process:
        for line in process.stdout or ():
            file.write(line)
            file.flush()
            if any(word in line for word in SHOWN):
                print(f'[{name}] {line.split(" - INFO - ")[-1].rstrip()}',
                      flush=True)
    if process.returncode:
        if share > 1:
            print(f'[{name}] failed; why follows when the stages beside it '
                  'have ended', flush=True)
        with open(log, encoding='utf-8') as file:
            tail = ''.join(file.readlines()[-15:])
        raise UserError(f'{tail}\n[{name}] failed with exit code '
                        f'{process.returncode}; the whole log: {log}. After '
                        'fixing, `make demo` resumes here')
    with _ONE_WRITES:
        state = read_state()
        state[name] = dict(call=call, seconds=time.time() - start)
        with written_aside(STATE) as path, open(
                path, 'w', encoding='utf-8') as file:
            json.dump(state, file)


def read_state() -> dict:
    """What earlier runs have finished."""
    if not osp.isfile(STATE):
        return {}
    with open(STATE, encoding='utf-8') as file:
        return json.load(file)


def published() -> str:
    """The backbone: publish_backbone names it in its last line."""
    with open(osp.join(WORK, 'publish.log'), encoding='utf-8') as file:
        named = [line.strip() for line in file
                 if line.rstrip().endswith('.pth')]
    if not named or not osp.isfile(named[-1]):
        raise UserError(f'{file.name} names no backbone that is there: run '
                        'again with --fresh')
    return named[-1]


def read_scores(folder: str) -> dict:
    """The last COCO evaluation that a run has logged."""
    last: dict = {}
    logs = glob.glob(osp.join(folder, '*', 'vis_data', '*.json'))
    for log in sorted(logs, key=osp.getmtime):
        with open(log, encoding='utf-8') as file:
            for line in file:
                if 'coco/bbox_mAP' in line:
                    last = json.loads(line)
    if not last:
        raise UserError(f'No COCO evaluation was logged in {folder}: run '
                        'again with --fresh')
    return {k: v for k, v in last.items() if k.startswith('coco/')}


def draw_sheet(bank_root: str) -> str:
    """Pictures, ground truth and the masks of each round in one PNG."""
    from pycocotools.coco import COCO

    from cyborgs_plugin.datasets.image_io import read_image
    from cyborgs_plugin.datasets.mask_bank import (
        MaskBank,
        list_rounds,
        round_path,
    )
    from cyborgs_plugin.ops.matched_ids import matched_ids
    from cyborgs_plugin.visualization import contact_sheet
    banks = [
        MaskBank.open(round_path(bank_root, number))
        for number in list_rounds(bank_root)
    ]
    images, truth = [], []
    maps: list[list[np.ndarray]] = [[] for _ in banks]
    for json_name, count in (('real', 2), ('train2017', 4)):
        file = osp.join(DATA, 'annotations', f'instances_{json_name}.json')
        coco = COCO(file)
        for image_id in sorted(coco.imgs)[:count]:
            name = coco.imgs[image_id]['file_name']
            path = osp.join(DATA, 'train2017', name)
            images.append(read_image(path)[..., ::-1])
            ids = np.zeros(images[-1].shape[:2], dtype=np.int32)
            annotations = coco.loadAnns(coco.getAnnIds(image_id))
            for number, annotation in enumerate(
                    sorted(annotations, key=lambda a: -a['area']), 1):
                ids[coco.annToMask(annotation) > 0] = number
            truth.append(ids)
            ids = truth[-1]
            for column, bank in zip(maps, banks):
                ids = matched_ids(bank.label_map(f'train2017/{name}'), ids)
                column.append(ids)
    columns = {'ground truth': truth}
    for bank, column in zip(banks, maps):
        columns[f'round {bank.round}, epoch {bank.manifest["epoch"]}'] = column
    return contact_sheet(images, columns, osp.join(WORK, 'masks.png'))


def report(scores: dict, backbone: str, sheet: str, pretrained: str) -> None:
    """Print and keep the outcome."""
    seconds = {name: done['seconds'] for name, done in read_state().items()}
    # two of them ran at once
    wall = sum(seconds.values()) - min(
        seconds[name] for name in STARTS.values())
    results = osp.join(WORK, 'results.json')
    with open(results, 'w', encoding='utf-8') as file:
        json.dump(dict(scores=scores, seconds=seconds), file, indent=1)
    print('\n' + '-' * 70)
    print('What ran: '
          + ', '.join(f'{n} {s:.0f} s' for n, s in seconds.items())
          + f'; {wall / 60:.1f} min in all')
    print(f'{"start":10} {"box AP":>8} {"box AP50":>9}'
          '   (toy scenes, val, COCO metric)')
    for start, values in scores.items():
        print(f'{start:10} {values["coco/bbox_mAP"]:8.3f} '
              f'{values["coco/bbox_mAP_50"]:9.3f}')
    print('A few minutes on a few hundred toy pictures show that everything '
          'works, not how good the method is.')
    print(f'Masks of each round: {sheet}\nBackbone: {backbone}\n'
          f'Numbers: {results}\nCheckpoints and mask bank: {pretrained}')
    print('Next: your own photographs, without labels:\n  '
          '.venv/bin/python tools/train.py configs/cyborgs_small_data.py '
          '--cfg-options data=/path/to/photos')


if __name__ == '__main__':
    main()
