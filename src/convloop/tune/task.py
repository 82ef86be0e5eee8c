"""What a finder measures: the data and the params of the train stage, read as it reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convloop.core.images import Images, open_images
from convloop.core.prepared import Prepared, read_prepared
from convloop.stages.train import new_classifier, read_batches

if TYPE_CHECKING:
    from convloop.config import TrainParams
    from convloop.training.classifier import Classifier
    from convloop.training.loaders import Batches


@dataclass(frozen=True)
class Task:
    """Images and split of a project; what is made of them is made anew each time."""

    images: Images
    prepared: Prepared

    def classifier(self, settings: "TrainParams") -> "Classifier":
        """Build a classifier with the first weights of its seed."""
        return new_classifier(settings, self.images, self.prepared)

    def batches(self, settings: "TrainParams") -> "Batches":
        """Read the images of train and val."""
        return read_batches(settings, self.images, self.prepared)


def open_task(project: Path) -> Task:
    """Open data/raw, data/landed and data/prepared.

    Raises:
        DataError: they are missing, damaged, or do not belong together.
    """
    images = open_images(project / "data/raw", project / "data/landed")
    return Task(images, read_prepared(project / "data/prepared", images))
