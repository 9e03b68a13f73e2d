"""What is reckoned of parameters alone, once for all images that are labelled: a model that is not trained stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Remembered"]

T = TypeVar("T")


class Remembered(Generic[T]):
    """The last value that was reckoned of some parameters, for as long as these are what they were.

    It is reckoned every time where gradients are recorded, and while a parameter wants one: fused optimisers change what they
    train without a trace. `requires_grad_(False)` says that a model is done.
    """

    def __init__(self) -> None:
        # Both in one, so that threads see what belongs together.
        self._known: tuple[Hashable, T] | None = None

    def value(self, parameters: Sequence[Tensor], kind: Hashable, reckon: Callable[[], T]) -> T:
        """Return `reckon()`, or what it returned when it was called last.

        Args:
            parameters: All that it depends on and that may change; operations in place are noticed.
            kind: What else decides it.
            reckon: Reckons the value.
        """
        if torch.is_grad_enabled() or any(parameter.requires_grad or parameter.is_inference() for parameter in parameters):
            return reckon()
        key = (kind, tuple((parameter.data_ptr(), parameter._version) for parameter in parameters))
        known = self._known
        if known is None or known[0] != key:
            known = self._known = key, reckon()
        return known[1]
