"""The part of a network that a layer's output depends on."""
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from .layer_output import run_to_layer


def network_state(backbone: nn.Module,
                  layer: str | None) -> dict[str, Tensor]:
    """The part of a network's state that a layer's output depends on.

    Args:
        backbone (nn.Module): A network that takes images (B, 3, H, W).
        layer (str, optional): Name of a submodule; None, and a name that
            there is not, stand for the whole network, as does a network that
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
    """Tell tensors of the modules that run until a layer has its output."""
    twin = deepcopy(backbone)
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
        # A module may use what its parts hold and not call them, as torch's
        # MultiheadAttention does: one that ended counts as a whole.
        return owner in begun or any(
            '.'.join(parts[:end]) in ended for end in range(1, len(parts)))

    return needs
