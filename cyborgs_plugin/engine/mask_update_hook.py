"""When the masks are renewed."""
import hashlib
import os.path as osp
import time
from typing import Any, Dict, List, Optional, Tuple

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.model import ImgDataPreprocessor
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS, TASK_UTILS
from mmpretrain.utils import get_ori_model
from torch import nn

from ..datasets.mask_bank import MaskBank, prune_rounds, round_path
from ..datasets.scene_dataset import scene_datasets
from ..segmentation.bootstrap import make_round

ROUND_KEY, HASH_KEY = 'mask_round', 'mask_hash'


@HOOKS.register_module()
class MaskUpdateHook(Hook):
    """Give the training data their masks and renew them at intervals.

    Round 0 is made before the first epoch of a fresh run, round k + 1 at the
    end of every ``interval`` epochs save the last epoch of all. The current
    round's number and hash travel in the checkpoint, and a resumed run goes
    on with exactly that round. Data sets with a bank of their own
    (``mask_bank=``) are left alone.

    Args:
        interval (int): Epochs between two updates; -1 keeps the initial
            masks. Defaults to 100.
        start (int): Epochs before the first interval begins. Defaults to 0.
        source (dict): Config of the mask source.
            Defaults to ``dict(type='NetworkMasks')``.
        initial (dict, optional): Config of the source of round 0.
            Defaults to None, ``source``.
        group_size (int): Images that are clustered together.
            Defaults to 16.
        bank_root (str, optional): Folder of the rounds, on a disk that all
            nodes share. Defaults to None, ``{work_dir}/masks``.
        max_keep_rounds (int): How many rounds stay on disk beside that of
            the newest checkpoint; -1 keeps all. Defaults to -1.
        decode_threads (int): Threads of each rank that decode images.
            Defaults to 2.
    """

    priority = 'NORMAL'

    def __init__(self,
                 interval: int = 100,
                 start: int = 0,
                 source: dict = dict(type='NetworkMasks'),
                 initial: Optional[dict] = None,
                 group_size: int = 16,
                 bank_root: Optional[str] = None,
                 max_keep_rounds: int = -1,
                 decode_threads: int = 2) -> None:
        if interval == 0 or interval < -1:
            raise ValueError('default_hooks.mask_update.interval must be a '
                             'positive number of epochs, or -1 to keep the '
                             f'initial masks, but is {interval}')
        if group_size < 1:
            raise ValueError('default_hooks.mask_update.group_size must be '
                             f'at least 1, but is {group_size}')
        self.interval = interval
        self.start = start
        self.source_cfg = source
        self.initial_cfg = initial or source
        self.group_size = group_size
        self.bank_root = bank_root
        self.max_keep_rounds = max_keep_rounds
        self.decode_threads = decode_threads
        self._seconds = 0.
        self._saved = -1

    def before_train(self, runner: Runner) -> None:
        """Make round 0, or open the round of the checkpoint.

        Raises:
            TypeError: If training is not by epochs or knows no
                ``SceneDataset``.
            ValueError: If the round of the checkpoint was altered.
            FileNotFoundError: If it is gone.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError('MaskUpdateHook counts epochs: set '
                            'train_cfg=dict(by_epoch=True, max_epochs=...)')
        loader = runner.train_loop.dataloader
        found = list(scene_datasets(loader.dataset))
        if not found:
            raise TypeError(
                'MaskUpdateHook needs a SceneDataset in train_dataloader, but '
                f'found {type(loader.dataset).__name__}')
        self._scenes = [data for data in found if data.mask_bank is None]
        self._root = self.bank_root or osp.join(runner.work_dir, 'masks')
        self._began = time.perf_counter()
        if not self._scenes:
            runner.logger.info('The data have fixed masks: no mask rounds')
            self.interval = -1
            return
        if ROUND_KEY in runner.message_hub.runtime_info:
            self._use(runner, self._resumed(runner))
        else:
            self._make(runner, 0)

    def after_train_epoch(self, runner: Runner) -> None:
        """Renew the masks where it is time."""
        last = runner.epoch + 1 >= runner.max_epochs
        if not last and self.every_n_epochs(runner, self.interval,
                                            self.start):
            current = runner.message_hub.get_info(ROUND_KEY)
            self._make(runner, current + 1)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the round that the newest checkpoint refers to."""
        self._saved = runner.message_hub.runtime_info.get(ROUND_KEY, -1)

    def _resumed(self, runner: Runner) -> MaskBank:
        number = runner.message_hub.get_info(ROUND_KEY)
        path = round_path(self._root, number)
        mend = ('remake it from the checkpoint that was saved when it began '
                '(tools/generate_masks.py CONFIG CHECKPOINT), or start anew '
                'with another work_dir')
        if not osp.isdir(path):
            raise FileNotFoundError(
                f'The checkpoint goes on with mask round {number}, but '
                f'{path} is gone: {mend}')
        bank = MaskBank.open(path, verify=True)
        expected = runner.message_hub.get_info(HASH_KEY)
        if bank.hash != expected:
            raise ValueError(
                f'The checkpoint goes on with mask round {number} of hash '
                f'{expected[:12]}, but {path} has {bank.hash[:12]}: {mend}')
        runner.logger.info(f'Going on with mask round {number} of {path}')
        self._saved = number
        return bank

    def _make(self, runner: Runner, number: int) -> None:
        """Make a round and train with it from the next epoch on."""
        start = time.perf_counter()
        model = get_ori_model(runner.model)
        config = self.initial_cfg if number == 0 else self.source_cfg
        source = TASK_UTILS.build(config)
        meta: Dict[str, Any] = dict(source=_plain(config), epoch=0, iter=0)
        if number > 0:
            meta.update(epoch=runner.epoch + 1, iter=runner.iter)
        if source.uses_network:
            source.prepare(model.backbone,
                           **_normalisation(model.data_preprocessor))
            meta['network'] = _hash(model.backbone)
        images: List[Tuple[str, str]] = []
        for scenes in self._scenes:
            images += scenes.images()
        bank = self._same_round(runner, number, len(images), meta)
        if bank is None:
            bank = make_round(
                source,
                images,
                self._root,
                number,
                runner.seed,
                group_size=self.group_size,
                previous=self._scenes[0].mask_bank,
                backend_args=self._scenes[0].backend_args,
                decode_threads=self.decode_threads,
                meta=meta)
        self._use(runner, bank)
        if runner.rank == 0:
            prune_rounds(
                self._root, self.max_keep_rounds, keep=(number, self._saved))
        now = time.perf_counter()
        self._seconds += now - start
        runner.logger.info(
            f'Mask rounds took {self._seconds:.1f} s so far, '
            f'{self._seconds / (now - self._began):.1%} of the run')

    def _same_round(self, runner: Runner, number: int, num_images: int,
                    meta: Dict[str, Any]) -> Optional[MaskBank]:
        """Round 0 of an earlier start that ended before a checkpoint."""
        path = round_path(self._root, number)
        same = [False]
        if runner.rank == 0 and number == 0 and osp.isdir(path):
            try:
                found = MaskBank.open(path, verify=True).manifest
            except (ValueError, FileNotFoundError) as error:
                runner.logger.warning(f'Replacing a damaged round: {error}')
                found = {}
            wanted = dict(
                meta,
                seed=runner.seed,
                group_size=self.group_size,
                num_images=num_images)
            same = [all(found.get(k) == v for k, v in wanted.items())]
        broadcast_object_list(same)
        if not same[0]:
            return None
        runner.logger.info(f'{path} was made by the same network and '
                           'settings: it is used again')
        return MaskBank.open(path)

    def _use(self, runner: Runner, bank: MaskBank) -> None:
        for scenes in self._scenes:
            scenes.use_masks(bank)
        # Persistent workers hold a copy of the data set: start new ones.
        runner.train_loop.dataloader._iterator = None
        runner.message_hub.update_info(ROUND_KEY, bank.round)
        runner.message_hub.update_info(HASH_KEY, bank.hash)
        runner.logger.info(f'Training with mask round {bank.round}')


def _normalisation(preprocessor: ImgDataPreprocessor) -> Dict[str, Any]:
    """How the network in training sees pixels."""
    return dict(
        mean=preprocessor.mean.flatten().tolist(),
        std=preprocessor.std.flatten().tolist(),
        to_rgb=preprocessor._channel_conversion)


def _hash(network: nn.Module) -> str:
    """SHA-256 of a network's state."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _plain(config: dict) -> dict:
    """A config as JSON gives it back."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dict(config).items()
    }


