"""What looks across a batch, in data-parallel training: batch norms, dropout, stochastic depth and augmentation.

Batch norms take mean and variance over the rows of all processes, and random numbers are drawn for all rows, so each
row is treated as in one process. Functions are caught as a model calls them: its layers and the names of its weights
stay what they are. (`nn.SyncBatchNorm` is other layers, and refuses the CPU.)
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from training import parallel
from training.parallel import Share


def across(share: Share) -> AbstractContextManager[object]:
    """Within it, a network or an augmentation that is given a share of a batch looks across the whole of it."""
    return AcrossProcesses(share) if parallel.size() > 1 else nullcontext()


class AcrossProcesses(TorchFunctionMode):
    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share
        self.caught = {
            torch.rand: self.rand,
            F.dropout: self.dropout,
            Tensor.bernoulli_: self.bernoulli_,
            F.batch_norm: self.batch_norm,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.caught.get(func, func)(*args, **kwargs or {})

    def rand(self, *shape: int, **options: Any) -> Tensor:
        """What an augmentation draws: its images are the last axis."""
        if shape[-1:] != (self.share.taken,):
            return torch.rand(*shape, **options)
        return torch.rand(*shape[:-1], self.share.whole, **options)[..., self.share.rows]

    def drawn(self, x: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """Draws on ones for the whole batch, laid out in memory as `x`, and gives the share's rows.

        What has another first axis is no batch, and each process draws its own.
        """
        if len(x) != self.share.taken:
            return draw(torch.ones_like(x))
        whole = torch.ones_like(x[:1].expand(self.share.whole, *x.shape[1:]))
        return draw(whole)[self.share.rows]

    def dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return F.dropout(x, p, training, inplace)
        return x * self.drawn(x, lambda ones: F.dropout(ones, p))

    def bernoulli_(self, noise: Tensor, p: float = 0.5) -> Tensor:
        """What torchvision's stochastic depth draws."""
        return noise.copy_(self.drawn(noise, lambda ones: ones.bernoulli_(p)))

    def batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        mean, var, count = self.statistics(x.detach())
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * count / (count - 1), momentum)
        weight = torch.ones_like(mean) if weight is None else weight
        bias = torch.zeros_like(mean) if bias is None else bias
        y: Tensor = Normalize.apply(x, weight, bias, mean, var, self.share.counted / count, eps)
        return y

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        """Mean and biased variance [C] of the whole batch, and the number of values in a channel.

        Those of the shares are merged as Chan et al. (1979) do, which loses no digits to a large mean.
        """
        values = x[0, 0].numel()
        if self.share.whole * values == 1:
            raise ValueError("Batch norms need more than one value. Train with another --batch-size.")
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        own = torch.cat([mean, var, mean.new_full((1,), self.share.count * values)])
        place = Share(slice(parallel.rank(), parallel.rank() + 1), parallel.size())
        means, vars_, counts = torch.split(parallel.collected(own[None], place), [len(mean), len(mean), 1], dim=1)
        count = self.share.whole * values
        mean = (counts * means).sum(0) / count
        return mean, (counts * (vars_ + (means - mean) ** 2)).sum(0) / count, count


class Normalize(torch.autograd.Function):
    """A batch norm with given mean and variance [C], in which each value of `x` has a part of `part`.

    Its backward is that of a batch norm with fixed statistics, less what they take up of the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, part: float, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.part, ctx.eps = part, eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, var = ctx.saved_tensors
        to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        slope, shift = parallel.total(torch.stack([to_weight, to_bias])) * ctx.part  # [C] each
        scale = (var + ctx.eps).rsqrt()
        to_x = to_x - (x - column(mean, x)) * column(weight * scale**2 * slope, x) - column(weight * scale * shift, x)
        return to_x.to(x.dtype), to_weight, to_bias, None, None, None, None


def column(channels: Tensor, x: Tensor) -> Tensor:
    """[C] → [C, 1, …], to be broadcast over `x` [B, C, …]."""
    return channels.view(-1, *[1] * (x.dim() - 2))
