"""The output of one layer of any network, as maps of its images."""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..layer_outputs import outputs_of

SIDES = (32, 64, 128, 224)
"""Numbers that sides may have to be multiples of; 224 is 7 windows of 32."""

_ADVICE = (
    'A mask round feeds whole images of any size. Let model.backbone take '
    'them (in timm dynamic_img_size=True or strict_img_size=False), or take '
    'another backbone')


class LayerError(ValueError):
    """The output of a layer is not a map, or not for this image size."""


def run_to_layer(network: nn.Module, layer: str, images: Tensor) -> Any:
    """Run a network no further than a layer.

    Args:
        network (nn.Module): Takes images.
        layer (str): Name of a submodule.
        images (Tensor): Shape (B, 3, H, W).

    Returns:
        Any: The output of the layer.

    Raises:
        LayerError: If the forward does not use the layer.
    """
    try:
        return outputs_of(network, [layer], images)[0]
    except LookupError as error:
        if error.args != (layer, ):
            raise
        raise LayerError(
            f'default_hooks.mask_update.source.layer={layer!r} is never '
            f'called in the forward of the backbone {type(network).__name__}: '
            'name a submodule that is') from error


class Layout(NamedTuple):
    """How an output is laid out over its image."""

    axes: str
    """'NCHW', 'NHWC', or 'NLC' for tokens."""
    stride: int | None
    """Pixels on each side of a cell; None where that is no whole number, as
    after convolutions without padding."""
    num_prefix: int = 0
    """Tokens before those of the image, such as a class token."""


