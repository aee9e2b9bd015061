"""What a training run is: one dataclass, the same in the library, on the command line and in a run's folder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from numpy_ref.checks import check_int, check_number
from numpy_ref.optimizer import OPTIMIZERS
from torchport.choices import (
    BFLOAT16,
    CONVOLUTIONS,
    DTYPES,
    IEEE,
    TF32,
    Convolution,
    Data,
    Dtype,
    Keep,
    Launched,
    Logged,
    Mode,
    Model,
    Precision,
    Rule,
    Sampling,
    Trained,
)
from torchport.data import DATA_SETS
from torchport.data.preparation import HELP as IMAGES_HELP, Preparation

NETWORKS = ("SimpleConvNet", "DeepConvNet", "LeNet5")

NUMPY: Final = "numpy"
TORCH: Final = "torch"
TRITON: Final = "triton"
TRITON_TAKES = {"network": "SimpleConvNet", "optimizer": "adam", "dtype": "float32", "precision": "full"}
MODELS = (*CONVOLUTIONS, NUMPY)
PRECISIONS: dict[Precision, Mode] = {"full": IEEE, "tf32": TF32, "bf16": BFLOAT16}
BOOK, EPOCH = "book", "epoch"
BEFORE, AFTER = "step", "after"
LAST, MEAN = "last", "mean"

LARGEST_SEED = 2**32 - 1  # NumPy's

# Options of the rules; which rule has which is read from numpy_ref.
RULE_OPTIONS = ("lr", "momentum", "decay_rate", "beta1", "beta2")


def _option(default: Any, help: str, choices: Any = None, minimum: int | None = None) -> Any:
    """A field with its default, the help and choices of its option, and an integer's minimum."""
    return field(default=default, metadata={"help": help, "choices": choices and tuple(choices), "minimum": minimum})


