"""Masks next to their images, in the run's visualizer."""

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..datasets.image_io import BrokenImageError, read_image
from ..datasets.mask_bank import MaskBank
from ..datasets.scene_dataset import SceneDataset, scene_datasets
from ..errors import UserError
from ..ops.matched_ids import matched_ids
from ..ops.places import evenly_spaced
from ..visualization import draw_sheet


@HOOKS.register_module()
class MaskVisualizationHook(Hook):
    """Send each new mask round to the visualizer's backends.

    The sheet has a row for each image, and columns for the first round that
    this run has trained with, the previous one and the current one. It is
    written to ``{work_dir}/*/vis_data/vis_image/masks_{iteration}.png``, and
    to TensorBoard if its backend is set. With several data sets, the first one
    is shown.

    Args:
        num_images (int): Number of images, evenly spaced over the data.
            Defaults to 8.
    """

    def __init__(self, num_images: int = 8) -> None:
        if num_images < 1:
            raise UserError('MaskVisualizationHook.num_images must be at '
                            f'least 1, but is {num_images}')
        self.num_images = num_images
        self._images: list[tuple[str, np.ndarray]] = []
        self._columns: dict[str, list[np.ndarray]] = {}
        self._shown: str | None = None

    @master_only
    def before_train_epoch(self, runner: Runner) -> None:
        """Show the round that this epoch trains with, if it is new."""
        scenes = next(
            scene_datasets(runner.train_loop.dataloader.dataset), None)
        if scenes is None or scenes.mask_bank is None:
            return
        bank = scenes.mask_bank
        if bank.path == self._shown:
            return
        if not self._images:
            self._read(runner, scenes)
        if self._images:
            self._show(runner, bank)
        self._shown = bank.path

    def _read(self, runner: Runner, scenes: SceneDataset) -> None:
        """Read the images once; broken ones are left out."""
        found = scenes.images()
        for place in evenly_spaced(len(found), self.num_images):
            key, path = found[place]
            try:
                image = read_image(path, **scenes.read_args)
            except BrokenImageError as error:
                runner.logger.warning(f'Not shown: {error}')
            else:
                self._images.append((key, image[..., ::-1]))

    def _show(self, runner: Runner, bank: MaskBank) -> None:
        maps = [bank.label_map(key) for key, _ in self._images]
        columns = [*self._columns.items()]
        if columns:  # regions keep their colours
            maps = [matched_ids(ids, before)
                    for ids, before in zip(maps, columns[-1][1], strict=True)]
        self._columns = dict([*columns[:1], *columns[1:][-1:],
                              (f'round {bank.round}', maps)])
        sheet = draw_sheet([image for _, image in self._images],
                           self._columns)
        runner.visualizer.add_image('masks', sheet, step=runner.iter)
