"""Split a net over the devices (FSDP2; Zhao et al., 2023), with checkpoints that one device can read."""

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def sharded() -> ModelParallelStrategy:
    """Make Lightning's FSDP2. Its FSDPStrategy is FSDP1, which runs on GPUs alone and does not clip by norm."""
    return ModelParallelStrategy(save_distributed_checkpoint=False)


def shard(net: nn.Module, strategy: ModelParallelStrategy) -> None:
    """Split each layer's weights over all devices; every layer is gathered only while it computes."""
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP2 splits nothing else
    mesh = init_device_mesh(strategy.root_device.type, (strategy.world_size,))
    for layer in net.children():
        if any(parameter.requires_grad for parameter in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
