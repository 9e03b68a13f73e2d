"""CaffeNet, the reference network of Caffe: AlexNet's widths and groups, normalisation after pooling, ceil-mode pooling.

torchvision's AlexNet is another network (64-192-384-256-256 channels, no groups, no normalisation), so this one is spelled
out. Only the graph lives here; weights come from a file or a seed.
"""

from __future__ import annotations

from torch import Tensor, fx, nn

__all__ = ["CaffeNet"]


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _norm() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


class CaffeNet(nn.Module):
    """Eight learned layers; the fully connected ones need a canvas of 227 × 227 pixels.

    Submodules carry Caffe's layer names, so that parameters are called ``conv1.weight``, ``fc6.bias`` and so on. Weights
    converted from Caffe fit as they are, except that Caffe's first convolution expects BGR in [0, 255].

    Source:
        Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", NIPS 2012, as changed in Jia
        et al., "Caffe: convolutional architecture for fast feature embedding", 2014 (pooling before normalisation).
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.relu1, self.pool1, self.norm1 = nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), _pool(), _norm()
        self.conv2, self.relu2 = nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU()
        self.pool2, self.norm2 = _pool(), _norm()
        self.conv3, self.relu3 = nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()
        self.conv4, self.relu4 = nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()
        self.conv5, self.relu5, self.pool5 = nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), _pool()
        self.flatten = nn.Flatten()
        self.fc6, self.relu6, self.drop6 = nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout()
        self.fc7, self.relu7, self.drop7 = nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()
        self.fc8 = nn.Linear(4096, classes)

    def forward(self, images: Tensor | fx.Proxy) -> Tensor | fx.Proxy:
        """Score images of shape (b, 3, 227, 227) for each class: (b, classes). Stand-ins are taken too, for tracing."""
        x = self.norm1(self.pool1(self.relu1(self.conv1(images))))
        x = self.norm2(self.pool2(self.relu2(self.conv2(x))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(x))))
        x = self.flatten(self.pool5(self.relu5(self.conv5(x))))
        x = self.drop6(self.relu6(self.fc6(x)))
        x = self.drop7(self.relu7(self.fc7(x)))
        scores: Tensor | fx.Proxy = self.fc8(x)
        return scores
