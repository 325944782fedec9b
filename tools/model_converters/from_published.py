"""Import the backbone of a checkpoint that others have published.

Run: python tools/model_converters/from_published.py CHECKPOINT

Takes the CYBORGS authors' checkpoints, torchvision's, and DetCon's ``.npy``
or ``.npz``; see cyborgs_plugin/transfer/published_weights.py. No code of the
file runs.
"""
import argparse
import os.path as osp

from cyborgs_plugin.errors import reported
from cyborgs_plugin.files import sha256
from cyborgs_plugin.transfer.backbone_file import find_arch, write_backbone
from cyborgs_plugin.transfer.published_weights import PREFIXES, read_published
from cyborgs_plugin.version import __version__


@reported()
def main() -> None:
    """Import and write as publish_backbone.py does."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoint', help='.pth, .npy or .npz')
    parser.add_argument(
        '--out-dir', help="folder of the files (default: the checkpoint's)")
    parser.add_argument(
        '--network',
        choices=list(PREFIXES),
        default='online',
        help='online, as in the paper, or target, its moving average')
    args = parser.parse_args()
    path = args.checkpoint
    tensors = read_published(path, args.network)
    made = dict(
        source=osp.basename(path),
        source_sha256=sha256(path),
        network=args.network,
        cyborgs_plugin=__version__)
    stem = osp.splitext(osp.basename(path))[0] + f'_{args.network}-backbone'
    files = write_backbone(tensors, made,
                           args.out_dir or osp.dirname(path), stem)
    print(f'Wrote {files[0]} and {osp.basename(files[1])}: '
          f'{find_arch(tensors)}, {len(tensors)} tensors')


if __name__ == '__main__':
    main()
