"""Peers that are networks trained by gradients: a fine-tuned FCN, a U-Net from scratch, and the notebook's hypercolumns.

Source: Long, Shelhamer and Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015 (score layers and a
skip); Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015; Hariharan et al., CVPR 2015, and the published notebooks that
upsample every map to the image's size and classify the stack.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18, squeezenet1_1

from benchmarks.peers.columns import Taps, column_statistics
from benchmarks.peers.gradients import Recipe, fast_dtype, train_by_the_clock
from benchmarks.peers.ledger import Ledger, begin
from benchmarks.peers.scene import CLASSES, Scene
from hypercolumns.allocator import keep_freed_memory

__all__ = ["Fcn", "Notebook", "UNet"]


class Fcn(nn.Module):
    """squeezenet1_1, fine-tuned end to end: scores of the last fire (stride 16) plus those of a skip (stride 4).

    Args:
        features: the network's convolutions, with ImageNet weights.
    """

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        # Up to the second fire (stride 4, 128 channels), and the rest (stride 16, 512 channels).
        self.shallow, self.deep = features[:5], features[5:]
        self.score, self.skip = nn.Conv2d(512, CLASSES, 3, padding=1), nn.Conv2d(128, CLASSES, 1)
        nn.init.zeros_(self.skip.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits at a quarter of the image's size."""
        shallow = self.shallow(images)
        skip = self.skip(shallow)
        scores = self.score(self.deep(shallow))
        up: Tensor = functional.interpolate(scores, size=skip.shape[2:], mode="bilinear", align_corners=False) + skip
        return up


class UNet(nn.Module):
    """A U-Net with a ResNet-18 encoder, from scratch."""

    def __init__(self, widths: Sequence[int] = (256, 128, 64, 32)) -> None:
        super().__init__()
        encoder = resnet18(weights=None)
        self.stem = nn.Sequential(encoder.conv1, encoder.bn1, encoder.relu)
        self.stages = nn.ModuleList(
            [nn.Sequential(encoder.maxpool, encoder.layer1), encoder.layer2, encoder.layer3, encoder.layer4]
        )
        skips, depth = (256, 128, 64, 64), 512
        self.ups = nn.ModuleList()
        for skip, width in zip(skips, widths, strict=True):
            self.ups.append(nn.Sequential(_convolution(depth + skip, width), _convolution(width, width)))
            depth = width
        self.score = nn.Conv2d(depth, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits at half the image's size."""
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        deep = maps.pop()
        for up in self.ups:
            skip = maps.pop()
            deep = functional.interpolate(deep, size=skip.shape[2:], mode="bilinear", align_corners=False)
            deep = up(torch.cat([deep, skip], 1))
        logits: Tensor = self.score(deep)
        return logits


def _convolution(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Notebook(nn.Module):
    """The plain way: run the frozen backbone in every step, upsample its maps to the image, stack, classify each pixel.

    Args:
        taps: the frozen backbone.
        mean: of each channel (D,).
        std: of each channel (D,), positive.
        hidden: hidden units.
    """

    def __init__(self, taps: Taps, mean: Tensor, std: Tensor, hidden: int = 256) -> None:
        super().__init__()
        self.taps = taps.requires_grad_(False)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std)
        self.classifier = nn.Sequential(nn.Conv2d(len(mean), hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, CLASSES, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits at the image's size."""
        with torch.no_grad():
            maps, widened, first = self.taps(images), [], 0
            for values in maps:
                part = slice(first, first := first + values.shape[1])
                # Standardised at the map's own size, where it is cheap: the two commute.
                values = (values - self.mean[part, None, None]) * self.scale[part, None, None]
                values = values.to(fast_dtype()).contiguous(memory_format=torch.channels_last)
                widened.append(functional.interpolate(values, size=images.shape[2:], mode="bilinear", align_corners=False))
            stacked = torch.cat(widened, 1)
        logits: Tensor = self.classifier(stacked)
        return logits


def _fcn(scene: Scene, ledger: Ledger) -> None:
    network = squeezenet1_1(weights=None)
    network.load_state_dict(torch.load(scene.weights, weights_only=True))
    train_by_the_clock(Fcn(network.features), scene, ledger, Recipe(batch=4, rate=5e-4))


def _unet(scene: Scene, ledger: Ledger) -> None:
    train_by_the_clock(UNet(), scene, ledger, Recipe(batch=2, rate=1e-3))


def _notebook(scene: Scene, ledger: Ledger) -> None:
    taps = Taps(scene.weights)
    model = Notebook(taps, *column_statistics(taps, scene.train_images[::20]))
    train_by_the_clock(model, scene, ledger, Recipe(batch=1, rate=1e-3, loss_stride=1, average=0.98))


def main() -> int:
    """Train the chosen network."""
    keep_freed_memory()
    torch.manual_seed(0)
    ledger, scene, variant = begin(__doc__)
    {"fcn": _fcn, "unet": _unet, "notebook": _notebook}[variant](scene, ledger)
    return 0


if __name__ == "__main__":
    sys.exit(main())
