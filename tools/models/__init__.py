"""The thirteen architectures: each function adds one to a `Net`, inputs and outputs included."""

from collections.abc import Callable

from models.bert import bert_mini
from models.classic import googlenet, resnet18, resnet50, vgg16
from models.dense import fast_style_transfer, posenet, retinaface, yolov2
from models.mobile import mobilenet_v1, mobilenet_v2, mobilenet_v3_large, squeezenet_1_1
from models.net import Net

ARCHITECTURES: dict[str, Callable[[Net], None]] = {build.__name__: build for build in (
    mobilenet_v1, mobilenet_v2, mobilenet_v3_large, squeezenet_1_1, resnet18, resnet50, googlenet,
    vgg16, yolov2, posenet, retinaface, fast_style_transfer, bert_mini)}
