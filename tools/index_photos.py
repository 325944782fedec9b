"""Write an index of photographs, which a training maps in place of listing.

Run: cyborgs index-photos PHOTOS --out photos.index

PHOTOS is a folder of photographs, or one of tar files (WebDataset's layout),
searched with its subfolders; or tar files, also those of a store by their URLs
(http, s3, gs) or by the URL that they lie below. A training takes the index as
train_dataloader.dataset.index=photos.index (docs/data.md).
"""
import argparse
import os.path as osp

from cyborgs_plugin.datasets.far_shards import find_far, is_far
from cyborgs_plugin.datasets.image_files import find_files, images_of
from cyborgs_plugin.datasets.index_making import index_folder, index_shards
from cyborgs_plugin.datasets.photo_index import PhotoIndex
from cyborgs_plugin.datasets.scene_dataset import endings_of
from cyborgs_plugin.errors import UserError, reported


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='cyborgs index-photos',
        description='Write an index of photographs, which a training maps in '
        'place of listing folders')
    parser.add_argument(
        'photographs', nargs='+', metavar='PHOTOS',
        help='folder of photographs or of tar files, or the tar files')
    parser.add_argument(
        '--out', required=True, metavar='INDEX',
        help='folder of the index; an index that is there is replaced')
    parser.add_argument(
        '--extensions', metavar='ENDINGS',
        help='endings of photographs, such as .jpg,.png (default: as '
        'docs/data.md has it; in tar files only by their endings)')
    parser.add_argument(
        '--no-sizes', action='store_true',
        help='do not read the header of each photograph for its size in '
        'pixels')
    parser.add_argument(
        '--shard-in-key', action='store_true',
        help='begin keys with the name of the tar file, for tar files that '
        'use the same names')
    return parser.parse_args()


@reported()
def main() -> None:
    """Find the photographs, and write the index."""
    args = parse_args()
    extensions = args.extensions and endings_of(args.extensions)
    shards = find_shards(args.photographs)
    if shards:
        index = index_shards(shards, args.out, extensions, not args.no_sizes,
                             args.shard_in_key, args.photographs)
    else:
        index = index_folder(args.photographs[0], args.out, extensions,
                             not args.no_sizes)
    print(describe(index, args.out))


def find_shards(given: list[str]) -> list[str]:
    """The tar files that the command line names; none for a folder of photos.

    Raises:
        UserError: If it names several folders, one that holds photographs
            and tar files, or a URL without tar files below it.
    """
    if all(path.endswith('.tar') and not osp.isdir(path) for path in given):
        return given
    if len(given) == 1 and is_far(given[0]):
        found = find_far(given[0])
        if not found:
            raise UserError(
                f'{given[0]} holds no tar files: photographs of a store are '
                'read from tar files. Name these (.tar) one by one if the '
                'store cannot list them')
        return found
    if len(given) > 1:
        raise UserError(
            'PHOTOS must be one folder, or tar files (.tar), but is '
            f'{given}: make an index for each folder')
    folder = given[0]
    if not osp.isdir(folder):
        raise UserError(f'{folder} is neither a folder nor a tar file (.tar) '
                        'of photographs')
    files = find_files(folder).files
    shards = sorted(name for name in files if name.endswith('.tar'))
    if shards and images_of(folder, files, None, False):
        raise UserError(
            f'{folder} holds photographs and tar files, such as {shards[0]}: '
            'name the tar files themselves, or move them out')
    return [osp.join(folder, name) for name in shards]


def describe(index: PhotoIndex, path: str) -> str:
    """What was found, in two lines."""
    known = int(index.sizes.any(1).sum())
    within = (f' in {len(index.shards)} tar files' if index.shards else '')
    return (
        f'{path}: {len(index)} photographs{within} of {index.root}, '
        f'{int(index.lengths.sum())} bytes; size in pixels of {known}\n'
        'Train with --cfg-options train_dataloader.dataset.index='
        f'{osp.abspath(path)}')


if __name__ == '__main__':
    main()
