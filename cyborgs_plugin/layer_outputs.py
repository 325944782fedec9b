"""Outputs of parts of a network, whose forward ends after the last of them."""
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class _Reached(Exception):
    """Ends a forward once all outputs are known."""


def outputs_of(network: nn.Module, layers: Sequence[str],
               images: Tensor) -> list[Any]:
    """Run a network no further than some of its layers.

    Hooks exist during the call only, so that copies of the network have none.

    Args:
        network (nn.Module): Takes images.
        layers (Sequence[str]): Names of submodules, each once.
        images (Tensor): Shape (B, 3, H, W).

    Returns:
        list[Any]: The output of each layer in its first call.

    Raises:
        LookupError: If the forward does not use one of them; its argument is
            the name.
    """
    found: dict[str, Any] = {}
    end = _Reached()  # a network may itself run another one in this way

    def keep(name: str, output: Any) -> None:
        found.setdefault(name, output)
        if len(found) == len(layers):
            raise end

    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: keep(name, output))
        for name in layers
    ]
    try:
        network(images)
    except _Reached as reached:
        if reached is not end:
            raise
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in found:
            raise LookupError(name)
    return [found[name] for name in layers]
