"""Scores of mini_coco.py: masks and frozen probes of each network."""
import os.path as osp
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mini_coco_report as report
import numpy as np
import torch
from mini_coco_train import Trainings, read, write
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TASK_UTILS

from cyborgs_plugin.datasets import read_image
from cyborgs_plugin.evaluation import CocoTruth, MaskQuality, color_kmeans
from cyborgs_plugin.evaluation.probes import (
    REGION_SPLITS,
    FrozenFeatures,
    ProbeImages,
    run_probes,
)
from cyborgs_plugin.safe_load import load_weights
from cyborgs_plugin.segmentation import NetworkMasks, SuperpixelMasks


class Scores:
    """What the networks of a benchmark are worth.

    Args:
        trainings (Trainings): Where they come from.
        device (str, optional): What features are computed on. Defaults to
            None, a GPU where there is one.
    """

    def __init__(self, trainings: Trainings,
                 device: str | None = None) -> None:
        self._device = device or (
            'cuda' if torch.cuda.is_available() else 'cpu')
        self._runs = trainings
        self._budget = trainings.budget
        files = {
            split: trainings.annotations('panoptic', split)
            for split in ('train', 'val')
        }
        self.panoptic: dict[str, str | None] = {
            split: path if osp.isfile(path) else None
            for split, path in files.items()
        }
        self._metric = MaskQuality(
            trainings.annotations('instances', 'val'),
            key_prefix='val2017/',
            panoptic_file=self.panoptic['val'],
            max_images=self._budget.max_eval_images)

    def judge(self, method: str, seed: int,
              run: dict[str, Any]) -> dict[str, Any]:
        """Score the backbones of a run: masks of each, probes of some."""
        path = osp.join(run['folder'], 'scores.json')
        cfg = self._runs.config(method, seed)
        settings = [self._budget.max_eval_images, self._budget.long_side,
                    list(self._budget.ks), self._runs.args.grid_stride,
                    REGION_SPLITS, str(self._rounds(cfg))]
        scores = read(path) or dict(settings=settings, points={})
        if scores['settings'] != settings:
            scores = dict(settings=settings, points={})
        for number, (file, epoch) in enumerate(
                zip(run['phases'], run['epochs']), 1):
            point = scores['points'].setdefault(str(epoch), {})
            wanted = [] if 'masks' in point else ['masks']
            if 'regions' not in point and (
                    epoch == 0 or self._budget.is_probed(number)
                    or getattr(self._runs.args, 'probe_each_phase', False)):
                wanted.append('probes')
            if not wanted:
                continue
            start = time.time()
            backbone = self._backbone(cfg, file)
            if 'masks' in wanted:
                point['masks'] = self.mask_scores(
                    self.network_maps(cfg, backbone))
            if 'probes' in wanted:
                point.update(self.probe_scores(cfg, backbone))
            point['seconds'] = time.time() - start
            write(path, scores)
            print(f'[{method}_s{seed}] epoch {epoch}: '
                  f'{report.one_line(point)}, {point["seconds"]:.0f} s',
                  flush=True)
        return scores['points']

    def probe_scores(self, cfg: Config,
                     backbone: torch.nn.Module) -> dict[str, Any]:
        """Run the frozen probes."""
        features = FrozenFeatures(
            backbone,
            MODELS.build(cfg.model.data_preprocessor),
            grid_stride=self._runs.args.grid_stride,
            long_side=self._budget.long_side)
        sides = []
        for split in ('train', 'val'):
            scenes = truth = self._runs.truth[split]
            if self.panoptic['train'] and self.panoptic['val']:
                scenes = CocoTruth(truth.ann_file, self.panoptic[split])
            sides.append(
                ProbeImages(
                    osp.join(self._runs.root, f'{split}2017'), truth,
                    scenes))
        train, val = sides
        return run_probes(
            features, train, val, max_images=self._budget.max_eval_images)

    def network_maps(self, cfg: Config, backbone: torch.nn.Module
                     ) -> dict[int, dict[str, np.ndarray]]:
        """Cluster the features of each val image by itself, for each K."""
        return self._maps(
            {k: self._source(cfg, backbone, k) for k in self._budget.ks})

    def _maps(self, sources: dict[int, NetworkMasks]
              ) -> dict[int, dict[str, np.ndarray]]:
        """Label maps of each val image, whose features are found once."""
        maps: dict[int, dict[str, np.ndarray]] = {k: {} for k in sources}
        for key, image in self._val_images():
            features = next(iter(sources.values())).features([image])
            for k, source in sources.items():
                maps[k][key] = source.cluster([*features], [key], (0, k))[0]
        return maps

    def _rounds(self, cfg: Config) -> ConfigDict:
        """What a method makes its rounds with; if it has none, CYBORGS'."""
        update = cfg.default_hooks.get('mask_update')
        if not update or update.source.type != 'NetworkMasks':
            update = self._runs.config('cyborgs', 0).default_hooks.mask_update
        return update.source

    def _source(self, cfg: Config, backbone: torch.nn.Module,
                k: int) -> NetworkMasks:
        """That, for this K."""
        init_default_scope('mmpretrain')
        source = TASK_UTILS.build(
            dict(self._rounds(cfg), num_clusters=k, num_clusterings=1))
        source.prepare(backbone, MODELS.build(cfg.model.data_preprocessor))
        return source

    def floors(self) -> dict[str, Any]:
        """Score masks without a network, once."""
        path = osp.join(self._runs.work, 'floors.json')
        ks = self._budget.ks

        def superpixels(linkage: str | None) -> dict[int, dict]:
            return self._maps({
                k: SuperpixelMasks(num_clusters=k, linkage=linkage)
                for k in ks
            })

        def pixels() -> dict[int, dict]:
            return {
                k: {key: color_kmeans(image, k) for key, image in
                    self._val_images()} for k in ks
            }

        makers: dict[str, Callable[[], dict[int, dict]]] = {
            'colour and position': pixels,
            'superpixels': partial(superpixels, None),
            'superpixels merged': partial(superpixels, 'average')
        }
        settings = [list(ks), self._budget.max_eval_images, [*makers]]
        found = read(path)
        if found is None or found['settings'] != settings:
            scores = {
                title: self.mask_scores(make())
                for title, make in makers.items()
            }
            found = dict(settings=settings, scores=scores)
            write(path, found)
        return found['scores']

    def mask_scores(self, maps: dict[int, dict[str, np.ndarray]]
                    ) -> dict[str, dict[str, float]]:
        """Score label maps of the val images, for each K."""
        return {
            str(k): {
                name.split('/')[-1]: value
                for name, value in self._metric.evaluate_maps(
                    iter(found.items()), len(found)).items()
            }
            for k, found in maps.items()
        }

    def _val_images(self) -> Iterator[tuple[str, np.ndarray]]:
        for key in self._metric.keys():
            yield key, read_image(osp.join(self._runs.root, key))

    def sheet(self, runs: dict[str, dict[str, Any]]) -> str | None:
        """Draw the masks of CYBORGS' phases beside the truth."""
        run = runs.get('cyborgs_s0')
        if run is None:
            return None
        cfg = self._runs.config('cyborgs', 0)
        k = self._budget.ks[min(1, len(self._budget.ks) - 1)]
        keys = self._metric.keys()[:6]
        images = [
            read_image(osp.join(self._runs.root, key)) for key in keys
        ]
        truth = CocoTruth(
            self._runs.annotations('instances', 'val'),
            self.panoptic['val'])
        columns = {
            'ground truth': [truth.segments(key[8:]) for key in keys],
            f'colour, K={k}': [color_kmeans(image, k) for image in images]
        }
        files = [*zip(run['epochs'], run['phases'])]
        if 'random_s0' in runs:
            files.insert(0, (0, runs['random_s0']['phases'][0]))
        for epoch, file in files:
            source = self._source(cfg, self._backbone(cfg, file), k)
            columns[f'epoch {epoch}'] = [
                source.label_maps([image], [key], (0, k))[0]
                for image, key in zip(images, keys)
            ]
        return report.sheet(images, columns, self._runs.work)

    def _backbone(self, cfg: Config, file: str) -> torch.nn.Module:
        """A frozen backbone that gives all stages."""
        init_default_scope('mmpretrain')
        backbone = MODELS.build(
            dict(cfg.model.backbone, out_indices=(1, 2, 3)))
        state = load_weights(file)
        backbone.load_state_dict({
            key.removeprefix('backbone.'): value
            for key, value in state['state_dict'].items()
        })
        backbone.to(self._device)
        backbone.eval()  # mmpretrain's gives nothing back
        return backbone
