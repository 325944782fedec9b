"""Pretraining from Python: what the console script does, as a function."""
import os
import os.path as osp
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Result:
    """What a pretraining has left."""

    out: str
    """Folder of the run."""
    config: str
    """The config that was written."""
    checkpoint: str | None = None
    """The last checkpoint; None after a dry run."""
    backbone: str | None = None
    """``.pth`` of the backbone, for the toolbox."""
    weights: str | None = None
    """``.safetensors`` of the backbone, by the names of its own library:
    ``model.load_state_dict(safetensors.torch.load_file(result.weights),
    strict=False)``."""


def pretrain(photos: str,
             out: str,
             model: 'str | nn.Module | None' = None,
             outputs: Sequence[str] | None = None,
             *,
             start: str | bool | None = None,
             budget: str | None = None,
             gpus: int = 1,
             mean: Sequence[float] | None = None,
             std: Sequence[float] | None = None,
             dry_run: bool = False,
             resume: bool = False) -> Result:
    """Pretrain a network on a folder of photographs, and publish it.

    Does what ``cyborgs pretrain`` and ``cyborgs publish`` do. A network that
    is given by name is trained in a process of its own. A module is copied and
    trained in this process, on one device. No other process can create it, so
    ``gpus`` must be 1, and the run is resumed by another call with the same
    module, not from the command line. The module itself does not change: load
    ``result.weights`` into it.

    Args:
        photos (str): Folder of the photographs.
        out (str): Folder of the run, where the config is written as well.
        model (str or nn.Module, optional): A name as of ``--backbone``
            (``resnet18``, ``timm:NAME``, ``package.module:function``), or a
            module, whose weights are those that the run begins with. Defaults
            to None, that of ``start``, or a ResNet.
        outputs (Sequence[str], optional): Of a module or function: names of
            the submodules whose outputs are maps, from fine to coarse.
            Defaults to None.
        start (str or bool, optional): File of the weights to start from; True:
            those of the module are good ones, to be continued from. Defaults
            to None.
        budget (str, optional): The longest time, such as ``'30m'``. Defaults
            to None.
        gpus (int): How many to train on. Defaults to 1.
        mean (Sequence[float], optional): Mean of images as the module or
            function expects it, RGB, 0 to 255. Defaults to None, ImageNet's.
        std (Sequence[float], optional): The standard deviation. Defaults to
            None, ImageNet's.
        dry_run (bool): Only plan, and write the config. Defaults to False.
        resume (bool): Resume the run in ``out`` by its own config. Defaults to
            False.

    Returns:
        Result: The files.

    Raises:
        UserError: As the console script says it.
    """
    out = osp.abspath(osp.expanduser(out))
    given = None if model is None or isinstance(model, str) else model
    if given is not None and gpus > 1:
        raise UserError(
            f'model is an object ({type(given).__name__}), which exists only '
            f'in this process, so gpus={gpus} is not possible: write a '
            'function that creates it, and pass its name: '
            "model='package.module:function'")
    if start is True and given is None:
        raise UserError('start=True needs a module as model; otherwise '
                        'pass the path of the weights')
    words = [photos, '--out', out, '--gpus', str(gpus)]
    if given is not None:
        from .factories import HANDED_OVER, hand_over
        hand_over(given)
        model = HANDED_OVER
    if resume:
        words.append('--resume')
    else:
        if start is True and given is not None:
            start = _save_start(given, out)
        words += _options(backbone=model, outputs=outputs,
                          start=start or None, budget=budget, mean=mean,
                          std=std)
        words += ['--dry-run'] * dry_run
    if given is None:
        _in_a_process('pretrain', *words)
    else:
        _in_this_process('pretrain', *words)
    config = osp.join(out, 'config.py')
    return Result(out, config) if dry_run else _published(out, config)


def _options(**given: object) -> list[str]:
    """Options of the command line; several values are several words."""
    words = []
    for name, value in given.items():
        if value is not None:
            several = value if isinstance(value, (list, tuple)) else [value]
            words += [f'--{name}', *map(str, several)]
    return words


def _save_start(module: 'nn.Module', out: str) -> str:
    """Write the weights of a module beside its run."""
    import torch

    from .files import written_aside
    path = osp.join(out, 'start.pth')
    os.makedirs(out, exist_ok=True)
    with written_aside(path) as aside:
        torch.save(dict(state_dict=module.state_dict()), aside)
    return path


def _published(out: str, config: str) -> Result:
    """Publish the backbone of the last checkpoint."""
    from .engine.work_dir_hook import latest_checkpoint
    checkpoint = latest_checkpoint(out)
    if checkpoint is None:
        raise UserError(f'{out} has no checkpoint: see its log')
    said = _in_a_process('publish_backbone', checkpoint)
    backbone = said.splitlines()[-1]
    other = re.search(r' and (\S.*\.safetensors): \d+ tensors', said)
    return Result(out, config, checkpoint, backbone,
                  other and osp.join(osp.dirname(backbone), other[1]))


def _in_a_process(tool: str, *words: str) -> str:
    """Run a tool with what this process imports from; print what it says."""
    places = [osp.abspath(place) for place in sys.path]
    process = subprocess.Popen(
        [sys.executable, '-m', 'cyborgs_plugin', tool, *words],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(places),
                 PYTHONUNBUFFERED='1'),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors='replace')
    last: deque[str] = deque(maxlen=40)
    try:
        for line in process.stdout or ():
            last.append(line)
            print(line, end='', flush=True)  # as a notebook shows it
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    said = ''.join(last)
    if code:
        _failed(tool, words, next(
            (line.strip() for line in reversed(last) if 'Error: ' in line),
            f'exit code {code}; its last words are above'))
    return said


def _in_this_process(tool: str, *words: str) -> None:
    """Run a tool as `python -m cyborgs_plugin` does, and return."""
    from .__main__ import find_tools
    path = find_tools()[tool]
    arguments, places, hook = sys.argv, list(sys.path), sys.excepthook
    sys.argv = [str(path), *words]
    sys.path.insert(0, str(path.parent))
    try:
        runpy.run_path(str(path), run_name='__main__')
    except SystemExit as end:
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt from end
        if end.code:
            _failed(tool, words, str(end.code))
    finally:
        sys.argv, sys.path[:], sys.excepthook = arguments, places, hook


def _failed(tool: str, words: Sequence[str], why: str) -> None:
    raise UserError(f'{why.removeprefix("UserError: ")} '
                    f'(cyborgs {shlex.join([tool, *words])})')
