r"""What ten or a hundred million photographs cost, by pretended ranks.

Run: python tools/benchmarks/scale_simulation.py --num-images 1000000
     python tools/benchmarks/scale_simulation.py --num-images 100000000 \
         --processes 2 --folder DISK --out growth

Writes an index of made-up photographs and a mask round of them, with label
maps of four bytes. For each number of ranks, the rank in the middle starts in
a process of its own, finds its part of the round, and writes a million images
of it. The parts of the largest number of ranks are all written, and published.
Then a process resumes from the round. What is timed is the project's own code;
there is neither an image nor a network. Needs some 120 bytes of disk per
image. See docs/scaling.md.
"""
import argparse
import json
import os
import os.path as osp
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.datasets import MaskBank, SceneDataset
from cyborgs_plugin.datasets.mask_bank import publish_blocks, round_path
from cyborgs_plugin.datasets.mask_blocks import Block, BlockWriter
from cyborgs_plugin.datasets.photo_index import PHOTO, PhotoIndex, write_index
from cyborgs_plugin.datasets.scene_sampler import SceneSampler
from cyborgs_plugin.errors import reported
from cyborgs_plugin.segmentation.groups import KeyedGroups

_PER_SHARD = 10_000
_GROUP = 16
_MOST = 1 << 16  # groups that a rank writes whose round is not published
_LOOKUPS = 10_000
_MAP = np.zeros((1, 2, 2), np.uint8)
_COLUMNS = {
    'index_s': 'write the index, s',
    'index_mb': 'index, MB',
    'start_s': 'start of a rank, s',
    'start_mb': 'its memory, MB',
    'key_us': 'look up a key, us',
    'order_s': 'order of an epoch, s',
    'order_mb': 'its memory, MB',
    'publish_s': 'publish, s',
    'files': 'files',
    'manifest_mb': 'manifest, MB',
    'open_s': 'open the round, s',
    'cover_s': 'covering check, s',
    'map_us': 'look up a map, us',
    'verify_s': 'verify, s',
    'resume_mb': 'memory of the resumed rank, MB',
}
_OF_RANKS = {
    'deal_s': 'find its groups, s',
    'deal_mb': 'memory, MB',
    'images': 'images written',
    'write_s': 'write these, s',
}


class Names(Sequence[bytes]):
    """Keys of made-up photographs, sorted, made when they are asked for."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < self._number:
            raise IndexError(row)
        return b'%06d/%09d.jpg' % (row // _PER_SHARD, row)


def make_index(path: str, number: int) -> dict[str, float]:
    """Write an index of tar files that do not exist."""
    photos = np.zeros(number, PHOTO)
    photos['shard'] = np.arange(number) // _PER_SHARD
    photos['start'], photos['length'] = 512, 100_000
    # As if in a store, since no start looks at these files.
    shards = [(f'{shard:06d}.tar', 1 << 30)
              for shard in range(-(-number // _PER_SHARD))]
    _, seconds, _ = timed(lambda: write_index(
        path, 's3://bucket/photographs', Names(number), photos, shards))
    return dict(index_s=seconds, index_mb=sum(
        entry.stat().st_size for entry in os.scandir(path)) / 1e6)


def private() -> float:
    """Memory that this process has for itself alone, in MB."""
    with open('/proc/self/smaps_rollup', encoding='ascii') as file:
        lines = [line.split() for line in file]
    # A clean page of a file is the page cache's, mapped by one or by many.
    return sum(int(line[1]) for line in lines
               if line[0] == 'Private_Dirty:') * 1024 / 1e6


def timed(make: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, its seconds, and the memory it leaves, in MB."""
    before, begun = private(), time.perf_counter()
    result = make()
    return result, time.perf_counter() - begun, private() - before


