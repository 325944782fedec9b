"""Unlabelled scene photographs with the label maps of a mask round."""
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import (
    LocalBackend,
    exists,
    get_file_backend,
    get_text,
    isdir,
    join_path,
    list_dir_or_file,
)
from mmengine.logging import print_log
from mmpretrain.registry import DATASETS

from ..commands import command
from ..errors import MissingFileError, UserError
from .coco_truth import load_coco
from .far_shards import is_far, open_cache, reading_ahead
from .image_files import Found, find_files, images_of, left_out, match_names
from .image_folders import folders_of, prefixes_of
from .image_io import MAX_PIXELS, BrokenImageError, check_options
from .index_making import check_current
from .kept_tars import open_kept
from .mask_bank import MaskBank
from .node_listing import listed_once, shares_machine
from .photo_index import (
    IndexedPhotos,
    Keys,
    PhotoIndex,
    is_index,
    is_round_of,
)
from .shards import parse_address
from .teacher_bank import Box, TeacherBank
from .view_laws import decoded_side

_NAMED = 5  # number of files in a message
_AHEAD = 32  # photographs of a store that are read before they are needed
_PREFIX = 'train_dataloader.dataset.data_prefix.img_path'
_BY = ('--cfg-options data=FOLDER, or in the config by data_root or '
       f'{_PREFIX} (an absolute path stands alone)')


