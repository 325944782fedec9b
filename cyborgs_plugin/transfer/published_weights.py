"""Backbones from checkpoints that others have published.

These are read:

- the CYBORGS authors' checkpoints: torchvision's names after ``net.`` or
  ``module.net.``, along with ``online_encoder.*`` and ``target_encoder.*``;
- torchvision's names alone, also after ``module.`` or ``backbone.``;
- DetCon's ``.npy`` (haiku's names), and the same as ``.npz``.

No code in the file is run: ``.pth`` is read with ``weights_only=True``, and
only numpy arrays and plain containers are read from a pickled ``.npy``.
"""
import io
import os.path as osp
import pickle
import re
from typing import Any, BinaryIO

import numpy as np
import torch

from ..errors import MissingFileError, UserError
from ..safe_load import (
    KnotError,
    Tensors,
    check_nesting,
    load_weights,
    one_line,
    plain_dtype,
    tensors_of,
)
from .backbone_file import find_arch

PREFIXES = dict(
    online=('net.', 'module.net.', 'online_encoder.net.',
            'module.online_encoder.net.', 'backbone.', 'module.', ''),
    target=('target_encoder.net.', 'module.target_encoder.net.',
            'target_net.module.0.'))
# haiku's ResNet, after the network's own name
HAIKU = re.compile(
    r'(?P<network>.*?)(?:^|/)(?:initial_(?P<stem>conv|batchnorm)|'
    r'block_group_(?P<group>\d)/~/block_(?P<block>\d+)/~/'
    r'(?P<layer>conv|batchnorm|shortcut_conv|shortcut_batchnorm)'
    r'(?:_(?P<number>\d))?)'
    r'(?:/~/(?P<ema>mean|var)_ema)?/(?P<leaf>w|scale|offset|average)$')
