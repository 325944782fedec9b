"""Take the backbone out of a training checkpoint.

Run: python tools/model_converters/publish_backbone.py CHECKPOINT

The file holds ``state_dict`` with the toolbox's own ResNet names and no
prefix, so that mmdet and mmpretrain load it by ``init_cfg=dict(
type='Pretrained', checkpoint=FILE)``, and ``meta`` on how it was made.
"""
import argparse
import hashlib
import os
import os.path as osp
import pickle
import zipfile
from types import SimpleNamespace
from typing import Any, Dict

import torch

from cyborgs_plugin.version import __version__

PREFIXES = dict(online='backbone.', target='target_net.module.0.')


class _Inert:
    """Stands for an object of the log that is not needed: does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_Inert':
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> '_Inert':
        return self

    def __setstate__(self, state: Any) -> None:
        pass


class _LogSkipper(pickle.Unpickler):
    """Reads tensors and plain containers; runs no code of the file.

    mmengine's log buffers, numpy's scalars and what they are made with become
    inert objects. Any other name is refused.
    """

    ALLOWED = {('collections', 'OrderedDict'),
               ('torch._utils', '_rebuild_tensor_v2'),
               ('torch._utils', '_rebuild_parameter')}
    HARMLESS = {('_codecs', 'encode'), ('builtins', 'getattr'),
                ('__builtin__', 'getattr'), ('collections', 'deque'),
                ('collections', 'defaultdict')}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED or (
                module == 'torch' and name.endswith('Storage')):
            return super().find_class(module, name)
        if module.split('.')[0] in ('mmengine', 'numpy') or (
                module, name) in self.HARMLESS:
            return _Inert
        raise pickle.UnpicklingError(
            f'it asks for {module}.{name}, which no checkpoint of weights '
            'needs and which could run any code')


def read_checkpoint(path: str) -> Dict[str, Any]:
    """Read a checkpoint without running code that it may hold.

    Raises:
        SystemExit: If the file is missing, damaged, or asks for code.
    """
    if not osp.isfile(path):
        raise SystemExit(f'{path}: no such file')
    if not zipfile.is_zipfile(path):
        raise SystemExit(f'{path} is truncated or not written by torch.save '
                         f'of torch >= 1.6 ({osp.getsize(path)} bytes): copy '
                         'it again, or take an earlier checkpoint')
    try:
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            # mmengine's training checkpoints hold its log as objects
            return torch.load(
                path,
                map_location='cpu',
                weights_only=False,
                pickle_module=SimpleNamespace(  # type: ignore[arg-type]
                    Unpickler=_LogSkipper,
                    load=pickle.load,
                    __name__='log_skipper'))
    except pickle.UnpicklingError as error:
        raise SystemExit(f'{path} is refused: {error}. If it is yours, save '
                         'its state_dict alone with torch.save') from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise SystemExit(f'{path} is damaged ({error}): copy it again, or '
                         'take an earlier checkpoint') from error


def backbone_of(checkpoint: Dict[str, Any], path: str,
                network: str) -> Dict[str, torch.Tensor]:
    """The tensors of one network's backbone, without their prefix.

    Raises:
        SystemExit: If there are none; names the prefixes that there are.
    """
    state = checkpoint.get('state_dict', checkpoint)
    prefix = PREFIXES[network]
    tensors = {
        key[len(prefix):]: value.clone()
        for key, value in state.items() if key.startswith(prefix)
    }
    if not tensors:
        found = sorted({str(key).split('.')[0] for key in state})
        raise SystemExit(
            f'{path} holds no keys that begin with {prefix!r}, but such as '
            f'begin with {found[:10]}: give a checkpoint of tools/train.py '
            'on a CYBORGS config')
    return tensors


def main() -> None:
    """Write the file and say how to use it."""
    parser = argparse.ArgumentParser(
        description='Take the backbone out of a training checkpoint')
    parser.add_argument('checkpoint', help='checkpoint of tools/train.py')
    parser.add_argument(
        '--out-dir', help="folder of the file; by default the checkpoint's")
    parser.add_argument(
        '--network',
        choices=list(PREFIXES),
        default='online',
        help='online, as the paper transfers, or its moving average')
    parser.add_argument(
        '--safetensors',
        action='store_true',
        help='also write the tensors as .safetensors')
    args = parser.parse_args()
    path = args.checkpoint
    checkpoint = read_checkpoint(path)
    tensors = backbone_of(checkpoint, path, args.network)
    meta, hub = checkpoint.get('meta', {}), checkpoint.get('message_hub', {})
    with open(path, 'rb') as file:
        source_hash = hashlib.sha256(file.read()).hexdigest()
    made = dict(
        source=osp.basename(path),
        source_sha256=source_hash,
        network=args.network,
        epoch=meta.get('epoch'),
        iter=meta.get('iter'),
        mask_round=hub.get('runtime_info', {}).get('mask_round'),
        cyborgs_plugin=__version__)

    folder = args.out_dir or osp.dirname(path)
    os.makedirs(folder, exist_ok=True)
    stem = osp.splitext(osp.basename(path))[0] + f'_{args.network}-backbone'
    partial = osp.join(folder, f'.{stem}.partial')
    torch.save(dict(state_dict=tensors, meta=made), partial)
    with open(partial, 'rb') as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:8]
    final = osp.join(folder, f'{stem}-{digest}.pth')
    os.replace(partial, final)
    print(f'Wrote {final}: {len(tensors)} tensors, {made}')
    if args.safetensors:
        from safetensors.torch import save_file
        plain = {k: v.contiguous() for k, v in tensors.items()}
        name = final.replace('.pth', '.safetensors')
        save_file(plain, name, {k: str(v) for k, v in made.items()})
        print(f'Wrote {name}')
    print("Use it in mmdet or mmpretrain: model.backbone.init_cfg=dict(type="
          f"'Pretrained', checkpoint={final!r})")


if __name__ == '__main__':
    main()
