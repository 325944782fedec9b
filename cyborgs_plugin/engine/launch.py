"""Start of a run: several processes on a CPU, and runners of tools."""
import logging
import os
import socket
import sys
from datetime import timedelta
from threading import Timer
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.utils import digit_version

from ..errors import UserError

_CONNECTING = 300.
"""Seconds in which the processes must connect by gloo."""


def prepare_launch(cfg: Config) -> None:
    """Allow a config to run under torchrun without an accelerator.

    The toolbox requires NCCL, a device for each process and SyncBN. On a CPU,
    the processes communicate by gloo, and each batch norm uses only its own
    process. With an accelerator, or for one process, nothing changes.

    Args:
        cfg (Config): The config with ``launcher`` set; changed in place.

    Raises:
        UserError: If the launcher on a CPU is not ``pytorch``, if torchrun did
            not start this process or has restarted it without the means to
            find the others, or if the processes cannot reach one another.
    """
    if cfg.get('launcher') == 'pytorch' and not (
            is_distributed() or 'RANK' in os.environ):
        raise UserError('--launcher pytorch is for processes that torchrun '
                        'has started: torchrun --nproc_per_node=GPUS -m '
                        'cyborgs_plugin train CONFIG --launcher pytorch. '
                        'Leave it out to train in one process')
    if cfg.get('launcher') == 'pytorch' and not is_distributed():
        _check_restarts()
    if cfg.get('launcher', 'none') == 'none' or get_device() != 'cpu':
        return
    if cfg.launcher != 'pytorch':
        raise UserError('Without an accelerator only --launcher pytorch '
                        f'(torchrun) works, but got {cfg.launcher!r}')
    if not is_distributed():
        options = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
        _connect(options.get('timeout'))
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


def _check_restarts() -> None:
    """Warn of restarts that will fail, and refuse one that would hang.

    Raises:
        UserError: If this is one.
    """
    shares = os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'
    if (not shares or not int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0))
            or digit_version(torch.__version__) < digit_version('2.5')):
        return
    message = (
        'torchrun --max-restarts: restarted processes would look for one '
        'another at the addresses of those before, which torchrun keeps '
        '(https://github.com/pytorch/pytorch/issues/135712). Start it with '
        'TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment and with '
        '--standalone, or on several machines --rdzv-backend=c10d')
    if int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)):
        raise UserError(message)
    if os.environ['RANK'] == '0':
        print_log(message, logger='current', level=logging.WARNING)


def _connect(timeout: float | None) -> None:
    """Create the default group with gloo.

    Args:
        timeout (float, optional): Seconds that an operation may take. None:
            torch's default.

    Raises:
        UserError: If the processes cannot reach one another.
    """
    # With launchers other than torchrun, the machines are not known.
    world = os.environ.get('WORLD_SIZE')
    several = os.environ.get('LOCAL_WORLD_SIZE', world) != world
    own = _own_address()
    if (several and 'GLOO_SOCKET_IFNAME' not in os.environ
            and (own is None or own.startswith('127.'))):
        raise UserError(_unreached(
            f'here that is {own or "none at all"}, which the other machines '
            'do not reach'))

    def give_up() -> None:
        # gloo keeps waiting, whatever its timeout, and nothing else can end
        # it.
        print(_unreached(f'no connection in {_CONNECTING:.0f} s'),
              file=sys.stderr, flush=True)
        os._exit(1)

    timer = Timer(_CONNECTING, give_up)
    timer.daemon = True
    timer.start()
    try:
        # torch 2.1 does not accept None for its default timeout
        options: dict[str, Any] = {} if timeout is None else dict(
            timeout=timedelta(seconds=timeout))
        torch_dist.init_process_group('gloo', **options)
    except RuntimeError as error:
        raise UserError(_unreached(str(error))) from error
    finally:
        timer.cancel()


def _own_address() -> str | None:
    """The address that gloo gives to other processes by default."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def _unreached(why: str) -> str:
    return (
        'The processes do not reach one another by gloo, where each gives '
        f'the address of its host name {socket.gethostname()!r}: {why}. Name '
        'the network that the machines share on each of them, such as '
        'GLOO_SOCKET_IFNAME=eth0 ("ip -brief address" lists them); '
        'MASTER_ADDR must be an address of the machine of rank 0, and its '
        'ports open')


def runner_beside_training(cfg: Config) -> Runner:
    """A runner that does not change the config file of its ``work_dir``.

    The toolbox writes a runner's config to ``{work_dir}/{file name}``. A tool
    that works in the folder of a training run would overwrite the config that
    the run was trained with and resumes from. Without a file name, the copy is
    named by the time.

    Args:
        cfg (Config): The config.
    """
    return Runner.from_cfg(Config(cfg._cfg_dict))


def _replace_sync_bn(node: Any) -> int:
    """Replace SyncBN layers of a config by BN; count them."""
    count = 0
    if isinstance(node, dict):
        if node.get('type') in ('SyncBN', 'mmcv.SyncBN'):
            node['type'] = 'BN'
            count += 1
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        count += sum(_replace_sync_bn(child) for child in node)
    return count
