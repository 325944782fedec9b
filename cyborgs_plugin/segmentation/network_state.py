"""Copies of a network, and the part that a layer's output depends on."""
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn

from .layer_output import run_to_layer


def copy_of(network: nn.Module) -> Any:
    """A copy of a network that runs the forwards of its own classes.

    The Runner's ``activation_checkpointing`` and ``efficient_conv_bn_eval``
    replace the ``forward`` of a module. In a copy, the replaced forward would
    run the original in training mode, or call no submodule.

    Args:
        network (nn.Module): The network, which is not changed.
    """
    copy = deepcopy(network)
    for module in copy.modules():
        forward = vars(module).get('forward')
        if forward is not None and _is_the_runners(forward):
            del module.forward
    return copy


def _is_the_runners(forward: Any) -> bool:
    """Whether the Runner has set it rather than the network's own code."""
    return (isinstance(getattr(forward, '__self__', None), fx.GraphModule)
            or getattr(forward, '__globals__', {}).get('__name__') ==
            'mmengine.runner.activation_checkpointing')


def network_state(backbone: nn.Module,
                  layer: str | None) -> dict[str, Tensor]:
    """The part of a network's state that a layer's output depends on.

    Args:
        backbone (nn.Module): A network that takes images (B, 3, H, W).
        layer (str, optional): Name of a submodule. The whole network is used
            if this is None or no such submodule exists, or if the network
            fails for an image of 64x64.

    Returns:
        dict[str, Tensor]: Copies on the CPU, by their names in the state
        dict.
    """
    state = backbone.state_dict()
    if layer is not None and layer in dict(backbone.named_modules()):
        needs = _modules_up_to(backbone, layer)
        state = {
            name: tensor
            for name, tensor in state.items() if needs(name)
        }
    return {
        name: tensor.detach().cpu().clone() for name, tensor in state.items()
    }


def _modules_up_to(backbone: nn.Module,
                   layer: str) -> Callable[[str], bool]:
    """Names of the modules that run until a layer has its output."""
    twin = copy_of(backbone)
    twin.eval()  # which returns None in mmpretrain's backbones
    begun: set[str] = set()
    ended: set[str] = set()
    for name, module in twin.named_modules():
        module.register_forward_pre_hook(
            lambda *_, name=name: begun.add(name))
        module.register_forward_hook(lambda *_, name=name: ended.add(name))
    parameter = next(twin.parameters())
    try:
        with torch.no_grad():
            run_to_layer(twin, layer, parameter.new_zeros(1, 3, 64, 64))
    except Exception:  # a network may say anything of a size
        return lambda tensor: True

    def needs(tensor: str) -> bool:
        owner = tensor.rpartition('.')[0]
        parts = owner.split('.')
        # A module may use the tensors of its parts without calling them, like
        # torch's MultiheadAttention: a finished module counts as a whole.
        return owner in begun or any(
            '.'.join(parts[:end]) in ended for end in range(1, len(parts)))

    return needs
