"""How far features have moved from those of the starting weights."""
import os.path as osp

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from mmpretrain.utils import get_ori_model

from ..datasets.image_io import BrokenImageError, at_long_side, read_image
from ..datasets.scene_dataset import scene_datasets
from ..errors import UserError
from ..evaluation.drift import measure_drift
from ..files import written_aside
from ..ops.places import evenly_spaced

_CELLS = 4
"""Cells on each side of a picture whose features are compared."""


@HOOKS.register_module()
class DriftHook(Hook):
    """Log how far the backbone's features are from those of the start.

    Pretraining that continues from good weights can make them worse, which
    cannot be seen without labels. The same pictures go through the backbone
    before the first step, after each interval and at the end. The log and the
    visualizer's backends get :func:`measure_drift` of their features. One
    warning is given if the features have moved further than ``max_drift``.

    The features of the start are stored in ``{work_dir}/start_features.npz``,
    so that a resumed run compares with the same ones.

    Args:
        interval (int): Epochs between two measurements. Defaults to 1.
        num_images (int): Number of pictures, evenly spaced over the data.
            Defaults to 64.
        long_side (int): Long side, in pixels, to which they are resized.
            Defaults to 320.
        max_drift (float): Warn if ``drift``, which is 1 - cosine of the stage
            that has moved most, is above this. Defaults to 0.3, which lies
            between runs that kept what the start had learned and runs that
            lost some of it.
    """

    # After MaskUpdateHook, which provides the data of the runner.
    priority = 'LOW'

    def __init__(self,
                 interval: int = 1,
                 num_images: int = 64,
                 long_side: int = 320,
                 max_drift: float = 0.3) -> None:
        if interval < 1 or num_images < 8:
            raise UserError(
                'DriftHook.interval must be at least 1 and num_images at '
                f'least 8, but are {interval} and {num_images}')
        if not max_drift >= 0:
            raise UserError('DriftHook.max_drift must be 0 or more (it is 1 - '
                            f'cosine), but is {max_drift}')
        self.interval = interval
        self.num_images = num_images
        self.long_side = long_side
        self.max_drift = max_drift
        self._start: list[np.ndarray] | None = None
        self._paths: list[str] = []
        self._warned = False

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Compute the features of the start, or read the first run's."""
        scenes = next(
            scene_datasets(runner.train_loop.dataloader.dataset), None)
        if scenes is None:
            raise UserError('DriftHook needs a SceneDataset in '
                            'train_dataloader')
        self._read_args = scenes.read_args
        found = scenes.images()
        self._paths = [
            found[place][1]
            for place in evenly_spaced(len(found), self.num_images)
        ]
        path = osp.join(runner.work_dir, 'start_features.npz')
        if runner.iter == 0:
            self._start = self._features(runner)
            with written_aside(path) as aside, open(aside, 'wb') as file:
                np.savez(
                    file, *(part.astype(np.float16) for part in self._start))
        elif osp.isfile(path):
            with np.load(path, allow_pickle=False) as stored:
                self._start = [
                    stored[name].astype(np.float32) for name in stored.files
                ]
        else:
            runner.logger.warning(
                f'DriftHook measures nothing: {path}, which holds the '
                'features of the start, is gone')

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        """Measure, log and warn."""
        if self._start is None or not (self.every_n_epochs(
                runner, self.interval) or self.is_last_train_epoch(runner)):
            return
        now = self._features(runner)
        if [part.shape for part in now] != [
                part.shape for part in self._start]:
            runner.logger.warning(
                'DriftHook measures nothing: the pictures or the network '
                'differ from the start')
            return
        scores = measure_drift(self._start, now)
        # for publish_backbone.py
        runner.message_hub.update_info('drift', scores)
        runner.visualizer.add_scalars(
            {f'drift/{name}': value for name, value in scores.items()},
            step=runner.iter)
        runner.logger.info('Drift from the start: ' + ', '.join(
            f'{name} {value:.3f}' for name, value in scores.items()))
        if scores['drift'] > self.max_drift and not self._warned:
            self._warned = True
            runner.logger.warning(
                f'The features are {scores["drift"]:.2f} from those of the '
                'start (1 - cosine, of the stage that moved most), further '
                f'than DriftHook.max_drift={self.max_drift}. Weights that '
                'were good may be getting worse: train with '
                'cyborgs_plugin::cyborgs_continue.py, at a lower rate, or '
                'for fewer epochs')

    @torch.no_grad()
    def _features(self, runner: Runner) -> list[np.ndarray]:
        """Features of each stage, (M, C_i) float32, for M locations."""
        model = get_ori_model(runner.model)
        backbone = model.backbone
        modes = [(module, module.training) for module in backbone.modules()]
        backbone.eval()
        places: list[list[np.ndarray]] = []
        for path in self._paths:
            try:
                image = read_image(path, **self._read_args)
            except BrokenImageError as error:
                runner.logger.warning(f'Not measured: {error}')
                continue
            pixels = torch.from_numpy(at_long_side(image, self.long_side))
            data = dict(
                inputs=pixels.permute(2, 0, 1)[None], data_samples=None)
            batch = model.data_preprocessor(data, False)['inputs']
            stages = model.neck.channels_first(backbone(batch))
            places.append([
                F.adaptive_avg_pool2d(stage, _CELLS)[0].flatten(1).T.float().
                cpu().numpy() for stage in stages
            ])
        for module, mode in modes:
            module.training = mode
        return [np.concatenate(stage) for stage in zip(*places)]
