"""LARS whose steps neither wait for the device nor loop over kernels."""
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmpretrain.engine.optimizers import LARS
from mmpretrain.registry import OPTIMIZERS
from torch import Tensor


@OPTIMIZERS.register_module()
class ForeachLARS(LARS):
    """mmpretrain's ``LARS``, for all parameters of a group at once.

    You, Gitman and Ginsburg, `Large Batch Training of Convolutional Networks
    <https://arxiv.org/abs/1708.03888>`_, Algorithm 1. The base class computes
    two norms of each parameter and makes the host wait for each. Settings,
    groups and checkpoints are those of the base class.

    Args:
        params (Iterable): Parameters, or dicts that define groups of them. A
            group with ``lars_exclude=True`` has no layer-wise rate.
        lr (float): Base learning rate.
        **kwargs: Arguments of mmpretrain's ``LARS``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None
             ) -> Tensor | None:
        """Make a step.

        Args:
            closure (Callable, optional): Computes the loss again. Defaults to
                None.

        Returns:
            Tensor: The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for settings, params in self._alike():
            self._move(dict(settings), params)
        return loss

    def _alike(self) -> Iterator[tuple[tuple, list[Tensor]]]:
        """Parameters that share their settings, device and dtype."""
        # mmengine makes a group of each parameter
        found: dict[tuple, list[Tensor]] = defaultdict(list)
        for group in self.param_groups:
            settings = tuple(
                (key, group.get(key, False))
                for key in ('lr', 'momentum', 'dampening', 'weight_decay',
                            'nesterov', 'eta', 'lars_exclude'))
            for param in group['params']:
                if param.grad is not None:
                    known = 'momentum_buffer' in self.state.get(param, ())
                    found[settings, param.device, param.dtype,
                          param.grad.dtype, known].append(param)
        for (settings, *_), params in found.items():
            yield settings, params

    def _move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, decay = group['lr'], group['weight_decay']
        grads = [param.grad for param in params if param.grad is not None]
        steps = [*torch._foreach_add(grads, params, alpha=decay)]
        if group['lars_exclude']:
            torch._foreach_mul_(steps, lr)
        else:
            weight_norm = torch.stack(torch._foreach_norm(params))
            grad_norm = torch.stack(torch._foreach_norm(grads))
            local = group['eta'] * weight_norm / (
                grad_norm + decay * weight_norm + self.eps)
            trusted = (weight_norm != 0) & (grad_norm != 0)
            rates = lr * torch.where(trusted, local, 1.)
            torch._foreach_mul_(steps, list(rates.to(steps[0].dtype)))
        momentum = group['momentum']
        if momentum != 0:
            states = [self.state[param] for param in params]
            if 'momentum_buffer' not in states[0]:
                for state, step in zip(states, steps):
                    state['momentum_buffer'] = step.clone()
                buffers = [state['momentum_buffer'] for state in states]
            else:
                buffers = [state['momentum_buffer'] for state in states]
                torch._foreach_mul_(buffers, momentum)
                torch._foreach_add_(
                    buffers, steps, alpha=1 - group['dampening'])
            if group['nesterov']:
                torch._foreach_add_(steps, buffers, alpha=momentum)
            else:
                steps = buffers
        torch._foreach_sub_(params, steps)