@dataclass(frozen=True)
class Config:
    """Everything about a training run except its folder. ValueError, TypeError for values that make no valid run.

    None stands for a default that depends on something else: the rule's own lr, all training images, a CUDA device if
    there is one.
    """

    data: Data = _option("mnist", "data set; drawn is made here and needs no network", DATA_SETS)
    data_dir: str | None = _option(
        None,
        "folder of MNIST: a torchvision root, the book's dataset, the files' own (default: $TORCHPORT_DATA or data/)",
    )
    images: str = _option("unit", IMAGES_HELP)
    train_size: int | None = _option(None, "train on the first so many images only (default: all)", minimum=1)
    network: Trained = _option(
        "SimpleConvNet", "the book's of chapter 7 or 8, or LeNet-5 with trained subsampling and tanh", NETWORKS
    )
    model: Model | None = _option(
        None,
        "nn.Conv2d, the im2col port, or the NumPy reference itself (default: conv2d, but unfold for "
        "SimpleConvNet in float64 on CUDA, which takes half the time)",
        MODELS,
    )
    init: str | None = _option(None, "start from the weights in this params.pkl or .pt (default: the book's start)")
    epochs: int = _option(20, "passes over the data", minimum=1)
    batch_size: int = _option(100, "images per step", minimum=1)
    sampling: Sampling = _option(
        BOOK, "batches: the book's draws with replacement, or a permutation an epoch", (BOOK, EPOCH)
    )
    seed: int = _option(0, "of NumPy's legacy stream, from which weights and batches are drawn", minimum=0)
    optimizer: Rule = _option("adam", "the book's update rule", OPTIMIZERS)
    lr: float | None = _option(None, "learning rate (default: the rule's, 0.001 for adam, else 0.01)")
    momentum: float | None = _option(None, "of momentum and nesterov (default: 0.9)")
    decay_rate: float | None = _option(None, "of rmsprop (default: 0.99)")
    beta1: float | None = _option(None, "of adam (default: 0.9)")
    beta2: float | None = _option(None, "of adam (default: 0.999)")
    log_loss: Logged = _option(
        BEFORE, "log the loss that the step itself computes, or, as the book, that after its update", (BEFORE, AFTER)
    )
    keep: Keep | None = _option(
        None,
        "end with the weights after the last step, as the book, or with their mean over the last epoch, which is "
        "steadier, unless the last are better on the training images (default: mean in float32, last in float64, "
        "which is the book's run)",
        (LAST, MEAN),
    )
    dtype: Dtype = _option("float32", "of weights and arithmetic; float64 follows the book's run", DTYPES)
    precision: Precision = _option("full", "of products in float32, less than full on CUDA only", PRECISIONS)
    kernels: Launched = _option(
        TORCH, "of a step: torch's, or on CUDA six in Triton, for SimpleConvNet and adam in float32", (TORCH, TRITON)
    )
    device: str | None = _option(None, "cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)")
    deterministic: bool = _option(False, "only algorithms that give the same bits in every run")

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            _check_kind(option.name, value, option.type, option.metadata)
            if isinstance(value, np.generic):  # which JSON does not know
                object.__setattr__(self, option.name, value.item())
        if self.seed > LARGEST_SEED:
            raise ValueError(f"seed must be at most {LARGEST_SEED}, got {self.seed}")
        object.__setattr__(self, "images", str(Preparation.parse(self.images)))  # by one name each
        self._check_rule()
        self._check_arithmetic()

    @property
    def rule_options(self) -> dict[str, float]:
        """The update rule's options that are not None, by the book's names."""
        return {name: getattr(self, name) for name in RULE_OPTIONS if getattr(self, name) is not None}

    @property
    def preparation(self) -> Preparation:
        """How the network is given its images."""
        return Preparation.parse(self.images)

    @property
    def on_numpy(self) -> bool:
        """Whether the NumPy reference is trained, not a port."""
        return self.model == NUMPY

    def convolution_on(self, device: str) -> Convolution:
        """The convolution of the port that trains on device, "cpu" or "cuda:0"."""
        assert self.model != NUMPY  # which has a learner of its own
        # cuDNN's float64 convolutions use no tensor cores: im2col and one matrix product take half the time.
        slow = self.network == "SimpleConvNet" and self.dtype == "float64" and device.startswith("cuda")
        return self.model or ("unfold" if slow else "conv2d")

    @property
    def keeps_mean(self) -> bool:
        """Whether the run may end with the mean of the last epoch's weights."""
        return (self.keep or (MEAN if self.dtype == "float32" else LAST)) == MEAN

    def used(self, device: str, data_dir: str | None) -> Config:
        """A copy with every None resolved: the rule's own options, and what depends on the device."""
        rule = inspect.signature(OPTIMIZERS[self.optimizer]).parameters
        defaults = {name: parameter.default for name, parameter in rule.items()}
        defaults |= {"device": device, "data_dir": data_dir, "keep": MEAN if self.keeps_mean else LAST}
        defaults |= {"model": self.model or self.convolution_on(device)}
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def to_json(self) -> str:
        """All fields, a line each."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of to_json. ValueError, TypeError for other text."""
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError(f"expected a JSON object, got {type(found).__name__}")
        found.pop("compile", None)  # an option of old, which changed no number
        found = {"images": "unit", "kernels": TORCH, **found}  # of runs from before these were options
        known = {option.name for option in fields(cls)}
        if found.keys() != known:
            raise ValueError(f"missing {sorted(known - found.keys())}, unexpected {sorted(found.keys() - known)}")
        return cls(**found)

    def _check_rule(self) -> None:
        rule: Callable[..., Any] = OPTIMIZERS[self.optimizer]
        known = inspect.signature(rule).parameters
        for name, value in self.rule_options.items():
            if name not in known:
                raise ValueError(f"{self.optimizer} has the options {', '.join(known)}, got {name}={value}")
            check_number(name, value, 0)
        rule(**self.rule_options)  # which checks their ranges
        if self.lr is not None and self.lr > float(np.finfo(self.dtype).max):
            raise ValueError(f"lr must be a number that {self.dtype} can hold, got {self.lr}")
        if self.optimizer == "nesterov" and self.momentum == 0:
            raise ValueError("momentum must be above 0 for nesterov, got 0: that is sgd")

    def _check_arithmetic(self) -> None:
        if self.precision != "full" and self.dtype != "float32":
            raise ValueError(f"precision {self.precision} goes with dtype float32, got {self.dtype}")
        for name, value in TRITON_TAKES.items() if self.kernels == TRITON else ():
            if getattr(self, name) != value:
                raise ValueError(f"kernels triton go with {name} {value} only, got {getattr(self, name)}")
        if not self.on_numpy:
            return
        for name, usable in (("device", (None, "cpu")), ("precision", ("full",)), ("kernels", (TORCH,))):
            if getattr(self, name) not in usable:
                raise ValueError(f"model numpy runs on the CPU as it is, got {name}={getattr(self, name)}")


def _check_kind(name: str, value: object, kind: Any, metadata: Any) -> None:
    """value is one of the choices, an int of at least the minimum, or of the annotated type. ValueError, TypeError."""
    if value is None and "None" in kind:
        return
    if metadata["choices"]:
        if value not in metadata["choices"]:
            raise ValueError(f"{name} must be one of {', '.join(metadata['choices'])}, got {value!r}")
    elif metadata["minimum"] is not None:
        check_int(name, value, metadata["minimum"])
    elif "bool" in kind and not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    elif "str" in kind and not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
