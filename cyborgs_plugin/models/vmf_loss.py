"""The segmentation loss on feature maps (von Mises-Fisher, SegSort)."""

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..ops.kmeans import kmeans

Maps = tuple[Tensor, ...]


@MODELS.register_module()
class VMFSegmentationLoss(nn.Module):
    r"""Pull each location to the prototype of its segment.

    The unit target features of a view, all images of this rank together, are
    clustered into K prototypes :math:`\mu` with concentration
    :math:`\kappa = 1/\tau`. The loss is the cross-entropy of the posterior
    :math:`p(k|v) \propto \exp(+\mu_k \cdot v / \tau)` of each online location
    :math:`v` against the prototype nearest to its *target* feature: with the
    prototypes of its own view and with those of the other view, averaged over
    the four pairs.

    Source: `SegSort <https://arxiv.org/abs/1910.06962>`_, Eq. 2 and 3, as in
    `CYBORGS <https://arxiv.org/abs/2203.09343>`_, Sec. 3.3. The released code
    negates the sign.

    Args:
        num_prototypes (tuple[int, int]): K is drawn uniformly from this
            closed range at each step, and lowered to the number of locations.
            Defaults to (2, 256).
        temperature (float): :math:`\tau`. Defaults to 0.1.
        num_iters (int): Iterations of k-means. Defaults to 10.
        in_index (int): Index of the backbone's output to use. Defaults to 0.
        loss_weight (float): Factor of the loss. Defaults to 1.0.
    """

    def __init__(self,
                 num_prototypes: tuple[int, int] = (2, 256),
                 temperature: float = 0.1,
                 num_iters: int = 10,
                 in_index: int = 0,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        self.num_prototypes = num_prototypes
        self.temperature = temperature
        self.num_iters = num_iters
        self.in_index = in_index
        self.loss_weight = loss_weight

    def forward(self, online: tuple[Maps, Maps],
                target: tuple[Maps, Maps]) -> Tensor:
        """Compute the loss.

        Args:
            online (tuple[Maps, Maps]): Outputs of the online backbone for
                views 1 and 2, each a tuple of (B, C_i, H_i, W_i).
            target (tuple[Maps, Maps]): Outputs of the target backbone, in the
                same form.

        Returns:
            Tensor: The loss, a scalar.
        """
        with torch.autocast(online[0][0].device.type, enabled=False):
            online_vectors = [self._vectors(maps) for maps in online]
            target_vectors = [self._vectors(maps).detach() for maps in target]
            losses = []
            for vectors in target_vectors:
                prototypes = self._prototypes(vectors)
                losses += [
                    self._cross_entropy(online_view, target_view, prototypes)
                    for online_view, target_view in zip(
                        online_vectors, target_vectors)
                ]
        return self.loss_weight * torch.stack(losses).mean()

    def _vectors(self, maps: Maps) -> Tensor:
        """Unit vectors of all locations, shape (B * H * W, C)."""
        vectors = maps[self.in_index].flatten(2).transpose(1, 2).flatten(0, 1)
        if vectors.dtype in (torch.float16, torch.bfloat16):
            vectors = vectors.float()
        return F.normalize(vectors, dim=1)

    @torch.no_grad()
    def _prototypes(self, vectors: Tensor) -> Tensor:
        """Cluster unit vectors (M, C) into mean directions (K, C)."""
        low, high = self.num_prototypes
        # The global generator: reproducible under the runner's seed.
        count, seed = torch.randint(2**31 - 1, (2, )).tolist()
        count = min(low + count % (high - low + 1), len(vectors))
        _, centroids = kmeans(
            vectors, count, num_iters=self.num_iters, seed=seed)
        return F.normalize(centroids, dim=1)

    def _cross_entropy(self, online: Tensor, target: Tensor,
                       prototypes: Tensor) -> Tensor:
        """Cross-entropy of online (M, C) against the target's prototypes."""
        # The label comes from the target, so that a location is not pulled to
        # where it already is.
        nearest = (target @ prototypes.T).argmax(dim=1)  # (M, ) of K
        return F.cross_entropy(online @ prototypes.T / self.temperature,
                               nearest)
