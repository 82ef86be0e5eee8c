"""The networks: sizes worked out by hand, and the terms that `cnn` switches."""

import inspect
import sys
from collections.abc import Callable
from typing import cast, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from convloop.config import NET_KEYS, NetParams
from convloop.core.nets import NETS, build
from convloop.core.nets.plain import PADDINGS, POOLS, cnn, cnn2, cnn3, mlp
from convloop.core.nets.residual import resnet9, resnet18, wideresnet
from convloop.core.nets.speed import speednet, whiten


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
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trained)


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


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in ("cnn", "wideresnet", "speednet") for key in NET_KEYS[name]]
)
def test_the_params_name_the_true_default_of_a_net(name: str, key: str) -> None:
    default = inspect.signature(NETS[name]).parameters[key].default
    shown = list(default) if isinstance(default, tuple) else f"`{default}`" if isinstance(default, str) else default
    told = str(NetParams.model_fields[key].description).split(f"`{name}`")[1].split(" when absent")[0]
    assert told.endswith(f" {shown}")


@pytest.mark.parametrize(
    ("net", "parameter_count"),
    [
        (lambda: resnet18(32, 3, 10), 11_173_962),  # as counted by all who use it with a 3x3 first convolution
        (lambda: resnet9(32, 3, 10), 6_573_120),
        (lambda: wideresnet(32, 3, 10, depth=16, width=4), 2_748_890),
        (lambda: wideresnet(32, 3, 10, depth=28, width=10), 36_479_194),  # "36.5M" in the paper
        (lambda: speednet(32, 3, 10), 1_972_792),
        (lambda: speednet(32, 3, 10, depth=11, width=2), 12_721_208),
    ],
)
def test_nets_of_the_literature_have_the_parameters_known_of_them(
    net: Callable[[], nn.Module], parameter_count: int
) -> None:
    with torch.device("meta"):
        assert _parameter_count(net()) == parameter_count


@pytest.mark.parametrize(("name", "least_px"), [("resnet9", 8), ("resnet18", 8), ("wideresnet", 8), ("speednet", 9)])
def test_the_least_image_of_a_net_with_halvings_passes_it(name: str, least_px: int) -> None:
    assert NETS[name](least_px, 3, 4)(_images(least_px)).shape == (4, 4)


@pytest.mark.parametrize(("name", "least_px"), [("resnet9", 8), ("resnet18", 8), ("wideresnet", 8), ("speednet", 9)])
def test_an_image_smaller_than_that_is_refused(name: str, least_px: int) -> None:
    side_px = least_px - 1
    assert _message(lambda: NETS[name](side_px, 3, 4)) == (
        f"images of {side_px}x{side_px} pixels are too small for its three halvings. Use {least_px} px"
    )


def _correlated_images() -> Tensor:
    """Draw images whose neighbours are alike, as they are in photographs."""
    noise_NCHW = _images(20)
    return functional.avg_pool2d(noise_NCHW, 5, stride=1, padding=2)


@pytest.mark.parametrize("channel_count", [1, 3])
def test_whitened_patches_are_uncorrelated_and_equally_large(channel_count: int) -> None:
    net = speednet(20, channel_count, 4)
    images_NCHW = _correlated_images()[:, :channel_count]
    whiten(net, images_NCHW)

    half = 4 * channel_count
    with torch.no_grad():
        features_NCHW = net.get_submodule("whiten")(images_NCHW)
    features_DM = features_NCHW[:, :half].transpose(0, 1).reshape(half, -1).double()
    moments_DD = features_DM @ features_DM.T / features_DM.shape[1]

    # A direction of variance v comes out as v / (v + 5e-4).
    values_D = moments_DD.diag()
    assert ((values_D > 0.3) & (values_D <= 1.0001)).all()
    torch.testing.assert_close(moments_DD, torch.diag(values_D), atol=1e-4, rtol=0)


def test_the_second_half_of_the_whitening_is_the_negative_of_the_first() -> None:
    net = speednet(20, 3, 4)
    whiten(net, _correlated_images())
    weight = net.get_parameter("whiten.weight")
    assert weight.abs().sum() > 0
    torch.testing.assert_close(weight[:12], -weight[12:], rtol=0, atol=0)


def test_the_whitening_and_the_factors_of_normalisation_are_frozen() -> None:
    net = speednet(20, 3, 4)
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    norms = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert frozen == {"whiten.weight", *norms}
    assert len(norms) == 6


def test_a_block_of_the_speed_net_starts_as_the_identity() -> None:
    net = speednet(20, 3, 4)
    features_NCHW = torch.randn(2, 24, 8, 8)
    out_NCHW = net.get_submodule("block1.0")(features_NCHW)
    torch.testing.assert_close(out_NCHW[:, :24], features_NCHW)


def test_a_deep_block_of_the_speed_net_adds_its_later_convolutions_to_what_they_are_given() -> None:
    block = speednet(20, 3, 4, depth=11).get_submodule("block1")
    features_NCHW = torch.randn(2, 24, 8, 8)
    for name, parameter in block.named_parameters():
        if name.startswith("4."):
            nn.init.zeros_(parameter)

    shallow_NCHW = cast(nn.Sequential, block)[:4](features_NCHW)
    torch.testing.assert_close(block(features_NCHW), functional.gelu(shallow_NCHW))


def test_build_finds_a_net_by_its_name() -> None:
    assert _parameter_count(build("mlp", 8, 1, 2, hidden_count=3)) == _dense(64, 3) + _dense(3, 2)


def test_a_net_of_timm_without_timm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert _message(lambda: build("timm:resnet10t", 32, 3, 10)) == (
        'timm cannot be imported (import of timm halted; None in sys.modules). Install it: pip install "convloop[timm]"'
    )
