"""MaskBank: the label maps of one mask round, memory-mapped and read-only.

Here are the bank and the folders of its rounds. Only mask_arrays.py (format 1)
and mask_blocks.py (format 2) know how label maps are stored; see
docs/mask_bank.md.
"""
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from logging import WARNING
from typing import Any

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

from ..commands import command
from ..errors import MissingFileError, UserError
from ..files import sync
from . import far_banks
from .far_folder import FarFolder
from .far_shards import is_far
from .keys import decode, encode
from .mask_arrays import Arrays, merge, read_records
from .mask_blocks import Block, Blocks, Layout, check_blocks, contents
from .mask_files import (
    MANIFEST,
    Path,
    altered,
    beside,
    explained,
    local,
    located,
    round_path,
)

FORMATS = 1, 2
"""Format versions that can be read and written; see docs/mask_bank.md."""


class MaskBank:
    """The label maps of one published round.

    A pickled bank contains only its path: workers and ranks map the same
    files. Those of a round in a store are copied to this machine when they are
    needed.

    Args:
        path (str): Folder of a round, ``.../masks/round_0003``, or its URL.
        verify (bool): Whether to check every SHA-256, which reads all bytes,
            in addition to sizes and shapes. Defaults to False.

    Attributes:
        path (str): The round's folder or URL.
        round (int): The round's number.
        format_version (int): How it is stored, one of :data:`FORMATS`.
        num_clusterings (int): Label maps per image.
        hash (str): SHA-256 of the round: of the manifest, which contains those
            of the data. In format 2 it does not depend on how the data are
            divided into files.
        manifest (dict): See docs/mask_bank.md.
    """

    def __init__(self, path: Path, verify: bool = False) -> None:
        self.path = located(path)
        content = (FarFolder(self.path).read(MANIFEST) if is_far(self.path)
                   else fileio.get(_manifest_path(self.path)))
        try:
            self.manifest: dict[str, Any] = json.loads(content)
            version = self.manifest['format_version']
            self.round: int = self.manifest['round']
            self.num_clusterings = int(self.manifest['num_clusterings'])
            if version == 1:
                local(self.path)
            kind = Arrays if version == 1 else Blocks
            if version in FORMATS:
                stored: Arrays | Blocks = kind(self.path, self.manifest)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError,
                RecursionError) as error:
            raise altered(self.path, MANIFEST, 'JSON of a mask round',
                          repr(error)) from error
        if version not in FORMATS:
            raise UserError(
                f'{self.path} has mask bank format {version!r}, but this '
                f'cyborgs_plugin reads formats {FORMATS}: use the '
                'version that wrote it, or make the round again by '
                + command('generate_masks', 'CONFIG', 'CHECKPOINT'))
        self.format_version: int = version
        self.hash = hashlib.sha256(
            content if version == 1 else contents(self.manifest)).hexdigest()
        stored.open(verify)
        self._stored = stored

    @classmethod
    def open(cls, path: Path, verify: bool = False) -> 'MaskBank':
        """Open a round's folder, or the newest round in a bank's root.

        Either may be in a store.
        """
        path = located(path)
        if not _is_round(path):
            rounds = list_rounds(path)
            if not rounds:
                found = ('no such folder' if not is_far(path)
                         and not os.path.isdir(path) else
                         'it holds neither manifest.json, as a round does, '
                         'nor rounds (round_NNNN)')
                raise MissingFileError(
                    f'No masks at {path}: {found}. Make them by '
                    f'{command("generate_masks", "CONFIG", "CHECKPOINT")} '
                    '(or without CHECKPOINT), or train by '
                    f'{command("train", "CONFIG")}, which makes them at its '
                    'start')
            path = round_path(path, rounds[-1])
        return cls(path, verify)

    def fetch(self) -> None:
        """Copy a round that is in a store to this machine, as a whole."""
        if isinstance(self._stored, Blocks):
            self._stored.fetch()

    def keys(self, limit: int | None = None) -> list[str]:
        """Keys, sorted by their UTF-8 bytes.

        Args:
            limit (int, optional): Return at most this many, of evenly spaced
                rows (see :meth:`row`).
                Defaults to None, all.
        """
        if limit and limit < len(self):
            step = -(-len(self) // limit)  # reads the index of these alone
            return [decode(key) for key in sorted(
                map(self._stored.key, range(0, len(self), step)))]
        return [decode(key) for key in self._stored.sorted_keys().tolist()]

    def label_map(self, key: str, clustering: int = 0) -> np.ndarray:
        """Read one label map of an image.

        Args:
            key (str): The image's path relative to ``data_root``.
            clustering (int): Index among the image's ``num_clusterings`` maps.
                Defaults to 0.

        Returns:
            np.ndarray: (h, w) uint8 or uint16, a read-only view of the file;
            it covers the whole image.
        """
        if not 0 <= clustering < self.num_clusterings:
            raise IndexError(f'{self.path} holds {self.num_clusterings} '
                             f'clusterings of an image, no {clustering}')
        return self.label_maps(key)[clustering]

    def label_maps(self, key: str) -> np.ndarray:
        """Read all label maps of an image, (V, h, w); see above."""
        row = self.row(key)
        if row < 0:
            raise KeyError(
                f'No label map for {key!r} in {self.path} with its '
                f'{len(self)} keys; the nearest is {self._nearest(key)!r}')
        return self._stored.maps(row)

    @property
    def num_bytes(self) -> int:
        """Bytes of all label maps and their index on the disk."""
        return self._stored.num_bytes

    @property
    def disk(self) -> str:
        """A folder on the disk of its files, or of their copies."""
        return far_banks.copies() if is_far(self.path) else self.path

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, key: str) -> bool:
        return self.row(key) >= 0

    def __reduce__(self) -> tuple:
        return MaskBank.open, (self.path, )

    def row(self, key: str) -> int:
        """Place of an image in the round, in 0..len - 1; -1 if absent.

        It is the same for any number of ranks. In format 1 the order is that
        of :meth:`keys`.
        """
        return self._stored.find(encode(key))

    def key_of(self, row: int) -> str:
        """The key of the image at a place, as :meth:`row` gives it."""
        return decode(self._stored.key(row))

    def _nearest(self, key: str) -> str:
        """A key with the same file name, else the next one in the order."""
        wanted, keys = encode(key), self._stored.sorted_keys()
        same = np.flatnonzero(
            np.char.endswith(keys, wanted.split(b'/')[-1]))
        row = same[0] if same.size else keys.searchsorted(wanted)
        return decode(keys[min(row, len(self) - 1)])