def start_rank(path: str) -> dict[str, float]:
    """Open the data as a rank does when it starts."""

    def start() -> SceneDataset:
        scenes = SceneDataset(index=path)
        scenes.full_init()
        return scenes

    scenes, seconds, memory = timed(start)
    images, index = scenes.images(), scenes.index
    rows = np.random.default_rng(0).integers(0, len(images), _LOOKUPS)
    keys = [images[row][0] for row in rows.tolist()]
    found, spent, _ = timed(lambda: [index.row(key) for key in keys])
    if found != rows.tolist():
        raise RuntimeError(f'{path}: a look-up found another photograph')
    order = order_of(scenes)
    return dict(start_s=seconds, start_mb=memory,
                key_us=1e6 * spent / _LOOKUPS, order_s=order[0],
                order_mb=order[1])


def order_of(scenes: SceneDataset) -> tuple[float, float]:
    """Seconds and memory until a sampler gives the first of an epoch."""

    def first() -> Any:
        steps = iter(SceneSampler(scenes, seed=0))
        next(steps)
        return steps  # holds what it needs for the rest

    steps, seconds, memory = timed(first)
    del steps
    return seconds, memory


def write_part(path: str, root: str, rank: int, ranks: int,
               most: int | None = None
               ) -> tuple[dict[str, float], list[Block]]:
    """Find the groups of a rank, and write their label maps."""

    def deal() -> tuple[KeyedGroups, Sequence[int]]:
        groups = KeyedGroups(keys, 0, 0, _GROUP)
        mine = groups.of_rank(rank, ranks)
        if mine:
            groups.members(mine[0])
        return groups, mine

    keys = PhotoIndex(path).keys()
    (groups, mine), dealt, memory = timed(deal)
    begun, count = time.perf_counter(), 0
    writer = BlockWriter(root, 0, groups.salt, rank)
    for group in mine[:most]:
        for index in groups.members(group):
            writer.add(groups.block(group), keys[index], _MAP)
            count += 1
    blocks = writer.close()
    return dict(deal_s=dealt, deal_mb=memory, images=count,
                write_s=time.perf_counter() - begun), blocks


def resume(path: str, root: str) -> dict[str, float]:
    """Open index and round as a resumed rank does, and read label maps."""
    scenes = SceneDataset(index=path)
    images = scenes.images()
    before, begun = private(), time.perf_counter()
    bank = MaskBank(round_path(root, 0))
    opened = time.perf_counter()
    scenes.use_masks(bank)
    covered = time.perf_counter()
    rows = np.random.default_rng(1).integers(0, len(images), _LOOKUPS)
    keys = [images[row][0] for row in rows.tolist()]
    looked = time.perf_counter()
    for key in keys:
        bank.label_map(key)
    read, memory = time.perf_counter(), private() - before
    MaskBank(round_path(root, 0), verify=True)
    return dict(open_s=opened - begun, cover_s=covered - opened,
                map_us=1e6 * (read - looked) / _LOOKUPS, resume_mb=memory,
                verify_s=time.perf_counter() - read)


