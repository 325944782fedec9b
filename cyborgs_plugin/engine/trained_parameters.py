"""What an optimizer gets, with one log line per part left out."""
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainedParametersConstructor(DefaultOptimWrapperConstructor):
    """Skip modules without trained parameters, such as the target.

    The groups of parameters are those of the base class. That class warns of
    each parameter instead: 165 lines that hide important warnings.
    """

    def add_params(self,
                   params: list[dict],
                   module: nn.Module,
                   prefix: str = '',
                   is_dcn_module: int | float | None = None) -> None:
        """Add the parameters of a module and its submodules.

        Args:
            params (list[dict]): Groups; new ones are appended.
            module (nn.Module): The module.
            prefix (str): Its name. Defaults to ''.
            is_dcn_module (int or float, optional): Whether it is in a
                deformable convolution. Defaults to None.
        """
        found = list(module.parameters())
        if found and not any(one.requires_grad for one in found):
            print_log(
                f'{prefix}: none of its {len(found)} parameters is trained by '
                'the optimizer',
                logger='current')
            return
        super().add_params(params, module, prefix, is_dcn_module)
