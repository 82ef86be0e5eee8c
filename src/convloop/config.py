"""The Params tree: every key of params.yaml, its default and its range."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from convloop.params_file import flatten

# The names that the tables SOURCES, NETS, STRATEGIES, OPTIMIZERS and CURVES must hold (a house test compares them).
READS_PATH = ("folder", "csv", "archive", "parquet", "idx", "cifar10", "cifar100", "npz", "npy")
SOURCE_NAMES = ("synthetic", "noise", *READS_PATH)
NET_KEYS: dict[str, tuple[str, ...]] = {
    "cnn2": (),
    "cnn3": (),
    "cnn": ("channels", "kernel_px", "stride_px", "padding", "pool", "hidden_count"),
    "mlp": ("hidden_count",),
    "resnet9": (),
    "resnet18": (),
    "wideresnet": ("depth", "width"),
    "speednet": ("depth", "width"),
}
TIMM_PREFIX = "timm:"
TIMM_KEYS = ("weights_path",)
STRATEGY_NAMES = ("auto", "ddp", "ddp_spawn", "fsdp", "deepspeed")
OPTIMIZER_NAMES = ("adam", "adamw", "sgd", "muon")
CURVE_NAMES = ("constant", "one_cycle", "cosine")

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/:\s]([^/:]*[^/:\s])?$")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# As core.modes.MODES has them (a house test compares the two).
Mode = Literal["unknown", "1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "16-bit", "other"]


class GenerateParams(Section):
    source: Annotated[str, Field(description="where images come from: a key of SOURCES")] = "synthetic"
    path: Annotated[
        str | None, Field(description="folder, file or URL (s3://, https://) that a source of real data reads")
    ] = None
    licence: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="licence of the source, for the data card; when absent, the first line of a LICENSE or README there",
        ),
    ] = None
    image_count: Annotated[Count, Field(le=10_000_000, description="images to draw (synthetic, noise)")] = 16_000
    class_count: Annotated[int, Field(ge=2, le=20, description="classes to draw (synthetic, noise)")] = 10
    image_px: Annotated[
        int, Field(ge=8, le=512, description="height and width of a drawn or decoded image; arrays keep theirs")
    ] = 32
    channel_count: Annotated[Literal[1, 3], Field(description="1 gray, 3 colour; arrays keep theirs")] = 3
    fit: Annotated[
        Literal["crop", "pad", "stretch"],
        Field(description="how a decoded image becomes square: its middle, white margins, or stretched"),
    ] = "crop"
    max_refused_share: Annotated[
        Share, Field(description="files that cannot be used, above which generate stops the pipeline")
    ] = 0.01
    seed: Annotated[Seed, Field(description="the same seed draws the same images (synthetic, noise)")] = 7
    difficulty_share: Annotated[Share, Field(description="0 clean shapes, 1 faint shapes in noise (synthetic)")] = 0.25
    label_noise_share: Annotated[Share, Field(description="share of labels replaced by another (synthetic)")] = 0.0
    imbalance_ratio: Annotated[
        float, Field(ge=1, le=1000, description="images of the commonest class for one of the rarest (synthetic)")
    ] = 1.0
    shift_share: Annotated[Share, Field(description="how far tint and contrast move, to stage drift (synthetic)")] = 0.0


class PrepareParams(Section):
    val_share: Annotated[float, Field(gt=0, lt=1, description="images that choose the epoch to keep")] = 0.1
    test_share: Annotated[
        float, Field(gt=0, lt=1, description="images that judge the model, unless the source names its own")
    ] = 0.2
    min_class_image_count: Annotated[
        Count, Field(description="images that each class must have in each of train, val and test")
    ] = 5
    classes: Annotated[
        list[str] | None, Field(min_length=2, description="classes that must be there, and no other; any when absent")
    ] = None
    original_px_range: Annotated[
        list[Count] | None,
        Field(min_length=2, max_length=2, description="least and most that a side of a source image may have"),
    ] = None
    original_modes: Annotated[
        list[Mode] | None,
        Field(
            min_length=1,
            description="modes that source images may have, such as `[L, RGB]`; any when absent, and `unknown` is that of "
            "images which landed before modes were kept",
        ),
    ] = None
    brightness_range: Annotated[
        list[Annotated[float, Field(ge=0, le=255)]] | None,
        Field(
            min_length=2, max_length=2, description="least and most that an image's mean brightness may be, 0 to 255"
        ),
    ] = None
    test_sha256: Annotated[
        str | None,
        Field(
            min_length=64,
            max_length=64,
            description="a test set to keep, from `test_versions` of the data card: images that came later stay out of it",
        ),
    ] = None
    label_check_image_count: Annotated[
        int, Field(ge=0, le=1_000_000, description="images to search for wrong labels; 0 searches none")
    ] = 20_000
    max_doubtful_share: Annotated[
        Share, Field(description="labels that look wrong, of those searched, above which the gate warns")
    ] = 0.02


class NetParams(Section):
    name: Annotated[str, Field(description="a key of NETS, or `timm:<name>` (extra `timm`)")] = "cnn3"
    channels: Annotated[
        list[Annotated[int, Field(ge=1, le=4096)]] | None,
        Field(min_length=1, max_length=12, description="filters of each block (`cnn`); [32, 64, 128] when absent"),
    ] = None
    kernel_px: Annotated[int | None, Field(ge=1, le=31, description="side of a filter (`cnn`); 3 when absent")] = None
    stride_px: Annotated[int | None, Field(ge=1, le=8, description="step of a filter (`cnn`); 1 when absent")] = None
    padding: Annotated[
        Literal["valid", "same"] | None,
        Field(description="zeros around the image or none (`cnn`); `valid` when absent"),
    ] = None
    pool: Annotated[
        Literal["max", "average", "none"] | None, Field(description="2x2 pooling (`cnn`); `max` when absent")
    ] = None
    hidden_count: Annotated[
        int | None, Field(ge=1, le=65_536, description="units of the hidden layer (`cnn`, `mlp`); 256 when absent")
    ] = None
    depth: Annotated[
        int | None,
        Field(
            ge=8,
            le=1000,
            description="layers: 6n + 4 (`wideresnet`), 16 when absent; 3n + 2 (`speednet`), 8 when absent",
        ),
    ] = None
    width: Annotated[
        int | None,
        Field(
            ge=1,
            le=64,
            description="times the filters of the narrow net (`wideresnet`), 4 when absent; (`speednet`), 1 when absent",
        ),
    ] = None
    weights_path: Annotated[
        str | None, Field(min_length=1, description="file of pretrained weights (`timm:<name>`); none when absent")
    ] = None


class AugmentParams(Section):
    flip: Annotated[
        bool, Field(description="mirror half of the train images left to right, in the next epoch the other half")
    ] = False
    shift_px: Annotated[int, Field(ge=0, le=1024, description="move by up to so much, sides mirrored outwards")] = 0
    trivial: Annotated[
        bool, Field(description="one random change of colour or place for each image, TrivialAugment")
    ] = False
    cutout_px: Annotated[int, Field(ge=0, le=1024, description="side of a square painted in the mean colour")] = 0
    mixup_alpha: Annotated[
        float, Field(ge=0, le=10, description="blend images in pairs; 0.2 a little, 1 evenly, 0 not")
    ] = 0.0
    cutmix_alpha: Annotated[
        float, Field(ge=0, le=10, description="paste a rectangle of another image; 1 is usual, 0 not")
    ] = 0.0


class TrainParams(Section):
    net: NetParams = NetParams()
    epochs: Annotated[Count, Field(le=10_000, description="passes over the training images")] = 8
    batch_size: Annotated[Count, Field(le=65_536, description="images of one step, all devices together")] = 64
    lr: Annotated[float, Field(gt=0, le=10, description="learning rate, at the top of its curve")] = 0.001
    optimizer: Annotated[str, Field(description="a key of OPTIMIZERS: `adam`, `adamw`, `sgd`, `muon`")] = "adam"
    momentum: Annotated[
        float | None,
        Field(ge=0, lt=1, description="of `sgd`, Nesterov's (0.9 when absent), and `muon` (0.95 when absent)"),
    ] = None
    weight_decay: Annotated[
        float,
        Field(ge=0, le=10, description="of filters and matrices; `adamw` and `muon` decouple it from the gradient"),
    ] = 0.0
    curve: Annotated[
        str, Field(description="the learning rate over time, a key of CURVES: `constant`, `one_cycle`, `cosine`")
    ] = "constant"
    warmup_share: Annotated[float, Field(ge=0, lt=1, description="of the steps, in which the learning rate rises")] = (
        0.0
    )
    label_smoothing_share: Annotated[
        float, Field(ge=0, lt=1, description="of each label, spread over all classes; 0.1 is usual")
    ] = 0.0
    augment: AugmentParams = AugmentParams()
    average_share: Annotated[
        float,
        Field(ge=0, lt=1, description="of the average weights that a step leaves, such as 0.999; 0 averages nothing"),
    ] = 0.0
    stop_after_epoch_count: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="end after so many epochs without a better one; never when absent"),
    ] = None
    test_flip: Annotated[
        bool, Field(description="validate and package the mean answer to each image and its mirror image")
    ] = False
    test_shift_px: Annotated[
        int, Field(ge=0, le=1024, description="the mean answer also to each image moved by so much, two ways")
    ] = 0
    seed: Annotated[Seed, Field(description="first weights and order of the images")] = 7
    class_weights: Annotated[
        Literal["none", "inverse_frequency"],
        Field(description="weight of a class in the loss; `inverse_frequency` gives every class the same total"),
    ] = "none"
    sampling: Annotated[
        Literal["shuffled", "balanced"],
        Field(description="an epoch's images: each one once, or as many of every class"),
    ] = "shuffled"
    keep: Annotated[
        Literal["best", "last"], Field(description="epoch to package: best validation accuracy, or last")
    ] = "best"
    save_every_s: Annotated[
        float, Field(ge=0, le=86_400, description="time between two states to resume from; 0 writes one in each step")
    ] = 60
    accelerator: Annotated[Literal["auto", "cpu", "gpu"], Field(description="what to train on")] = "auto"
    devices: Annotated[
        Annotated[int, Field(ge=1, le=1024)] | Literal["auto"],
        Field(description="how many on each host; `auto` takes one CPU, or every GPU"),
    ] = "auto"
    nodes: Annotated[Count, Field(le=1024, description="hosts that train together")] = 1
    launcher: Annotated[
        Literal["lightning", "torchrun", "slurm"],
        Field(description="what starts the processes of a training; docs/strategies.md"),
    ] = "lightning"
    strategy: Annotated[
        str, Field(min_length=1, description="a key of STRATEGIES, or another name that Lightning knows")
    ] = "auto"
    precision: Annotated[
        Literal[32, "bf16", "fp16", "auto"],
        Field(description="bits of the training arithmetic; `auto` is bf16 where the device computes in it, else 32"),
    ] = 32
    deterministic: Annotated[
        bool, Field(description="on a GPU, the same weights every time, more slowly; a CPU gives them anyway")
    ] = False
    compile: Annotated[
        bool, Field(description="have torch.compile fuse the net's operations; the first steps wait for it")
    ] = False
    images_in: Annotated[
        Literal["auto", "device", "memory", "files"],
        Field(description="where images lie; `auto` takes the first of GPU, memory and files with room for them twice"),
    ] = "auto"
    accumulate: Annotated[
        Count, Field(le=4096, description="pieces in which the images of one step are computed, to save memory")
    ] = 1
    clip: Annotated[
        float | None, Field(gt=0, description="largest norm of the gradient of one step; unlimited when absent")
    ] = None
    sync_batchnorm: Annotated[
        bool, Field(description="batch statistics over all devices instead of each device's own (GPU)")
    ] = False


class EvaluateParams(Section):
    batch_size: Annotated[Count, Field(le=65_536, description="images scored at once; changes no score")] = 512
    worst_image_count: Annotated[
        int, Field(ge=1, le=100, description="most confident mistakes shown in report and run")
    ] = 25


class RegisterParams(Section):
    model_name: Annotated[Name, Field(description="registered model in MLflow")] = "convloop"
    min_accuracy_share: Annotated[Share, Field(description="test accuracy below this is refused, champion or not")] = (
        0.5
    )
    min_gain_share: Annotated[Share, Field(description="test accuracy must beat the champion's by more")] = 0.0
    max_loss_share: Annotated[
        Share, Field(description="the 95 % interval of the gain must stay above the negative of this")
    ] = 0.01


class TrackingParams(Section):
    experiment: Annotated[Name, Field(description="experiment in MLflow")] = "convloop"
    timeout_s: Annotated[int, Field(ge=1, le=600, description="wait for one answer of a tracking server")] = 5


class RangeParams(Section):
    """Values that a search may try: between two, or out of a list."""

    low: Annotated[float | int | None, Field(description="least value; whole numbers give whole numbers")] = None
    high: Annotated[float | int | None, Field(description="most")] = None
    log: Annotated[bool, Field(description="as likely between 1 and 10 as between 10 and 100")] = False
    choices: Annotated[list[bool | int | float | str] | None, Field(min_length=2, description="values to try")] = None

    def ends(self) -> list[Any]:
        """List the values of which all must be allowed."""
        return self.choices if self.choices is not None else [self.low, self.high]


_SPACE = {
    "train.lr": RangeParams(low=1e-4, high=1e-2, log=True),
    "train.batch_size": RangeParams(choices=[32, 64, 128, 256]),
}


class TuneParams(Section):
    space: Annotated[
        dict[str, RangeParams],
        Field(
            min_length=1,
            description="keys of `train` that `convloop tune search` tries, each with `low` and `high` (and `log`) or `choices`",
        ),
    ] = _SPACE
    trial_count: Annotated[Count, Field(le=10_000, description="trainings of a search; raise it to go on")] = 20
    epochs: Annotated[int | None, Field(ge=1, le=10_000, description="of each trial; `train.epochs` when absent")] = (
        None
    )
    pruner: Annotated[
        Literal["median", "hyperband", "none"], Field(description="rule that stops a hopeless trial early")
    ] = "median"


class Params(Section):
    """All of params.yaml; what a file leaves out has the default given here."""

    generate: GenerateParams = GenerateParams()
    prepare: PrepareParams = PrepareParams()
    train: TrainParams = TrainParams()
    evaluate: EvaluateParams = EvaluateParams()
    # Every Python class that pydantic makes has a `register` of its own, so the field needs another name inside.
    registration: RegisterParams = Field(RegisterParams(), alias="register")
    tracking: TrackingParams = TrackingParams()
    tune: TuneParams = TuneParams()

    def flat(self, *sections: str) -> dict[str, Any]:
        """List the values of some sections under dotted keys; what is left to the net is left out."""
        tree = self.model_dump(by_alias=True, exclude_none=True)
        return dict(flatten({name: tree[name] for name in sections}))
