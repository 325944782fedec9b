"""Copies everything that a step logs from the device at once."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class LoggedScalarsHook(Hook):
    """Convert all scalars of a step to numbers with one copy.

    mmengine's ``RuntimeInfoHook``, which runs next, copies each separately and
    makes the host wait for each.
    """

    priority = 'HIGHEST'

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Replace the scalars of the outputs.

        Args:
            runner (Runner): Not used.
            batch_idx (int): Not used.
            data_batch (dict, optional): Not used. Defaults to None.
            outputs (dict, optional): Output of the step, changed in place.
                Defaults to None.
        """
        scalars = {
            name: value.detach().reshape(())
            for name, value in (outputs or {}).items()
            if isinstance(value, torch.Tensor) and value.numel() == 1
        }
        if outputs and scalars:
            # in double, which holds float32 and counts exactly
            together = torch.stack(
                [value.double() for value in scalars.values()])
            outputs.update(zip(scalars, together.tolist()))
