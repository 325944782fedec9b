"""Unlabelled scene photographs with the label maps of a mask round."""
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import exists, isdir, join_path, list_dir_or_file, load
from mmengine.logging import print_log
from mmengine.utils import is_abs
from mmpretrain.registry import DATASETS

from ..errors import MissingFileError, UserError
from .image_io import IMG_EXTENSIONS, BrokenImageError
from .mask_bank import MaskBank

_NAMED = 5  # how many files a message names


@DATASETS.register_module()
class SceneDataset(BaseDataset):
    """Images of a folder, or of a COCO json, with their label maps.

    No label is ever read: of a json only the list of images is used. Each
    image has a key, its path relative to ``data_root`` (to the image folder
    where that is absolute), by which the mask bank knows it.

    Args:
        data_root (str): Root of the data. Defaults to ''.
        data_prefix (str or dict): The image folder, or
            ``dict(img_path=...)`` of it, searched with all its subfolders;
            relative to ``data_root`` or absolute.
            Defaults to ``dict(img_path='')``.
        ann_file (str): A COCO json whose ``images`` are to be used, relative
            to ``data_root`` or absolute. Defaults to '', all images of the
            folder.
        mask_bank (str, optional): A bank to read from the start, for training
            with fixed masks. Defaults to None: ``MaskUpdateHook`` provides
            the rounds.
        extensions (str or Sequence[str]): File name endings of images, with
            or without the dot and in any case; a str may hold several,
            separated by commas. Defaults to :data:`IMG_EXTENSIONS`.
        backend_args (dict, optional): Arguments of the file backend.
            Defaults to None.
        pipeline (Sequence[dict]): Transforms of a sample. Defaults to ().
        max_refetch (int): How many other images are tried in place of a
            broken one. Defaults to 100.
        lazy_init (bool): Do not list the images yet. Defaults to False.
        indices (int or Sequence[int], optional): Use a part of the images:
            so many of the first, of the last where it is negative, or those
            at these places. Defaults to None, all.

    Raises:
        FileNotFoundError: If the folder or the json is missing.
        ValueError: If there is no image, fewer than ``indices`` ask for, the
            json has no list of images, or an option is not as above.
    """

    METAINFO: dict = dict()

    def __init__(self,
                 data_root: str = '',
                 data_prefix: str | dict = dict(img_path=''),
                 ann_file: str = '',
                 mask_bank: str | None = None,
                 extensions: str | Sequence[str] = IMG_EXTENSIONS,
                 backend_args: dict | None = None,
                 pipeline: Sequence[dict] = (),
                 max_refetch: int = 100,
                 lazy_init: bool = False,
                 indices: int | Sequence[int] | None = None) -> None:
        self.extensions = _endings(extensions)
        self.backend_args = backend_args
        self._prefix = _image_folder(data_prefix)
        if not isinstance(ann_file, str):
            raise UserError(
                'SceneDataset.ann_file must be the path of one json, but is '
                f'{ann_file!r}: join a data set for each of several by '
                "dict(type='ConcatDataset', datasets=[...])")
        self._broken = 0
        self._bank = None if mask_bank is None else MaskBank.open(mask_bank)
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            data_prefix=dict(img_path=self._prefix),
            pipeline=list(pipeline),
            max_refetch=max_refetch,
            lazy_init=lazy_init,
            indices=indices)

    @property
    def mask_bank(self) -> MaskBank | None:
        """The round that the samples read from, if any."""
        return self._bank

    def use_masks(self, bank: MaskBank) -> None:
        """Read label maps from a round from now on.

        Workers that are already running keep the former one: whoever calls
        this restarts them.

        Args:
            bank (MaskBank): The round.

        Raises:
            ValueError: If it lacks images of this data set.
        """
        lacking = [key for key, _ in self.images() if key not in bank]
        if lacking:
            raise UserError(
                f'The mask bank {bank.path} has no label map for '
                f'{len(lacking)} of {len(self)} images of '
                f'{self.data_prefix["img_path"]}, such as '
                f'{lacking[:_NAMED]}: make one for these images with '
                'tools/generate_masks.py')
        self._bank = bank

    def images(self) -> Sequence[tuple[str, str]]:
        """List the images in the order of the data set.

        Returns:
            Sequence[tuple[str, str]]: Key and path of each image, read from
            the data set's list one at a time: no copy of it is made.
        """
        return _Images(self)

    def load_data_list(self) -> list[dict]:
        """List the images, sorted by name or in the order of the json."""
        folder = self.data_prefix['img_path']
        if not isdir(folder, backend_args=self.backend_args):
            raise MissingFileError(
                f'The image folder {folder!r} does not exist: set data_root '
                'or train_dataloader.dataset.data_prefix.img_path (an '
                'absolute path stands alone)')
        found = list_dir_or_file(
            folder,
            list_dir=False,
            recursive=True,
            backend_args=self.backend_args)
        files = {name.replace('\\', '/') for name in found}
        if self.ann_file:
            names = self._listed_in_json(files)
        else:
            names = sorted(
                name for name in files
                if name.lower().endswith(self.extensions))
        if not names:
            raise UserError(
                f'No image in {folder!r}: {len(files)} files, none of which '
                f'ends in {", ".join(self.extensions)}'
                if not self.ann_file else
                f'No image of {self.ann_file!r} is in {folder!r}')
        self._check_indices(len(names))
        relative = self._prefix and not is_abs(self._prefix)
        prefix = self._prefix.strip('/') + '/' if relative else ''
        return [
            dict(img_path=join_path(folder, name), key=prefix + name)
            for name in names
        ]

    def _check_indices(self, count: int) -> None:
        """Refuse indices that mmengine would cut, or fail at, unexplained."""
        asked = self._indices
        if asked is None:
            return
        if isinstance(asked, int):
            valid = 0 < abs(asked) <= count
        else:
            valid = len(asked) > 0 and all(
                -count <= index < count for index in asked)
        if not valid:
            raise UserError(
                f'SceneDataset.indices={asked!r} does not fit the {count} '
                f'images of {self.data_prefix["img_path"]!r}: expected a '
                f'number of images from 1 to {count} (negative: of the last '
                f'ones), or a list of places below {count}')

    def _listed_in_json(self, files: set) -> list[str]:
        """The images that the json names and that exist, in its order."""
        if not exists(self.ann_file, backend_args=self.backend_args):
            raise MissingFileError(
                f'The annotation file {self.ann_file!r} does not exist: set '
                "train_dataloader.dataset.ann_file, or to '' for all images "
                'of the folder')
        content = load(self.ann_file, backend_args=self.backend_args)
        try:
            names = [image['file_name'] for image in content['images']]
        except (KeyError, TypeError) as error:
            raise UserError(
                f'{self.ann_file!r} is no COCO json: expected a list '
                "'images' of objects with a 'file_name'") from error
        names = list(dict.fromkeys(names))
        absent = [name for name in names if name not in files]
        if absent:
            print_log(
                f'{self.ann_file} names {len(absent)} of {len(names)} images '
                f'that are not in {self.data_prefix["img_path"]}, such as '
                f'{absent[:_NAMED]}: they are left out',
                logger='current',
                level=logging.WARNING)
        return [name for name in names if name in files]

    def prepare_data(self, idx: int) -> dict | None:
        """Load and transform one sample.

        Of a bank with several clusterings of an image one is drawn, by the
        generator that the transforms use: all views see the same one.

        Args:
            idx (int): Index of the image.

        Returns:
            dict or None: The output of the pipeline; None for a broken
            image, in place of which another one is taken and which is
            reported.
        """
        if self._bank is None:
            raise RuntimeError(
                'SceneDataset has no masks: add mask_update=dict('
                "type='MaskUpdateHook') to default_hooks, or give a bank by "
                'train_dataloader.dataset.mask_bank')
        info = self.get_data_info(idx)
        number = self._bank.num_clusterings
        info['gt_seg_map'] = self._bank.label_map(
            info['key'], np.random.randint(number) if number > 1 else 0)
        info['seg_fields'] = ['gt_seg_map']
        try:
            return self.pipeline(info)
        except BrokenImageError as error:
            self._broken += 1
            if self._broken <= _NAMED:
                print_log(
                    f'Another image replaces a broken one: {error}',
                    logger='current',
                    level=logging.WARNING)
            return None


