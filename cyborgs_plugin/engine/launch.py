"""Start of a run: several processes on a CPU, a runner of a tool."""
from typing import Any

import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..errors import UserError


def prepare_launch(cfg: Config) -> None:
    """Let a config run under torchrun where there is no accelerator.

    The toolbox asks for NCCL, for a device of each process and for SyncBN. On
    a CPU the processes talk by gloo and each batch norm counts its own
    process. Elsewhere, or for one process, nothing changes.

    Args:
        cfg (Config): The config with ``launcher`` set; altered in place.

    Raises:
        ValueError: If the launcher is not ``pytorch`` (torchrun).
    """
    if cfg.get('launcher', 'none') == 'none' or get_device() != 'cpu':
        return
    if cfg.launcher != 'pytorch':
        raise UserError('Without an accelerator only --launcher pytorch '
                        f'(torchrun) works, but got {cfg.launcher!r}')
    if not is_distributed():
        torch_dist.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False)
    cfg.sync_bn = None
    replaced = _replace_sync_bn(cfg._cfg_dict)
    if torch_dist.get_rank() == 0:
        print_log(
            'No accelerator: the processes talk by gloo, and batch norms '
            f'count each process by itself (sync_bn=None, {replaced} SyncBN '
            'became BN)',
            logger='current')


def runner_beside_training(cfg: Config) -> Runner:
    """A runner that leaves the config file of its ``work_dir`` alone.

    The toolbox writes a runner's config to ``{work_dir}/{file name}``. A tool
    that works in the folder of a training run would replace the config which
    that run was trained by, and is resumed from, with its own. Without a file
    name the copy is called by the time.

    Args:
        cfg (Config): The config.
    """
    return Runner.from_cfg(Config(cfg._cfg_dict))


def _replace_sync_bn(node: Any) -> int:
    """Turn SyncBN layers of a config into BN; count them."""
    count = 0
    if isinstance(node, dict):
        if node.get('type') in ('SyncBN', 'mmcv.SyncBN'):
            node['type'] = 'BN'
            count += 1
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        count += sum(_replace_sync_bn(child) for child in node)
    return count