def give_up_round(root: Path, number: int) -> None:
    """Tell the other ranks that this one cannot write its part of a round."""
    if is_far(os.fspath(root)):
        far_banks.give_up(round_path(root, number))
        return
    with suppress(OSError):  # The disk may have failed: they notice later.
        os.makedirs(beside(root, number, 'partial'), exist_ok=True)
        with open(_gave_up(root, number), 'w'):
            pass


def is_given_up(root: Path, number: int) -> bool:
    """Whether a rank cannot write its part of an unfinished round."""
    if is_far(os.fspath(root)):
        return far_banks.is_given_up(round_path(root, number))
    return os.path.exists(_gave_up(root, number))


def publish_round(root: Path, number: int, num_images: int,
                  meta: dict[str, Any]) -> MaskBank:
    """Merge the ranks' shards and publish them as one round, by one rename.

    Call it on rank 0 only, when all writers have closed. An existing round of
    that number is renamed just before, since POSIX cannot swap folders. If the
    process dies between the two renames, :func:`clear_leftovers` restores it.

    Args:
        root (str): The bank's root.
        number (int): The new round.
        num_images (int): Each index in 0..num_images - 1 must have been added
            exactly once.
        meta (dict): JSON values for the manifest that describe where the masks
            come from. Values that differ from run to run make the hash differ.

    Returns:
        MaskBank: The published round.
    """
    root = local(root)
    round_path(root, number)  # refuses a wrong number
    partial, merged = (beside(root, number, kind)
                       for kind in ('partial', 'merged'))
    manifest = _manifest(meta, dict(
        format_version=1, round=number, num_images=num_images,
        num_clusterings=1, files={}))
    with explained(root):
        records = read_records(partial, num_images)
        if os.path.exists(merged):
            _remove(merged)
        files = merge(partial, merged, records)
        manifest.update(files=files,
                        num_clusterings=int(records['clusterings'][0]))
        _write_manifest(merged, manifest)
        for name in (*os.listdir(merged), ''):
            sync(fileio.join_path(merged, name))
        MaskBank(merged, verify=True)
        _put_in_place(root, number, merged)
        _discard(partial)
    return MaskBank(round_path(root, number))


