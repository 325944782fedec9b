"""Is a run working? What can be told without labels."""
import math
import os.path as osp
import time
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from mmpretrain.utils import get_ori_model

from ..datasets.mask_bank import MaskBank
from ..datasets.scene_dataset import scene_datasets
from ..errors import UserError
from ..evaluation.health_alarms import BANDS, find_alarms
from ..evaluation.health_pictures import (
    HealthPictures,
    has_backbone,
    picture_vectors,
    target_change,
    target_sums,
)
from ..evaluation.health_record import HealthRecord
from ..evaluation.health_verdict import verdict
from ..ops.places import evenly_spaced
from ..ops.spread import describe_vectors
from ..segmentation.fixed_masks import agreement_with_before, fixed_masks
from ..segmentation.round_report import shape_of_regions
from ..segmentation.sources import NonFiniteFeaturesError
from .finite_hook import is_skipped
from .mask_update_hook import MaskUpdateHook

_LOGGED = dict(
    loss='loss',
    loss_contrast='contrast',
    loss_regions='contrast',
    chance_level='chance',
    num_regions='regions_per_view',
    matched_regions='matched_regions')
"""What a step logs, and its name here."""


@HOOKS.register_module()
class HealthHook(Hook):
    """Measure each epoch and each mask round, and warn where one is ill.

    A fixed handful of pictures goes through the backbone in a plain forward.
    The log, the visualizer's backends and ``{work_dir}/health.json`` get what
    comes of it and the means of what the steps logged; an alarm, with advice,
    comes once when a number leaves its band. docs/health.md explains each.

    Args:
        interval (int): Epochs between two measurements; the last is always
            measured. -1 turns the hook off. Defaults to 1.
        num_images (int): Pictures, evenly spaced over the data, at the size
            of a view. They are held in memory. Defaults to 256.
        num_masks (int): Pictures that are segmented at each round, whole and
            by themselves; no more than a twentieth of the data, but 4.
            Defaults to 16.
        num_clusters (int): K of that. Defaults to 8.
        bands (dict, optional): Limits in place of those of
            :data:`~cyborgs_plugin.evaluation.health_alarms.BANDS`.
            Defaults to None.
    """

    # After MaskUpdateHook; before IterTimerHook, the log and FiniteHook.
    priority = 45

    def __init__(self,
                 interval: int = 1,
                 num_images: int = 256,
                 num_masks: int = 16,
                 num_clusters: int = 8,
                 bands: dict[str, float] | None = None) -> None:
        if interval == 0 or interval < -1:
            raise UserError('default_hooks.health.interval must be a positive '
                            'number of epochs, or -1 for no measurements, but '
                            f'is {interval}')
        for name, value, least in (('num_images', num_images, 2),
                                   ('num_masks', num_masks, 1),
                                   ('num_clusters', num_clusters, 2)):
            if value < least:
                raise UserError(f'default_hooks.health.{name} must be at '
                                f'least {least}, but is {value}')
        unknown = set(bands or ()) - set(BANDS)
        if unknown:
            raise UserError(
                f'default_hooks.health.bands has {sorted(unknown)}, but there '
                f'are only {sorted(BANDS)}')
        self.interval = interval
        self.num_images = num_images
        self.num_masks = num_masks
        self.num_clusters = num_clusters
        self.bands = dict(BANDS, **bands or {})
        self.record = HealthRecord('')
        self._measures = False
        self._pictures: HealthPictures | None = None
        self._target: torch.Tensor | None = None
        self._steps = 0

    def before_train(self, runner: Runner) -> None:
        """Open the record of this run, or a new one."""
        self._measures = self.interval > 0 and isinstance(
            runner.train_loop, EpochBasedTrainLoop)
        if not self._measures:
            return
        path = osp.join(runner.work_dir, 'health.json')
        self.record = HealthRecord(path)
        if runner.iter:
            bank = _bank_of(runner)
            try:
                self.record = HealthRecord.resumed(
                    path, runner.epoch, -1 if bank is None else bank.round)
            except ValueError as error:
                runner.logger.warning(f'{error}: a new one is started')
        self._pictures = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Measure the masks, if they are new."""
        if not self._measures:
            return
        self._steps, self._began = 0, time.perf_counter()
        if is_main_process():
            self._target = target_sums(get_ori_model(runner.model))
            self._measure_round(runner)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: dict | None = None) -> None:
        """Measure the network that a run begins with."""
        if not self._measures or batch_idx or not is_main_process():
            return
        if self._pictures is None:
            self._read_pictures(runner, data_batch)
        if runner.iter == 0:
            self._add_epoch(runner, dict(epoch=0, iter=0))

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Count the step; its loss may end the run before the epoch does."""
        if not self._measures:
            return
        self._steps += 1
        if is_main_process():
            loss = float(runner.message_hub.get_scalar('train/loss').current())
            if not math.isfinite(loss) and not is_skipped(runner):
                self._raise_alarms(
                    runner,
                    dict(epoch=runner.epoch + 1, iter=runner.iter + 1,
                         loss=loss), None)

    def after_train_epoch(self, runner: Runner) -> None:
        """Measure what an epoch has made of the network."""
        if not self._measures or not self._steps or not (
                self.every_n_epochs(runner, self.interval)
                or self.is_last_train_epoch(runner)):
            return
        entry = dict(
            epoch=runner.epoch + 1, iter=runner.iter, **self._logged(runner))
        if is_main_process():
            now = target_sums(get_ori_model(runner.model))
            if self._target is not None and now is not None:
                entry['target_change'] = target_change(self._target, now)
            self._add_epoch(runner, entry)

    def after_train(self, runner: Runner) -> None:
        """Sum up."""
        if self._measures and is_main_process():
            self.record.verdict = verdict(
                self.record.epochs, self.record.rounds, self.record.alarms)
            self._write(runner)
            runner.logger.info(f'Health: {self.record.verdict}')

    def _logged(self, runner: Runner) -> dict[str, float]:
        """Means over the epoch's steps of all ranks."""
        scalars = runner.message_hub.log_scalars
        names = [name for name in _LOGGED if f'train/{name}' in scalars]
        means = torch.tensor(
            [float(scalars[f'train/{name}'].mean(self._steps))
             for name in names], dtype=torch.float64)
        all_reduce(means, op='sum')
        found = {
            _LOGGED[name]: value / get_world_size()
            for name, value in zip(names, means.tolist())
        }
        model = get_ori_model(runner.model)
        if 'chance' not in found and hasattr(model, 'queue_len'):
            # MoCo and DenseCL: one positive among a queue of negatives
            found.update(contrast=found['loss'],
                         chance=math.log(1 + model.queue_len))
        if found.get('chance'):
            found['contrast_to_chance'] = found['contrast'] / found['chance']
        return found

    def _read_pictures(self, runner: Runner, data_batch: Any) -> None:
        views = data_batch['inputs'] if isinstance(data_batch, dict) else None
        if isinstance(views, (list, tuple)):
            views = views[0]
        if self.record.size is None and isinstance(views, torch.Tensor):
            self.record.size = (views.shape[-2], views.shape[-1])
        dataset = runner.train_loop.dataloader.dataset
        scenes = next(scene_datasets(dataset), None)
        size = self.record.size
        self._pictures = HealthPictures(
            _images_of(dataset, self.num_images) if size else [],
            size or (1, 1), scenes.read_args if scenes else None)

    def _add_epoch(self, runner: Runner, entry: dict[str, Any]) -> None:
        """Complete the entry of an epoch, and pass it on."""
        start = time.perf_counter()
        model = get_ori_model(runner.model)
        pictures = self._pictures
        if has_backbone(model) and pictures is not None and len(pictures) > 1:
            bank = _bank_of(runner)
            vectors = picture_vectors(model, pictures.pixels,
                                      pictures.label_maps(bank))
            for kind, found in vectors.items():
                if len(found) > 1:
                    entry.update({
                        f'{kind}_{name}': value
                        for name, value in describe_vectors(found).items()
                    })
            entry['pixel_contrast'] = pictures.contrast
            first = (self.record.epochs or [entry])[0]
            if first.get('image_rank'):
                entry['rank_kept'] = (
                    entry['image_rank'] / first['image_rank'])
        now = time.perf_counter()
        entry['seconds'] = now - start
        before = self.record.epochs[-1] if self.record.epochs else None
        self.record.epochs.append(entry)
        said = _said(entry)
        if entry['epoch']:
            said += f'; {(now - start) / (now - self._began):.1%} of its time'
        self._publish(runner, f'after epoch {entry["epoch"]}', entry, said)
        self._raise_alarms(runner, entry, before)

    def _measure_round(self, runner: Runner) -> None:
        bank = _bank_of(runner)
        rounds = self.record.rounds
        if bank is None or rounds and rounds[-1]['round'] == bank.round:
            return
        start = time.perf_counter()
        entry = dict(round=bank.round, epoch=runner.epoch, iter=runner.iter,
                     **shape_of_regions(bank))
        try:
            agreement = self._agreement(runner, bank.round)
        except (OSError, NonFiniteFeaturesError) as error:
            runner.logger.warning(f'Agreement was not measured: {error}')
            agreement = None
        if agreement is not None:
            entry['agreement'] = agreement
        entry['seconds'] = time.perf_counter() - start
        before = rounds[-1] if rounds else None
        rounds.append(entry)
        self._publish(runner, f'of mask round {bank.round}', entry,
                      _said(entry))
        self._raise_alarms(runner, entry, before)

    def _agreement(self, runner: Runner, number: int) -> float | None:
        """How alike a round's network and the one before segment pictures."""
        hook = next((hook for hook in runner.hooks
                     if isinstance(hook, MaskUpdateHook)), None)
        if hook is None:
            return None
        model = get_ori_model(runner.model)
        dataset = runner.train_loop.dataloader.dataset
        scenes = next(scene_datasets(dataset))
        count = min(self.num_masks, max(4, len(scenes) // 20))
        maps = fixed_masks(hook.source_cfg, model.backbone,
                           model.data_preprocessor,
                           _images_of(dataset, count), self.num_clusters,
                           scenes.read_args)
        return agreement_with_before(
            maps, number, osp.join(runner.work_dir, 'health_masks.npz')
        ) if maps else None

    def _publish(self, runner: Runner, what: str, entry: dict[str, Any],
                 said: str) -> None:
        runner.visualizer.add_scalars(
            {f'health/{name}': value for name, value in entry.items()
             if isinstance(value, float)},
            step=runner.iter)
        runner.logger.info(f'Health {what}: {said}')

    def _raise_alarms(self, runner: Runner, entry: dict[str, Any],
                      before: dict[str, Any] | None) -> None:
        known = [(alarm['epoch'], alarm['name'])
                 for alarm in self.record.alarms]
        for alarm in find_alarms(entry, before, self.bands):
            if (alarm['epoch'], alarm['name']) in known:
                continue  # each step of a run that diverges
            self.record.alarms.append(alarm)
            runner.logger.warning(
                f'HEALTH, {alarm["name"]}: {alarm["message"]}. '
                f'{alarm["advice"]}')
        self._write(runner)

    def _write(self, runner: Runner) -> None:
        try:
            self.record.write()
        except OSError as error:  # such as a full disk: no reason to end
            runner.logger.warning(f'Health was not written: {error}')


def _said(entry: dict[str, Any]) -> str:
    return ', '.join(
        f'{name} {value:.4g}' for name, value in entry.items()
        if isinstance(value, float))


def _images_of(dataset: Any, number: int) -> list[tuple[str, str]]:
    """Key and path of some images, evenly spaced over the data."""
    scenes = next(scene_datasets(dataset), None)
    if scenes is None and not hasattr(dataset, 'get_data_info'):
        return []
    total = len(dataset) if scenes is None else len(scenes)
    places = evenly_spaced(total, number)
    if scenes is not None:
        return [scenes.images()[place] for place in places]
    paths = [dataset.get_data_info(place).get('img_path') for place in places]
    return [(path, path) for path in paths if path]


def _bank_of(runner: Runner) -> MaskBank | None:
    """The round that the data are trained with."""
    scenes = next(
        scene_datasets(runner.train_loop.dataloader.dataset), None)
    return None if scenes is None else scenes.mask_bank
