"""Which arithmetic this machine multiplies fast in.

bfloat16 is several times faster than float32 where processors have products for it, and several times slower where not.
"""

from __future__ import annotations

import platform
from functools import cache

import torch

from hypercolumns.specs import ExperimentSpec, Precision, TrainPrecision

__all__ = ["fast_precision", "multiplies_bfloat16", "settle", "settle_experiment"]


@cache
def multiplies_bfloat16() -> bool:
    """Say whether this processor has products of bfloat16: AVX-512 BF16 or AMX on x86, the extension of that name on Arm.

    Elsewhere torch computes them number by number, 9 times slower than in float32 on a processor with AVX2 alone. Versions of
    torch that do not list a processor's features are asked what their products were built for, which on x86 is AVX-512.
    """
    if platform.machine().lower() in {"x86_64", "amd64"} and hasattr(torch.cpu, "get_capabilities"):
        features = torch.cpu.get_capabilities()
        return bool(features["avx512_bf16"] or features["amx_bf16"])
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_precision(trained: Precision) -> Precision:
    """Return the arithmetic to use a trained model in: float32 instead of a bfloat16 that is slow here; it is more exact."""
    return trained if trained == "float32" or multiplies_bfloat16() else "float32"


def settle(wanted: TrainPrecision) -> Precision:
    """Return what was asked for; where that is `automatic`, the faster of the two."""
    return fast_precision("bfloat16") if wanted == "automatic" else wanted


def settle_experiment(spec: ExperimentSpec) -> ExperimentSpec:
    """Settle an experiment's arithmetic, so that keys, records and models say what was computed."""
    pretrain, train = (
        section.model_copy(update={"precision": settle(section.precision)}) for section in (spec.pretrain, spec.train)
    )
    return spec.model_copy(update={"pretrain": pretrain, "train": train})
