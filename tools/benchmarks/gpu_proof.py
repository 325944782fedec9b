r"""CYBORGS and its baselines in minutes of one GPU, seeds and all.

Run: python tools/benchmarks/gpu_proof.py train --minutes 8 \
         --data-root data/coco_mini --out proof --work-dir proof_runs
     python tools/benchmarks/gpu_proof.py score proof

`train` times a step of each method, plans as many steps as the minutes allow,
the same number for each run, and trains several at a time where that is
faster. The photographs lie on the device. Idle cores score the last network of
each run (with --growth, those after each third) by the masks and frozen probes
of mini_coco.py. Each result is written as it comes, so that an interrupted
proof keeps what it has. The same command resumes; with other --methods or
more --seeds, it adds runs of as many steps. `score` needs neither a GPU nor,
for what is scored already, the data: it compares the methods seed by seed and
draws how scores grow with the pictures seen.
"""
import argparse
import os
import os.path as osp
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import gpu_proof_work as work
import mini_coco_report as report
import torch
from gpu_proof_plan import (
    Plan,
    RunSpeed,
    Speed,
    make_plan,
    paired_table,
    runs_of,
)
from mini_coco_train import METHODS as TRAINED
from mini_coco_train import ON_DEMAND, read, write

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.commands import command
from cyborgs_plugin.errors import UserError, reported

