"""Small classifiers: MobileNet V1, V2 and V3, and SqueezeNet."""

from __future__ import annotations

from models.net import Net, Tensor


def mobilenet_v1(net: Net) -> None:
    """MobileNet V1 1.0, 224: depthwise separable convolutions."""
    x = net.conv_bn_relu(net.image(224), 32, 3, 2)
    layers = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
              (1024, 2), (1024, 1)]
    for out, stride in layers:
        x = net.relu(net.bn(net.depthwise(x, 3, stride)))
        x = net.conv_bn_relu(x, out)
    net.output(net.classifier(x))


def mobilenet_v2(net: Net) -> None:
    """MobileNet V2 1.0, 224: inverted residuals with Relu6 (Clip)."""
    x, before = net.relu6(net.conv_bn(net.image(224), 32, 3, 2)), 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, out, repeats, first_stride in stages:
        for stride in [first_stride] + [1] * (repeats - 1):
            y = net.relu6(net.conv_bn(x, expand * before)) if expand > 1 else x
            y = net.relu6(net.bn(net.depthwise(y, 3, stride)))
            same = stride == 1 and before == out
            y = net.conv_bn(y, out, gain=0.5 if same else 1.0)
            x, before = net.add(x, y) if same else y, out
    net.output(net.classifier(net.relu6(net.conv_bn(x, 1280))))


def mobilenet_v3_large(net: Net) -> None:
    """MobileNet V3 Large, 224: HardSwish and squeeze-and-excitation with HardSigmoid."""
    eps = 1e-3
    x, before = net.hard_swish(net.conv_bn(net.image(224), 16, 3, 2, epsilon=eps)), 16
    blocks = [  # kernel, expanded, out, squeeze-and-excitation, activation, stride
        (3, 16, 16, False, net.relu, 1), (3, 64, 24, False, net.relu, 2),
        (3, 72, 24, False, net.relu, 1), (5, 72, 40, True, net.relu, 2),
        (5, 120, 40, True, net.relu, 1), (5, 120, 40, True, net.relu, 1),
        (3, 240, 80, False, net.hard_swish, 2), (3, 200, 80, False, net.hard_swish, 1),
        (3, 184, 80, False, net.hard_swish, 1), (3, 184, 80, False, net.hard_swish, 1),
        (3, 480, 112, True, net.hard_swish, 1), (3, 672, 112, True, net.hard_swish, 1),
        (5, 672, 160, True, net.hard_swish, 2), (5, 960, 160, True, net.hard_swish, 1),
        (5, 960, 160, True, net.hard_swish, 1)]
    for k, expanded, out, squeezed, act, stride in blocks:
        y = act(net.conv_bn(x, expanded, epsilon=eps)) if expanded != before else x
        y = act(net.bn(net.depthwise(y, k, stride), epsilon=eps))
        y = squeeze_excite(net, y, expanded) if squeezed else y
        same = stride == 1 and before == out
        y = net.conv_bn(y, out, gain=0.5 if same else 1.0, epsilon=eps)
        x, before = net.add(x, y) if same else y, out
    x = net.hard_swish(net.conv_bn(x, 960, epsilon=eps))
    x = net.hard_swish(net.gemm(net.flatten(net.global_pool(x)), 1280))
    net.output(net.gemm(x, 1000))


def squeeze_excite(net: Net, x: Tensor, channels: int) -> Tensor:
    """Scales each channel by a gate in [0, 1] computed from all channel means."""
    squeezed = (channels // 4 + 4) // 8 * 8
    squeezed += 8 if squeezed < 0.9 * (channels // 4) else 0
    gate = net.conv(net.relu(net.conv(net.global_pool(x), squeezed)), x.shape[0], exact=True)
    gate = net.op("HardSigmoid", gate, alpha=1 / 6, beta=0.5)
    return net.op("Mul", x, gate, mean=x.mean / 2, var=x.var * 0.28)


def squeezenet_1_1(net: Net) -> None:
    """SqueezeNet 1.1, 224: fire modules, no BatchNormalization, Softmax."""
    x = net.relu(net.conv(net.image(224), 64, 3, 2, pad=0))
    for squeeze, pool in [(16, True), (16, False), (32, True), (32, False), (48, True), (48, False),
                          (64, False), (64, False)]:
        x = net.max_pool(x, 3, 2, ceil=True) if pool else x
        s = net.relu(net.conv(x, squeeze))
        sides = [net.relu(net.conv(s, 4 * squeeze, k)) for k in (1, 3)]
        x = net.concat(sides)
    x = net.relu(net.conv(x, 1000))
    net.output(net.softmax(net.flatten(net.global_pool(x))))
