"""Trainings of compare.py: each a plain run in a folder of its own."""
import glob
import hashlib
import os
import os.path as osp
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from collect import read_run
from compare_data import LabelledData
from compare_masks import write_semantic
from compare_starts import Start, check_whole, init_of
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from cyborgs_plugin.engine.config_options import merge_options
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation.label_splits import WHOLE, split_name
from cyborgs_plugin.files import written_aside

_TRAIN = osp.join(osp.dirname(osp.dirname(osp.abspath(__file__))), 'train.py')
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_TAIL = 15  # lines of a log in a message


class Trainings:
    """Fine-tunes of one config from each start on each part of the labels.

    Args:
        cfg (Config): Of mmdet, or of mmseg for ``segmentation``.
        data (LabelledData): The annotated images.
        options (dict): ``--cfg-options``.
        segmentation (bool): Whether classes of pixels are learnt.
        folder (str): Folder of the comparison.
    """

    trained = True
    """Seeds change the training, too."""

    def __init__(self, cfg: Config, data: LabelledData, options: dict,
                 segmentation: bool, folder: str) -> None:
        wanted = 'mmseg' if segmentation else 'mmdet'
        if cfg.get('default_scope') != wanted:
            raise UserError(
                f'{cfg.filename} is of {cfg.get("default_scope")}, but a '
                f'config of {wanted} is needed: give another --config, or '
                'another --task')
        self.cfg = cfg
        self.data = data
        self.options = options
        self.folder = folder
        self.masks = osp.join(folder, 'semantic') if segmentation else None
        self.classes: list[str] = data.class_names
        if self.masks:
            self.classes = write_semantic(data, self.masks)
        self._inits: dict[str, Any] = {}

    def check(self, start: Start) -> str:
        """Refuse weights that do not fit, and keep what loads them."""
        init_default_scope(self.cfg.default_scope)
        cfg = self.config(None, WHOLE, 0)
        model = MODELS.build(cfg.model)
        if start.whole:
            return check_whole(start, model, model.backbone)
        self._inits[start.name] = init_of(
            start, model, model.backbone, osp.join(self.folder, 'starts'))
        return ''

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the scores beside the start, labels and seed."""
        text = self.config(None, WHOLE, 0).dump()
        return dict(config=hashlib.sha256(text.encode()).hexdigest())

    def score(self, start: Start, share: float, seed: int,
              folder: str) -> dict[str, float]:
        """Train, and read the scores; a run that was stopped is resumed.

        Raises:
            UserError: If it fails; the message has the end of its log.
        """
        config, log = f'{folder}.py', f'{folder}.log'
        os.makedirs(osp.dirname(folder), exist_ok=True)
        cfg = self.config(start, share, seed)
        text = cfg.dump()
        if osp.isfile(config):
            with open(config, encoding='utf-8') as file:
                known = file.read()
            if known != text:
                raise UserError(
                    f'{config} is of a run with other settings: give another '
                    f'--out, or delete {folder}')
        with written_aside(config) as aside, open(
                aside, 'w', encoding='utf-8') as file:
            file.write(text)
        with open(log, 'a', encoding='utf-8') as file:
            code = subprocess.run(
                [sys.executable, _TRAIN, config, '--work-dir', folder,
                 '--resume'], stdout=file, stderr=subprocess.STDOUT,
                check=False).returncode
        if code:
            with open(log, encoding='utf-8', errors='replace') as file:
                tail = ''.join(file.readlines()[-_TAIL:])
            raise UserError(f'{tail}\n{config} failed with exit code {code}; '
                            f'the whole log: {log}. Once it is fixed, the '
                            'same command resumes')
        scores = self._read(folder)
        for path in glob.glob(osp.join(glob.escape(folder), '*.pth')):
            os.remove(path)  # a few hundred MB each
        return scores

    def _read(self, folder: str) -> dict[str, float]:
        """The scores of a run that has ended."""
        result = read_run(folder)
        found = result['scores'] if result else {}
        if self.masks:
            return {'mIoU': found['mIoU (%)'] / 100}
        metrics = self.cfg.val_evaluator.get('metric', 'bbox')
        # mmdet logs nothing of a detector that has found nothing
        return {
            name: max(0., found.get(name, 0.))
            for name, kind in (('box AP', 'bbox'), ('mask AP', 'segm'))
            if kind in metrics
        }

    def config(self, start: Start | None, share: float, seed: int) -> Config:
        """The config of a run.

        Args:
            start (Start, optional): None leaves the weights random.
            share (float): Of the labels, in per cent.
            seed (int): Of the labels and the training.
        """
        cfg = self.cfg.copy()
        if self.options:
            merge_options(cfg, self.options)
        for name in _LOADERS:
            self._place(cfg, name, share, seed)
        for name in ('val_evaluator', 'test_evaluator'):
            if not self.masks:
                cfg[name].ann_file = self.data.val_json
        for head in _heads(cfg.model):
            head['num_classes'] = len(self.classes)
        for node in _pretrained(cfg.model):
            node['init_cfg'] = None
        cfg.model.backbone.init_cfg = None
        cfg.load_from = None
        if start is not None and start.whole:
            cfg.load_from = start.checkpoint
        elif start is not None:
            cfg.model.backbone.init_cfg = self._inits[start.name]
        cfg.randomness = dict(seed=seed)
        cfg.default_hooks.checkpoint.max_keep_ckpts = 1
        return cfg

    def _place(self, cfg: Config, name: str, share: float,
               seed: int) -> None:
        """Have a data set read our images and annotations."""
        side = int(name != 'train_dataloader')
        outer = cfg[name].dataset
        if 'datasets' in outer:
            raise UserError(f'{cfg.filename}: {name}.dataset joins several, '
                            'but one is compared on: write a config with one')
        inner = outer
        while 'dataset' in inner:
            inner = inner.dataset
        path = (self.data.val_json if side else
                self.data.split_json(share, seed))
        inner.data_root = ''
        inner.metainfo = dict(classes=tuple(self.classes))
        if self.masks:
            part = 'val' if side else 'train'
            stem = 'val' if side else split_name(share, seed)
            inner.ann_file = osp.join(self.masks, f'{stem}.txt')
            inner.data_prefix = dict(
                img_path=osp.join(self.masks, 'images', part),
                seg_map_path=osp.join(self.masks, 'masks', part))
            inner.img_suffix, inner.seg_map_suffix = '.jpg', '.png'
        else:
            inner.ann_file = path
            inner.data_prefix = dict(img=self.data.roots[side])
        if not side:
            # an epoch has as many images whatever the share of the labels
            sizes = self.data.sizes
            times = round(sizes[split_name(WHOLE, 0)]
                          / sizes[split_name(share, seed)])
            cfg[name].dataset = dict(type='RepeatDataset', times=times,
                                     dataset=outer)


def _heads(node: Any) -> Iterator[dict]:
    """The parts of a model that have a number of classes."""
    for part in _dicts(node):
        if 'num_classes' in part:
            yield part


def _pretrained(node: Any) -> Iterator[dict]:
    """The parts of a model that load weights by themselves."""
    for part in _dicts(node):
        init = part.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            yield part


def _dicts(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
    values = node.values() if isinstance(node, dict) else (
        node if isinstance(node, (list, tuple)) else ())
    for value in values:
        yield from _dicts(value)