class LayerOutput:
    """Turn the output of a layer into maps, for images of any size.

    Two images of different sizes show which axes of the output are height and
    width, which one holds the channels, and how many tokens have no position.
    Some networks refuse certain sizes, or drop pixels at the right or lower
    border. For these, images are mirrored beyond both borders up to a size
    that the network accepts, and the cells of the mirrored pixels are cut off
    afterwards. So there are ceil(H / stride) times ceil(W / stride) cells.

    Args:
        network (nn.Module): The network, in evaluation mode.
        layer (str): Name of a submodule.

    Raises:
        LayerError: If the output of the layer is not a map, or the network
            accepts none of the sizes that are tried.
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module, layer: str) -> None:
        self.layer = layer
        self._layout, self.side = self._recognise(network)
        self.multiple = self._find_multiple(network)

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width of an image that the network accepts."""
        return 2 * self.side, 3 * self.side

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Compute the maps of a batch.

        Args:
            network (nn.Module): The network, or a copy of the same form.
            images (Tensor): Shape (B, 3, H, W).

        Returns:
            Tensor: Shape (B, C, h, w).

        Raises:
            LayerError: If the network fails; the message names the size.
        """
        height, width = images.shape[2:]
        last = [max(2 * self.side, _up(side, self.side))
                for side in (height, width)]
        for size in ([_up(height, self.multiple),
                      _up(width, self.multiple)], last):
            try:
                maps = self._maps(network, _mirrored(images, size))
            except (LayerError, MemoryError, torch.cuda.OutOfMemoryError):
                raise
            except Exception as error:
                # Whatever error a network raises for a size, the next may
                # work.
                if size == last:
                    raise LayerError(
                        f'The backbone {type(network).__name__} fails up to '
                        f'the layer {self.layer!r} for an image of height '
                        f'{height} and width {width}, mirrored to {size}, '
                        f'{images.dtype} ({_say(error)}). {_ADVICE}, or bring '
                        'all images to one size that fits by '
                        'default_hooks.mask_update.source.long_side'
                    ) from error
            else:
                break
        # In cells; the last one may be partly mirrored.
        h, w = (-(-cells * side // full) for cells, side, full in zip(
            maps.shape[2:], (height, width), size))
        return maps[:, :, :h, :w]

    def _maps(self, network: nn.Module, images: Tensor) -> Tensor:
        """Maps of images of a size that the network accepts."""
        output = _tensor(run_to_layer(network, self.layer, images))
        axes, stride, num_prefix = self._layout
        if axes == 'NHWC':
            output = output.permute(0, 3, 1, 2)
        if stride is None:
            return output
        cells = [-(-side // stride) for side in images.shape[2:]]
        if axes == 'NLC':
            output = output[:, num_prefix:].transpose(1, 2).unflatten(2, cells)
        if list(output.shape[2:]) != cells:
            raise UserError(f'{cells} cells at stride {stride} are expected, '
                            f'but it gives {list(output.shape[2:])}')
        return output

    def _recognise(self, network: nn.Module) -> tuple[Layout, int]:
        """Find the layout, and a side whose multiples are accepted."""
        found: tuple[Layout, int] | None = None
        seen, failure = '', None
        for side in SIDES:
            sizes = [(2 * side, 3 * side), (3 * side, 4 * side)]
            try:
                outputs = [
                    run_to_layer(network, self.layer, _blank(network, size))
                    for size in sizes
                ]
            except LayerError:
                raise
            except Exception as error:
                failure = error
                continue
            layout = layout_of(outputs, sizes)
            if layout is not None and layout.stride is not None:
                return layout, side
            if layout is not None and found is None:
                found = layout, side
            seen = (f'it gives {_describe(outputs[0])} for an image of '
                    f'{sizes[0]} and {_describe(outputs[1])} for {sizes[1]}')
        if found is not None:
            return found
        name = f'the backbone {type(network).__name__}'
        if seen:
            raise LayerError(
                f'default_hooks.mask_update.source.layer={self.layer!r} of '
                f'{name} gives no map of the image: expected is one tensor '
                f'(1, C, h, w), (1, h, w, C) or (1, h * w, C), but {seen}. '
                'Name another layer')
        raise LayerError(
            f'Up to the layer {self.layer!r} {name} takes no image of which '
            f'both sides are multiples of one of {SIDES} '
            f'({_say(failure)}). {_ADVICE}') from failure

    def _find_multiple(self, network: nn.Module) -> int:
        """The smallest of three numbers that sides must be multiples of."""
        if self._layout.stride is None:
            return 1
        # A halving that fails, or drops pixels, does so at some power of two.
        odd = [2**power for power in range(self.side.bit_length() - 1)]
        for multiple in (1, self._layout.stride):
            try:
                for more in odd:
                    size = [_up(side + more, multiple)
                            for side in self.example_size]
                    self._maps(network, _blank(network, size))
            except Exception:
                continue
            return multiple
        return self.side


def layout_of(outputs: Sequence[Any],
              sizes: Sequence[tuple[int, int]]) -> Layout | None:
    """Recognise a layout by the outputs for images of two sizes.

    The sizes differ in both sides, so that no axis can be mistaken for
    another.

    Args:
        outputs (Sequence): Output of a layer for each of two images.
        sizes (Sequence[tuple[int, int]]): Their heights and widths.

    Returns:
        Layout or None: None if the output is not a map.
    """
    shapes = [tuple(_tensor(output).shape) for output in outputs]
    first, second = shapes
    if not len(first) == len(second) or not first[0] == second[0] == 1:
        return None
    pixels = [height * width for height, width in sizes]
    if len(first) == 4:
        for axes in ('NCHW', 'NHWC'):
            c, h, w = (axes.index(axis) for axis in 'CHW')
            if (first[c] == second[c] and first[h] < second[h]
                    and first[w] < second[w] and first[h] <= first[w]):
                strides = {
                    size[axis] / shape[index]
                    for size, shape in zip(sizes, shapes)
                    for axis, index in enumerate((h, w))
                }
                stride = strides.pop()
                whole = not strides and stride == int(stride)
                return Layout(axes, int(stride) if whole else None)
    elif len(first) == 3 and first[2] == second[2] and first[1] < second[1]:
        cell = (pixels[1] - pixels[0]) / (second[1] - first[1])
        stride, num_prefix = cell**0.5, first[1] - pixels[0] / cell
        if stride == int(stride) and num_prefix == int(num_prefix) >= 0:
            return Layout('NLC', int(stride), int(num_prefix))
    return None


def _tensor(output: Any) -> Tensor:
    """The single tensor that an output is or holds; else an empty one."""
    tensors = [output]
    if isinstance(output, (tuple, list)):
        tensors = [part for part in output if isinstance(part, Tensor)]
    if len(tensors) == 1 and isinstance(tensors[0], Tensor):
        return tensors[0]
    return torch.empty(0)


def _describe(output: Any) -> str:
    """Describe an output."""
    if isinstance(output, Tensor):
        return f'a tensor {tuple(output.shape)}'
    if isinstance(output, (tuple, list)):
        return (f'a {type(output).__name__} of '
                f'{[_describe(part) for part in output]}')
    return f'a {type(output).__name__}'


def _say(error: Exception | None) -> str:
    return f'{type(error).__name__}: {error}'


def _up(side: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-side // multiple) * multiple


def _blank(network: nn.Module, size: Sequence[int]) -> Tensor:
    return next(network.parameters()).new_zeros(1, 3, *size)


def _mirrored(images: Tensor, size: Sequence[int]) -> Tensor:
    """Mirror images (B, 3, H, W) beyond the right and lower border."""
    for axis, full in zip((2, 3), size):
        side = images.shape[axis]
        if side < full:
            # numpy mirrors as often as needed, torch only once.
            index = np.pad(np.arange(side), (0, full - side), mode='reflect')
            images = images.index_select(
                axis, torch.from_numpy(index).to(images.device))
    return images
