"""The two linear layers of a head as kernels read them: cut into panels (`hypercolumns.kernels.tiles`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hypercolumns.kernels.lanes import LANES
from hypercolumns.kernels.tiles import BLOCK, packed, panel_width

__all__ = ["Layers"]


@dataclass(frozen=True, eq=False)
class Layers:
    """The two linear layers of a head, as kernels read them. All float32.

    Attributes:
        channels: Outputs of the first layer.
        classes: Outputs of the second; 0 where there is none.
        depth: Inputs of the first that are to be multiplied here; those of upsampled responses have been.
        first: Weights for them, packed; empty for none.
        bias: Padded to whole panels.
        second: Weights (K, H), packed, with as many inputs as the first layer's panels have outputs; None without one.
        second_bias: Padded to whole panels.
        back: The second layer's weights transposed, packed; None without one.
    """

    channels: int
    classes: int
    depth: int
    first: Tensor
    bias: Tensor
    second: Tensor | None
    second_bias: Tensor | None
    back: Tensor | None

    @classmethod
    def of(cls, first: Tensor | None, bias: Tensor, second: Tensor | None, second_bias: Tensor | None) -> Layers:
        """Pack weights.

        Args:
            first: (H, C), or None for no inputs.
            bias: (H,).
            second: (K, H), or None.
            second_bias: (K,), or None.

        Raises:
            ValueError: they have other shapes or types, or do not lie in the processor's memory.
        """
        _check_weights(first, bias, second, second_bias)
        channels, width = len(bias), panel_width(len(bias))
        whole = -(-channels // width) * width
        weights = bias.new_empty(0) if first is None else packed(first)
        depth = 0 if first is None else first.shape[1]
        if second is None or second_bias is None:
            return cls(channels, 0, depth, weights, F.pad(bias, (0, whole - channels)), None, None, None)
        outputs = packed(second, whole)
        return cls(
            channels,
            len(second),
            depth,
            weights,
            F.pad(bias, (0, whole - channels)),
            outputs,
            F.pad(second_bias, (0, outputs.shape[0] * outputs.shape[2] - len(second))),
            packed(second.t()),
        )

    @property
    def width(self) -> int:
        """Columns of a panel of the first layer's outputs."""
        return panel_width(self.channels)

    @property
    def panels(self) -> int:
        """Panels of the first layer's outputs."""
        return -(-self.channels // self.width)

    @property
    def out_shape(self) -> tuple[int, int]:
        """Panels of the second layer's outputs, and columns of each."""
        return (0, LANES) if self.second is None else (self.second.shape[0], self.second.shape[2])

    @property
    def pitch(self) -> int:
        """Numbers from one point's inputs to the next one's."""
        return -(-self.depth // BLOCK) * BLOCK


def _check_weights(first: Tensor | None, bias: Tensor, second: Tensor | None, second_bias: Tensor | None) -> None:
    given = [values for values in (first, bias, second, second_bias) if values is not None]
    if any(values.dtype != torch.float32 or values.device.type != "cpu" for values in given):
        raise ValueError(f"expected weights of float32 in the processor's memory, got {[values.dtype for values in given]}")
    shapes = [None if values is None else tuple(values.shape) for values in (first, bias, second, second_bias)]
    hidden, classes = bias.numel(), 0 if second is None else len(second)
    wanted = [None if first is None else (hidden, first.numel() // max(1, hidden)), (hidden,), None, None]
    if second is not None or second_bias is not None:
        wanted[2:] = (classes, hidden), (classes,)
    if shapes != wanted:
        raise ValueError(f"expected weights and biases (H, C), (H,), (K, H), (K,), got {shapes}")
