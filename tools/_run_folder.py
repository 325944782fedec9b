"""What a run has left in its folder, read without the run."""
import glob
import json
import os.path as osp
from functools import cached_property
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets import MaskBank, SceneDataset, scene_datasets
from cyborgs_plugin.datasets.mask_bank import list_rounds, round_path
from cyborgs_plugin.engine.work_dir_hook import latest_checkpoint
from cyborgs_plugin.errors import MissingFileError, UserError


class RunFolder:
    """The ``work_dir`` of a pretraining, finished or not.

    Args:
        path (str): The folder.

    Raises:
        MissingFileError: If there is none, or it holds no config.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        if not osp.isdir(path):
            raise MissingFileError(
                f'There is no folder {path}: give the work_dir of a run')
        configs = glob.glob(osp.join(glob.escape(path), '*.py'))
        if not configs:
            raise MissingFileError(
                f'{path} is no work_dir of a run: it holds no config (*.py), '
                'which training writes into it at its start')
        self.config_file = max(configs, key=osp.getmtime)

    @cached_property
    def cfg(self) -> Config:
        """The config that the run was last started with."""
        return load_config(self.config_file)

    @cached_property
    def scenes(self) -> list[SceneDataset]:
        """The photographs that it trains on.

        Raises:
            UserError: If they are not where the config has them, or there are
                none.
        """
        init_default_scope(self.cfg.get('default_scope', 'mmpretrain'))
        loader = self.cfg.get('train_dataloader') or {}
        try:
            found = [*scene_datasets(DATASETS.build(loader.get('dataset')))
                     ] if loader.get('dataset') else []
        except FileNotFoundError as error:
            raise MissingFileError(
                f'The photographs of {self.config_file} are not found '
                f'({error}). If its data_root is a relative path, call this '
                'from the folder that training was started in') from error
        if not found:
            raise UserError(f'{self.config_file} trains on no SceneDataset: '
                            'expected a run that pretrains')
        return found

    @cached_property
    def rounds(self) -> list[MaskBank]:
        """Its mask rounds, or the bank of fixed masks; maybe none."""
        hook = (self.cfg.get('default_hooks') or {}).get('mask_update') or {}
        roots = [hook.get('bank_root'), osp.join(self.path, 'masks')]
        for root in filter(None, roots):
            if numbers := list_rounds(root):
                return [MaskBank(round_path(root, number))
                        for number in numbers]
        return [scenes.mask_bank for scenes in self.scenes[:1]
                if scenes.mask_bank is not None]

    @cached_property
    def checkpoint(self) -> str | None:
        """Its latest checkpoint."""
        return latest_checkpoint(self.path)

    @cached_property
    def scalars(self) -> list[dict[str, Any]]:
        """What it has logged, by iteration; of a resume the later values.

        Each entry has a ``step`` and the values of one moment.
        """
        logs = glob.glob(
            osp.join(glob.escape(self.path), '*', 'vis_data', 'scalars.json'))
        found: list[dict[str, Any]] = []
        for log in sorted(logs):
            lines = _json_lines(log)
            if not lines:
                continue
            began = min(line['step'] for line in lines)
            # masks and health are measured before the first step of a resume
            again = {name for line in lines if line['step'] == began
                     for name in line} - {'step'}
            found = [
                line for line in found if line['step'] < began
                or line['step'] == began and again.isdisjoint(line)] + lines
        return found

    @cached_property
    def health(self) -> dict[str, Any] | None:
        """What ``health.json`` holds, if the run has written one."""
        path = osp.join(self.path, 'health.json')
        if not osp.isfile(path):
            return None
        try:
            with open(path, encoding='utf-8') as file:
                content = json.load(file)
            if content['schema'] != 1:
                raise ValueError(f'schema {content["schema"]!r}')
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{path} is not what this version writes ({error!r}): '
                'expected JSON with "schema": 1. Move it away to continue '
                'without it') from error
        return content


def _json_lines(path: str) -> list[dict[str, Any]]:
    """The entries of a log; a last line that a kill cut off is left out."""
    entries = []
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and 'step' in entry:
                entries.append(entry)
    return entries
