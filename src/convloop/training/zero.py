"""Split the optimizer over the devices (DeepSpeed's ZeRO 1 and 2; Rajbhandari et al., 2020), with plain checkpoints."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch.nn import Module
from torch.optim import Optimizer

from convloop.errors import TrainingError


class PlainDeepSpeed(DeepSpeedStrategy):
    """Lightning's, but each checkpoint is one file, written and checked as everyone else's.

    ZeRO 1 and 2 leave all weights on each device, so those are kept as they are; each device's part of the optimizer
    travels to the lead as bytes, since it holds objects. DeepSpeed's own folder is many files, in which a kill leaves
    old ones among new ones.
    """

    def _format_config(self) -> None:
        assert isinstance(self.config, dict)
        if self.precision_plugin.precision == "bf16-mixed":
            # By itself DeepSpeed would turn weights and statistics into bf16, and not the images that meet them.
            self.config |= {"bf16": {"enabled": False}, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
        super()._format_config()

    def _setup_model_and_optimizer(self, model: Module, optimizer: Optimizer | None, lr_scheduler: Any = None) -> Any:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # it splits nothing else
        if optimizer is not None:
            optimizer.state.clear()  # it belongs to the weights, of which DeepSpeed makes parts
        return super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        checkpoint["optimizer_states"] = self._parts_of_all_ranks(checkpoint["optimizer_states"][0])
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        parts_R = checkpoint["optimizer_states"]
        if len(parts_R) != self.world_size:
            raise TrainingError(
                f"The state to go on from is DeepSpeed's, split over {len(parts_R)} devices, and this training has "
                f"{self.world_size}. Train on {len(parts_R)}, or begin again: convloop train --fresh"
            )
        states_R = [torch.load(io.BytesIO(part.numpy().tobytes()), "cpu", weights_only=False) for part in parts_R]
        optimizer: Any = self.optimizers[0]
        optimizer.load_state_dict(states_R, load_from_fp32_weights=True)

    def _parts_of_all_ranks(self, state: dict[str, Any]) -> list[torch.Tensor]:
        """Give each rank's part as bytes, which are read like any other tensor; all but the lead get nothing."""
        file = io.BytesIO()
        torch.save(state, file)
        parts_R: list[bytes] | None = [b""] * self.world_size if self.is_global_zero else None
        torch.distributed.gather_object(file.getvalue(), parts_R)
        return [torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in parts_R or ()]