METHODS = ('cyborgs', 'detcon-fh', 'byol', 'densecl')
_TIMED = 12  # batches that a method's speed is measured by
_WARM = 2  # batches of the first runs, which are forgotten
_WHOLE = Plan(1, 1, [])
"""Of which only the images matter: all of them."""
_FREE = ('minutes', 'out', 'command', 'methods', 'seeds', 'at_once')
"""What a proof may be resumed with another value of."""
_MOST = 4  # runs that are tried at a time
_SPARE = 0.9
"""Part of the time that is planned for."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    train = commands.add_parser('train', help='train, and score as far as '
                                'the minutes allow')
    train.add_argument(
        '--data-root', required=True, help='data laid out like COCO')
    train.add_argument('--out', required=True, help='folder of the results')
    train.add_argument(
        '--work-dir', help='folder of the runs, which take gigabytes '
        '(default: OUT_runs)')
    train.add_argument(
        '--minutes', type=float, default=8.,
        help='for everything (default: %(default)s)')
    train.add_argument(
        '--methods', nargs='+', choices=[
            *TRAINED, *(name for name in ON_DEMAND if name != 'start')],
        default=[*METHODS],
        help=f'default: {" ".join(METHODS)}; distill needs TEACHER=FILE '
        'before the command, continue needs START=FILE, whose weights are '
        'scored as well')
    train.add_argument(
        '--seeds', type=at_least(1), default=3, help='of each (default: 3)')
    train.add_argument(
        '--phases', type=at_least(1), default=6,
        help='mask rounds of CYBORGS (default: 6)')
    train.add_argument(
        '--max-epochs', type=at_least(1),
        help='of a run (default: as many as fit)')
    train.add_argument(
        '--view-size', type=at_least(32), default=96,
        help='pixels on each side of a view (default: %(default)s)')
    train.add_argument(
        '--batch-size', type=at_least(2), default=32,
        help='images per step of a run (default: %(default)s)')
    train.add_argument(
        '--depth', type=int, choices=(18, 50), default=18,
        help='of the ResNet (default: %(default)s)')
    train.add_argument('--max-images', type=at_least(1), help='to train on')
    train.add_argument(
        '--max-eval-images', type=at_least(1),
        help='on each side of the probes (default: all)')
    train.add_argument(
        '--device', choices=('cuda', 'cpu'), default='cuda',
        help='to train and score on (default: %(default)s)')
    train.add_argument(
        '--at-once', type=at_least(1),
        help='runs at a time (default: measured)')
    train.add_argument(
        '--growth', action='store_true',
        help='score after each third of a run, which takes three times as '
        'long')
    train.add_argument(
        '--amp', action='store_true',
        help='train in mixed precision')
    score = commands.add_parser('score', help='compare what is scored')
    score.add_argument('folder', help='what train has written')
    return parser.parse_args()


class Proof:
    """Runs that share a device and an amount of time.

    Args:
        args (argparse.Namespace): The command line of ``train``.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.end = time.monotonic() + 60 * args.minutes
        self.results: dict[str, Any] = {}
        cores = os.cpu_count() or 1
        self.most = args.at_once or (
            1 if args.device == 'cpu' else
            min(_MOST, args.seeds * len(args.methods)))
        if args.device == 'cpu':
            os.environ['CUDA_VISIBLE_DEVICES'] = ''
        os.makedirs(args.work_dir, exist_ok=True)
        self.trainers = self._pool(self.most, True)
        self.scorers = self._pool(max(1, cores - self.most), False)

    def _pool(self, number: int, trains: bool) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            number, get_context('spawn'), work.begin,
            (self.args.work_dir, trains))

    def remaining(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def run(self) -> None:
        """Measure, plan, train and score; write after each run."""
        plan = self.plan()
        print(plan.said(self.args.batch_size), flush=True)
        self.train(plan, self.felzenszwalb())

    def plan(self) -> Plan:
        """Plan by measurement, or keep what was planned before."""
        path = osp.join(self.args.work_dir, 'plan.json')
        args = self.args
        asked = {name: value for name, value in vars(args).items()
                 if name not in _FREE}
        known = read(path)
        if known is None:
            speed = self.measure()
            self.felzenszwalb()
            plan = make_plan(
                speed,
                args.methods,
                args.seeds,
                _SPARE * self.remaining() - speed.score,
                args.phases,
                args.max_epochs)
            write(path, dict(asked=asked, plan=plan._asdict()))
        elif known['asked'] != asked:
            raise UserError(
                f'{args.work_dir} holds runs of {known["asked"]}, but '
                f'asked is {asked}: give another --work-dir, or delete it')
        else:
            plan = Plan(**known['plan'])
            methods, seeds = zip(*plan.runs)
            args.methods = [*dict.fromkeys([*methods, *args.methods])]
            args.seeds = max(args.seeds, 1 + max(seeds))
            plan = plan._replace(
                runs=runs_of(args.methods, args.seeds),
                at_once=args.at_once or plan.at_once,
                seconds=0.)
            write(path, dict(asked=asked, plan=plan._asdict()))
        if plan.at_once < self.most:
            self.trainers.shutdown()
            self.trainers = self._pool(plan.at_once, True)
        return plan

    def settings(self, plan: Plan | None = None, name: str = '',
                 batches: int = _TIMED) -> work.Settings:
        """What a process is told: the plan's budget, or a short run's."""
        args = self.args
        timed = args.batch_size * batches
        images = min(args.max_images or timed, timed)
        return work.Settings(
            data_root=args.data_root,
            folder=osp.join(args.work_dir, name),
            steps=plan.steps if plan else batches,
            phases=plan.phases if plan else 1,
            view_size=args.view_size,
            batch_size=args.batch_size,
            depth=args.depth,
            max_images=args.max_images if plan else images,
            max_eval_images=args.max_eval_images,
            amp=args.amp,
            growth=args.growth)

    def measure(self) -> Speed:
        """Time steps and a mask round, alone and several at a time."""
        kinds = list(dict.fromkeys(  # steps are alike with other masks
            'cyborgs' if method == 'detcon-fh' else method
            for method in self.args.methods))

        number = max(len(kinds), self.most)
        shared = [kinds[i % len(kinds)] for i in range(number)]

        def timed(name: str, kinds: list[str], pool: Executor,
                  batches: int = _TIMED) -> dict[str, RunSpeed]:
            futures = [
                pool.submit(
                    work.time_run,
                    self.settings(None, f'{name}_{kind}_{i}', batches), kind)
                for i, kind in enumerate(kinds)
            ]
            return {
                kind: future.result()
                for kind, future in zip(kinds, futures)
            }

        score = self.scorers.submit(
            work.time_score, self.settings(name='score'))
        if self.args.device == 'cuda':  # what the device compiles
            timed('warm', shared, self.trainers, _WARM)
        found, at_once = timed('together', shared, self.trainers), self.most
        if not self.args.at_once and self.most > 1:
            one = self._pool(1, True)
            timed('first', kinds[:1], one, _WARM)
            alone = timed('alone', kinds, one)
            if sum(cost.step for cost in found.values()) > self.most * sum(
                    cost.step for cost in alone.values()):
                found, at_once = alone, 1
            one.shutdown()
        if 'detcon-fh' in self.args.methods:
            found['detcon-fh'] = found['cyborgs']._replace(image=0.)
        batches, images = work.sizes(self.settings(_WHOLE))
        networks = min(3, self.args.phases) if self.args.growth else 1
        return Speed(
            found, batches, images, at_once, networks * score.result())

    def felzenszwalb(self) -> dict[str, str]:
        """Make DetCon's masks once for all seeds, on all cores."""
        if 'detcon-fh' not in self.args.methods:
            return {}
        root = osp.join(self.args.work_dir, 'felzenszwalb')
        settings = self.settings(_WHOLE)
        bank = osp.join(root, 'round_0000')
        if not osp.isdir(bank):
            bank = work.felzenszwalb(settings, root, self.scorers)
        return {'detcon-fh': bank}

    def train(self, plan: Plan, banks: dict[str, str]) -> None:
        """Train and score the plan's runs until the time is over."""
        settings = self.settings(plan, 'runs')
        self.results = work.about(settings, plan, self.args)
        floors = self.scorers.submit(work.floors, settings)
        waiting: dict[Future, tuple[str, int, Any]] = {}
        for method, seed in plan.runs:
            waiting[self.trainers.submit(
                work.train, settings, method, seed, banks.get(method))] = (
                    method, seed, None)
        # where all of them begin
        begins = [('random', seed) for seed in range(self.args.seeds)]
        if 'continue' in self.args.methods:
            begins.append(('start', 0))
        for method, seed in begins:
            waiting[self.scorers.submit(
                work.train, settings, method, seed)] = (method, seed, None)
        for future in self._as_completed([floors, *waiting], waiting):
            if future is floors:
                self.results['floors'] = future.result()
                continue
            method, seed, run = waiting.pop(future)
            if run is None:
                run = future.result()
                waiting[self.scorers.submit(
                    work.score, settings, method, seed, run)] = (
                        method, seed, run)
                print(f'{self.remaining():4.0f} s left: trained '
                      f'{method}_s{seed} in {run["seconds"]:.0f} s',
                      flush=True)
                continue
            self._keep(method, seed, run, future.result())
        left = [f'{method}_s{seed}' for method, seed, _ in waiting.values()]
        if left:
            print(f'Time is up; not done: {", ".join(left)}. The same '
                  'command continues with them')

    def _keep(self, method: str, seed: int, run: dict[str, Any],
              points: dict[str, Any]) -> None:
        """Write what a run has given."""
        self.results['runs'][f'{method}_s{seed}'] = dict(
            method=method, seed=seed, points=points,
            loss=report.read_log(run['folder'], ('loss', 'step')),
            rounds=report.read_log(run['folder'], ('masks/mBO', 'step')),
            **{name: run[name] for name in ('epochs', 'steps', 'seconds')})
        os.makedirs(self.args.out, exist_ok=True)
        write(osp.join(self.args.out, 'results.json'), self.results)

    def _as_completed(self, futures: list[Future],
                      waiting: dict[Future, Any]) -> Iterator[Future]:
        """Futures as they end, until the time does; others may come."""
        seen: set[Future] = set()
        while True:
            pending = ({*futures, *waiting}) - seen
            if not pending or self.remaining() <= 0:
                return
            done, _ = wait(pending, timeout=max(0, self.remaining()),
                           return_when=FIRST_COMPLETED)
            seen |= done
            yield from done

    def close(self) -> None:
        """End all processes, whatever they do."""
        for pool in (self.trainers, self.scorers):
            running = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.kill()


def score(folder: str) -> None:
    """Compare the methods of a proof; write tables and plots."""
    results = read(osp.join(folder, 'results.json'))
    if not results or not results['runs']:
        raise UserError(
            f'{osp.join(folder, "results.json")} has no scored run: give the '
            'folder that `gpu_proof.py train` has written to (--out)')
    if 'floors' not in results:
        raise UserError(
            f'{osp.join(folder, "results.json")} was written by an earlier '
            'version, without the floor of superpixels: give the `train` '
            'command again, which keeps finished runs, or delete --work-dir')
    paired = paired_table(results)
    results['paired'] = paired.differences
    results['bars'] = report.bars(results)
    write(osp.join(folder, 'results.json'), results)
    files = report.write(results, folder)
    with open(osp.join(folder, 'paired.md'), 'w', encoding='utf-8') as file:
        file.write(paired.text + '\n')
    print('\n'.join(['', report.table(results), '', paired.text, '',
                     *files, osp.join(folder, 'paired.md')]))


@reported()
def main() -> None:
    """Train and score, or score what is trained."""
    args = parse_args()
    if args.command == 'score':
        score(args.folder)
        return
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('There is no CUDA GPU here: give --device cpu, which '
                        'trains far less in the same minutes')
    args.work_dir = args.work_dir or args.out.rstrip('/') + '_runs'
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    proof = Proof(args)
    try:
        proof.run()
    finally:
        proof.close()
    if not proof.results.get('runs'):
        raise UserError(f'{args.minutes:g} minutes were too few to finish a '
                        'run: give more, fewer --methods or --seeds 1')
    score(args.out)
    print(f'Next: {command("benchmarks/gpu_proof", "score", args.out)}, '
          'anywhere')


if __name__ == '__main__':
    main()