@DATASETS.register_module()
class SceneDataset(BaseDataset):
    """Images of a folder, or of a COCO json, with their label maps.

    Labels are never read: only the list of images of a json is used. The mask
    bank identifies each image by its key, the path relative to ``data_root``
    (or to the image folder, if that is absolute). Hidden files, hidden
    subfolders and those of a system (``@eaDir``) are left out, and the log
    shows what else is. docs/data.md has the details.

    Args:
        data_root (str): Root of the data. Defaults to ''.
        data_prefix (str or dict): The image folder, or ``dict(img_path=...)``
            with it or with a list of several, relative to ``data_root`` or
            absolute. All subfolders are searched. With several absolute
            folders, keys begin with as much of the end of the folder as
            distinguishes them. Defaults to ``dict(img_path='')``.
        ann_file (str): A COCO json with the ``images`` to use, or a ``.txt``
            with one name per line, relative to ``data_root`` or absolute.
            Names are relative to the image folder; with several folders, they
            are keys. Defaults to '', all images of the folders.
        mask_bank (str, optional): A bank to use from the start, for training
            with fixed masks. Defaults to None: ``MaskUpdateHook`` provides the
            rounds.
        extensions (str or Sequence[str], optional): File name endings of
            images, with or without the dot and in any case; a str may hold
            several, separated by commas. Defaults to None, those of
            ``image_io.IMG_EXTENSIONS`` and, on a local disk, any other file
            that is an image by its content.
        backend_args (dict, optional): Arguments of the file backend.
            Defaults to None.
        pipeline (Sequence[dict]): Transforms of a sample. Defaults to ().
        max_refetch (int): How many other images are tried instead of a broken
            one. Defaults to 100.
        lazy_init (bool): Do not list the images yet. Defaults to False.
        indices (int or Sequence[int], optional): Use a part of the images:
            this many from the start, or from the end if negative, or those at
            these indices. Defaults to None, all.
        max_pixels (int): An image of more pixels counts as broken; it is not
            decoded. Defaults to 100 million.
        depth_scaling (str): How pixels of more than eight bits are reduced to
            eight: by the 'range' of each image's values, or to the 'upper'
            eight of sixteen bits. Defaults to 'range'.
        reduced_decoding (bool): Decode a large JPEG at 1/2, 1/4 or 1/8 of its
            sides if the smallest crop still has twice the pixels of a view's
            side. Mask rounds read it in full. Defaults to True.
        with_masks (bool): Whether samples carry a label map. False is for
            models that need none (``model.in_step_masks``).
            Defaults to True.
        index (str, optional): An index of photographs, as ``cyborgs
            index-photos`` writes it, which is mapped in place of listing
            folders. It also names the folder, or the tar files, in place of
            ``data_root`` and ``data_prefix``; keys are relative to that
            folder. Defaults to None: the image folder, if it is an index.
        cache (str, optional): Folder on a local disk that keeps photographs of
            tar files in a store, for all processes of the machine.
            Defaults to None: nothing is kept.
        cache_gb (float): The most that it takes, in GB. Defaults to 50.
        cache_tars (bool): Keep whole tar files, which training fetches once
            each if the sampler has a ``window``; mask rounds use those that
            are kept. Defaults to False, single photographs.

    Raises:
        FileNotFoundError: If the folder or the json is missing.
        ValueError: If there is no image, or fewer than ``indices`` asks for,
            if the json has no list of images, or if an option is not valid.
    """

    def __init__(self,
                 data_root: str = '',
                 data_prefix: str | dict = dict(img_path=''),
                 ann_file: str = '',
                 mask_bank: str | None = None,
                 extensions: str | Sequence[str] | None = None,
                 backend_args: dict | None = None,
                 pipeline: Sequence[dict] = (),
                 max_refetch: int = 100,
                 lazy_init: bool = False,
                 indices: int | Sequence[int] | None = None,
                 max_pixels: int = MAX_PIXELS,
                 depth_scaling: str = 'range',
                 reduced_decoding: bool = True,
                 with_masks: bool = True,
                 index: str | None = None,
                 cache: str | None = None,
                 cache_gb: float = 50.,
                 cache_tars: bool = False) -> None:
        self._prefixes = prefixes_of(data_prefix)
        if index is None and len(self._prefixes) == 1:
            folder, = folders_of(self._prefixes, data_root).values()
            index = folder if is_index(folder) else None
        self.index = None if index is None else _open_index(
            index, dict(ann_file=ann_file, extensions=extensions))
        self.extensions = None if extensions is None else endings_of(
            extensions)
        self.backend_args = backend_args
        check_options(max_pixels, depth_scaling)
        self._image_options: dict[str, Any] = dict(
            max_pixels=max_pixels, depth_scaling=depth_scaling)
        self.cache_tars = cache_tars
        self.cache_gb = cache_gb
        if cache is not None:
            # finds what is wrong with it early
            (open_kept if cache_tars else open_cache)(cache, cache_gb)
            self._image_options['cache'] = dict(
                cache=cache, cache_gb=cache_gb,
                tars='use' if cache_tars else None)
        elif cache_tars:
            raise UserError(
                'SceneDataset.cache_tars=True keeps tar files in a folder: '
                'name one on a local disk by cache')
        if self.index is not None:
            self._image_options['listed_by'] = (
                f'. The index {index} lists it: if photographs were moved or '
                f'replaced, make it again by {self.index.again()}')
        if not isinstance(ann_file, str):
            raise UserError(
                'SceneDataset.ann_file must be the path of one json, but is '
                f'{ann_file!r}: join a data set for each of several by '
                "dict(type='ConcatDataset', datasets=[...])")
        self._broken = 0
        self.held_image: Callable[[str], np.ndarray | None] | None = None
        """What gives decoded images by path, if they are held in memory."""
        self.with_masks = with_masks
        self._bank: MaskBank | None = None
        if mask_bank is not None:
            self._expect_with_masks(f'mask_bank={mask_bank!r}')
            self._bank = MaskBank.open(mask_bank)
        self._teacher: tuple[TeacherBank, int] | None = None
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            data_prefix=dict(img_path=self._prefixes[0]),
            serialize_data=self.index is None,  # it stays on the disk
            pipeline=list(pipeline),
            max_refetch=max_refetch,
            lazy_init=lazy_init,
            indices=indices)
        self._least_side = decoded_side(
            self.pipeline.transforms) if reduced_decoding else None

    @property
    def _folders(self) -> dict[str, str]:
        """Path of each image folder by the beginning of its keys."""
        if self.index is not None:
            return {'': self.index.root}
        return folders_of(self._prefixes, self.data_root)

    @property
    def where(self) -> str:
        """The image folders, for messages."""
        return ', '.join(map(repr, self._folders.values()))

    @property
    def mask_bank(self) -> MaskBank | None:
        """The round that the samples read from, if any."""
        return self._bank

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the images, if an index lists exactly these."""
        if self.index is None or len(self) != len(self.index):
            return None
        # A list of indices may name some images twice.
        return (self.index.fingerprint
                if isinstance(self.data_list, IndexedPhotos) else None)

    @property
    def sorted_keys(self) -> Keys | None:
        """Keys of the images, if an index lists exactly these."""
        if self.index is None or self.fingerprint is None:
            return None
        return self.index.keys()

    @property
    def shard_numbers(self) -> np.ndarray | None:
        """The tar file of each image, (N, ) int32; None if there are none."""
        if self.index is None or not self.index.shards:
            return None
        self.full_init()
        if isinstance(self.data_list, IndexedPhotos):
            return self.data_list.shard_numbers
        return self.index.shard_numbers[list(self._indices)]

    @property
    def read_args(self) -> dict[str, Any]:
        """Arguments with which ``read_image`` reads these images."""
        args = dict(self._image_options, backend_args=self.backend_args)
        return args if self.held_image is None else dict(
            args, held=self.held_image)

    def use_masks(self, bank: MaskBank) -> None:
        """Read label maps from this round from now on.

        Workers that are already running keep the former round; the caller must
        restart them.

        Args:
            bank (MaskBank): The round.

        Raises:
            UserError: If it lacks images of this data set, or samples carry
                no label map.
        """
        self._expect_with_masks('MaskUpdateHook')
        if is_round_of(bank.manifest, self.fingerprint):
            self._bank = bank
            return
        lacking = [key for key, _ in self.images() if key not in bank]
        if lacking:
            raise UserError(
                f'The mask bank {bank.path} has no label map for '
                f'{len(lacking)} of {len(self)} images of '
                f'{", ".join(self._folders.values())}, such as '
                f'{lacking[:_NAMED]}: make one for these images by '
                + command('generate_masks', 'CONFIG', 'CHECKPOINT'))
        self._bank = bank

    def _expect_with_masks(self, given: str) -> None:
        """Refuse masks that no sample would carry."""
        if not self.with_masks:
            raise UserError(
                'train_dataloader.dataset.with_masks=False: nothing would '
                f'read the masks of {given}. Leave out one of the two')

    def use_teacher(self, bank: TeacherBank, grid_stride: int) -> None:
        """Give each sample what a teacher sees in its views from now on.

        Args:
            bank (TeacherBank): What it sees in the images; see
                :meth:`use_masks` on workers.
            grid_stride (int): Pixels of a view on each side of a cell.
        """
        self._teacher = bank, grid_stride

    def images(self) -> Sequence[tuple[str, str]]:
        """List the images in the order of the data set.

        Returns:
            Sequence[tuple[str, str]]: Key and path of each image, read from
            the data set's list one at a time without copying it.
        """
        return _Images(self)

    def full_init(self) -> None:
        """List the images; of the processes of a machine, one does."""
        listed = self._fully_initialized  # type: ignore[has-type]
        if listed or self.index is not None or not shares_machine():
            super().full_init()
            return
        asked = repr((self._folders, self.ann_file, self.extensions,
                      self._indices, self.backend_args))
        self.data_bytes, self.data_address = listed_once(asked, self._list)
        self._fully_initialized = True

    def _list(self) -> tuple[np.ndarray, np.ndarray]:
        """List the images in this process."""
        super().full_init()
        return self.data_bytes, self.data_address

    def load_data_list(self) -> list[dict]:
        """List the images, sorted by name or in the order of ``ann_file``."""
        if self.index is not None:
            check_current(self.index)
            self._check_indices(len(self.index))
            print_log(f'{self.index.path}: {len(self.index)} photographs of '
                      f'{self.index.root}', logger='current')
            return IndexedPhotos(self.index)  # type: ignore[return-value]
        folders = self._folders
        names: list[str] = []
        held = []
        for label, folder in folders.items():
            found, local = self._find(folder)
            listed = found.files if self.ann_file else images_of(
                folder, found.files, self.extensions, local)
            rest = left_out(found, listed)
            held.append(rest or 'no file')
            if rest and listed and not self.ann_file:
                print_log(
                    f'{folder}: {len(listed)} images; left out: {rest}',
                    logger='current')
            names += listed if len(folders) == 1 else [
                label + name for name in listed]
        if self.ann_file:
            names = self._listed(names)
        if not names:
            raise UserError(
                f'No image in {self.where}: {"; ".join(held)}. Put '
                f'photographs there, or name another folder by {_BY}'
                if not self.ann_file else
                f'No image of {self.ann_file!r} is in {self.where}: name '
                f'the folder of its images by data_root or {_PREFIX}, or '
                'another list')
        self._check_indices(len(names))
        if len(folders) == 1:
            (label, folder), = folders.items()
            return [
                dict(img_path=join_path(folder, name), key=label + name)
                for name in names
            ]
        return [
            dict(img_path=join_path(folder, key.removeprefix(label)), key=key)
            for key in names for label, folder in folders.items()
            if key.startswith(label)
        ]

    def _check_indices(self, count: int) -> None:
        """Refuse indices that mmengine would silently cut, or fail on."""
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
                f'images of {self.where}: expected a number of images from '
                f'1 to {count} (negative: of the last ones), or a list of '
                f'places below {count}')

    def _find(self, folder: str) -> tuple[Found, bool]:
        """The content of a folder, and whether it is a local one."""
        if not isdir(folder, backend_args=self.backend_args):
            if exists(folder, backend_args=self.backend_args):
                raise UserError(
                    f'The image folder {folder!r} is a file: name the folder '
                    f'that holds the images by {_BY}; a json or text file '
                    'that lists them is train_dataloader.dataset.ann_file')
            raise MissingFileError(f'The image folder {folder!r} does not '
                                   f'exist: name one by {_BY}')
        backend = get_file_backend(folder, backend_args=self.backend_args)
        if isinstance(backend, LocalBackend):
            # A list may name hidden files.
            return find_files(folder, hidden=bool(self.ann_file)), True
        files = list_dir_or_file(
            folder,
            list_dir=False,
            recursive=True,
            backend_args=self.backend_args)
        return Found(list(files), [], [], [], []), False

    def _listed(self, files: Sequence[str]) -> list[str]:
        """The images that ``ann_file`` names and that exist, in its order."""
        names = list(dict.fromkeys(self._names()))
        folders = list(self._folders.values())
        matched = match_names(
            names, files, folders[0] if len(folders) == 1 else '',
            self.ann_file)
        other = [name for name, file in matched.items() if name != file]
        if other:
            self._warn(
                f'{self.ann_file} writes {len(other)} of {len(names)} names '
                'otherwise than the disk, such as ' + ', '.join(
                    f'{name!a} for {matched[name]!a}'
                    for name in other[:_NAMED]))
        absent = [name for name in names if name not in matched]
        if absent:
            self._warn(
                f'{self.ann_file} names {len(absent)} of {len(names)} images '
                f'that are not in {self.where}, such as {absent[:_NAMED]}: '
                'they are left out')
        return list(dict.fromkeys(matched.values()))

    def _names(self) -> list[str]:
        """The names in ``ann_file``."""
        if not self.ann_file.lower().endswith('.txt'):
            content = load_coco(self.ann_file, ('images', ),
                                self.backend_args)
            return [image['file_name'] for image in content['images']]
        if not exists(self.ann_file, backend_args=self.backend_args):
            raise MissingFileError(
                f'{self.ann_file!r}, a list of images, does not exist: '
                'set train_dataloader.dataset.ann_file')
        try:
            text = get_text(self.ann_file, backend_args=self.backend_args)
        except UnicodeDecodeError as error:
            raise UserError(
                f'{self.ann_file}: expected text in UTF-8 with the name of an '
                f'image in each line ({error})') from error
        return [name for line in text.splitlines() if (name := line.strip())]

    @staticmethod
    def _warn(message: str) -> None:
        print_log(message, logger='current', level=logging.WARNING)

    def _masks(self) -> MaskBank:
        """The round that the samples read from."""
        if self._bank is None:
            raise RuntimeError(
                'SceneDataset has no masks: add mask_update=dict('
                "type='MaskUpdateHook') to default_hooks, or give a bank by "
                'train_dataloader.dataset.mask_bank; a model that needs none '
                'takes with_masks=False')
        return self._bank

    def label_maps(self, key: str) -> list[np.ndarray]:
        """The label maps (h, w) of an image, one per clustering."""
        bank = self._masks()
        return [bank.label_map(key, number)
                for number in range(bank.num_clusterings)]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Load a batch; photographs of a store are read several at once.

        Args:
            indices (Sequence[int]): Indices of the images.

        Returns:
            list[dict]: The output of the pipeline for each, in this order; an
            image that is broken is replaced by another.
        """
        if self.index is None or not self.index.shards or self.cache_tars:
            return [self[index] for index in indices]
        samples = []
        for start in range(0, len(indices), _AHEAD):
            part = indices[start:start + _AHEAD]
            places = [parse_address(self.get_data_info(index)['img_path'])
                      for index in part]
            with reading_ahead(
                    [place for place in places
                     if place is not None and is_far(place.shard)],
                    **self._image_options.get('cache', {})):
                samples += [self[index] for index in part]
        return samples

    def prepare_data(self, idx: int) -> dict | None:
        """Load and transform one sample.

        If the bank has several clusterings per image, one is drawn with the
        generator of the transforms; all views use the same one.

        Args:
            idx (int): Index of the image.

        Returns:
            dict or None: The output of the pipeline; None for a broken image,
            which is reported and replaced by another one.
        """
        info = self.get_data_info(idx)
        if self.with_masks:
            bank = self._masks()
            number = bank.num_clusterings
            info['gt_seg_map'] = bank.label_map(
                info['key'], np.random.randint(number) if number > 1 else 0)
            info['seg_fields'] = ['gt_seg_map']
        if self._teacher is not None:
            info['teacher'] = partial(_seen, info['key'], *self._teacher)
        info['image_options'] = dict(
            self._image_options, least_side=self._least_side)
        if self.cache_tars:  # mask rounds go by names, not by tar files
            info['image_options']['cache'] = dict(
                self._image_options['cache'], tars='fetch')
        try:
            return self.pipeline(info)
        except BrokenImageError as error:
            self._broken += 1
            if self._broken <= _NAMED:
                self._warn(f'Another image replaces a broken one: {error}')
            return None


def _open_index(path: str, others: dict[str, Any]) -> PhotoIndex:
    """Open an index, and refuse options that it excludes."""
    for name, value in others.items():
        if value:
            raise UserError(
                f'SceneDataset.index={path!r} lists the photographs, and so '
                f'does {name}={value!r}: leave out one of the two')
    return PhotoIndex(path)


def _seen(key: str, bank: TeacherBank, stride: int, box: Box,
          size: Sequence[int], flip: str | None) -> np.ndarray:
    """What a teacher sees of an image in a view of a size (h, w)."""
    rows, columns = (-(-side // stride) for side in size)
    return bank.view(key, box, (rows, columns), flip)


def endings_of(extensions: str | Sequence[str]) -> tuple[str, ...]:
    """File name endings in the form of ``str.endswith``.

    Args:
        extensions (str or Sequence[str]): Such as 'JPG,png'.

    Returns:
        tuple[str, ...]: Such as ('.jpg', '.png').

    Raises:
        UserError: If there is none, or one is not an ending.
    """
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
