"""Networks that are made by functions of other people's packages."""
import importlib
import os
import sys
from copy import deepcopy
from typing import Any

from torch import nn

from .errors import UserError

HANDED_OVER = f'{__name__}:handed_over'
"""The factory of a network that was given as an object."""
_given: list[nn.Module] = []


def make(factory: str, **kwargs: Any) -> nn.Module:
    """Make a network.

    Args:
        factory (str): ``package.module:function``, or a class in its place.
            Modules of the current folder are found as well.
        **kwargs: Its arguments.

    Returns:
        nn.Module: What it returns.

    Raises:
        UserError: If there is no such function, or it makes no network.
    """
    module, colon, name = str(factory).partition(':')
    if not (module and colon and name):
        raise UserError(f'factory={factory!r}: expected '
                        "'package.module:function'")
    function: Any = _import(module, factory)
    for part in name.split('.'):
        if not hasattr(function, part):
            raise UserError(f'factory={factory!r}: {module} has no {name!r}')
        function = getattr(function, part)
    try:
        network = function(**kwargs)
    except TypeError as error:
        raise UserError(f'factory={factory!r} with factory_args={kwargs}: '
                        f'{error}') from error
    if not isinstance(network, nn.Module):
        raise UserError(f'factory={factory!r} returns a '
                        f'{type(network).__name__}; expected a torch.nn.'
                        'Module')
    return network


def _import(module: str, factory: str) -> Any:
    folder = os.getcwd()
    here = folder not in sys.path and '' not in sys.path
    if here:  # a console script does not have it
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f'{module}.'.startswith(f'{error.name}.'):
            raise  # something that it imports
        raise UserError(
            f'factory={factory!r}: there is no module {error.name}, neither '
            f'installed nor in the current folder {folder}. Install it, run '
            'from its folder, or add that to PYTHONPATH') from error
    finally:
        if here:
            sys.path.remove(folder)


def hand_over(network: nn.Module) -> None:
    """Let :func:`handed_over` give copies of a network in this process."""
    _given[:] = [network]


def handed_over() -> nn.Module:
    """A copy of the network that was given as an object.

    Raises:
        UserError: If there is none in this process.
    """
    if not _given:
        raise UserError(
            'The network of this run was passed to cyborgs_plugin.pretrain() '
            'as an object, which no other process can create. Call pretrain() '
            'again with the same module (and resume=True), or write a '
            'function that creates the network and pass '
            "model='package.module:function'")
    return deepcopy(_given[0])
