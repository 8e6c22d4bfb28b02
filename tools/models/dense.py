"""Networks with an output per place: YOLOv2, PoseNet, RetinaFace and fast style transfer."""

from __future__ import annotations

import math

from models.classic import resnet_stages
from models.net import Net, Tensor


def yolov2(net: Net) -> None:
    """YOLOv2 (COCO), 416: Darknet-19, LeakyRelu, a passthrough by SpaceToDepth, 425 channels."""

    def conv(x: Tensor, out: int, k: int) -> Tensor:
        return net.leaky_relu(net.conv_bn(x, out, k), 0.1)

    def pyramid(x: Tensor, out: int, depth: int) -> Tensor:
        for index in range(depth):
            x = conv(x, out if index % 2 == 0 else out // 2, 3 if index % 2 == 0 else 1)
        return x

    x = net.image(416)
    for out, depth in [(32, 1), (64, 1), (128, 3), (256, 3), (512, 5)]:
        x = net.max_pool(x, 2, 2) if out > 32 else x
        x = pyramid(x, out, depth)
    fine = net.space_to_depth(conv(x, 64, 1), 2)
    coarse = pyramid(net.max_pool(x, 2, 2), 1024, 5)
    coarse = conv(conv(coarse, 1024, 3), 1024, 3)
    x = conv(net.concat([fine, coarse]), 1024, 3)
    net.output(net.conv(x, 425, exact=True))


def posenet(net: Net) -> None:
    """Hand PoseNet, 256: VGG-like encoder, then two 7x7 stages refining 21 belief maps."""

    def conv(x: Tensor, out: int, k: int = 3) -> Tensor:
        return net.leaky_relu(net.conv(x, out, k), 0.01)

    x = net.image(256)
    for widths in [(64, 64), (128, 128), (256, 256, 256, 256)]:
        for out in widths:
            x = conv(x, out)
        x = net.max_pool(x, 2, 2)
    for out in (512, 512, 256, 256, 256, 256, 128):
        x = conv(x, out)
    encoding, maps = x, net.conv(conv(x, 512, 1), 21, exact=True)
    for _ in range(2):
        x = net.concat([maps, encoding])
        for _ in range(5):
            x = conv(x, 128, 7)
        maps = net.conv(conv(x, 128, 1), 21, exact=True)
    net.output(maps, "belief_maps")


def retinaface(net: Net) -> None:
    """RetinaFace with ResNet-50, 320: feature pyramid, SSH context, box/class/landmark heads."""
    levels = resnet_stages(net, net.image(320), (3, 4, 6, 3), True)[1:]
    fine, middle, coarse = (net.conv_bn_relu(level, 256) for level in levels)
    middle = net.conv_bn_relu(net.add(middle, net.upsample(coarse)), 256, 3)
    fine = net.conv_bn_relu(net.add(fine, net.upsample(middle)), 256, 3)
    features = [ssh(net, level) for level in (fine, middle, coarse)]
    boxes, scores, landmarks = (
        net.concat([head(net, feature, width) for feature in features]) for width in (4, 2, 10))
    net.output(boxes, "boxes")
    net.output(net.softmax(scores), "scores")
    net.output(landmarks, "landmarks")


def ssh(net: Net, x: Tensor) -> Tensor:
    """A single-stage-headless context module: fields of 3x3, 5x5 and 7x7, joined."""
    shared = net.conv_bn_relu(x, 64, 3)
    five = net.conv_bn(shared, 64, 3)
    seven = net.conv_bn(net.conv_bn_relu(shared, 64, 3), 64, 3)
    return net.relu(net.concat([net.conv_bn(x, 128, 3), five, seven]))


def head(net: Net, x: Tensor, width: int) -> Tensor:
    """`width` numbers for each of two anchors a pixel: [batch, 2 * height * width, width]."""
    y = net.transpose(net.conv(x, 2 * width, exact=True), 2, 3, 1)
    return net.reshape(y, 2 * math.prod(x.shape[1:]), width)


def fast_style_transfer(net: Net) -> None:
    """Fast style transfer, 320x480: InstanceNormalization, residual blocks, ConvTranspose, Tanh."""

    def conv(x: Tensor, out: int, k: int, stride: int = 1, gain: float = 1.0) -> Tensor:
        padded = net.reflect(x, k // 2)
        return net.instance_norm(net.conv(padded, out, k, stride, pad=0), gain)

    x = net.image(320, 480)
    for out, k, stride in [(32, 9, 1), (64, 3, 2), (128, 3, 2)]:
        x = net.relu(conv(x, out, k, stride))
    for _ in range(5):
        x = net.add(x, conv(net.relu(conv(x, 128, 3)), 128, 3, gain=0.5))
    for out in (64, 32):
        x = net.relu(net.instance_norm(net.upconv(x, out)))
    x = net.conv(net.reflect(x, 4), 3, 9, pad=0, exact=True)
    net.output(net.op("Tanh", x))
