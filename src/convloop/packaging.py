"""Write the package that is registered: an MLflow model that needs neither pickle nor this source."""

import json
import logging
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from convloop.core.card import CARD_FILE, ModelCard
from convloop.core.package import Servable


def write_package(folder: Path, net: nn.Module, card: ModelCard) -> None:
    """Export the net with its normalisation and wrap it as an MLflow model in `folder`, which must not exist yet.

    MLflow's PyTorch flavour exports with a batch of two (a batch of one would be frozen into the graph) in evaluation
    mode; requirements are given, since inferring them takes half a minute.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pytorch
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec
    import numpy as np

    servable = Servable(net, card.mean_C, card.std_C, test_flip=card.test_flip, test_shift_px=card.test_shift_px)
    servable = servable.eval().cpu()
    shape = (card.image_px, card.image_px, card.channel_count)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, len(card.classes)))]),
    )
    example_NHWC = np.zeros((2, *shape), np.uint8)
    for name in ("mlflow", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns about its own internals
        extra = Path(temporary) / CARD_FILE.name
        extra.write_text(json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        mlflow.pytorch.save_model(
            servable,
            folder,
            signature=signature,
            input_example=example_NHWC,
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"mlflow=={version('mlflow')}", "numpy"],
            extra_files=[str(extra)],
            metadata={"model_digest": card.digest},
        )
