"""Make the embedded data set.

Run: python tools/dataset_converters/make_toy_scenes.py
"""
import argparse

from mmengine.utils import track_iter_progress

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.commands import command
from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
from cyborgs_plugin.errors import UserError, reported


@reported()
def main() -> None:
    """Make the scenes and say what was written."""
    parser = argparse.ArgumentParser(description='Make the toy scenes')
    parser.add_argument('--out', default='data/toy_scenes', help='folder')
    parser.add_argument(
        '--seed', type=at_least(0), default=0,
        help='of the scenes (default: %(default)s)')
    parser.add_argument(
        '--num-train', type=at_least(0), default=320,
        help='training scenes (default: %(default)s)')
    parser.add_argument(
        '--num-val', type=at_least(0), default=60,
        help='validation scenes (default: %(default)s)')
    parser.add_argument(
        '--flat', action='store_true', help='one colour for each object')
    args = parser.parse_args()
    try:
        made = make_toy_scenes(
            args.out,
            args.seed,
            args.num_train,
            args.num_val,
            flat=args.flat,
            track=track_iter_progress)
    except (FileExistsError, FileNotFoundError) as error:
        raise UserError(str(error)) from error
    if made:
        print(f'\nWrote {args.out}: '
              + ', '.join(f'{count} {name}' for name, count in made.items()))
    else:
        print(f'{args.out} holds these scenes already')
    inside = command('train').startswith('python tools')
    config = f'{"configs/" if inside else "cyborgs_plugin::"}cyborgs_toy.py'
    data = [] if args.out == parser.get_default('out') else [
        '--cfg-options', f'data_root={args.out.rstrip("/")}/'
    ]
    print('Next: ' + command('train', config, *data))


if __name__ == '__main__':
    main()
