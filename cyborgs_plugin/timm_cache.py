"""Weights that timm has already downloaded to this machine, by model name."""
import os.path as osp
from urllib.parse import urlparse

from torch.hub import get_dir

from .errors import MissingFileError, UserError

PREFIX = 'timm:'
_HUB_FILES = ('model.safetensors', 'pytorch_model.bin')


def find_cached(name: str) -> str:
    """Find the file of a model's weights; nothing is downloaded.

    Looks in the same places as timm: the cache of the Hugging Face Hub
    (``HF_HOME``) and that of torch (``TORCH_HOME``).

    Args:
        name (str): A name for ``timm.create_model``, with its tag or without
            (``resnet18.a1_in1k``), optionally with ``timm:`` before it.

    Returns:
        str: Path of the file.

    Raises:
        UserError: If timm is missing, or does not know the model or has no
            weights for it, or if these are not on this machine. The message
            says where to get them and where to put them.
    """
    name = name.removeprefix(PREFIX)
    try:
        import timm
    except ImportError as error:
        raise UserError(f'{name} is neither a file nor, without timm, a name: '
                        'pip install timm') from error
    from huggingface_hub import constants, try_to_load_from_cache

    if not timm.is_model(name):
        raise MissingFileError(
            f'{name}: no such file, and timm has no model of this name '
            '(timm.list_models() has all)')
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # of its tag
        raise UserError(f'{error} timm.list_pretrained() has those that there '
                        'are') from error
    repo, url = (str(getattr(cfg, key, None) or '')
                 for key in ('hf_hub_id', 'url'))
    if not (repo or url):
        raise UserError(f'timm has no weights of {name}, only its '
                        'architecture: timm.list_pretrained() has those that '
                        'have some')
    lacking = []
    if repo:
        for file in _HUB_FILES:
            path = try_to_load_from_cache(repo, file)
            if isinstance(path, str):
                return path
        lacking.append(
            f'https://huggingface.co/{repo} (`hf download {repo} '
            f'{_HUB_FILES[0]}` puts them into {constants.HF_HUB_CACHE})')
    if url:
        path = osp.join(get_dir(), 'checkpoints',
                        osp.basename(urlparse(url).path))
        if osp.isfile(path):
            return path
        lacking.append(f'{url} (to {path})')
    raise MissingFileError(
        f"The weights of timm's {name} are not on this machine, and nothing "
        f'is downloaded for you. They are at {", or at ".join(lacking)}; or '
        'give the path of the file, wherever it lies')
