"""What backbones made of other libraries' networks have in common."""
from typing import Any

from mmengine.model import BaseModule, initialize
from torch import nn
from torch.nn.modules import batchnorm
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError


class ForeignNetwork(BaseModule):
    """A backbone around a network that knows nothing of the toolbox.

    Its tensors are ``network.`` and their own names; ``publish_backbone``
    writes the latter.

    Args:
        network (nn.Module): The network, initialised by its own code.
        norm_eval (bool): Whether its batch norms keep their statistics in
            training. Defaults to False.
        init_cfg (dict or list[dict], optional): Weights to start from.
            Defaults to None, those that the network has.
    """

    def __init__(self,
                 network: nn.Module,
                 norm_eval: bool = False,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.network = network
        self.norm_eval = norm_eval
        self._norms = {
            name: type(module)
            for name, module in network.named_modules()
            if isinstance(module, _BatchNorm)
            and type(module).__module__ != batchnorm.__name__
        }

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names.

        Without it the network stays as it is: its parts may have an
        ``init_weights`` of another meaning.
        """
        if self.init_cfg and not self.is_init:
            initialize(self, self.init_cfg)
        self._is_init = True

    def train(self, mode: bool = True) -> 'ForeignNetwork':
        """Set the mode; batch norms stay as they are with ``norm_eval``.

        Raises:
            UserError: If a conversion to SyncBN has dropped what batch norms
                of the network do besides, such as an activation.
        """
        super().train(mode)
        if mode:
            self._expect_own_norms()
        if mode and self.norm_eval:
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _expect_own_norms(self) -> None:
        now: dict[str, Any] = dict(self.network.named_modules())
        lost = [name for name, kind in self._norms.items()
                if type(now.get(name)) is not kind]
        if lost:
            raise UserError(
                f'{len(lost)} norms of the network, such as {lost[0]}, are '
                f'{self._norms[lost[0]].__name__} and do more than batch '
                f'norms, but have become {type(now.get(lost[0])).__name__}: '
                'set sync_bn=None')
