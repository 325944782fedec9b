"""Configs of this package by name: ``cyborgs_plugin::cyborgs_coco.py``."""
import os.path as osp

from mmengine.config import Config

_PREFIX = 'cyborgs_plugin::'


def find_config(name: str) -> str:
    """Give the path of a config.

    Args:
        name (str): A path, or ``cyborgs_plugin::`` and a path below
            ``configs/``.

    Returns:
        str: The path.

    Raises:
        FileNotFoundError: If the package has no such config.
    """
    if not name.startswith(_PREFIX):
        return name
    inside = name[len(_PREFIX):]
    folder = osp.join(osp.dirname(__file__), '.mim', 'configs')
    path = osp.join(folder, inside)
    if not osp.isfile(path):
        hint = ('see the folder for what there is' if osp.isdir(folder) else
                'the folder is missing: install the package (`make setup` or '
                '`pip install -e .` in a checkout)')
        raise FileNotFoundError(
            f'There is no config {inside!r} in {folder}; {hint}')
    return path


def resolve_own_configs() -> None:
    """Let mmengine resolve ``_base_ = 'cyborgs_plugin::cyborgs_coco.py'``.

    mmengine alone cannot: it knows the packages of a fixed table and demands
    a folder in the name. A config found here gets no scope of its own, as if
    its path had been given: mmengine would put the scope into every dict
    with a ``type``, that of ``collate_fn`` included, whose function then gets
    it as an argument.
    """
    resolve = Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if not cfg_path.startswith(_PREFIX):
            return resolve(cfg_path, filename)
        try:
            return find_config(cfg_path), None
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'`_base_` of {filename} names {cfg_path}. {error}') from error

    Config._get_cfg_path = staticmethod(get_cfg_path)
