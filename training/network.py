"""The networks: chains of 3x3 convolutions that upscale luma by two.

Owns the shapes (`SHAPES`), the over-parametrised form that is trained and the plain form that is
run. While training, a kernel is the sum of a 3x3 kernel, the product of a wide 3x3 kernel and a
1x1 kernel, and the identity where the number of channels stays; the sum is made in weight space
before every pass, so that a pass costs what the plain network costs (Bhardwaj et al., "Collapsible
Linear Blocks for Super-Efficient Super Resolution", MLSys 2022; Ding et al., "RepVGG", CVPR 2021).
"""

import torch
import torch.nn.functional as F

# (channels, hidden convolutions): 1-channels, hidden times channels-channels, channels-4
SHAPES = {"fast": (16, 4), "quality": (32, 10)}
WIDE = 64


class Kernel(torch.nn.Module):
    """One 3x3 kernel with bias, over-parametrised; calling it gives the plain `(weight, bias)`.

    `gain` scales the first random kernel and `flat` is the number of output channels that may
    answer to an even surface; the kernels of the others sum to zero. Without the two, the level
    of the picture drives whole channels below zero for good: of 32 channels in each of ten
    layers half to all died, and the network became a shallow one.
    """

    def __init__(self, inputs, outputs, gain=1.0, flat=None):
        super().__init__()
        scale = gain * (1 / (9 * inputs)) ** 0.5  # half of He's variance for each of the two parts
        self.direct = torch.nn.Parameter(scale * torch.randn(outputs, inputs, 3, 3))
        self.wide = torch.nn.Parameter(scale * torch.randn(WIDE, inputs, 3, 3))
        self.narrow = torch.nn.Parameter(torch.randn(outputs, WIDE) / WIDE ** 0.5)
        self.bias = torch.nn.Parameter(torch.zeros(outputs))
        identity = torch.zeros(outputs, inputs, 3, 3)
        if inputs == outputs:
            identity[range(inputs), range(inputs), 1, 1] = 1
        self.register_buffer("identity", identity, persistent=False)
        if flat is not None:
            with torch.no_grad():
                self.wide -= self.wide.mean((2, 3), keepdim=True)
                self.direct[flat:] -= self.direct[flat:].mean((2, 3), keepdim=True)

    def forward(self):
        product = (self.narrow @ self.wide.flatten(1)).view_as(self.direct)
        return self.direct + product + self.identity, self.bias


class Network(torch.nn.Module):
    """The trained form; `plain()` gives its list of plain `(weight, bias)`."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            [Kernel(1, channels, flat=4)]
            + [Kernel(channels, channels, gain=0.4) for _ in range(hidden)]
            + [Kernel(channels, 4, gain=0.1)])

    def plain(self):
        return [layer() for layer in self.layers]

    @torch.no_grad()
    def take(self, plain):
        """Become the network `plain`: its kernels less the over-parametrised part."""
        for layer, (weight, bias) in zip(self.layers, plain):
            layer.direct += weight - layer()[0]
            layer.bias.copy_(bias)


def upscale(plain, y):
    """Twice the size of `y`, `[n, 1, h, w]` in 0..1.

    Under autocast the first convolution stays in fp32, since bfloat16 cannot hold 8-bit code
    values to better than half a step, and so does the sum of source and correction.
    """
    with torch.autocast("cpu", enabled=False):
        x = F.relu(F.conv2d(y, *plain[0], padding=1))
    for weight, bias in plain[1:-1]:
        x = F.relu(F.conv2d(x, weight, bias, padding=1))
    return F.pixel_shuffle(F.conv2d(x, *plain[-1], padding=1).float() + y, 2)


def halo(plain):
    """Source pixels that an output pixel depends on at each side."""
    return len(plain)
