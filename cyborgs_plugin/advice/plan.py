"""The plan of a pretraining: settings, and what they cost here."""
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..datasets.photo_survey import Survey, typical_pixels
from ..errors import UserError
from ..segmentation.known_superpixels import ROOM_FOR
from .machine import Machine, duration, size
from .networks import Network
from .table import (
    FEWEST,
    FEWEST_STEPS,
    SCRATCH,
    Row,
    batch_for,
    choose,
    epochs_for,
    verdict,
)
from .trial import TOO_LARGE, Trial

_START_UP = 20.
"""Seconds of a run before its first round and after its last step."""
_DRIFT_IMAGES = 64
"""Photographs that DriftHook looks at after each epoch, at most."""
_DRIFT_COST = 0.25
"""Of what a mask round takes: half the long side."""
_SHARE = 0.9
"""Part of the free memory that a run may take."""
_UNITS = dict(s=1, m=60, min=60, h=3600, d=86400)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, by what, on what."""

    survey: Survey
    machine: Machine
    network: Network
    row: Row
    start: str | None
    """File of the weights that the run starts from."""
    processes: int
    batch: int
    """Of all processes together."""
    epochs: int
    most_epochs: int
    """What the table has, whatever the budget is."""
    on_device: bool
    """Whether the photographs stay in the GPU's memory."""
    budget: float | None = None
    """Seconds."""
    trial: Trial | None = None

    @property
    def photographs(self) -> int:
        """How many there are, broken ones included."""
        return len(self.survey.names)

    @property
    def each(self) -> int:
        """The batch of a process."""
        return max(1, self.batch // self.processes)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.photographs // (self.each * self.processes)

    @property
    def interval(self) -> int:
        """Epochs between two mask rounds; -1 for the first one alone."""
        if self.row.interval < 0:
            return -1
        return max(1, round(self.epochs / self.row.rounds))

    @property
    def rounds(self) -> int:
        """Mask rounds of the run."""
        return 1 if self.interval < 0 else math.ceil(
            self.epochs / self.interval)

    @property
    def workers(self) -> int:
        """Data workers of a process."""
        if self.on_device or self.machine.cores == 1:
            return 0
        if not self.machine.gpus:
            return 1
        return max(1, min(8, self.machine.cores // self.processes - 1))

    @property
    def rate(self) -> float:
        """The learning rate: the table's, in proportion to the batch."""
        own = self.network.optimizer()
        if own is not None:
            return own['optimizer']['lr'] * self.batch / SCRATCH[-1].batch
        return self.row.rate * self.batch / self.row.batch

    @property
    def measured(self) -> Trial:
        """What was measured for this plan.

        Raises:
            ValueError: If nothing was.
        """
        if self.trial is None:
            raise ValueError('measure first')
        return self.trial

    def parts(self) -> tuple[float, float]:
        """Seconds of steps, and of mask rounds with DriftHook's looks."""
        trial = self.measured
        step, load = trial.step, trial.load * self.each
        if self.on_device:
            load = 0.
        if self.machine.gpus:
            step = max(step, load / max(1, self.workers))
        else:  # steps and workers share the cores
            step += load / self.machine.cores
        looks = self.rounds * self.photographs / self.processes
        if self.start:
            looks += self.epochs * _DRIFT_COST * min(
                _DRIFT_IMAGES, self.photographs)
        searches = self._searches() * self.photographs / self.processes
        return (self.epochs * self.steps * step,
                looks * trial.round + searches * trial.first)

    def _searches(self) -> float:
        """Rounds in which the superpixels of a photograph are not known.

        On average: its first, those of processes that have not seen it, and
        all where there is no room for it.
        """
        room = min(1., ROOM_FOR * self.processes / self.photographs)
        unseen = 1 - 1 / self.processes
        return sum(1 - min(room, 1 - unseen**number)
                   for number in range(self.rounds))

    @property
    def seconds(self) -> float:
        """How long the run takes, about."""
        return _START_UP + sum(self.parts())

    @property
    def disk(self) -> tuple[float, float]:
        """Bytes of checkpoints, one more than are kept, and of masks."""
        kept = 3 if self.row.recipe == 'cyborgs_coco.py' else 2
        return ((kept + 1) * self.measured.checkpoint,
                self.rounds * self.photographs * self.measured.masks)


def make_plan(survey: Survey,
              machine: Machine,
              network: Network,
              start: str | None,
              processes: int,
              budget: float | None,
              measure: Callable[[Plan], Trial]) -> Plan:
    """Choose the settings, measure, and fit them to budget and memory.

    Args:
        survey (Survey): The photographs.
        machine (Machine): The machine.
        network (Network): The backbone.
        start (str, optional): File of the weights to start from.
        processes (int): GPUs, or processes on a CPU.
        budget (float, optional): Seconds that the run may take.
        measure (Callable): Gives what a plan costs here.

    Raises:
        UserError: If there are too few photographs, or nothing fits.
    """
    fewest = max(FEWEST, 2 * processes)
    if survey.usable < fewest:
        raise UserError(
            f'{survey.folder} has {survey.usable} photographs that can be '
            'read: regions are contrasted with those of other photographs, '
            f'so that there must be {fewest} or more')
    count = len(survey.names)
    row = choose(count, start is not None, bool(machine.gpus))
    if row is SCRATCH[-1] and not network.published:
        row = SCRATCH[-2]
    # of each process as many, so that the batch is what it is said to be
    batch = max(2, batch_for(row, count) // processes) * processes
    epochs = epochs_for(row, count, batch)
    plan = Plan(
        survey=survey, machine=machine, network=network, row=row, start=start,
        processes=processes, batch=batch, epochs=epochs, most_epochs=epochs,
        on_device=_fits_on_device(survey, machine, row), budget=budget)
    while True:
        plan = replace(plan, trial=measure(plan))
        if _fits(plan):
            break
        if plan.each <= 4:
            memory = ('' if plan.trial is TOO_LARGE else
                      f'about {size(plan.measured.memory)} of memory, ')
            raise UserError(
                f'A step with {plan.each} images of each process takes '
                f'{memory}more than is free: close other programs, or take a '
                'smaller --backbone')
        plan = replace(plan, batch=plan.each // 2 * processes)
    return plan if budget is None else _fit_budget(plan, budget)


def _fit_budget(plan: Plan, budget: float) -> Plan:
    """As many epochs as the time allows."""
    for epochs in range(plan.most_epochs, 0, -1):
        shorter = replace(plan, epochs=epochs)
        if shorter.seconds <= budget:
            return shorter
    shortest = replace(plan, epochs=1)
    steps, rounds = shortest.parts()
    busy = (f' The machine is busy (load {plan.machine.load:.0f} on '
            f'{plan.machine.cores} cores), which makes it slow.'
            if plan.machine.is_busy else '')
    raise UserError(
        f'--budget: a mask round ({duration(rounds)}) and one epoch '
        f'({duration(steps)}) take about {duration(shortest.seconds)} here, '
        f'more than the {duration(budget)} that are given.{busy} Give more '
        'time, or a folder with fewer photographs'
        + (', or --backbone resnet18' if plan.network.depth != 18 else ''))


def _fits(plan: Plan) -> bool:
    """Whether a step fits into the memory, with the photographs held."""
    memory = plan.measured.memory
    if plan.machine.gpus:
        free = min(gpu.free for gpu in plan.machine.gpus)
        return memory < _SHARE * free
    # what this process has taken already is not free any more
    return memory * plan.processes < (
        plan.machine.memory * _SHARE)


def _fits_on_device(survey: Survey, machine: Machine, row: Row) -> bool:
    """Whether the decoded photographs fit into half of a GPU's memory."""
    if not machine.gpus:
        return False
    # DeviceDataHook reduces larger ones, at the least to this.
    largest = 640 * 640 if row.view < 224 else 1584 * 1584
    pixels = min(typical_pixels(survey.sizes), largest)
    return len(survey.names) * pixels * 3 < (
        0.5 * min(gpu.free for gpu in machine.gpus))


def read_budget(text: str) -> float:
    """Read a time: '90s', '30m', '2h', '1.5h', '1d'.

    Args:
        text (str): What the user wrote.

    Returns:
        float: Seconds.

    Raises:
        UserError: If it is none.
    """
    found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*(s|min|m|h|d)', text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.
    if seconds <= 0:
        raise UserError(f'--budget {text!r}: expected a number with its unit, '
                        'such as 90s, 30m, 2h or 1d')
    return seconds


def describe(plan: Plan, free: int) -> str:
    """The plan as it is shown.

    Args:
        plan (Plan): Measured.
        free (int): Bytes that are free where the run writes.
    """
    row, trial = plan.row, plan.measured
    steps, rounds = plan.parts()
    checkpoints, masks = plan.disk
    memory = min((gpu.free for gpu in plan.machine.gpus),
                 default=plan.machine.memory)
    each = (f' ({plan.each} of each of {plan.processes} processes)'
            if plan.processes > 1 else '')
    held = trial.memory * (1 if plan.machine.gpus else plan.processes)
    lines = dict(
        recipe=f'{row.recipe}: {row.basis}',
        network=f'{plan.network.name}, from '
        + (plan.start or 'random weights'),
        training=f'{_count(plan.epochs, "epoch")} of '
        f'{_count(plan.steps, "step")}, '
        f'{plan.batch} photographs per step{each}, learning rate '
        f'{plan.rate:.3g}',
        masks=(f'{plan.rounds} rounds, one every '
               + (f'{plan.interval} epochs' if plan.interval > 1 else 'epoch')
               if plan.rounds > 1 else 'one round, before the first epoch')
        + f'; {row.clusters[0]} to {row.clusters[1]} clusters',
        time=f'about {duration(plan.seconds)}: {duration(steps)} of steps '
        f'({trial.step:.2g} s each) and {duration(rounds)} of mask rounds '
        + 'and drift ' * bool(plan.start)
        + f'({trial.round * 1000:.0f} ms per photograph'
        + f', {trial.first * 1000:.0f} ms more when it is new' * (
            trial.first > 0.2 * trial.round)
        + '). This is an estimate, from a few steps timed just now',
        memory=f'about {size(held)} of {size(memory)} that are free'
        + (' on the GPU' if plan.machine.gpus else ''),
        disk=f'about {size(checkpoints + masks)} of {size(free)} that are '
        f'free: {size(trial.checkpoint)} per checkpoint, '
        f'{size(plan.photographs * trial.masks)} per mask round')
    text = ['Plan'] + [_wrapped(f'  {name:9} {line}', 12)
                       for name, line in lines.items()]
    if plan.epochs < plan.most_epochs:
        text.append(_wrapped(
            f'  {"":9} Without a budget it would be {plan.most_epochs} '
            f'epochs, about {duration(_unlimited(plan))}', 12))
    if plan.epochs * plan.steps < FEWEST_STEPS:
        text.append(_wrapped(
            f'Hardly anything is learnt in {plan.epochs * plan.steps} steps: '
            f'{FEWEST_STEPS} are the fewest that were measured. Give more '
            + ('time.' if plan.epochs < plan.most_epochs else 'photographs.'),
            0))
    worth, why = verdict(plan.photographs, plan.start is not None)
    text.append(_wrapped(
        f'{"Worth it?" if worth else "Probably not worth it:"} '
        f'{why[:1].upper()}{why[1:]}.', 0))
    return '\n'.join(text)


def _count(number: int, noun: str) -> str:
    return f'{number:,} {noun}' + 's' * (number != 1)


def _wrapped(line: str, indent: int) -> str:
    return textwrap.fill(
        line, 79, subsequent_indent=' ' * indent, break_long_words=False,
        break_on_hyphens=False)


def _unlimited(plan: Plan) -> float:
    return replace(plan, epochs=plan.most_epochs).seconds
