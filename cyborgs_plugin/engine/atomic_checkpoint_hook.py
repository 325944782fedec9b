"""Checkpoints that survive a kill at any time."""
import os
import os.path as osp
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..files import publish, written_aside


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """A ``CheckpointHook`` that allows resuming after a kill at any time.

    mmengine's hook deletes the oldest checkpoint, then writes the new one and
    ``last_checkpoint`` in place. If a run that keeps one checkpoint is killed
    in between, none is left; and a run cannot resume from an empty
    ``last_checkpoint``. This hook writes each file under another name, syncs
    and renames it, and deletes the oldest checkpoint last. So the disk needs
    room for one more than ``max_keep_ckpts``. On a remote backend it works
    like its base class.
    """

    def _save_checkpoint_with_step(self, runner: Runner, step: int,
                                   meta: dict[str, Any]) -> None:
        if not isinstance(self.file_backend, LocalBackend):
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        outdated = []
        if self.max_keep_ckpts > 0:
            kept = [old for old in self.keep_ckpt_ids if old != step] + [step]
            outdated = kept[:-self.max_keep_ckpts]
            # Including those still to be deleted, which a resumed run does.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = osp.join(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        save_atomically(self, runner, self.last_ckpt, meta, self.by_epoch)
        if is_main_process():
            for old in outdated:
                path = osp.join(self.out_dir, self.filename_tmpl.format(old))
                if osp.isfile(path):
                    os.remove(path)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept[-self.max_keep_ckpts:])


def save_atomically(hook: CheckpointHook, runner: Runner, path: str,
                    meta: dict[str, Any], by_epoch: bool) -> None:
    """Write a checkpoint aside, name it, and point to it.

    On a remote backend, where nothing can be renamed, it is written in place.

    Args:
        hook (CheckpointHook): What of the run is saved.
        runner (Runner): The run.
        path (str): Path of the checkpoint.
        meta (dict): ``epoch`` and ``iter`` that are finished.
        by_epoch (bool): Whether an epoch is.
    """
    folder, name = osp.split(path)
    local = isinstance(hook.file_backend, LocalBackend)
    partial = f'.{name}.partial' if local else name
    runner.save_checkpoint(
        folder,
        partial,
        save_optimizer=hook.save_optimizer,
        save_param_scheduler=hook.save_param_scheduler,
        meta=meta,
        by_epoch=by_epoch,
        backend_args=hook.backend_args,
        **hook.args)
    if is_main_process():
        if local:
            publish(osp.join(folder, partial), path)
        pointer = osp.join(runner.work_dir, 'last_checkpoint')
        with written_aside(pointer) as aside, open(aside, 'w') as file:
            file.write(path)
