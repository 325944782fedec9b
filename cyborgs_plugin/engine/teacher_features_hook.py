"""A distillation's teacher, run once a picture and not once a step."""
import os.path as osp
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, TASK_UTILS
from mmpretrain.utils import get_ori_model
from torch.utils.data import ConcatDataset

from ..datasets.device_scenes import DeviceLoader
from ..datasets.far_shards import is_far
from ..datasets.image_io import BrokenImageError, read_image
from ..datasets.mask_bank import MaskBank, list_rounds, round_path
from ..datasets.scene_dataset import scene_datasets
from ..datasets.teacher_bank import COMPONENTS, TeacherBank, read_components
from ..errors import UserError
from ..segmentation import make_round
from ..segmentation.ranks import main_seed, on_main
from ..segmentation.teacher_features import TeacherFeatures


@HOOKS.register_module()
class TeacherFeaturesHook(Hook):
    """Keep what the teacher sees in the pictures, and train with that.

    Before the first step the teacher sees each picture once, whole and as it
    is; the features are kept on disk, and those of a view are cut out of
    them, as its label map is. A run that resumes, or another one in the same
    folder, uses what is there, if it is of the same teacher and settings.

    Args:
        source (dict): Config of the source.
            Defaults to ``dict(type='TeacherFeatures')``.
        bank_root (str, optional): Folder of the features, on a disk that all
            nodes share. Defaults to None, ``{work_dir}/teacher``.
        group_size (int): Pictures that are decoded ahead. Defaults to 16.
    """

    def __init__(self,
                 source: dict = dict(type='TeacherFeatures'),
                 bank_root: str | None = None,
                 group_size: int = 16) -> None:
        if is_far(bank_root or ''):
            raise UserError(
                'default_hooks.teacher_features.bank_root must be a folder '
                'that all nodes share: features in a store, as in '
                f'{bank_root}, cannot be used')
        self.source = source
        self.bank_root = bank_root
        self.group_size = group_size

    def before_train(self, runner: Runner) -> None:
        """Find or make the features, and give them to the data.

        Raises:
            UserError: If there is no teacher, the pictures are held on a
                device, or the folder has features of another teacher.
        """
        model = get_ori_model(runner.model)
        loader = runner.train_loop.dataloader
        if not hasattr(model, 'teacher'):
            raise UserError('TeacherFeaturesHook keeps what model.teacher '
                            f'sees, but {type(model).__name__} has none: '
                            'leave default_hooks.teacher_features out')
        if isinstance(loader, DeviceLoader):
            raise UserError("Stored features are cut by the data loader's "
                            'processes: set data_on_device=False, or leave '
                            'default_hooks.teacher_features out')
        self.scenes = list(scene_datasets(loader.dataset))
        self.images = _joined([part.images() for part in self.scenes])
        root = self.bank_root or osp.join(runner.work_dir, 'teacher')
        source = TASK_UTILS.build(self.source)
        source.prepare(model.teacher, model.data_preprocessor)
        on_main(lambda: self._fit(runner, source, root))
        fingerprint = source.load(root)
        if not on_main(lambda: self._is_made(root, fingerprint)):
            make_round(
                source, self.images, root, 0, main_seed(runner.seed),
                self.group_size, read_args=self._read_args,
                max_broken=1.,  # the mask round has refused too many
                meta=dict(fingerprint=fingerprint))
        bank = TeacherBank(root)
        runner.logger.info(
            f'What the teacher sees is read from {root}: '
            f'{bank.num_bytes / len(self.images):.0f} bytes per picture')
        for part in self.scenes:
            part.use_teacher(bank, model.neck.grid_stride)
        # Persistent workers hold a copy of the data set: start new ones.
        loader._iterator = None

    def _read_args(self, index: int) -> dict[str, Any]:
        """How the picture at an index is read."""
        part = bisect_right(self.images.cumulative_sizes, index)
        return self.scenes[part].read_args

    def _fit(self, runner: Runner, source: TeacherFeatures,
             root: str) -> None:
        """Find the components, if they are not known."""
        if osp.exists(osp.join(root, COMPONENTS)):
            found, wanted = read_components(root)[0], source.settings()
            if found != wanted:
                raise UserError(
                    f'{root} holds what a teacher saw by {found}, but this '
                    f'one sees by {wanted}: use that teacher and '
                    'settings, delete the folder, or name another one by '
                    'default_hooks.teacher_features.bank_root')
            return
        part = source.fit(self._pictures(source.num_pictures), root)
        runner.logger.info(
            f'{source.num_clusterings} components hold {part:.1%} of the '
            "variance of the teacher's features")

    def _pictures(self, number: int) -> Iterator[np.ndarray]:
        """About so many pictures, evenly spread."""
        for index in range(0, len(self.images),
                           max(1, len(self.images) // number)):
            with suppress(BrokenImageError):  # the round tells of them
                yield read_image(self.images[index][1],
                                 **self._read_args(index))

    def _is_made(self, root: str, fingerprint: str) -> bool:
        """Whether an earlier start made the features of these pictures."""
        if not list_rounds(root):
            return False
        bank = MaskBank.open(round_path(root, 0))
        return bank.manifest.get('fingerprint') == fingerprint and all(
            key in bank for key, _ in self.images)


def _joined(images: list[Any]) -> Any:
    """Key and path of each image of all data sets."""
    return ConcatDataset(images)
