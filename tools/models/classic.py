"""Large classifiers: ResNet, GoogLeNet and VGG."""

from __future__ import annotations

from collections.abc import Sequence

from models.net import Net, Tensor


def resnet_stages(net: Net, x: Tensor, depths: Sequence[int], bottleneck: bool) -> list[Tensor]:
    """A ResNet without its classifier: the outputs of the four stages, at strides 4 to 32."""
    x = net.max_pool(net.conv_bn_relu(x, 64, 7, 2), 3, 2, 1)
    stages, before = [], 64
    for index, depth in enumerate(depths):
        width = 64 << index
        out = 4 * width if bottleneck else width
        for stride in [1 if index == 0 else 2] + [1] * (depth - 1):
            if bottleneck:
                y = net.conv_bn_relu(net.conv_bn_relu(x, width), width, 3, stride)
                y = net.conv_bn(y, out, gain=0.5)
            else:
                y = net.conv_bn(net.conv_bn_relu(x, width, 3, stride), out, 3, gain=0.5)
            skip = x if stride == 1 and before == out else net.conv_bn(x, out, 1, stride)
            x, before = net.relu(net.add(y, skip)), out
        stages.append(x)
    return stages


def resnet18(net: Net) -> None:
    """ResNet-18, 224."""
    net.output(net.classifier(resnet_stages(net, net.image(224), (2, 2, 2, 2), False)[-1]))


def resnet50(net: Net) -> None:
    """ResNet-50 (stride in the 3x3 convolutions), 224."""
    net.output(net.classifier(resnet_stages(net, net.image(224), (3, 4, 6, 3), True)[-1]))


def googlenet(net: Net) -> None:
    """GoogLeNet (Inception v1 with BatchNormalization), 224: four-way branches, Softmax."""

    def conv(x: Tensor, out: int, k: int = 1, stride: int = 1) -> Tensor:
        return net.conv_bn_relu(x, out, k, stride, epsilon=1e-3)

    x = net.max_pool(conv(net.image(224), 64, 7, 2), 3, 2, ceil=True)
    x = conv(conv(x, 64), 192, 3)
    inceptions = [  # pooling window before, 1x1, 3x3 (reduce, out), second 3x3 (same), pool branch
        (3, 64, 96, 128, 16, 32, 32), (0, 128, 128, 192, 32, 96, 64),
        (3, 192, 96, 208, 16, 48, 64), (0, 160, 112, 224, 24, 64, 64),
        (0, 128, 128, 256, 24, 64, 64), (0, 112, 144, 288, 32, 64, 64),
        (0, 256, 160, 320, 32, 128, 128), (2, 256, 160, 320, 32, 128, 128),
        (0, 384, 192, 384, 48, 128, 128)]
    for window, one, reduce_a, a, reduce_b, b, pool in inceptions:
        x = net.max_pool(x, window, 2, ceil=True) if window else x
        x = net.concat([conv(x, one), conv(conv(x, reduce_a), a, 3), conv(conv(x, reduce_b), b, 3),
                        conv(net.max_pool(x, 3, 1, 1, ceil=True), pool)])
    net.output(net.softmax(net.classifier(x)))


def vgg16(net: Net) -> None:
    """VGG-16, 224: 3x3 convolutions with bias and three large Gemm."""
    x = net.image(224)
    for out, depth in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(depth):
            x = net.relu(net.conv(x, out, 3))
        x = net.max_pool(x, 2, 2)
    x = net.flatten(x)
    for _ in range(2):
        x = net.relu(net.gemm(x, 4096))
    net.output(net.gemm(x, 1000))
