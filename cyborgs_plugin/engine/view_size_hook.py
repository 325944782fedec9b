"""Views that grow during training."""
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..datasets.device_scenes import DeviceLoader
from ..errors import UserError
from .view_crops import built_crops


@HOOKS.register_module()
class ViewSizeHook(Hook):
    """Start with small views, which cost less, and end with full size.

    The side grows linearly with the epochs, in multiples of ``step``, from
    ``start`` to the size in the config, which the last quarter of the epochs
    uses (progressive resolution: FFCV-SSL, Bordes et al., 2023). It depends
    only on the epoch, so a resumed run has the same views.

    Args:
        start (int): Side of a view in the first epoch, in pixels. Defaults to
            160.
        step (int): Increment in pixels; a multiple of
            ``model.neck.grid_stride`` keeps cells whole. Defaults to 32.
        until (float): Fraction of the epochs after which views have their full
            size, above 0 and at most 1. Defaults to 0.75.
    """

    def __init__(self, start: int = 160, step: int = 32,
                 until: float = 0.75) -> None:
        if step < 1 or start < step or start % step or not 0 < until <= 1:
            raise UserError(
                'ViewSizeHook takes start, a multiple of step in pixels, and '
                f'until, above 0 and at most 1, but got start={start}, '
                f'step={step}, until={until}')
        self.start = start
        self.step = step
        self.until = until

    def before_train(self, runner: Runner) -> None:
        """Find the crops of the views and their final size."""
        loader = runner.train_loop.dataloader
        if isinstance(loader, DeviceLoader):
            raise UserError('ViewSizeHook changes what data workers do, of '
                            'which data_on_device=True makes no use: leave '
                            'one of the two out')
        self._crops = built_crops(loader.dataset)
        self._full = [crop.scale for crop in self._crops]
        sides = {side for scale in self._full for side in scale}
        if not sides or self.start > min(sides):
            raise UserError(
                f'ViewSizeHook.start={self.start} must be at most the side '
                f'of the views, but these have {sorted(sides) or "no crop"}')

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the size of this epoch's views."""
        part = min(1., runner.epoch / (self.until * runner.max_epochs))
        scales = [
            tuple(self._side(side, part) for side in full)
            for full in self._full
        ]
        if scales == [tuple(crop.scale) for crop in self._crops]:
            return
        for crop, scale in zip(self._crops, scales):
            crop.scale = scale
        # Persistent workers hold a copy of the data set: start new ones.
        runner.train_loop.dataloader._iterator = None
        runner.logger.info(f'Views of {scales[0][0]}x{scales[0][1]} pixels')

    def _side(self, full: int, part: float) -> int:
        """Side in pixels after a part of the growth."""
        if part >= 1:
            return full
        grown = self.start + part * (full - self.start)
        return int(grown) // self.step * self.step
