"""The layer that masks are made from if the config names none."""
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from ..errors import UserError
from .layer_output import SIDES, layout_of
from .network_state import copy_of

STRIDE = 8
"""Side of a cell in pixels, as in the published layer."""
_DEPTH = 3 / 4
"""For a transformer without stages: after 9 of 12 blocks."""


def choose_layer(network: nn.Module) -> str:
    """Choose the layer as in the paper: the end of the stage with stride 8.

    If all maps of a network are coarser, the finest is chosen; in a network
    without stages, whose maps all have one stride, a later block. In a
    ResNet's stage of four blocks it is the third, as published.

    Args:
        network (nn.Module): Takes images (B, 3, H, W).

    Returns:
        str: Name of a submodule.

    Raises:
        UserError: If no stage and no block gives a map.
    """
    network = copy_of(network)
    network.eval()  # which returns None in mmpretrain's backbones
    strides = _strides(network)
    usable = [stride for stride in strides.values() if stride >= STRIDE]
    if not strides:
        raise UserError(
            'default_hooks.mask_update.source.layer is not given, and no '
            f'stage or block of {type(network).__name__} gives a map of the '
            'image: name a layer')
    wanted = min(usable) if usable else max(strides.values())
    names = [name for name, stride in strides.items() if stride == wanted]
    if len(set(strides.values())) == 1:
        name = names[round(_DEPTH * (len(names) - 1))]
    else:
        name = names[-1]
    stage = network.get_submodule(name)
    if name == 'layer2' and len(list(stage.children())) == 4:
        name = 'layer2.2'
    print_log(
        'default_hooks.mask_update.source.layer is not given: masks are made '
        f'of {name!r} of {type(network).__name__}, at a stride of {wanted}',
        logger='current')
    return name


@torch.no_grad()
def _strides(network: nn.Module) -> dict[str, int]:
    """Stride of each stage and block that gives maps, in order of their ends.

    Single layers, such as a norm after a stage, are left out if there are
    blocks.
    """
    names = _stages(network)
    outputs: dict[str, Any] = {}

    def note(name: str, output: Any) -> None:
        outputs.pop(name, None)  # the last end counts
        outputs[name] = output

    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: note(name, output))
        for name in names
    ]
    sample = next(network.parameters())
    best: dict[str, int] = {}
    try:
        for side in SIDES:
            sizes = [(2 * side, 3 * side), (3 * side, 4 * side)]
            found = []
            for size in sizes:
                outputs.clear()
                try:
                    network(sample.new_zeros(1, 3, *size))
                except Exception:  # whatever it says of a size
                    break
                found.append(dict(outputs))
            if len(found) < 2:
                continue
            layouts = {
                name: layout_of([found[0][name], found[1][name]], sizes)
                for name in found[0] if name in found[1]
            }
            maps = {name: layout.stride for name, layout in layouts.items()
                    if layout is not None}
            whole = {name: stride for name, stride in maps.items()
                     if stride is not None}
            best = max(best, whole, key=len)
            # Some strides are found wrongly if they do not divide the sides.
            if whole and len(whole) == len(maps):
                return whole
    finally:
        for handle in handles:
            handle.remove()
    return best


def _stages(network: nn.Module) -> list[str]:
    """Names of the stages and their blocks, below any wrappers."""
    root, start = network, ''
    while True:
        inner = [(name, child) for name, child in root.named_children()
                 if any(True for _ in child.parameters())]
        if len(inner) != 1:
            break
        start += f'{inner[0][0]}.'
        root = inner[0][1]
    layers = {start + name: module for name, module in root.named_modules()
              if name and name.count('.') < 2}
    blocks = [name for name, module in layers.items()
              if any(True for _ in module.children())]
    return blocks or list(layers)  # VGG is one row of layers
