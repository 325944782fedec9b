"""The image folders of a data set, and the keys of their images."""
import os.path as osp
from collections.abc import Sequence

from mmengine.fileio import join_path
from mmengine.utils import is_abs

from ..errors import UserError


def prefixes_of(data_prefix: str | dict) -> list[str]:
    """Read the image folders that ``data_prefix`` names.

    Args:
        data_prefix (str or dict): A folder, or ``dict(img_path=...)`` with one
            or several.

    Raises:
        UserError: If it is something else, or names a folder twice.
    """
    if isinstance(data_prefix, str):  # as of mmpretrain's data sets
        return [data_prefix]
    unknown = sorted(set(data_prefix) - {'img_path'})
    if unknown:
        raise UserError(
            f'SceneDataset.data_prefix takes img_path, found '
            f'{", ".join(map(str, unknown))}: set data_prefix=dict(img_path='
            f'{data_prefix[unknown[0]]!r})')
    given = data_prefix.get('img_path', '')
    prefixes = [given] if isinstance(given, str) else given
    if not isinstance(prefixes, (list, tuple)) or not prefixes or not all(
            isinstance(prefix, str) for prefix in prefixes):
        raise UserError('SceneDataset.data_prefix.img_path must be a folder '
                        f'or a list of folders, but is {given!r}')
    return list(prefixes)


def folders_of(prefixes: Sequence[str], data_root: str) -> dict[str, str]:
    """Find where folders are and what their images' keys begin with.

    A key begins with the folder as given, if it is relative to ``data_root``.
    If the folder is absolute, the key has no part of it, or, with several
    folders, as much of its end as distinguishes them.

    Args:
        prefixes (Sequence[str]): The folders, relative to ``data_root`` or
            absolute.
        data_root (str): The root, or ''.

    Returns:
        dict[str, str]: Path of each folder by the beginning of its keys, which
        is '' or ends in '/'.

    Raises:
        UserError: If one of several is, or lies in, another one.
    """
    paths = [
        join_path(data_root, prefix)
        if data_root and not is_abs(prefix) else prefix for prefix in prefixes
    ]
    if len(paths) > 1:
        _check_apart(paths)
    relative = ['' if is_abs(prefix) else prefix.strip('/')
                for prefix in prefixes]
    labels = relative if len(paths) == 1 else _told_apart(relative, paths)
    return {label + '/' * bool(label): path
            for label, path in zip(labels, paths)}


def _told_apart(relative: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The relative folder, or the shortest end with which all differ."""
    parts = [path.strip('/').split('/') for path in paths]
    for depth in range(1, 1 + max(map(len, parts))):
        labels = [name or '/'.join(part[-depth:])
                  for name, part in zip(relative, parts)]
        if not any(first != second and f'{second}/'.startswith(f'{first}/')
                   for first in labels for second in labels) and len(
                       set(labels)) == len(labels):
            return labels
    raise UserError(
        'SceneDataset.data_prefix.img_path names folders that keys cannot '
        f'tell apart: {list(paths)}. Give all of them as absolute ones, or '
        'all relative to data_root')


def _check_apart(paths: Sequence[str]) -> None:
    real = sorted((osp.realpath(path) + '/', path) for path in paths)
    for (outer, first), (inner, second) in zip(real, real[1:]):
        if inner.startswith(outer):
            raise UserError(
                f'SceneDataset.data_prefix.img_path names {first!r} and '
                f'{second!r}, whose images are in both: name one of them')