def publish_blocks(root: Path, number: int, layout: Layout,
                   blocks: Iterable[Block], meta: dict[str, Any]) -> MaskBank:
    """Publish the ranks' files as they are, as one round of format 2.

    Nothing is copied or read again: a manifest that lists the blocks is added,
    and the folder renamed. In a store, the manifest makes it a round. For when
    to call it, and for an existing round of that number, see
    :func:`publish_round`.

    Args:
        root (str): The bank's root.
        number (int): The new round.
        layout (Layout): How the images are dealt to blocks.
        blocks (Iterable[Block]): What ``BlockWriter.close`` returned on all
            ranks, in any order.
        meta (dict): As in :func:`publish_round`.

    Returns:
        MaskBank: The published round.
    """
    root, final = located(root), round_path(root, number)
    partial = final if is_far(root) else beside(root, number, 'partial')
    manifest = _manifest(meta, dict(
        format_version=2, round=number, num_images=layout['num_images'],
        num_clusterings=1, itemsize=1, salt=layout['salt'],
        parts=layout['parts'], blocks_per_part=layout['blocks_per_part'],
        blocks=[]))
    with explained(root):
        manifest.update(check_blocks(partial, layout, blocks))
        if is_far(root):
            Blocks(final, manifest).open(verify=False)
            FarFolder(final).write(MANIFEST, _text(manifest).encode())
            far_banks.clear(final)
            return MaskBank(final)
        _write_manifest(partial, manifest)
        for name in (MANIFEST, ''):
            sync(fileio.join_path(partial, name))
        MaskBank(partial)
        _put_in_place(root, number, partial)
    return MaskBank(final)


