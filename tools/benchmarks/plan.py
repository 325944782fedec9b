"""Reckon GPU-hours and cores of a pretraining from what was measured on yours.

Run: python tools/benchmarks/plan.py --step 0.25 --batch 128 --gpus 8 \
         --pipeline 60 --cores 16 --round 0.01
     python tools/benchmarks/plan.py --check gpu_check.json --gpus 8

Nothing is measured here: --step is the time of a step on one GPU (of
tools/benchmarks/step_speed.py), --pipeline what a core makes ready (of
tools/benchmarks/pipeline_speed.py) and --round a mask round's time an image
(the log's line of a round, times the processes). --check takes all three from
what `make gpu-check` has written. That steps of several GPUs take as long as
those of one is assumed.
"""
import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

from cyborgs_plugin.commands import command
from cyborgs_plugin.errors import UserError, reported


@dataclass(kw_only=True)
class Machine:
    """What was measured, and how much of it there is."""

    step: float
    """Seconds of a step on a GPU."""
    batch: int
    """Images of each GPU."""
    pipeline: float
    """Images that a core prepares in a second, with both views."""
    gpus: int = 8
    """GPUs in all."""
    cores: float | None = None
    """Cores for each GPU's loader; None: as many as it takes."""
    round: float = 0.
    """Seconds that a process takes for an image of a mask round."""


@dataclass
class Plan:
    """A run's cost."""

    epochs: int
    steps: int
    step_hours: float
    """Of training, whatever holds it back."""
    rounds: int
    round_hours: float
    gpu_hours: float
    cores: float
    """Cores for each GPU that keep it busy."""
    waiting: float
    """Share of a step, 0 to 1, in which the GPU waits for its loader."""


def plan(machine: Machine,
         epochs: int,
         images: int = 118287,
         interval: int = 100) -> Plan:
    """Reckon a run.

    Args:
        machine (Machine): What was measured.
        epochs (int): Length of the run.
        images (int): Images of an epoch. Defaults to 118287, COCO train2017.
        interval (int): Epochs between two mask rounds, of which the first
            comes before the first epoch; -1 for no other.
            Defaults to 100.

    Raises:
        UserError: If there is less than one batch.
    """
    steps = images // (machine.batch * machine.gpus) * epochs
    if not steps:
        raise UserError(
            f'{images} images are less than a batch of {machine.batch} on '
            f'each of {machine.gpus} GPUs: give fewer --gpus or a smaller '
            '--batch')
    cores = machine.batch / machine.step / machine.pipeline
    seconds = machine.step
    if machine.cores is not None:
        seconds = max(seconds,
                      machine.batch / (machine.cores * machine.pipeline))
    rounds = math.ceil(epochs / interval) if interval > 0 else 1
    step_hours = steps * seconds / 3600
    round_hours = rounds * images / machine.gpus * machine.round / 3600
    return Plan(epochs, steps, step_hours, rounds, round_hours,
                (step_hours + round_hours) * machine.gpus, cores,
                1 - machine.step / seconds)


def table(plans: list[Plan], machine: Machine) -> str:
    """Lay out plans as Markdown."""
    lines = [
        '| epochs | steps | hours | of it mask rounds | GPU-hours | '
        'cores per GPU | the GPU waits |',
        '|---|---|---|---|---|---|---|'
    ]
    for one in plans:
        hours = one.step_hours + one.round_hours
        lines.append(
            f'| {one.epochs} | {one.steps:,} | {_few(hours)} | '
            f'{one.round_hours:.2f} ({one.rounds}) | {_few(one.gpu_hours)} | '
            f'{one.cores:.1f} | {one.waiting:.0%} |')
    if plans[0].waiting:
        lines.append(
            f'\nWith {machine.cores:g} cores per GPU the loader holds it back'
            f': {plans[0].cores:.1f} would keep it busy.')
    return '\n'.join(lines)


def _few(hours: float) -> str:
    """Hours with as many digits as mean something."""
    return f'{hours:.{2 if hours < 10 else 1 if hours < 100 else 0}f}'


def measured(path: str) -> dict[str, Any]:
    """What ``make gpu-check`` has measured, as arguments of this tool.

    Raises:
        UserError: If the file has not been written by it.
    """
    try:
        with open(path) as file:
            return dict(json.load(file)['plan'])
    except FileNotFoundError as error:
        raise UserError(f'--check {path}: there is no such file; make '
                        'gpu-check writes it') from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'--check {path}: expected what make gpu-check writes, with the '
            f'key "plan" ({error!r})') from error


def positive(text: str) -> float:
    """Read a positive number."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f'{text} is not above 0')
    return number


@reported()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description='Estimate GPU-hours and cores from measurements')
    parser.add_argument('--check', help='JSON that make gpu-check wrote')
    parser.add_argument(
        '--step', type=positive, help='seconds of a step on a GPU')
    parser.add_argument('--batch', type=int, help='images of each GPU')
    parser.add_argument(
        '--pipeline', type=positive,
        help='images per second that a core prepares')
    parser.add_argument(
        '--round', type=positive,
        help='seconds that a process takes for an image of a mask round')
    parser.add_argument('--gpus', type=int, default=8, help='default: 8')
    parser.add_argument(
        '--cores', type=positive,
        help="cores for each GPU's loader (default: as many as it takes)")
    parser.add_argument(
        '--epochs', type=int, nargs='+', default=[100, 800],
        help='lengths of training to estimate (default: %(default)s)')
    parser.add_argument(
        '--images', type=int, default=118287,
        help='of an epoch (default: those of COCO train2017)')
    parser.add_argument(
        '--interval', type=int, default=100,
        help='epochs between two mask rounds (default: 100)')
    args = parser.parse_args()
    values = measured(args.check) if args.check else {}
    values.update({
        name: getattr(args, name)
        for name in ('step', 'batch', 'pipeline', 'round')
        if getattr(args, name) is not None
    })
    missing = [f'--{name}' for name in ('step', 'batch', 'pipeline')
               if not values.get(name)]
    if missing:
        raise UserError(
            f'{", ".join(missing)} must be given: measure them by '
            f'`{command("benchmarks/step_speed")}` and '
            f'`{command("benchmarks/pipeline_speed")}`, or all at once by '
            f'`{command("benchmarks/gpu_check")}`, whose JSON --check takes')
    if min(args.gpus, values['batch'], *args.epochs, args.images) < 1:
        raise UserError('--gpus, --batch, --epochs and --images must be at '
                        'least 1')
    machine = Machine(gpus=args.gpus, cores=args.cores, **values)
    print(f'{args.images:,} images, {machine.gpus} GPUs with '
          f'{machine.batch} each, {machine.step:g} s per step, '
          f'{machine.pipeline:g} images/s per core, '
          f'{machine.round:g} s per image of a round\n')
    print(table([plan(machine, epochs, args.images, args.interval)
                 for epochs in args.epochs], machine))


if __name__ == '__main__':
    main()
