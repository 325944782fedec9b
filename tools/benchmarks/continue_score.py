"""Scores of continue_from.py: one backbone on every split."""
import json
import os.path as osp
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS, TASK_UTILS

from cyborgs_plugin.datasets import read_image
from cyborgs_plugin.evaluation import CocoTruth, MaskQuality
from cyborgs_plugin.evaluation.frozen_features import (
    FrozenFeatures,
    ProbeFeatures,
    ProbeImages,
    collect,
)
from cyborgs_plugin.evaluation.paired import hold_out, score_split
from cyborgs_plugin.evaluation.probes import share_classes
from cyborgs_plugin.files import sha256, written_aside
from cyborgs_plugin.safe_load import load_weights, tensors_of
from cyborgs_plugin.segmentation import NetworkMasks

_MIN_AREA = 100  # pixels of the smallest region
_MASK_SCORES = ('mBO', 'ARI', 'boundary_F')


class Protocol(NamedTuple):
    """What is scored, and on which images."""

    splits: int
    """Of the images that fit the probes."""
    labels: Sequence[float]
    """Shares of these images, each for itself."""
    score_on: str
    """'val', or 'train': the images of train2017 no split learns from."""
    masks: Sequence[int]
    """Numbers of regions per image that masks are scored with."""
    max_images: int | None
    """Images of each side; None uses all."""


class Scores:
    """What backbones are worth, each scored once.

    Args:
        root (str): A folder laid out as COCO.
        cfg (Config): The recipe: its backbone, its preprocessor, and the
            source of its masks.
        protocol (Protocol): What is scored.
    """

    def __init__(self, root: str, cfg: Config, protocol: Protocol) -> None:
        self.root = root
        self.cfg = cfg
        self.protocol = protocol
        self.sides = share_classes(self._side('train'), self._side('val'))

    def backbone(self, file: str | None = None) -> torch.nn.Module:
        """The recipe's backbone, with the weights of a file."""
        backbone = MODELS.build({
            key: value
            for key, value in self.cfg.model.backbone.items()
            if key != 'init_cfg'
        })
        if file is not None:
            backbone.load_state_dict(tensors_of(load_weights(file), file))
        backbone.eval()
        return backbone

    def of(self, file: str) -> dict[str, list[dict[str, float]]]:
        """Score a backbone.

        Args:
            file (str): Its weights; the scores are kept beside them.

        Returns:
            dict[str, list[dict[str, float]]]: For each share of the labels
            the scores on each split; under 'masks' one entry, if asked for.
        """
        settings = [
            sha256(file), *self.protocol,
            str(self.cfg.default_hooks.mask_update.source)
        ]
        settings = json.loads(json.dumps(settings))
        path = f'{file}.{self.protocol.score_on}.json'
        if osp.isfile(path):
            with open(path, encoding='utf-8') as opened:
                known = json.load(opened)
            if known['settings'] == settings:
                return known['scores']
        backbone = self.backbone(file)
        found = self._probes(backbone)
        if self.protocol.masks:
            found['masks'] = [self._masks(backbone)]
        with written_aside(path) as aside, open(
                aside, 'w', encoding='utf-8') as opened:
            json.dump(dict(settings=settings, scores=found), opened)
        return found

    def annotated(self, split: str) -> list[str]:
        """The names of a split's pictures that have annotations."""
        return CocoTruth(self._annotations(split)[0]).names

    def _probes(self, backbone: torch.nn.Module
                ) -> dict[str, list[dict[str, float]]]:
        features = FrozenFeatures(
            backbone, MODELS.build(self.cfg.model.data_preprocessor))
        on_val = self.protocol.score_on == 'val'
        train, *val = (
            collect(features, side, _MIN_AREA, self.protocol.max_images)
            for side in self.sides[:1 + on_val])
        classes = len(self.sides[0].scenes.segment_classes)
        found: dict[str, list[dict[str, float]]] = {}
        for share in self.protocol.labels:
            found[f'{share:g}'] = []
            for split in range(self.protocol.splits):
                sides: tuple[ProbeFeatures, ProbeFeatures] = (
                    (train, val[0]) if on_val else hold_out(train, split))
                found[f'{share:g}'].append(
                    score_split(*sides, classes, split, share))
        return found

    def _masks(self, backbone: torch.nn.Module) -> dict[str, float]:
        """Score the recipe's masks of each image by itself."""
        split = self.protocol.score_on
        instances, panoptic = self._annotations(split)
        metric = MaskQuality(
            instances,
            key_prefix=f'{split}2017/',
            panoptic_file=panoptic,
            max_images=self.protocol.max_images)
        sources = {
            regions: self._source(backbone, regions)
            for regions in self.protocol.masks
        }
        maps: dict[int, dict[str, np.ndarray]] = {k: {} for k in sources}
        for key in metric.keys():
            image = read_image(osp.join(self.root, key))
            for regions, source in sources.items():
                maps[regions][key], = source.label_maps([image], [key],
                                                        (0, regions))
        scores = {}
        for regions, found in maps.items():
            quality = metric.evaluate_maps(iter(found.items()), len(found))
            scores.update({
                f'{name}, K={regions}': quality[f'masks/{name}']
                for name in _MASK_SCORES
            })
        return scores

    def _source(self, backbone: torch.nn.Module,
                regions: int) -> NetworkMasks:
        source: NetworkMasks = TASK_UTILS.build(
            dict(
                self.cfg.default_hooks.mask_update.source,
                num_clusters=regions,
                num_clusterings=1))
        source.prepare(backbone,
                       MODELS.build(self.cfg.model.data_preprocessor))
        return source

    def _annotations(self, split: str) -> tuple[str, str | None]:
        instances, panoptic = (
            osp.join(self.root, 'annotations', f'{kind}_{split}2017.json')
            for kind in ('instances', 'panoptic'))
        return instances, panoptic if osp.isfile(panoptic) else None

    def _side(self, split: str) -> ProbeImages:
        instances, panoptic = self._annotations(split)
        truth = scenes = CocoTruth(instances)
        if panoptic:
            scenes = CocoTruth(instances, panoptic)
        return ProbeImages(
            osp.join(self.root, f'{split}2017'), truth, scenes)
