"""What a mask round was made from, so that it can be made again."""
import hashlib
import json
import logging
import os
import os.path as osp
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmpretrain.registry import TASK_UTILS
from torch import Tensor

from ..datasets.keys import encode
from ..datasets.mask_bank import FORMATS, MaskBank, has_round, round_path
from ..datasets.photo_index import fingerprint_of
from ..datasets.shards import parse_address
from ..errors import UserError
from .mask_round import make_round
from .network_state import copy_of, network_state
from .ranks import on_main
from .sources import MaskSource

_NAMED, _PART = 5, 4096


@dataclass
class RoundOrigin:
    """What a mask round was made from; its fields are a checkpoint's keys."""

    round: int
    """The round's number."""
    source: dict[str, Any]
    """Config of the source, as JSON gives it back."""
    epoch: int
    """Finished epochs when the round begins."""
    iter: int
    """Finished iterations."""
    network: dict[str, Tensor] | None = None
    """As much of the backbone's state as the source uses; None before
    :meth:`prepare`, and where the source uses none."""
    fingerprint: str | None = None
    """Of the files that the source depends on."""
    file_sizes: Tensor | None = None
    """Bytes of each image's file, -1 where unknown, (N, ) int64, in the order
    of the bank's rows; None of a checkpoint of commit f15b0f3, and where an
    index lists the images, whose fingerprint is in the manifest."""
    file_marks: Tensor | None = None
    """CRC-32 of a part of each file, as ``file_sizes``; None of an older
    checkpoint. Pictures of a camera that does not compress have one size."""
    bank_format: int = 1
    """Format of the round, on which the groups of images depend; not in an
    older checkpoint, whose round has format 1."""

    @classmethod
    def of_config(cls, number: int, config: dict, epoch: int, iteration: int,
                  bank_format: int = 2) -> 'RoundOrigin':
        """The origin of a round to come, made with the current network."""
        # Configs in pure Python use classes instead of names.
        plain = json.loads(json.dumps(config, default=lambda c: c.__name__))
        return cls(number, plain, epoch, iteration, bank_format=bank_format)

    @classmethod
    def of_checkpoint(cls, content: Any, path: str) -> 'RoundOrigin':
        """The origin of a checkpoint's round.

        Args:
            content (Any): Content of ``mask_origin`` in the checkpoint.
            path (str): The file, for messages.

        Raises:
            UserError: If it is not what ``MaskUpdateHook`` writes.
        """
        try:
            origin = cls(**content)
            origin.source = dict(**origin.source)
            origin._check_kinds()
            origin._to_cpu()
        except TypeError as error:
            raise UserError(
                f'{path}: mask_origin is not what MaskUpdateHook writes '
                f'({error}): take a checkpoint of a run with it') from error
        if 'fingerprint' not in content and origin.source.get('checkpoint'):
            # From commit f15b0f3: not the file's network, but that in
            # training.
            origin.network = None
        return origin

    def _check_kinds(self) -> None:
        """Raise a TypeError that names a field of another type."""
        state = self.network
        for field, fits in dict(
                round=isinstance(self.round, int),
                epoch=isinstance(self.epoch, int),
                iter=isinstance(self.iter, int),
                network=state is None or isinstance(state, dict) and all(
                    isinstance(name, str) and isinstance(tensor, Tensor)
                    for name, tensor in state.items()),
                fingerprint=isinstance(self.fingerprint, str | None),
                file_sizes=_is_notes(self.file_sizes),
                file_marks=_is_notes(self.file_marks),
                bank_format=self.bank_format in FORMATS).items():
            if not fits:
                raise TypeError(f'{field} is of another type')

    def _to_cpu(self) -> None:
        """Bring tensors back from a GPU, where a resumed run loads them."""
        for field in ('file_sizes', 'file_marks'):
            notes = getattr(self, field)
            if notes is not None:
                setattr(self, field, notes.cpu())
        if self.network is not None:
            self.network = {
                name: tensor.cpu() for name, tensor in self.network.items()
            }

    def build(self, path: str, *configured: dict) -> MaskSource:
        """Build the source named in a file, if it is a registered one.

        Args:
            path (str): The file, for messages.
            *configured (dict): Sources of the current config, which may name
                another network.

        Raises:
            UserError: If the file names anything else, which mmengine would
                import and call.
        """
        options = dict(self.source)
        name = options.pop('type', None)
        kind = TASK_UTILS.module_dict.get(
            str(name).removeprefix(f'{TASK_UTILS.scope}.'))
        if not (isinstance(kind, type) and issubclass(kind, MaskSource)):
            raise UserError(
                f'{path}: mask_origin.source.type is {name!r}, but only a '
                'registered MaskSource is built from a file. If it is of a '
                'package of yours, name that in custom_imports of the config, '
                'and register the class by @TASK_UTILS.register_module()')
        known = [self.of_config(0, config, 0, 0).source.get('backbone')
                 for config in configured]
        if options.get('backbone') not in [None, *known]:
            raise UserError(
                f'{path}: mask_origin.source.backbone is '
                f'{options["backbone"]!r}, another network than '
                'default_hooks.mask_update.source.backbone: take the config '
                'of its run. A network is built from a config alone')
        return kind(**options)

    def prepare(self, source: MaskSource, model: Any) -> None:
        """Prepare the source with the recorded network, or the current one.

        Every rank calls it.

        Args:
            source (MaskSource): The source that the config builds.
            model (nn.Module): The algorithm, which is not changed.
        """
        self.fingerprint = source.fingerprint()
        if not source.uses_network:
            return
        backbone = model.backbone
        if self.network is None:
            backbone = source.network(backbone)
            shared = [network_state(backbone, source.layer)]
            # Batch norms that are not synchronised differ by rank.
            broadcast_object_list(shared)
            self.network = shared[0]
        else:
            backbone = source.architecture(backbone)
        if backbone is model.backbone:
            backbone = copy_of(backbone)
        try:
            backbone.load_state_dict(self.network, strict=False)
        except RuntimeError as error:
            raise UserError(
                f'The network that mask round {self.round} was made from does '
                "not fit the config's: take the config of its run. "
                f'{error}') from error
        source.prepare(backbone, model.data_preprocessor)

    def is_made(self, images: Sequence[tuple[str, str]], root: str, seed: int,
                group_size: int, photographs: str | None = None) -> bool:
        """Whether an earlier start made the round before it was killed.

        The source must be prepared. For the arguments see :meth:`make`.
        """
        path = round_path(root, self.round)

        def is_same() -> bool:
            if not has_round(root, self.round):
                return False
            try:
                bank = MaskBank.open(path, verify=True)
            except (ValueError, FileNotFoundError) as error:
                print_log(f'Replacing a damaged round: {error}',
                          logger='current', level=logging.WARNING)
                return False
            wanted = dict(
                self._meta(photographs),
                seed=seed,
                group_size=group_size,
                format_version=self.bank_format,
                num_images=len(images))
            return (
                all(bank.manifest.get(k) == v for k, v in wanted.items())
                and (photographs is not None
                     or all(key in bank for key, _ in images)))

        same = on_main(is_same)
        if same:
            print_log(f'{path} was made by the same network and settings: it '
                      'is used again', logger='current')
        return same

    def make(self, source: MaskSource, images: Sequence[tuple[str, str]],
             root: str, seed: int, group_size: int,
             photographs: str | None = None, **options: Any) -> MaskBank:
        """Make the round from a source that :meth:`prepare` has prepared.

        ``photographs`` is the fingerprint of an index of the images, if there
        is one. For all other arguments see :func:`make_round`.
        """
        return make_round(source, images, root, self.round, seed, group_size,
                          meta=self._meta(photographs),
                          bank_format=self.bank_format, **options)

    def _meta(self, photographs: str | None) -> dict[str, Any]:
        """The part of it that the manifest holds."""
        meta = dict(source=self.source, epoch=self.epoch, iter=self.iter)
        if photographs is not None:
            meta['photographs'] = photographs
        if self.fingerprint is not None:
            meta['fingerprint'] = self.fingerprint
        if self.network is not None:
            meta['network'] = _hash(self.network)
        return meta


