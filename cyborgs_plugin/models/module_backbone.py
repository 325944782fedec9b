"""Any module of torch as a backbone."""
import difflib
from collections.abc import Sequence
from typing import Any

from mmpretrain.registry import MODELS
from torch import Tensor

from ..errors import UserError
from ..factories import make
from ..layer_outputs import outputs_of
from .foreign_network import ForeignNetwork


@MODELS.register_module()
class ModuleBackbone(ForeignNetwork):
    """Any ``torch.nn.Module`` as a backbone.

    Its forward takes images (B, 3, H, W) and ends after the last output:
    layers behind it, such as a detector's head, are not run and stay as they
    are. Outputs are taken by forward hooks, so that the code of the network
    need not be traceable.

    Args:
        factory (str): ``package.module:function`` that makes the network.
        outputs (Sequence[str]): Submodules whose outputs are maps
            (B, C_i, H_i, W_i), from fine to coarse.
        factory_args (dict, optional): Arguments of the function. Defaults to
            None.
        norm_eval (bool): See :class:`ForeignNetwork`. Defaults to False.
        init_cfg (dict or list[dict], optional): Weights to start from.
            Defaults to None, those that the function gives.
    """

    def __init__(self,
                 factory: str,
                 outputs: Sequence[str],
                 factory_args: dict[str, Any] | None = None,
                 norm_eval: bool = False,
                 init_cfg: dict | list[dict] | None = None) -> None:
        network = make(factory, **(factory_args or {}))
        super().__init__(network, norm_eval, init_cfg)
        names = [name for name, _ in network.named_modules() if name]
        if isinstance(outputs, str) or not outputs or (
                len(set(outputs)) < len(outputs)):
            raise UserError(
                f'model.backbone.outputs={outputs!r}: expected a list of '
                f'different submodules of {factory!r}, such as {names[:4]}')
        for name in outputs:
            if name not in names:
                near = difflib.get_close_matches(name, names, 4, 0.4)
                raise UserError(
                    f'model.backbone.outputs: {factory!r} has no submodule '
                    f'{name!r}; the nearest are {near or names[:8]}')
        self.outputs = list(outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs.

        Args:
            images (Tensor): Shape (B, 3, H, W), float32.

        Returns:
            tuple[Tensor, ...]: Each (B, C_i, H_i, W_i).

        Raises:
            UserError: If the forward does not use a module, or its output is
                no tensor.
        """
        try:
            found = outputs_of(self.network, self.outputs, images)
        except LookupError as error:
            name = error.args[0] if error.args else None
            if name not in self.outputs:  # an error of the network's own
                raise
            raise UserError(
                f'model.backbone.outputs: the forward of '
                f'{type(self.network).__name__} never calls {name!r}: name '
                'a submodule that it does') from error
        for name, output in zip(self.outputs, found):
            if not isinstance(output, Tensor):
                raise UserError(
                    f'model.backbone.outputs: {name!r} returns a '
                    f'{type(output).__name__}; expected a tensor '
                    '(B, C, H, W)')
        return tuple(found)
