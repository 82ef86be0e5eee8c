"""The networks: sizes worked out by hand, and the terms that `cnn` switches."""

import inspect
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from convloop.config import NET_KEYS, NetParams
from convloop.core.nets import NETS, PADDINGS, POOLS, cnn, cnn2, cnn3, mlp


def _parameter_count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _conv(width: int, filters: int) -> int:
    return 3 * 3 * width * filters + filters


def _dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _images(side_px: int = 12, channel_count: int = 3) -> Tensor:
    return torch.randn(4, channel_count, side_px, side_px, generator=torch.Generator().manual_seed(1))


def _message(build: Callable[[], nn.Module]) -> str:
    with pytest.raises(ValueError) as caught:
        build()
    return str(caught.value)


def test_cnn3_has_the_parameters_that_keras_counts() -> None:
    # Without padding a 3x3 window takes two pixels off a side and pooling halves it: 32, 30, 15, 13, 6, 4, 2.
    convolutions = _conv(3, 32) + _conv(32, 64) + _conv(64, 128)
    count = convolutions + _dense(2 * 2 * 128, 256) + _dense(256, 10)
    assert count == 227_146
    assert _parameter_count(cnn3(32, 3, 10)) == count


def test_cnn2_has_the_parameters_that_keras_counts() -> None:
    # With padding only pooling shrinks a side: 32, 16, 8.
    count = _conv(3, 32) + _conv(32, 64) + _dense(8 * 8 * 64, 512) + _dense(512, 10)
    assert count == 2_122_186
    assert _parameter_count(cnn2(32, 3, 10)) == count


def test_mlp_has_the_parameters_of_its_two_layers() -> None:
    assert _parameter_count(mlp(32, 3, 10, hidden_count=100)) == _dense(3 * 32 * 32, 100) + _dense(100, 10)


@pytest.mark.parametrize("name", NETS)
def test_every_net_gives_one_logit_for_each_class(name: str) -> None:
    assert NETS[name](24, 1, 7)(_images(24, 1)).shape == (4, 7)


@pytest.mark.parametrize("name", NETS)
def test_every_net_is_trained_to_its_first_layer(name: str) -> None:
    net = NETS[name](24, 3, 4)
    net(_images(24)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


def test_max_pooling_before_relu_equals_relu_before_max_pooling() -> None:
    net = cnn(12, 3, 4, channels=(8,))
    usual_NCHW = functional.max_pool2d(functional.relu(net[0](_images())), 2)
    torch.testing.assert_close(net[:3](_images()), usual_NCHW, rtol=0, atol=0)


def test_average_pooling_comes_after_relu() -> None:
    net = cnn(12, 3, 4, channels=(8,), pool="average")
    expected_NCHW = functional.avg_pool2d(functional.relu(net[0](_images())), 2)
    torch.testing.assert_close(net[:3](_images()), expected_NCHW, rtol=0, atol=0)


def test_no_pooling_keeps_every_pixel_of_the_convolution() -> None:
    net = cnn(12, 3, 4, channels=(8,), pool="none")
    assert [name for name, _ in net.named_children()] == ["conv1", "relu1", "flatten", "hidden", "relu", "output"]
    assert net[:2](_images()).shape == (4, 8, 10, 10)


def test_a_stride_of_two_takes_every_second_window() -> None:
    net = cnn(12, 3, 4, channels=(8,), pool="none", stride_px=2)
    dense_NCHW = functional.conv2d(_images(), net.get_parameter("conv1.weight"), net.get_parameter("conv1.bias"))
    torch.testing.assert_close(net[0](_images()), dense_NCHW[:, :, ::2, ::2])


@pytest.mark.parametrize("kernel_px", [1, 3, 5, 7])
def test_same_padding_keeps_the_size(kernel_px: int) -> None:
    net = cnn(12, 3, 4, channels=(8, 8), kernel_px=kernel_px, padding="same", pool="none")
    assert net[:-4](_images()).shape == (4, 8, 12, 12)


def test_channels_make_as_many_blocks() -> None:
    net = cnn(32, 3, 4, channels=(2, 4, 6))
    assert [layer.out_channels for layer in net if isinstance(layer, nn.Conv2d)] == [2, 4, 6]


@settings(deadline=None, max_examples=60)
@given(
    side_px=st.integers(8, 40),
    blocks=st.integers(1, 4),
    kernel_px=st.sampled_from([1, 2, 3, 5]),
    stride_px=st.integers(1, 3),
    padding=st.sampled_from(PADDINGS),
    pool=st.sampled_from(sorted(POOLS)),
)
def test_a_cnn_that_can_be_built_can_be_run(
    side_px: int, blocks: int, kernel_px: int, stride_px: int, padding: str, pool: str
) -> None:
    kernel_px += padding == "same" and kernel_px % 2 == 0
    try:
        net = cnn(
            side_px, 1, 2, channels=(2,) * blocks, kernel_px=kernel_px, stride_px=stride_px, padding=padding, pool=pool
        )
    except ValueError:
        return
    assert net(_images(side_px, 1)).shape == (4, 2)


def test_an_image_too_small_to_pool_is_refused() -> None:
    assert _message(lambda: cnn3(8, 3, 10)) == (
        "block 2 gets 1x1 pixels, too small for 2x2 pooling. "
        "Use fewer blocks, padding: same, pool: none, or images larger than 8x8"
    )


def test_an_image_smaller_than_a_window_is_refused() -> None:
    assert _message(lambda: cnn(8, 3, 10, channels=(4, 4), stride_px=2)) == (
        "block 2 gets 1x1 pixels, too small for a 3x3 window. "
        "Use fewer blocks, padding: same, pool: none, or images larger than 8x8"
    )


def test_the_params_know_every_net() -> None:
    assert sorted(NETS) == sorted(NET_KEYS)


@pytest.mark.parametrize("name", NETS)
def test_the_params_know_every_key_of_a_net(name: str) -> None:
    parameters = inspect.signature(NETS[name]).parameters.values()
    assert {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY} == set(
        NET_KEYS[name]
    )


@pytest.mark.parametrize(("key", "known"), [("padding", set(PADDINGS)), ("pool", set(POOLS))])
def test_the_params_know_every_word_of_cnn(key: str, known: set[str]) -> None:
    choices, _ = get_args(NetParams.model_fields[key].annotation)
    assert set(get_args(choices)) == known


@pytest.mark.parametrize("key", NET_KEYS["cnn"])
def test_the_params_name_the_true_default_of_cnn(key: str) -> None:
    default = inspect.signature(cnn).parameters[key].default
    shown = list(default) if isinstance(default, tuple) else f"`{default}`" if isinstance(default, str) else default
    assert str(NetParams.model_fields[key].description).endswith(f"{shown} when absent")
