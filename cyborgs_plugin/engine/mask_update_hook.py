"""Decides when the masks are renewed."""
import os
import os.path as osp
import re
import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner, find_latest_checkpoint
from mmpretrain.registry import HOOKS, METRICS, TASK_UTILS
from mmpretrain.utils import get_ori_model
from torch.utils.data import ConcatDataset

from ..commands import command
from ..datasets.mask_bank import (
    FORMATS,
    MaskBank,
    clear_leftovers,
    find_aside,
    has_round,
    list_rounds,
    prune_rounds,
    round_path,
    set_aside,
)
from ..datasets.mask_files import local, located
from ..datasets.photo_index import is_round_of
from ..datasets.scene_dataset import SceneDataset, scene_datasets
from ..errors import MissingFileError, UserError
from ..segmentation import MaskRoundError, MaskSource
from ..segmentation.ranks import (
    is_first_of_node,
    main_seed,
    on_main,
    together,
)
from ..segmentation.round_origin import (
    RoundOrigin,
    changed_images,
    file_marks,
    file_sizes,
)
from ..segmentation.round_report import describe_round

ROUND_KEY, HASH_KEY = 'mask_round', 'mask_hash'
ORIGIN_KEY = 'mask_origin'
"""Key of a checkpoint for what its round can be made again from."""