def _manifest(meta: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Join both parts of a manifest; fails before the work, not after it."""
    if taken := own.keys() & meta.keys():
        raise UserError(f'meta must not set {sorted(taken)}: they are written '
                        'to the manifest when the round is published')
    json.dumps(meta, sort_keys=True)
    return own | meta


def _write_manifest(folder: str, manifest: dict[str, Any]) -> None:
    fileio.put_text(_text(manifest), _manifest_path(folder))


def _text(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=2, sort_keys=True) + '\n'


def _put_in_place(root: str, number: int, folder: str) -> None:
    """Give a complete, synced folder the name of its round."""
    final, replaced = round_path(root, number), beside(root, number,
                                                       'replaced')
    if os.path.exists(final):
        os.rename(final, replaced)
    os.rename(folder, final)
    sync(root)
    if os.path.exists(replaced):
        _discard(replaced)


def list_rounds(root: Path) -> list[int]:
    """Numbers of the published rounds, sorted; empty if there is no root."""
    rounds = (int(name[6:]) for name in _names(root)
              if re.fullmatch(r'round_(\d{4}|[1-9]\d{4,})', name))
    return sorted(number for number in rounds
                  if _is_round(round_path(root, number)))


def has_round(root: Path, number: int) -> bool:
    """Whether there is a round of this number; it may be damaged."""
    path = round_path(root, number)
    return _is_round(path) if is_far(path) else os.path.isdir(path)


def _names(root: Path) -> list[str]:
    """Names of what a bank's root holds, sorted; none if there is no root."""
    root = located(root)
    if is_far(root):
        return FarFolder(root).names()
    return sorted(os.listdir(root)) if os.path.isdir(root) else []


def _is_round(path: str) -> bool:
    """Whether it is the folder or the URL of a round."""
    if is_far(path):
        return MANIFEST in FarFolder(path).sizes()
    return os.path.isfile(_manifest_path(path))


def prune_rounds(root: Path, max_keep: int,
                 keep: Iterable[int] = ()) -> list[int]:
    """Delete the oldest rounds; open banks can still read theirs.

    Args:
        root (str): The bank's root.
        max_keep (int): Number of newest rounds to keep; <= 0 keeps all.
        keep (Iterable[int]): Rounds that are never deleted: the current one,
            and any that a checkpoint refers to. Defaults to ().

    Returns:
        list[int]: The deleted rounds.
    """
    kept = set(keep)
    doomed = [number for number in list_rounds(root)[:-max_keep]
              if number not in kept] if max_keep > 0 else []
    discard = far_banks.remove_round if is_far(located(root)) else _discard
    with explained(located(root)):
        for number in doomed:
            discard(round_path(root, number))
    return doomed


def set_aside(root: Path, keep: Iterable[int] = ()) -> str | None:
    """Move rounds to a folder ``earlier_<time>`` of the root; none is lost.

    Call it on rank 0 only. The oldest round is moved first. If the process
    dies in between, each round is complete in one of the two places, and the
    newest, from which a checkpoint resumes, stays in its own place as long as
    possible.

    Args:
        root (str): The bank's root.
        keep (Iterable[int]): Rounds that stay. Defaults to ().

    Returns:
        str, optional: The folder; None if there was nothing to move.
    """
    kept = set(keep)
    moved = [number for number in list_rounds(root) if number not in kept]
    if not moved:
        return None
    name, names = time.strftime('earlier_%Y%m%d_%H%M%S'), _names(root)
    while name in names:
        name += '~'
    root = located(root)
    folder, far = os.path.join(root, name), is_far(root)
    move = far_banks.move_round if far else _move
    with explained(root):
        if not far:
            os.makedirs(folder)
        for number in moved:
            move(round_path(root, number), round_path(folder, number))
        for changed in () if far else (folder, root):
            sync(changed)
    return folder


def find_aside(root: Path, number: int, hash: str) -> str | None:
    """Folder to which :func:`set_aside` moved a round; None if it did not."""
    for name in _names(root):
        folder = os.path.join(located(root), name)
        if name.startswith('earlier_') and number in list_rounds(folder):
            with suppress(ValueError):  # a damaged one
                if MaskBank(round_path(folder, number)).hash == hash:
                    return folder
    return None


def clear_leftovers(root: Path) -> None:
    """Remove what a killed run left unfinished; published rounds stay.

    A round that was renamed but not yet replaced gets its name back. Call it
    on rank 0 only, before a new attempt, while the other ranks wait.
    """
    root = located(root)
    if is_far(root):
        _clear_far(root)
        return
    with explained(root):
        for name in _names(root):
            match = re.fullmatch(r'\.(?:(round_\d{4,})\.(partial|merged|'
                                 r'replaced)|round_trash-.*)', name)
            if match is None:
                continue
            folder = fileio.join_path(root, name)
            published = fileio.join_path(root, match[1] or '')
            if match[2] != 'replaced':
                _remove(folder)
            elif os.path.exists(published):
                _discard(folder)
            else:
                os.rename(folder, published)
            print_log(f'A mask update was cut short: cleared {folder}',
                      logger='current')


def _clear_far(root: str) -> None:
    for name in _names(root):
        url = os.path.join(root, name)
        if re.fullmatch(r'round_\d{4,}', name) and far_banks.clear(url):
            print_log(f'A mask update was cut short: cleared {url}',
                      logger='current')


def _discard(folder: str) -> None:
    """Delete a folder; it never appears half deleted under its name."""
    root, name = os.path.split(folder)
    trash = fileio.join_path(root, f'.round_trash-{name}')
    while os.path.exists(trash):
        trash += '~'
    os.rename(folder, trash)
    sync(root)
    _remove(trash)


def _move(folder: str, target: str) -> None:
    """Rename a round into a neighbouring folder, even if it is a link."""
    if os.path.islink(folder) and not os.path.isabs(
            link := os.readlink(folder)):
        os.symlink(fileio.join_path(os.pardir, link), target)
        os.unlink(folder)
    else:
        os.rename(folder, target)


def _remove(folder: str) -> None:
    try:
        if os.path.islink(folder):  # what it leads to is not ours
            os.unlink(folder)
        else:
            shutil.rmtree(folder)
    except OSError as error:  # As on NFS while another process reads it.
        print_log(f'{folder} cannot be removed now ({error}); the next mask '
                  'update tries again', logger='current', level=WARNING)


def _gave_up(root: Path, number: int) -> str:
    return fileio.join_path(beside(root, number, 'partial'), 'gave_up')


def _manifest_path(folder: str) -> str:
    return fileio.join_path(folder, MANIFEST)
