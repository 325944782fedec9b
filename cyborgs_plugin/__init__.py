"""CYBORGS for MMPreTrain; importing it registers its components."""

import os.path as osp

from .version import __version__, check_requirements

check_requirements()

from mmengine.config import Config  # noqa: E402

from . import (  # noqa: E402
    datasets,
    engine,
    evaluation,
    models,
    segmentation,
)

__all__ = [
    '__version__', 'datasets', 'engine', 'evaluation', 'models', 'segmentation'
]


def _resolve_own_configs() -> None:
    """Let mmengine resolve ``_base_ = 'cyborgs_plugin::cyborgs_coco.py'``.

    mmengine alone cannot: it knows the packages of a fixed table, demands a
    folder in the name, and gives what it finds the package's name as scope,
    whereas our components are registered in mmpretrain's.
    """
    resolve = Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, _, name = cfg_path.partition('::')
        if package != __name__ or not name:
            return resolve(cfg_path, filename)
        folder = osp.join(osp.dirname(__file__), '.mim', 'configs')
        path = osp.join(folder, name)
        if not osp.isfile(path):
            hint = ('see the folder for what there is' if osp.isdir(folder)
                    else 'the folder is missing: install the package '
                    '(`make setup` or `pip install -e .` in a checkout)')
            raise FileNotFoundError(
                f'`_base_` of {filename} names {cfg_path}, but there is no '
                f'{name} in {folder}; {hint}.')
        return path, 'mmpretrain'

    Config._get_cfg_path = staticmethod(get_cfg_path)


_resolve_own_configs()