@HOOKS.register_module()
class MaskUpdateHook(Hook):
    """Provide the training data with masks and renew them at intervals.

    Round 0 is made before the first epoch of a new run, and another round
    before the epoch that follows every ``interval`` epochs. By then the
    checkpoint of the previous epoch is written: a run that is killed during an
    update resumes from it and makes the same round.

    If a new run finds rounds of an earlier run in its folder, it moves them to
    ``earlier_<time>`` in that folder, and a warning says so. Only a round 0
    that is exactly the same stays.

    The checkpoint holds the number and hash of the current round, and a
    resumed run continues with exactly that round. It also holds what the round
    was made from (the source and the part of the network that it uses), so
    that ``tools/generate_masks.py`` can make it again. Data sets with their
    own bank (``mask_bank=``) are not changed.

    Args:
        interval (int): Epochs between two updates; -1 keeps the initial
            masks. Defaults to 100.
        start (int): Epochs before the first update. Defaults to 0,
            ``interval``.
        source (dict): Config of the mask source.
            Defaults to ``dict(type='NetworkMasks')``.
        initial (dict, optional): Config of the source of round 0.
            Defaults to None, ``source``.
        group_size (int): Number of images that are clustered together.
            Defaults to 16.
        bank_root (str, optional): Folder of the rounds, on a disk that all
            nodes share, or its URL in a store, such as ``s3://bucket/masks``.
            Defaults to None, ``{work_dir}/masks``.
        max_keep_rounds (int): Number of newest rounds that stay on disk, in
            addition to those that a checkpoint on disk refers to; -1 keeps
            all. Defaults to -1.
        decode_threads (int, optional): Threads per rank that decode images.
            Defaults to None: with a GPU, the rank's share of the cores, at
            most 16, or ``group_size`` if that is larger; without one, 2.
        exact_resume (bool): Whether a resumed run refuses a round that is
            complete but differs from the checkpoint's, such as one that was
            made again on other hardware. Defaults to True.
        resume_data (str): What a resumed run does if images are gone, new or
            replaced since its masks were made: 'exact' stops and names them,
            'new' makes a round for the current images. Defaults to 'exact'.
        max_broken (float): Largest share of the images, 0 to 1, that may be
            broken in a round; more stop the run before the round is published.
            One image may be broken unless this is 0; all only if it is 1.
            Defaults to 0.1.
        bank_format (int): Format of the rounds of a new run, 1 or 2, on which
            the groups of images depend, too; see docs/mask_bank.md. A resumed
            run keeps that of its rounds. Defaults to 2.
        evaluator (dict, optional): Config of a metric, such as
            ``dict(type='MaskQuality', ann_file=...)``, that scores each new
            round. Annotations are never used for training. Defaults to None.
    """

    # Before IterTimerHook, which would count an update as data loading.
    priority = 'ABOVE_NORMAL'

    def __init__(self,
                 interval: int = 100,
                 start: int = 0,
                 source: dict = dict(type='NetworkMasks'),
                 initial: dict | None = None,
                 group_size: int = 16,
                 bank_root: str | None = None,
                 max_keep_rounds: int = -1,
                 decode_threads: int | None = None,
                 exact_resume: bool = True,
                 resume_data: str = 'exact',
                 max_broken: float = 0.1,
                 bank_format: int = 2,
                 evaluator: dict | None = None) -> None:
        if interval == 0 or interval < -1:
            raise UserError('default_hooks.mask_update.interval must be a '
                            'positive number of epochs, or -1 to keep the '
                            f'initial masks, but is {interval}')
        if start < 0:
            raise UserError('default_hooks.mask_update.start must be a '
                            f'number of epochs, but is {start}')
        if group_size < 1:
            raise UserError('default_hooks.mask_update.group_size must be '
                            f'at least 1, but is {group_size}')
        if resume_data not in ('exact', 'new'):
            raise UserError('default_hooks.mask_update.resume_data must be '
                            f"'exact' or 'new', but is {resume_data!r}")
        if not 0 <= max_broken <= 1:
            raise UserError('default_hooks.mask_update.max_broken must be a '
                            f'share from 0 to 1, but is {max_broken}')
        if bank_format not in FORMATS:
            raise UserError('default_hooks.mask_update.bank_format must be '
                            f'one of {FORMATS}, but is {bank_format!r}')
        if bank_root is not None:  # refuses what cannot be
            (local if bank_format == 1 else located)(bank_root)
        for name, given in (('source', source), ('initial', initial)):
            if given is not None and not isinstance(given, dict):
                raise UserError(f'default_hooks.mask_update.{name} must be '
                                f'dict(type=...), but is {given!r}')
        self.interval = interval
        self.start = start
        self.source_cfg = source
        self.initial_cfg = initial or source
        self.group_size = group_size
        self.bank_root = bank_root
        self.max_keep_rounds = max_keep_rounds
        self.decode_threads = decode_threads
        self.exact_resume = exact_resume
        self.resume_data = resume_data
        self.max_broken = max_broken
        self.bank_format = bank_format
        # Built here, so that a wrong path is found before the work.
        self.evaluator = None if evaluator is None else METRICS.build(
            evaluator)
        self.bank: MaskBank | None = None
        self.origin: RoundOrigin | None = None
        self._seconds = 0.
        self._made = 0

    def before_train(self, runner: Runner) -> None:
        """Make round 0, or open the round of the checkpoint.

        Raises:
            UserError: If training is not by epochs or has no ``SceneDataset``.
            ValueError: If the round of the checkpoint was altered.
            FileNotFoundError: If it is gone.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise UserError('MaskUpdateHook counts epochs: set '
                            'train_cfg=dict(by_epoch=True, max_epochs=...)')
        self._began = time.perf_counter()
        self.find_data(runner)
        # A killed replacement of a round may have left the round without its
        # name.
        on_main(lambda: clear_leftovers(self.root))
        if not self.scenes:
            runner.logger.info('The data have fixed masks: no mask rounds')
        elif ROUND_KEY in runner.message_hub.runtime_info:
            self._go_on(runner)
        else:
            self._renew(runner, 0, self.initial_cfg, 0, 0)

    def before_train_epoch(self, runner: Runner) -> None:
        """Renew the masks if they are due."""
        if (self.bank is None or not self.is_due(runner.epoch)
                # resumed in the middle of this epoch
                or self.bank.manifest['epoch'] == runner.epoch):
            return
        try:
            self._renew(runner, self.bank.round + 1, self.source_cfg,
                        runner.epoch, runner.iter)
        except MaskRoundError as error:
            if not error.diverged:
                raise
            runner.logger.error(
                f'NO NEW MASKS: {error}. Training continues with mask round '
                f'{self.bank.round} of epoch {self.bank.manifest["epoch"]}; '
                f'the next update comes {self.interval} epochs from now')
        else:
            on_main(lambda: prune_rounds(
                self.root, self.max_keep_rounds, keep=self._kept(runner)))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save what is needed to make the current round again."""
        if self.origin is not None:
            checkpoint[ORIGIN_KEY] = dict(vars(self.origin))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep it for the next checkpoints."""
        if ORIGIN_KEY in checkpoint:
            self.origin = RoundOrigin.of_checkpoint(checkpoint[ORIGIN_KEY],
                                                    'The checkpoint')

    def find_data(self, runner: Runner) -> None:
        """Find the data sets that need masks, and the folder of the rounds.

        Raises:
            UserError: If the training data have no ``SceneDataset``, or two of
                them have an image with the same key.
        """
        dataset = runner.train_loop.dataloader.dataset
        found = list(scene_datasets(dataset))
        if not found:
            raise UserError(
                'MaskUpdateHook needs a SceneDataset in train_dataloader, but '
                f'found {type(dataset).__name__}')
        self.scenes: list[SceneDataset] = [
            scenes for scenes in found if scenes.mask_bank is None
        ]
        self._check_keys()
        self.root = self.bank_root or osp.join(runner.work_dir, 'masks')
        if self.evaluator is not None and self.scenes:
            # Before the work of a round, not after it.
            self.evaluator.known_keys(
                (key for scenes in self.scenes
                 for key, _ in scenes.images()), 'The training data')

    def _check_keys(self) -> None:
        """Refuse images of joined data sets that have the same key."""
        paths: dict[str, str] = {}
        for scenes in self.scenes if len(self.scenes) > 1 else []:
            for key, path in scenes.images():
                if key not in paths:
                    paths[key] = path
                    continue
                other = paths[key]
                if osp.realpath(other) == osp.realpath(path):
                    raise UserError(
                        f'{path} is in two of the data sets of '
                        'train_dataloader: list each image in one of them, or '
                        'join its repetitions by RepeatDataset')
                raise UserError(
                    f'{other} and {path} have the same key {key!r} in the '
                    'mask bank, which is the path relative to data_root, or '
                    'to the image folder where that is absolute. Give both '
                    'folders to one data set, as '
                    "data_prefix=dict(img_path=['/a', '/b'])")

    def make(self,
             runner: Runner,
             number: int,
             source_cfg: dict,
             epoch: int,
             iteration: int,
             fresh: bool = False) -> MaskBank:
        """Make a round, or find that an earlier start made it.

        Args:
            runner (Runner): The runner.
            number (int): The round.
            source_cfg (dict): Config of the source.
            epoch (int): Finished epochs when the round begins.
            iteration (int): Finished iterations.
            fresh (bool): Move all other rounds of the folder aside, as for a
                new run. Defaults to False.

        Returns:
            MaskBank: The published round.
        """
        origin = RoundOrigin.of_config(
            number, source_cfg, epoch, iteration,
            self.bank_format if fresh else self._format())
        source = TASK_UTILS.build(source_cfg)
        origin.prepare(source, get_ori_model(runner.model))
        images = self._images()
        made = origin.is_made(images, self.root, main_seed(runner.seed),
                              self.group_size, self._photographs)
        if fresh:
            on_main(lambda: self._set_aside(runner, [number] if made else []))
        if made:
            bank = together(
                lambda: MaskBank.open(round_path(self.root, number)))
        else:
            bank = self._make(runner, origin, source)

        def note_files() -> None:
            if self._photographs is not None:  # the manifest's says it all
                return
            origin.file_sizes = file_sizes(bank, images)
            origin.file_marks = file_marks(bank, images)

        on_main(note_files)
        self.origin = origin
        return bank

    def _format(self) -> int:
        """Format of the next round: that of the rounds of its run."""
        if self.bank is not None:
            return self.bank.format_version
        return (self.bank_format if self.origin is None else
                self.origin.bank_format)

    def make_again(self, runner: Runner, checkpoint: dict,
                   path: str = 'The checkpoint') -> MaskBank:
        """Make a checkpoint's round again, from the checkpoint.

        Args:
            runner (Runner): A runner of the same model and data.
            checkpoint (dict): A checkpoint of a run with this hook.
            path (str): Its file, for messages.
                Defaults to 'The checkpoint'.
        """
        origin = RoundOrigin.of_checkpoint(checkpoint[ORIGIN_KEY], path)
        source = origin.build(path, self.source_cfg, self.initial_cfg)
        origin.prepare(source, get_ori_model(runner.model))
        return self._make(runner, origin, source)

    def _images(self) -> Any:
        """Key and path of each image of all data sets."""
        parts: list[Any] = [scenes.images() for scenes in self.scenes]
        return ConcatDataset(parts)

    @property
    def _photographs(self) -> str | None:
        """Fingerprint of the index that lists the images, if one does."""
        return self.scenes[0].fingerprint if len(self.scenes) == 1 else None

    def _make(self, runner: Runner, origin: RoundOrigin,
              source: MaskSource) -> MaskBank:
        images = self._images()
        return origin.make(
            source,
            images,
            self.root,
            main_seed(runner.seed),
            self.group_size,
            photographs=self._photographs,
            previous=self._previous(origin.round),
            read_args=lambda index: self.scenes[bisect_right(
                images.cumulative_sizes, index)].read_args,
            decode_threads=self.decode_threads,
            max_broken=self.max_broken,
            keys=self.scenes[0].sorted_keys if len(self.scenes) == 1 else None)

    def seconds_after(self, epoch: int, epochs: int) -> float:
        """Expected time of the rounds that are still to come.

        Args:
            epoch (int): Finished epochs.
            epochs (int): Epochs of the whole training.

        Returns:
            float: Seconds, by the mean of the rounds made in this process; 0
            if there are none.
        """
        if not self._made:
            return 0.
        due = sum(map(self.is_due, range(epoch + 1, epochs)))
        return due * self._seconds / self._made

    def is_due(self, epoch: int) -> bool:
        """Whether an update is due after this number of epochs."""
        first = self.start or self.interval
        return (self.interval > 0 and epoch >= first
                and (epoch - first) % self.interval == 0)

    def _renew(self, runner: Runner, number: int, source_cfg: dict, epoch: int,
               iteration: int) -> None:
        """Make a round, log it, and train with it."""
        start, previous = time.perf_counter(), self.bank
        bank = self.make(runner, number, source_cfg, epoch, iteration,
                         fresh=number == 0)
        now = time.perf_counter()
        self._seconds += now - start
        self._made += 1
        share = self._seconds / (now - self._began)
        on_main(lambda: runner.logger.info(
            f'{describe_round(bank, now - start, previous)}, mask rounds '
            f'took {share:.1%} of the run so far'))
        self._use(runner, bank)
        self._evaluate(runner, bank)

    def _evaluate(self, runner: Runner, bank: MaskBank) -> None:
        """Log how well a new round agrees with annotations."""
        if self.evaluator is None:
            return
        scores = self.evaluator.evaluate_bank(bank)
        runner.visualizer.add_scalars(scores, step=runner.iter)
        runner.logger.info(
            f'Mask round {bank.round} against {self.evaluator.truth.ann_file}'
            ': ' + ', '.join(f'{name} {value:.4g}'
                             for name, value in scores.items()))

    def _previous(self, number: int) -> MaskBank | None:
        """The previous round, with the old maps of broken images."""
        if self.bank is not None or number == 0:
            return self.bank
        return (MaskBank.open(round_path(self.root, number - 1))
                if has_round(self.root, number - 1) else None)

    def _set_aside(self, runner: Runner, keep: Sequence[int]) -> None:
        """Move rounds of other runs aside, so that a new run uses none."""
        folder = set_aside(self.root, keep)
        if folder is not None:
            runner.logger.warning(
                f'{self.root} held mask rounds of an earlier run '
                f'({len(list_rounds(folder))}), and this run starts over: '
                f'they are now in {folder}, none is deleted. To continue with '
                'the earlier run instead, stop this one, move them back and '
                'start with --resume')

    def _go_on(self, runner: Runner) -> None:
        """Resume with the checkpoint's round, or with one of new images."""
        bank = together(lambda: self._resumed(runner))
        if self.origin is not None and bank.hash != (
                runner.message_hub.get_info(HASH_KEY)):
            # They belong to another round.
            self.origin.file_sizes = self.origin.file_marks = None
        sizes = self.origin.file_sizes if self.origin else None
        marks = self.origin.file_marks if self.origin else None
        changes = [] if is_round_of(
            bank.manifest, self._photographs) else on_main(
                lambda: changed_images(bank, self._images(), sizes, marks,
                                       self._photographs))
        if not changes:
            self._use(runner, bank)
            return
        message = ('The images are not those that mask round '
                   f'{bank.round} was made of: ' + '; '.join(changes))
        if self.resume_data == 'exact':
            raise UserError(
                f'{message}. Restore the data as they were to resume '
                'exactly; or make a new mask round for the current images: '
                '--cfg-options default_hooks.mask_update.resume_data=new')
        runner.logger.warning(f'{message}. A new round is made for them, '
                              'since default_hooks.mask_update.resume_data='
                              "'new'")
        self.bank = bank
        first = bank.round == 0 and not self.is_due(runner.epoch)
        self._renew(runner, bank.round + 1,
                    self.initial_cfg if first else self.source_cfg,
                    runner.epoch, runner.iter)

    def _resumed(self, runner: Runner) -> MaskBank:
        """The round of the checkpoint."""
        number = runner.message_hub.get_info(ROUND_KEY)
        expected = runner.message_hub.get_info(HASH_KEY)
        path = round_path(self.root, number)
        checkpoint = runner._load_from or find_latest_checkpoint(
            runner.work_dir)
        config = osp.join(runner.work_dir,
                          osp.basename(runner.cfg.filename or 'CONFIG'))
        fix = ('make the round again from the checkpoint, which holds what '
               'it takes: ' + command('generate_masks', config,
                                      str(checkpoint), '--again'))
        aside = find_aside(self.root, number, expected)
        if aside is not None:
            fix = ('a run that began without --resume has set it aside: move '
                   f'the rounds of {aside} back to {self.root}, in place of '
                   'those there')
        if not has_round(self.root, number):
            raise MissingFileError(
                f'The checkpoint needs mask round {number}, but '
                f'{path} is gone: {fix}')
        try:
            # The others of this machine would read the same bytes.
            bank = MaskBank.open(path, verify=is_first_of_node())
        except (ValueError, FileNotFoundError) as error:
            raise UserError(f'{error}. That is, {fix}') from error
        if bank.hash != expected:
            message = (
                f'The checkpoint needs mask round {number} of hash '
                f'{expected[:12]}, but {path} has {bank.hash[:12]}')
            if self.exact_resume:
                raise UserError(
                    f'{message}: {fix}. To continue with the masks that are '
                    'there: --cfg-options '
                    'default_hooks.mask_update.exact_resume=False')
            runner.logger.warning(f'{message}: they are used all the same')
        runner.logger.info(f'Continuing with mask round {number} of {path}')
        return bank

    def _use(self, runner: Runner, bank: MaskBank) -> None:
        # An epoch reads all of it, and what is wrong with it is found now.
        together(bank.fetch)
        for scenes in self.scenes:
            scenes.use_masks(bank)
        # Persistent workers hold a copy of the data set: start new ones.
        runner.train_loop.dataloader._iterator = None
        runner.message_hub.update_info(ROUND_KEY, bank.round)
        runner.message_hub.update_info(HASH_KEY, bank.hash)
        runner.logger.info(f'Training with mask round {bank.round}')
        self.bank = bank

    def _kept(self, runner: Runner) -> set[int]:
        """The current round and those of the checkpoints on disk.

        Checkpoints are not opened, which would read gigabytes. A checkpoint
        continues with the newest round that began before the epoch (or
        iteration) in its name; a round that began at that epoch was made after
        the checkpoint.
        """
        kept, begins = {runner.message_hub.get_info(ROUND_KEY)}, []
        for number in list_rounds(self.root):
            try:
                bank = MaskBank.open(round_path(self.root, number))
                begins.append((number, bank.manifest))
            except (ValueError, FileNotFoundError) as error:
                # Its run is not known, and it may be repaired.
                runner.logger.warning(f'Not pruned: {error}')
                kept.add(number)
        names: list[str] = []
        # A run that was resumed from another folder may be resumed from it
        # again.
        for folder in (runner.work_dir, osp.dirname(runner._load_from or '')):
            names += os.listdir(folder) if osp.isdir(folder) else []
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):  # out_dir may be elsewhere
                names += hook.file_backend.list_dir_or_file(
                    hook.out_dir, list_dir=False)
        for name in names:
            found = re.search(r'(\d+)\.pth$', name)
            unit = 'iter' if 'iter' in name else 'epoch'
            earlier = [
                number for number, manifest in begins
                if found is not None and manifest[unit] < int(found[1])
            ]
            kept.update(earlier[-1:])
        return kept
