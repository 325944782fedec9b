"""Parameters of a backbone that no output in use depends on."""
import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from torch import nn

from .mask_grounded_neck import MaskGroundedNeck


def freeze_unused(backbone: nn.Module, neck: MaskGroundedNeck) -> None:
    """Freeze parameters that get no gradient from ``neck.in_indices``.

    An example is stage 4 if only stages 2 and 3 are fused. One process can
    ignore it; several would wait for its gradient unless it is frozen before
    the model is wrapped. So with several processes, the gradient of one image
    shows which parameters are unused.

    Args:
        backbone (nn.Module): The backbone.
        neck (MaskGroundedNeck): The neck that reads its outputs.
    """
    trained = {name: parameter for name, parameter
               in backbone.named_parameters() if parameter.requires_grad}
    if get_world_size() == 1 or not trained:
        return
    values = list(trained.values())
    training = backbone.training
    backbone.eval()  # no statistics move, nothing is drawn
    try:
        with torch.enable_grad():
            feats = neck.channels_first(
                backbone(values[0].new_zeros(1, 3, 224, 224)))
            sums = [feats[index].sum() for index in neck.in_indices]
            gradients = torch.autograd.grad(sums, values, allow_unused=True)
    except Exception as error:  # such as one for another size
        print_log(
            'Which parameters of the backbone reach no output in use was not '
            f'found out ({type(error).__name__}: {error}). If processes stop '
            'for such ones, set find_unused_parameters=True',
            logger='current')
        return
    finally:
        backbone.train(training)
    unused = [name for name, gradient in zip(trained, gradients)
              if gradient is None]
    for name in unused:
        trained[name].requires_grad_(False)
    if unused:
        print_log(
            f'model.neck.in_indices={neck.in_indices}: {len(unused)} '
            f'parameters of the backbone, such as {unused[0]}, reach none of '
            'these outputs and stay as they are', logger='current')