def file_sizes(bank: MaskBank,
               images: Iterable[tuple[str, str]]) -> Tensor:
    """Note a round's files: :attr:`RoundOrigin.file_sizes`."""
    return _noted(bank, images, _size)


def file_marks(bank: MaskBank,
               images: Iterable[tuple[str, str]]) -> Tensor:
    """Note a round's files: :attr:`RoundOrigin.file_marks`."""
    return _noted(bank, images, _mark)


def _noted(bank: MaskBank, images: Iterable[tuple[str, str]],
           note: Callable[[str], int]) -> Tensor:
    """One number per file, (N, ) int64, in the order of the bank's rows."""
    notes = torch.full((len(bank), ), -1)
    for key, path in images:
        if (row := bank.row(key)) >= 0:
            notes[row] = note(path)
    return notes


def changed_images(bank: MaskBank, images: Iterable[tuple[str, str]],
                   sizes: Tensor | None,
                   marks: Tensor | None = None,
                   photographs: str | None = None) -> list[str]:
    """Describe how images differ from those that a round was made from.

    Args:
        bank (MaskBank): The round.
        images (Iterable[tuple[str, str]]): Current key and path of each image.
        sizes (Tensor, optional): What :func:`file_sizes` returned for the
            round. None: replaced files are not found.
        marks (Tensor, optional): What :func:`file_marks` returned for the
            round. Without it, replaced files of the same size are not found.
            Defaults to None.
        photographs (str, optional): Fingerprint of the index that lists the
            current images. Defaults to None: no index does.

    Returns:
        list[str]: Which images are gone, new and replaced, with the first
        names; empty if nothing has changed.

    Raises:
        UserError: If the number of images does not fit.
    """
    for field, notes in dict(file_sizes=sizes, file_marks=marks).items():
        if notes is not None and len(notes) != len(bank):
            raise UserError(
                f'mask_origin.{field} of the checkpoint has {len(notes)} '
                f'values, but mask round {bank.round} has {len(bank)} images:'
                ' it was altered; take another checkpoint of the run')
    unknown = np.full(len(bank), -1)
    old = unknown if sizes is None else sizes.numpy()
    mark = unknown if marks is None else marks.numpy()
    gone, replaced = np.ones(len(bank), bool), np.zeros(len(bank), bool)
    new = []
    for key, path in images:
        row = bank.row(key)
        if row < 0:
            new.append(key)
        else:
            gone[row] = False
            replaced[row] = old[row] >= 0 and (
                _size(path) not in (old[row], -1)
                or mark[row] >= 0 and _mark(path) not in (mark[row], -1))
    found = dict(gone=_keys(bank, gone), new=new,
                 replaced=_keys(bank, replaced))
    changes = [f'{len(names)} {what}, such as {names[:_NAMED]}'
               for what, names in found.items() if names]
    indexed = bank.manifest.get('photographs')
    if indexed is None or changes:
        return changes
    # Of a round of an index, the checkpoint has no sizes.
    current = photographs or _fingerprint(images)
    return [] if current in (indexed, None) else [
        'some replaced, since files have other numbers of bytes than in the '
        'index of the round, which does not say which']


