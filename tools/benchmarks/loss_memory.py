"""Peak memory of the contrastive loss, forward and backward.

Compares it with the form in which DetCon-B is published: four einsums, dense
labels. One rank of many is simulated with random targets for the others.
"""
import argparse
import json
import os.path as osp
import tempfile
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cyborgs_plugin.models import mask_contrastive_loss


def peak_memory(function: Callable[[], object]) -> int:
    """Measure the most bytes that ``function()`` holds at a time on the CPU.

    PyTorch's allocator reports every allocation and release to its profiler,
    also those inside of operators.
    """
    with tempfile.TemporaryDirectory() as folder:
        trace = osp.join(folder, 'trace.json')
        with profile(
                activities=[ProfilerActivity.CPU],
                profile_memory=True) as profiler:
            function()
        profiler.export_chrome_trace(trace)
        with open(trace) as file:
            events = json.load(file)['traceEvents']
    events = [event for event in events if event.get('name') == '[memory]']
    held = peak = 0
    for event in sorted(events, key=lambda event: event['ts']):
        held += event['args']['Bytes']
        peak = max(peak, held)
    return peak


def four_einsums(pred_v1: Tensor,
                 pred_v2: Tensor,
                 target_v1: Tensor,
                 target_v2: Tensor,
                 pred_ids_v1: Tensor,
                 pred_ids_v2: Tensor,
                 target_ids_v1: Tensor,
                 target_ids_v2: Tensor,
                 temperature: float = 0.1,
                 image_offset: int = 0) -> Tensor:
    """Compute DetCon-B as published; arguments as of our loss.

    All slots hold a region.
    """
    preds = [F.normalize(pred, dim=-1) for pred in (pred_v1, pred_v2)]
    targets = [F.normalize(one, dim=-1) for one in (target_v1, target_v2)]
    pred_ids = pred_ids_v1, pred_ids_v2
    target_ids = target_ids_v1, target_ids_v2
    own = slice(image_offset, image_offset + len(pred_v1))
    image = torch.arange(
        len(pred_v1), device=pred_v1.device) + image_offset
    same_image = F.one_hot(image, len(target_v1))[:, None, :, None]

    def same_region(view: int, other: int) -> Tensor:  # (B, N, T, N)
        return same_image * (pred_ids[view][:, :, None, None]
                             == target_ids[other][own][:, None, None])

    logits = [[
        torch.einsum('bnd,tmd->bntm', pred, target) / temperature
        for target in targets
    ] for pred in preds]
    loss = torch.zeros((), device=pred_v1.device)
    for view in range(2):
        across, within = same_region(view, 1 - view), same_region(view, view)
        labels = torch.cat([across, 0 * within], 2).flatten(2).float()
        scores = torch.cat(
            [logits[view][1 - view], logits[view][view] - 1e9 * within],
            2).flatten(2)
        matches = labels.sum(-1)
        labels = labels / matches.clamp(min=1)[..., None]
        copies = (pred_ids[view][:, :, None] == pred_ids[view][:, None]).sum(2)
        entropy = -(labels * scores.log_softmax(-1)).sum(-1)
        loss = loss + (entropy * (matches > 0) / copies).mean()
    return loss


def random_case(batch: int,
                num_regions: int,
                world_size: int,
                channels: int = 256,
                num_ids: int = 32) -> tuple[Tensor, ...]:
    """Make the eight tensors of a rank's loss."""
    torch.manual_seed(0)
    images = batch * world_size
    preds = [torch.randn(batch, num_regions, channels) for _ in range(2)]
    targets = [torch.randn(images, num_regions, channels) for _ in range(2)]
    pred_ids = [
        torch.randint(num_ids, (batch, num_regions)) for _ in range(2)
    ]
    target_ids = [
        torch.randint(num_ids, (images, num_regions)) for _ in range(2)
    ]
    return *preds, *targets, *pred_ids, *target_ids


def compare(batch: int, num_regions: int,
            world_size: int) -> list[tuple[float, Tensor | None, int]]:
    """Measure both forms.

    Returns:
        list[tuple[float, Tensor, int]]: Of ours and of the four einsums: the
        loss, its gradient of view 1, the peak in bytes.
    """
    tensors = random_case(batch, num_regions, world_size)
    offset = (world_size - 1) * batch
    results = []
    for loss_of in (mask_contrastive_loss, four_einsums):
        pred_v1, pred_v2 = (pred.requires_grad_() for pred in tensors[:2])

        def step(loss_of: Callable[..., Tensor] = loss_of) -> float:
            loss = loss_of(*tensors, image_offset=offset)
            loss.backward()
            return loss.item()

        value = step()
        gradient, pred_v1.grad, pred_v2.grad = pred_v1.grad, None, None
        results.append((value, gradient, peak_memory(step)))
        pred_v1.grad = pred_v2.grad = None
    return results


def main() -> None:
    """Print both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batch', type=int, default=16, help='of a rank')
    parser.add_argument(
        '--num-regions', type=int, default=16,
        help='per image (default: %(default)s)')
    parser.add_argument(
        '--world-size', type=int, default=8,
        help='number of ranks (default: %(default)s)')
    args = parser.parse_args()
    (value, _, ours), (other, _, theirs) = compare(
        args.batch, args.num_regions, args.world_size)
    print(f'B={args.batch}, N={args.num_regions}, world {args.world_size}, '
          '256 channels, float32, forward and backward')
    print(f'mask_contrastive_loss {ours / 2**20:7.1f} MiB  loss {value:.5f}')
    print(f'four einsums          {theirs / 2**20:7.1f} MiB  loss {other:.5f}')
    print(f'ratio                 {ours / theirs:7.3f}')


if __name__ == '__main__':
    main()
