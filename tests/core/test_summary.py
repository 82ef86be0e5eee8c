"""The summary of a network, against PyTorch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convloop.core.nets import NETS
from convloop.core.nets.plain import cnn, cnn3
from convloop.core.summary import as_text, summarise


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("channel_count", [1, 3])
def test_the_work_of_a_net_is_what_pytorch_counts(name: str, channel_count: int) -> None:
    net = NETS[name](24, channel_count, 10)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, channel_count, 24, 24))
    assert sum(layer.flop_count for layer in summarise(net, 24, channel_count)) == counter.get_total_flops()


def test_the_work_of_a_strided_padded_net_is_what_pytorch_counts() -> None:
    net = cnn(31, 3, 10, channels=(8, 16), kernel_px=5, stride_px=2, padding="same", pool="none")
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 31, 31))
    assert sum(layer.flop_count for layer in summarise(net, 31, 3)) == counter.get_total_flops()


def test_the_parameters_of_the_layers_add_up_to_the_net() -> None:
    net = cnn3(32, 3, 10)
    total = sum(parameter.numel() for parameter in net.parameters())
    assert sum(layer.parameter_count for layer in summarise(net, 32, 3)) == total


def test_layers_come_in_the_order_of_the_net_with_their_output() -> None:
    layers = summarise(cnn(8, 1, 3, channels=(4,), hidden_count=5), 8, 1)
    assert [(layer.name, layer.kind, layer.output) for layer in layers] == [
        ("conv1", "Conv2d", (4, 6, 6)),
        ("pool1", "MaxPool2d", (4, 3, 3)),
        ("relu1", "ReLU", (4, 3, 3)),
        ("flatten", "Flatten", (36,)),
        ("hidden", "Linear", (5,)),
        ("relu", "ReLU", (5,)),
        ("output", "Linear", (3,)),
    ]


def test_summarising_leaves_the_weights_alone() -> None:
    net = cnn3(32, 3, 10)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    summarise(net, 32, 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_the_text_is_a_table_with_a_total() -> None:
    assert as_text(summarise(cnn3(32, 3, 10), 32, 3)).splitlines() == [
        "layer      kind             output   parameters    MFLOP",
        "conv1      Conv2d         32x30x30          896     1.56",
        "pool1      MaxPool2d      32x15x15",
        "relu1      ReLU           32x15x15",
        "conv2      Conv2d         64x13x13       18,496     6.23",
        "pool2      MaxPool2d        64x6x6",
        "relu2      ReLU             64x6x6",
        "conv3      Conv2d          128x4x4       73,856     2.36",
        "pool3      MaxPool2d       128x2x2",
        "relu3      ReLU            128x2x2",
        "flatten    Flatten             512",
        "hidden     Linear              256      131,328     0.26",
        "relu       ReLU                256",
        "output     Linear               10        2,570     0.01",
        "total                                   227,146    10.41  (forward, one image)",
    ]
