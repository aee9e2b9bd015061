"""The book's SimpleConvNet as a torch module, with either convolution (Deep Learning from Scratch, section 7.5)."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from numpy_ref.checks import Array, check_mapping
from numpy_ref.simple_convnet import DEFAULT_CONV_PARAM, simple_convnet_stack
from numpy_ref.stack import weight_shapes
from torchport.checks import check_device, check_floating_dtype, check_goes_with, check_tensor
from torchport.choices import Convolution
from torchport.layers.sums import check_convolution
from torchport.networks.architectures import Architecture
from torchport.networks.names import shared_dtype, state_dict_of
from torchport.networks.recognition import recognise

WEIGHT_INIT_STD = 0.01  # the book's


class SimpleConvNet(nn.Sequential):
    """conv1 relu1 pool1 flatten affine1 relu2 affine2: images (N, C, H, W) to logits (N, output_size).

    The sizes are the arguments of the book's class. conv chooses the convolution, "conv2d" or "unfold"; the state_dict
    is the same for both. Weights are drawn from torch's generator as in the book, normal with standard deviation 0.01,
    biases 0; from_params loads trained ones. ValueError for sizes that do not fit together, as in the reference.
    """

    conv1: nn.Conv2d
    relu1: nn.ReLU
    pool1: nn.MaxPool2d
    flatten: nn.Flatten
    affine1: nn.Linear
    relu2: nn.ReLU
    affine2: nn.Linear

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param: Mapping[str, int] | None = None,
        hidden_size: int = 100,
        output_size: int = 10,
        *,
        conv: Convolution = "conv2d",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        conv_param = DEFAULT_CONV_PARAM if conv_param is None else conv_param
        convolution = check_convolution(conv)
        shapes = weight_shapes(input_dim, simple_convnet_stack(conv_param, hidden_size, output_size))
        filter_num, channels, filter_size, _ = shapes["W1"]
        place: dict[str, Any] = {
            "dtype": check_floating_dtype("dtype", dtype),
            "device": check_device("device", device),
        }
        stride, padding = conv_param["stride"], conv_param["pad"]
        super().__init__(
            OrderedDict(
                conv1=convolution(channels, filter_num, filter_size, stride, padding, **place),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(kernel_size=2, stride=2),
                flatten=nn.Flatten(),
                affine1=nn.Linear(shapes["W2"][0], hidden_size, **place),
                relu2=nn.ReLU(),
                affine2=nn.Linear(hidden_size, output_size, **place),
            )
        )
        self.input_dim = tuple(input_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights from torch's generator, distributed as in the book's constructor."""
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=WEIGHT_INIT_STD)
            else:
                nn.init.zeros_(parameter)

    @classmethod
    def from_params(
        cls,
        params: Mapping[str, Array],
        conv: Convolution = "conv2d",
        stride: int = 1,
        pad: int = 0,
        *,
        device: torch.device | str | None = None,
    ) -> SimpleConvNet:
        """Return the network that the book's params (W1 b1 W2 b2 W3 b3) belong to, with copies of them, in their dtype.

        Sizes are inferred from the shapes, which do not show stride and pad. torch's generator is left untouched.
        ValueError says which shapes do not fit; TypeError for dtypes other than float16, float32 and float64.
        """
        if isinstance(params, str | os.PathLike):
            raise TypeError(f"params must be a dict of arrays, got the path {params}: torchport.load_network reads it")
        shared_dtype(check_mapping("params", params))
        architecture = recognise(params, stride, pad)
        if architecture.name != cls.__name__:
            raise ValueError(
                f"these are the parameters of a {architecture.name}: torchport.load_network and from_reference do"
            )
        return cls.from_architecture(architecture, params, conv, device=device)

    @classmethod
    def from_architecture(
        cls,
        architecture: Architecture,
        params: Mapping[str, Array],
        conv: Convolution = "conv2d",
        *,
        device: torch.device | str | None = None,
    ) -> SimpleConvNet:
        """Return the network of a recognised architecture, with copies of params, in their dtype. ValueError."""
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
            net = cls(**architecture.arguments, conv=conv, dtype=shared_dtype(params))
        net.load_state_dict(state_dict_of(architecture.reference(params)), strict=True)
        return net.to(check_device("device", device))

    def __getitem__(self, index: Any) -> Any:
        """Return a layer by its index, or a slice of layers as a plain nn.Sequential."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self.named_children())[index]))
        return super().__getitem__(index)

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits (N, output_size). ValueError, TypeError for another shape, device or dtype than needed."""
        check_tensor("input", input)
        if tuple(input.shape[1:]) != self.input_dim:
            raise ValueError(f"input must be (N, {', '.join(map(str, self.input_dim))}), got {tuple(input.shape)}")
        check_goes_with("input", input, self.conv1.weight)
        output: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return output