def _fingerprint(images: Iterable[tuple[str, str]]) -> str | None:
    """What an index of these images has; None if a size is unknown."""
    files = sorted((encode(key), _size(path)) for key, path in images)
    if any(size < 0 for _, size in files):
        return None
    return fingerprint_of([key for key, _ in files],
                          np.array([size for _, size in files], '<i8'))


def _is_notes(value: Any) -> bool:
    return value is None or (isinstance(value, Tensor) and value.ndim == 1
                             and value.dtype == torch.int64)


def _keys(bank: MaskBank, chosen: np.ndarray) -> list[str]:
    """The keys of the rows that a mask (N, ) selects, sorted."""
    return sorted(map(bank.key_of, np.flatnonzero(chosen).tolist()))


def _size(path: str) -> int:
    """Bytes of a file; -1 if it is missing or not on a local disk."""
    if (place := parse_address(path)) is not None:
        return place.length
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _mark(path: str) -> int:
    """CRC-32 of a file's first, middle and last 4 kB; -1 as in _size."""
    try:
        if not osp.isfile(path):  # a pipe would never end
            return -1
        with open(path, 'rb', buffering=0) as file:
            size, mark = os.fstat(file.fileno()).st_size, 0
            for start in (0, size // 2, max(0, size - _PART)):
                file.seek(start)
                mark = zlib.crc32(file.read(_PART), mark)
    except OSError:
        return -1
    return mark


def _hash(state: dict[str, Tensor]) -> str:
    """SHA-256 of a network's state."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
