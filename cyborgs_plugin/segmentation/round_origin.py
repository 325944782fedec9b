"""What a mask round is made from, so that it can be made again."""
import hashlib
import json
import logging
import os
import os.path as osp
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log
from mmpretrain.registry import TASK_UTILS
from torch import Tensor

from ..datasets.mask_bank import MaskBank, round_path
from ..errors import UserError
from .mask_round import make_round
from .network_state import network_state
from .sources import MaskSource

_NAMED = 5


@dataclass
class RoundOrigin:
    """What a mask round is made from; its fields are a checkpoint's keys."""

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
    of the bank's keys; None of a checkpoint of v0.1.0."""

    @classmethod
    def of_config(cls, number: int, config: dict, epoch: int,
                  iteration: int) -> 'RoundOrigin':
        """The origin of a round to come, made with the network of now."""
        # Configs in pure Python name classes instead of strings.
        plain = json.loads(json.dumps(config, default=lambda c: c.__name__))
        return cls(number, plain, epoch, iteration)

    @classmethod
    def of_checkpoint(cls, content: Any, path: str) -> 'RoundOrigin':
        """The origin of a checkpoint's round.

        Args:
            content (Any): What the checkpoint has under ``mask_origin``.
            path (str): The file, for messages.

        Raises:
            UserError: If it is not what ``MaskUpdateHook`` writes.
        """
        try:
            origin = cls(**content)
            origin.source = dict(**origin.source)
        except TypeError as error:
            raise UserError(
                f'{path}: mask_origin is not what MaskUpdateHook writes '
                f'({error}): take a checkpoint of a run with it') from error
        if 'fingerprint' not in content and origin.source.get('checkpoint'):
            # Of v0.1.0: not that of the file, but that in training.
            origin.network = None
        return origin

    def build(self, path: str) -> MaskSource:
        """Build the source, which a file has named: registered ones only.

        Args:
            path (str): The file, for messages.

        Raises:
            UserError: If it names anything else, which mmengine would import
                and call.
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
        return kind(**options)

    def prepare(self, source: MaskSource, model: Any) -> None:
        """Get the source ready, with the network that this has, or of now.

        Every rank calls it.

        Args:
            source (MaskSource): What the config builds.
            model (nn.Module): The algorithm; left as it is.
        """
        self.fingerprint = source.fingerprint()
        if not source.uses_network:
            return
        if self.network is None:
            # Batch norms that are not synchronised differ by rank.
            shared = [network_state(source.network(model.backbone),
                                    source.layer)]
            broadcast_object_list(shared)
            self.network = shared[0]
        backbone = deepcopy(model.backbone)
        try:
            backbone.load_state_dict(self.network, strict=False)
        except RuntimeError as error:
            raise UserError(
                f'The network that mask round {self.round} was made from does '
                "not fit the config's: take the config of its run. "
                f'{error}') from error
        source.checkpoint = None  # its weights are in the network by now
        source.prepare(backbone, model.data_preprocessor)

    def is_made(self, images: Sequence[tuple[str, str]], root: str, seed: int,
                group_size: int) -> bool:
        """Whether an earlier start made the round before it was killed.

        The source has been prepared; arguments as of :meth:`make`.
        """
        path = round_path(root, self.round)
        same = [False]
        if get_rank() == 0 and osp.isdir(path):
            try:
                bank = MaskBank.open(path, verify=True)
            except (ValueError, FileNotFoundError) as error:
                print_log(f'Replacing a damaged round: {error}',
                          logger='current', level=logging.WARNING)
            else:
                wanted = dict(
                    self._meta(),
                    seed=seed,
                    group_size=group_size,
                    num_images=len(images))
                same = [
                    all(bank.manifest.get(k) == v for k, v in wanted.items())
                    and all(key in bank for key, _ in images)
                ]
        broadcast_object_list(same)
        if same[0]:
            print_log(f'{path} was made by the same network and settings: it '
                      'is used again', logger='current')
        return same[0]

    def make(self, source: MaskSource, images: Sequence[tuple[str, str]],
             root: str, seed: int, group_size: int,
             **options: Any) -> MaskBank:
        """Make the round from a source that :meth:`prepare` got ready.

        All arguments as of :func:`make_round`.
        """
        return make_round(source, images, root, self.round, seed, group_size,
                          meta=self._meta(), **options)

    def _meta(self) -> dict[str, Any]:
        """What the manifest holds of it."""
        meta = dict(source=self.source, epoch=self.epoch, iter=self.iter)
        if self.fingerprint is not None:
            meta['fingerprint'] = self.fingerprint
        if self.network is not None:
            meta['network'] = _hash(self.network)
        return meta


def file_sizes(bank: MaskBank,
               images: Iterable[tuple[str, str]]) -> Tensor:
    """Note a round's files: :attr:`RoundOrigin.file_sizes`."""
    paths = dict(images)
    return torch.tensor([_size(paths[key]) for key in bank.keys()])


def changed_images(bank: MaskBank, images: Iterable[tuple[str, str]],
                   sizes: Tensor | None) -> list[str]:
    """Say how images differ from those that a round was made of.

    Args:
        bank (MaskBank): The round.
        images (Iterable[tuple[str, str]]): Key and path of each, now.
        sizes (Tensor, optional): What :func:`file_sizes` noted then. None:
            nothing; replaced files are not found.

    Returns:
        list[str]: What is gone, new and replaced, with the first names; none
        where all is as it was. A replaced file is told by its bytes' number.
    """
    paths, keys = dict(images), bank.keys()
    old = [-1] * len(keys) if sizes is None else sizes.tolist()
    found = {
        'gone': [key for key in keys if key not in paths],
        'new': [key for key in paths if key not in bank],
        'replaced': [
            key for key, size in zip(keys, old, strict=True)
            if size >= 0 and _size(paths.get(key, '')) not in (size, -1)
        ]
    }
    return [f'{len(names)} {what}, such as {names[:_NAMED]}'
            for what, names in found.items() if names]


def _size(path: str) -> int:
    """Bytes of a file; -1 where it is missing, or not on a local disk."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _hash(state: dict[str, Tensor]) -> str:
    """SHA-256 of a network's state."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