RESAVE = (
    'Save it again where you trust it, as plain arrays: import numpy as np, '
    'jax; d = np.load(FILE, allow_pickle=True).item(); flat = '
    'jax.tree_util.tree_flatten_with_path(d)[0]; '
    "np.savez('detcon.npz', **{'/'.join(str(p.key) for p in path): "
    'np.asarray(v) for path, v in flat})')


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy arrays and plain containers; refuses any other name."""

    ALLOWED = {('numpy', 'ndarray'), ('collections', 'OrderedDict')}
    NUMPY = {'_reconstruct', 'scalar', '_frombuffer'}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED or (module.startswith(
            ('numpy.core.', 'numpy._core.')) and name in self.NUMPY):
            if np.lib.NumpyVersion(np.__version__) >= '2.0.0':
                module = module.replace('numpy.core.', 'numpy._core.')
            return super().find_class(module, name)
        if (module, name) == ('_codecs', 'encode'):  # bytes of old pickles
            return _encode
        if (module, name) == ('numpy', 'dtype'):
            return plain_dtype
        raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def _encode(text: str, encoding: str = 'utf-8') -> bytes:
    return text.encode('latin1' if encoding == 'latin1' else 'utf-8')


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """Read all arrays of a ``.npy`` or ``.npz`` file, without running code.

    Args:
        path (str): An ``.npz`` of plain arrays, or an ``.npy`` with pickled
            nested dicts of arrays.

    Returns:
        dict[str, np.ndarray]: By their path in the nested dicts, with ``/``.

    Raises:
        UserError: If the file is missing or damaged, or holds anything but
            arrays.
    """
    if not osp.isfile(path):
        raise MissingFileError(f'{path}: no such file')
    try:
        if path.endswith('.npz'):
            with np.load(path, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        with open(path, 'rb') as file:
            content = _read_object(file)
    except KnotError as error:
        raise UserError(f'{path} is refused: {error}') from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f'{path} is refused: a pickle runs the code that it names, and '
            f'{error}, not for numpy arrays alone. {RESAVE}') from error
    except Exception as error:  # a hostile file may raise any
        raise UserError(f'{path} is damaged or no file of numpy '
                        f'({one_line(error)}): copy it again') from error
    arrays: dict[str, np.ndarray] = {}

    def visit(node: Any, place: str) -> None:
        if isinstance(node, np.ndarray) and node.shape == () and (
                node.dtype == object):
            node = node.item()
        if isinstance(node, dict):
            for key, value in node.items():
                visit(value, f'{place}/{key}' if place else str(key))
        elif isinstance(node, (list, tuple)):
            for number, value in enumerate(node):
                visit(value, f'{place}/{number}' if place else str(number))
        elif isinstance(node, np.ndarray):
            arrays[place] = node

    visit(content, '')
    return arrays


def _read_object(file: BinaryIO) -> Any:
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0) else np.lib.format.read_array_header_2_0)
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        raise ValueError(f'it holds one array of shape {shape}, but weights '
                         'are many')
    pickled = file.read()
    check_nesting(io.BytesIO(pickled))
    return _ArraysOnly(io.BytesIO(pickled)).load()


def from_haiku(arrays: dict[str, np.ndarray], path: str,
               network: str) -> Tensors:
    """Rename and transpose the arrays of haiku's ResNet.

    Args:
        arrays (dict[str, np.ndarray]): By haiku's names. Kernels are (h, w,
            in, out).
        path (str): The file, for messages.
        network (str): Which one, if there are ``online`` and ``target``.

    Returns:
        Tensors: By the toolbox's names.

    Raises:
        UserError: If there is no ResNet, or more than one.
    """
    groups: dict[str, Tensors] = {}
    for key, array in arrays.items():
        match = HAIKU.match(key)
        if match is None:
            continue
        # parameters and averages are in separate branches
        name = '/'.join(
            part for part in match['network'].split('/')
            if not re.match(r'\d*$|(online_|target_)?(params|state)$|~$',
                            part)) + _which(key)
        group = groups.setdefault(name, {})
        group[_toolbox_name(match)] = _tensor(array, match['leaf'])
    wanted = [name for name in groups if name.endswith(f'#{network}')] or [
        name for name in groups if '#' not in name and network == 'online'
    ]
    if len(wanted) != 1:
        raise UserError(
            f'{path} holds {len(wanted)} {network} ResNets of haiku '
            f'({sorted(groups)}), but one was expected; its arrays are such '
            f'as {sorted(arrays)[:6]}')
    return groups[wanted[0]]


def _which(key: str) -> str:
    for network in ('online', 'target'):
        if network in key:
            return f'#{network}'
    return ''


def _toolbox_name(match: 're.Match[str]') -> str:
    leaf = dict(
        w='weight',
        scale='weight',
        offset='bias',
        average=f'running_{match["ema"]}')[match['leaf']]
    if match['stem']:
        layer = 'conv1' if match['stem'] == 'conv' else 'bn1'
        return f'{layer}.{leaf}'
    layer = dict(
        shortcut_conv='downsample.0', shortcut_batchnorm='downsample.1').get(
            match['layer'],
            ('conv' if match['layer'] == 'conv' else 'bn') +
            str(int(match['number'] or 0) + 1))
    return f'layer{int(match["group"]) + 1}.{match["block"]}.{layer}.{leaf}'


def _tensor(array: np.ndarray, leaf: str) -> torch.Tensor:
    array = np.asarray(array, dtype=np.float32)
    array = array.transpose(3, 2, 0, 1) if leaf == 'w' else array.reshape(-1)
    return torch.from_numpy(np.ascontiguousarray(array))


def from_torch(checkpoint: dict[str, Any], path: str,
               network: str) -> Tensors:
    """Remove the prefix, if any, from torchvision's names.

    Args:
        checkpoint (dict): Content of the file.
        path (str): The file, for messages.
        network (str): ``online`` or ``target``.

    Returns:
        Tensors: By the toolbox's names, which are the same.

    Raises:
        UserError: If there is no ResNet; the message names the existing
            prefixes.
    """
    if 'state_dict' not in checkpoint and isinstance(
            checkpoint.get('model'), dict):
        checkpoint = checkpoint['model']
    state = tensors_of(checkpoint, path)
    for prefix in PREFIXES[network]:
        tensors = {
            key[len(prefix):]: value.detach().clone()
            for key, value in state.items() if key.startswith(prefix)
            and re.match(r'(conv1|bn1|layer\d)\.', key[len(prefix):])
        }
        if find_arch(tensors):
            return _with_counts(tensors)
    found: list[str] = sorted({
        '.'.join(str(key).split('.')[:2])
        for key in state
    })
    raise UserError(
        f'{path} holds no {network} ResNet with the names of torchvision '
        f'after one of {list(PREFIXES[network])}; its keys begin with '
        f'{found[:12]}')


def _with_counts(tensors: Tensors) -> Tensors:
    """Add the counts of batches, which some checkpoints leave out."""
    for key in list(tensors):
        if key.endswith('running_mean'):
            tensors.setdefault(
                key.replace('running_mean', 'num_batches_tracked'),
                torch.tensor(0))
    return tensors


def read_published(path: str, network: str) -> Tensors:
    """Read the backbone from a checkpoint of others.

    Args:
        path (str): A ``.pth``, ``.npy`` or ``.npz`` file.
        network (str): ``online`` or ``target``.

    Returns:
        Tensors: By the toolbox's names.

    Raises:
        UserError: If the file is damaged, asks for code, or holds no ResNet
            that the toolbox has.
    """
    if path.endswith(('.npy', '.npz')):
        tensors = _with_counts(from_haiku(read_arrays(path), path, network))
    else:
        checkpoint = load_weights(path)
        meta = checkpoint.get('meta')
        if isinstance(meta, dict) and 'source_sha256' in meta:
            raise UserError(f'{path} is a file of this package already')
        tensors = from_torch(checkpoint, path, network)
    if find_arch(tensors) is None:
        raise UserError(f'{path} holds a network that is no ResNet-18, -34, '
                        '-50, -101 or -152: the toolbox has no class for it')
    return tensors
