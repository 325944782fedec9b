"""Frozen features of compare.py: no detector is trained."""
from functools import cached_property
from typing import Any

import torch
from compare_data import LabelledData
from compare_starts import RANDOM, Start, load_backbone
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings
from mmpretrain.models import SelfSupDataPreprocessor

from cyborgs_plugin.datasets.coco_truth import evenly
from cyborgs_plugin.evaluation import CocoTruth
from cyborgs_plugin.evaluation.frozen_features import (
    FrozenFeatures,
    ProbeFeatures,
    ProbeImages,
    collect,
)
from cyborgs_plugin.evaluation.paired import score_labels
from cyborgs_plugin.evaluation.probes import share_classes

_MIN_AREA = 100  # pixels of the smallest region
_PIXEL_IMAGES = 100
"""Of those that score, for pixels and retrieval."""


class Probes:
    """Scores of frozen features.

    Args:
        cfg (Config): Its ``model.backbone`` is the network.
        data (LabelledData): The annotated images.
        long_side (int): They are resized to it.
        folder (str): For copies of weights.
    """

    trained = False
    """Seeds change nothing but the labels and what the probes draw."""

    def __init__(self, cfg: Config, data: LabelledData, long_side: int,
                 folder: str) -> None:
        self.cfg = cfg
        self.data = data
        self.long_side = long_side
        self.folder = folder
        self._seen: tuple[tuple[str, int], tuple] | None = None

    def check(self, start: Start) -> str:
        """Refuse weights that do not fit the network."""
        load_backbone(start, self._network(0), self.folder)
        return ''

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the scores beside the start, labels and seed."""
        return dict(backbone=str(self.cfg.model.backbone),
                    long_side=self.long_side)

    def score(self, start: Start, share: float, seed: int,
              folder: str) -> dict[str, float]:
        """Fit the probes on a part of the labels."""
        train, val = self._features(start, seed)
        numbers = self._numbers(share, seed)
        classes = len(self.sides[0].scenes.segment_classes)
        return score_labels(train.of_images(numbers), val, classes, seed)

    @cached_property
    def sides(self) -> tuple[ProbeImages, ProbeImages]:
        """The images to learn from, and those to score on."""
        train, val = (
            ProbeImages(root, truth, truth) for root, truth in zip(
                self.data.roots, (CocoTruth(self.data.split_json(100, 0)),
                                  CocoTruth(self.data.val_json))))
        return share_classes(train, val)

    def _numbers(self, share: float, seed: int) -> list[int]:
        """Places of the images of a split among all."""
        names = self.sides[0].truth.names
        places = {name: place for place, name in enumerate(names)}
        chosen = CocoTruth(self.data.split_json(share, seed)).names
        return [places[name] for name in chosen]

    def _features(self, start: Start,
                  seed: int) -> tuple[ProbeFeatures, ProbeFeatures]:
        """Features of both sides, those of the last start being kept."""
        key = (start.name, seed if start.name == RANDOM else 0)
        if self._seen is None or self._seen[0] != key:
            self._seen = None  # two at a time may not fit
            network = self._network(key[1])
            recorded = load_backbone(start, network, self.folder)
            features = FrozenFeatures(network, self._preprocessor(recorded),
                                      long_side=self.long_side)
            train, val = (collect(features, side, _MIN_AREA, None)
                          for side in self.sides)
            places = evenly(range(len(val.maps)), _PIXEL_IMAGES)
            val = val._replace(maps=[val.maps[place] for place in places])
            self._seen = key, (train, val)
        return self._seen[1]

    def _network(self, seed: int) -> torch.nn.Module:
        imports = self.cfg.get('custom_imports')
        if imports:
            import_modules_from_strings(**imports)
        init_default_scope(self.cfg.get('default_scope', 'mmpretrain'))
        torch.manual_seed(seed)
        found = dict(self.cfg.model.backbone)
        init = found.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            del found['init_cfg']
        network = MODELS.build(found)
        return network.to('cuda' if torch.cuda.is_available() else 'cpu')

    def _preprocessor(
            self,
            recorded: dict[str, Any]) -> SelfSupDataPreprocessor | None:
        """That of the file's training, or else of the config.

        None stands for ImageNet's statistics.
        """
        found = {**(self.cfg.model.get('data_preprocessor')
                    or self.cfg.get('data_preprocessor') or {}), **recorded}
        if not found.get('mean'):
            return None
        return SelfSupDataPreprocessor(
            mean=found['mean'], std=found['std'],
            to_rgb=bool(found.get('to_rgb', found.get('bgr_to_rgb'))))