def _image_folder(data_prefix: str | dict) -> str:
    """The image folder that ``data_prefix`` gives."""
    if isinstance(data_prefix, str):  # as of mmpretrain's data sets
        return data_prefix
    unknown = sorted(set(data_prefix) - {'img_path'})
    if unknown:
        raise UserError(
            f'SceneDataset.data_prefix takes img_path, found '
            f'{", ".join(map(str, unknown))}: set data_prefix=dict(img_path='
            f'{data_prefix[unknown[0]]!r})')
    folder = data_prefix.get('img_path', '')
    if not isinstance(folder, str):
        raise UserError('SceneDataset.data_prefix.img_path must be one '
                        f'folder, but is {folder!r}')
    return folder


def _endings(extensions: str | Sequence[str]) -> tuple[str, ...]:
    """File name endings as ``str.endswith`` takes them: '.jpg', '.png'."""
    given = (extensions.split(',') if isinstance(extensions, str) else
             extensions)
    endings = tuple(str(part).strip().lower() for part in given)
    wrong = [
        part for part in endings if not re.fullmatch(r'\.?\w+(\.\w+)*', part)
    ]
    if wrong or not endings:
        raise UserError(
            'SceneDataset.extensions must be file name endings such as '
            f"'.jpg', but is {extensions!r}")
    return tuple('.' + part.lstrip('.') for part in endings)


class _Images(Sequence):
    """Key and path of each image of a data set."""

    def __init__(self, scenes: SceneDataset) -> None:
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[index] for index in place]
        info = self._scenes.get_data_info(place)
        return info['key'], info['img_path']


def scene_datasets(dataset: object) -> Iterator[SceneDataset]:
    """Find the scene data sets inside wrappers such as ``ConcatDataset``.

    Args:
        dataset (Dataset): A data set, wrapped any number of times.

    Yields:
        SceneDataset: Each one found.
    """
    if isinstance(dataset, SceneDataset):
        yield dataset
    elif hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from scene_datasets(part)
    elif hasattr(dataset, 'dataset'):
        yield from scene_datasets(dataset.dataset)