def alone(call: str, *words: object) -> Any:
    """Run a part in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, '--part', call, *map(str, words)],
        check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


PARTS: dict[str, Callable[..., Any]] = {
    'index': lambda path, number: make_index(path, int(number)),
    'start': start_rank,
    'write': lambda path, root, rank, ranks: write_part(
        path, root, int(rank), int(ranks), _MOST)[0],
    'resume': resume,
}


def simulate(number: int, all_ranks: Sequence[int], processes: int,
             folder: str | None) -> dict[str, Any]:
    """Measure one number of images.

    Args:
        number (int): Of images.
        all_ranks (Sequence[int]): Numbers of ranks; of the largest all write.
        processes (int): Processes that write these parts.
        folder (str, optional): Where to write.

    Returns:
        dict: Of :data:`_COLUMNS` each, and by number of ranks of
        :data:`_OF_RANKS`.
    """
    with tempfile.TemporaryDirectory(dir=folder) as where:
        path, root = osp.join(where, 'index'), osp.join(where, 'masks')
        row: dict[str, Any] = dict(num_images=number)
        row.update(alone('index', path, number))
        row.update(alone('start', path))
        row['ranks'] = {}
        for ranks in sorted(all_ranks)[:-1]:
            parts = osp.join(where, f'of_{ranks}')
            row['ranks'][ranks] = alone('write', path, parts, ranks // 2,
                                        ranks)
            shutil.rmtree(parts)
        ranks = max(all_ranks)
        with ProcessPoolExecutor(processes) as pool:
            written = list(pool.map(
                write_part, [path] * ranks, [root] * ranks, range(ranks),
                [ranks] * ranks))
        row['ranks'][ranks] = written[ranks // 2][0]
        blocks = [block for _, blocks in written for block in blocks]
        index = PhotoIndex(path)
        begun = time.perf_counter()
        publish_blocks(
            root, 0, KeyedGroups(index.keys(), 0, 0, _GROUP).layout(), blocks,
            dict(photographs=index.fingerprint))
        row['publish_s'] = time.perf_counter() - begun
        made = round_path(root, 0)
        row.update(files=len(os.listdir(made)), manifest_mb=osp.getsize(
            osp.join(made, 'manifest.json')) / 1e6)
        row.update(alone('resume', path, root))
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The measurements, in Markdown, a column per number of images."""
    lines = ['| | ' + ' | '.join(f'{row["num_images"]:,}' for row in rows)
             + ' |', '|---' * (1 + len(rows)) + '|']
    lines += [
        f'| {text} | ' + ' | '.join(
            _number(row[name]) for row in rows) + ' |'
        for name, text in _COLUMNS.items()]
    lines += [
        f'| rank {ranks // 2} of {ranks}: {text} | ' + ' | '.join(
            _number(row['ranks'][ranks][name]) for row in rows) + ' |'
        for ranks in rows[0]['ranks'] for name, text in _OF_RANKS.items()]
    return '\n'.join(lines)


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 1000 else f'{value:.3g}'


def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Draw how times and memory grow with the number of images."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    images = [row['num_images'] for row in rows]
    for axis, end, label in zip(axes, ('_s', '_mb'), ('seconds', 'MB')):
        for name, text in _COLUMNS.items():
            if name.endswith(end):
                axis.plot(images, [max(row[name], 1e-4) for row in rows],
                          'o-', label=text.rsplit(',', 1)[0])
        axis.set(xscale='log', yscale='log', xlabel='photographs',
                 ylabel=label)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='What millions of photographs cost, by pretended ranks')
    parser.add_argument(
        '--num-images', type=at_least(1), nargs='+',
        default=[1_000_000, 10_000_000],
        help='photographs (default: 1000000 10000000)')
    parser.add_argument(
        '--ranks', type=at_least(1), nargs='+', default=[1, 64, 512],
        help='pretended ranks (default: 1 64 512)')
    parser.add_argument(
        '--processes', type=at_least(1), default=1,
        help='that write the parts of the most ranks (default: %(default)s)')
    parser.add_argument(
        '--folder', help='where to write (default: that of temporary files)')
    parser.add_argument(
        '--out', metavar='NAME', help='also write NAME.json and NAME.svg')
    parser.add_argument(
        '--part', nargs='+', help=argparse.SUPPRESS)
    return parser.parse_args()


@reported()
def main() -> None:
    """Print a table, with a column for each number of images."""
    args = parse_args()
    if args.part:
        call, *words = args.part
        print(json.dumps(PARTS[call](*words)))
        return
    rows = []
    for number in args.num_images:
        rows.append(simulate(number, args.ranks, args.processes, args.folder))
        print(f'{number:,} photographs are done', flush=True)
        if args.out:
            with open(f'{args.out}.json', 'w', encoding='utf-8') as file:
                json.dump(rows, file, indent=1)
            plot(rows, f'{args.out}.svg')
    print(table(rows))
    if args.out:
        print(f'Written: {args.out}.json and {args.out}.svg')


if __name__ == '__main__':
    main()
