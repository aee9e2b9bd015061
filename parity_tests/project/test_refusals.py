"""Bad input is refused with one clear error that names the value received."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import numpy_ref as nr
import torchport
from numpy_ref.simple_convnet import DEFAULT_CONV_PARAM
from torchport import SimpleConvNet, UnfoldConv2d, softmax_with_loss
from torchport.evaluation import evaluate_ports
from torchport.networks import Weights
from torchport.parity import Setting, check_parity
from torchport.parity.cases import seeded_params

IMAGE = torch.zeros(2, 3, 5, 5)
LOGITS = torch.zeros(2, 3)
IMAGES = np.zeros((4, 1, 28, 28), np.uint8)
ONE = np.ones((1, 4)), np.zeros(1, int)
# Any, so that the type checker does not see what is wrong.
ARRAY: Any = np.zeros((2, 3, 5, 5))
LIST: Any = [0, 1]
TEXT: Any = "3"
NONE: Any = None

BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "im2col: array": (lambda: torchport.im2col(ARRAY, 2), TypeError, "ndarray"),
    "im2col: flat": (lambda: torchport.im2col(torch.zeros(2, 3), 2), ValueError, r"\(2, 3\)"),
    "im2col: empty batch": (lambda: torchport.im2col(IMAGE[:0], 2), ValueError, r"\(0, 3, 5, 5\)"),
    "im2col: kernel": (lambda: torchport.im2col(IMAGE, TEXT), TypeError, "kernel_size .* '3'"),
    "im2col: large kernel": (lambda: torchport.im2col(IMAGE, 6), ValueError, "6 pixels .* 5 pixels"),
    "im2col: no stride": (lambda: torchport.im2col(IMAGE, 2, 0), ValueError, "stride .* got 0"),
    "im2col: negative padding": (lambda: torchport.im2col(IMAGE, 2, 1, -1), ValueError, "pad .* got -1"),
    "col2im: integers": (lambda: torchport.col2im(torch.ones(9, 4).int(), (1, 1, 4, 4), 2), TypeError, "int32"),
    "col2im: shape": (lambda: torchport.col2im(torch.ones(4, 4), (1, 1, 4, 4), 2), ValueError, r"\(9, 4\)"),
    "conv: channels": (lambda: UnfoldConv2d(2, 4, 3)(IMAGE), ValueError, r"\(N, 2, H, W\), got shape \(2, 3, 5, 5\)"),
    "conv: dtype": (lambda: UnfoldConv2d(3, 4, 3)(IMAGE.double()), TypeError, "float64, the weights torch.float32"),
    "conv: device": (lambda: UnfoldConv2d(3, 4, 3, device="meta")(IMAGE), ValueError, "cpu, the weights on meta"),
    "conv: groups": (lambda: UnfoldConv2d(3, 6, 3, groups=3)(IMAGE), ValueError, "groups=3"),
    "conv: dilation": (lambda: UnfoldConv2d(3, 4, 2, dilation=2)(IMAGE), ValueError, r"dilation=\(2, 2\)"),
    "conv: padding mode": (lambda: UnfoldConv2d(3, 4, 2, padding_mode="reflect")(IMAGE), ValueError, "reflect"),
    "conv: padding by name": (lambda: UnfoldConv2d(3, 4, 3, padding="same")(IMAGE), ValueError, "'same'"),
    "net: array": (lambda: SimpleConvNet()(np.zeros((2, 1, 28, 28))), TypeError, "ndarray"),
    "net: integers": (lambda: SimpleConvNet(dtype=torch.int64), TypeError, "int64"),
    "net: complex": (lambda: SimpleConvNet(dtype=torch.complex64), TypeError, "complex64"),
    "net: device": (lambda: SimpleConvNet(device="tpu"), ValueError, "'tpu' cannot be used here"),
    "net: conv": (lambda: SimpleConvNet(conv="im2col"), ValueError, "one of conv2d, unfold, got 'im2col'"),  # type: ignore[arg-type]
    "net: flat": (lambda: SimpleConvNet()(torch.zeros(2, 784)), ValueError, r"\(2, 784\)"),
    "net: channels": (lambda: SimpleConvNet()(torch.zeros(2, 3, 28, 28)), ValueError, r"\(2, 3, 28, 28\)"),
    "net: empty batch": (lambda: SimpleConvNet()(torch.zeros(0, 1, 28, 28)), ValueError, r"\(0, 1, 28, 28\)"),
    "net: other dtype": (lambda: SimpleConvNet()(torch.zeros(2, 1, 28, 28).double()), TypeError, "float64"),
    "net: bytes": (lambda: SimpleConvNet()(torch.zeros(2, 1, 28, 28).byte()), TypeError, "uint8"),
    "net: other device": (lambda: SimpleConvNet(device="meta")(torch.zeros(2, 1, 28, 28)), ValueError, "cpu, .* meta"),
    "from_params: None": (lambda: SimpleConvNet.from_params(NONE), TypeError, "NoneType"),
    "from_params: device": (lambda: SimpleConvNet.from_params(seeded_params(0), device="tpu"), ValueError, "tpu"),
    "to_state_dict: list": (lambda: torchport.to_state_dict(LIST), TypeError, "list"),
    "to_params: meta": (
        lambda: torchport.to_params(SimpleConvNet(device="meta").state_dict()),
        TypeError,
        "conv1.weight .*on meta",
    ),
    "loss: array": (lambda: softmax_with_loss(ARRAY, torch.tensor([0, 1])), TypeError, "input .*ndarray"),
    "loss: list": (lambda: softmax_with_loss(LOGITS, LIST), TypeError, "target .*list"),
    "loss: integer logits": (lambda: softmax_with_loss(LOGITS.int(), torch.tensor([0, 1])), TypeError, "int32"),
    "loss: flat": (lambda: softmax_with_loss(LOGITS[0], torch.tensor([0])), ValueError, r"\(3,\)"),
    "loss: empty batch": (lambda: softmax_with_loss(LOGITS[:0], torch.tensor([0])[:0]), ValueError, r"\(0, 3\)"),
    "loss: too few": (lambda: softmax_with_loss(LOGITS, torch.tensor([0])), ValueError, r"\(2,\) or .* \(1,\)"),
    "loss: too large": (lambda: softmax_with_loss(LOGITS, torch.tensor([0, 3])), ValueError, r"0\.\.2, got 0 to 3"),
    "loss: negative": (lambda: softmax_with_loss(LOGITS, torch.tensor([-1, 2])), ValueError, "got -1 to 2"),
    "loss: float labels": (lambda: softmax_with_loss(LOGITS, torch.tensor([0.0, 1.0])), TypeError, "float32"),
    "loss: bool": (lambda: softmax_with_loss(LOGITS, torch.tensor([True, False])), TypeError, "bool"),
    "loss: not one-hot": (lambda: softmax_with_loss(LOGITS, LOGITS + 0.5), ValueError, "one-hot"),
    "loss: device": (lambda: softmax_with_loss(LOGITS, torch.zeros(2, device="meta")), ValueError, "target is on meta"),
    "norm: empty batch": (lambda: torchport.BatchNormalization(3)(torch.ones(0, 3)), ValueError, r"\(0, 3\)"),
    "norm: dtype": (lambda: torchport.BatchNormalization(3)(torch.ones(2, 3).double()), TypeError, "float64"),
    "norm: features": (lambda: torchport.BatchNormalization(3)(torch.ones(2, 4)), ValueError, "3 features"),
    "norm: no features": (lambda: torchport.BatchNormalization(0), ValueError, "num_features .* got 0"),
    "dropout: ratio": (lambda: torchport.Dropout(1.5), ValueError, "dropout_ratio .* 1.5"),
    "dropout: integers": (lambda: torchport.Dropout()(torch.ones(3).int()), TypeError, "int32"),
    "evaluate: labels": (
        lambda: evaluate_ports(Weights.of(seeded_params(0)), IMAGES, np.array([1])),
        ValueError,
        r"\(4,\) or .* \(1,\)",
    ),
    "evaluate: range": (lambda: evaluate_ports(Weights.of(seeded_params(0)), IMAGES, np.full(4, 77)), ValueError, "77"),
    "evaluate: floats": (
        lambda: evaluate_ports(Weights.of(seeded_params(0)), IMAGES / 255, np.zeros(4, int)),
        TypeError,
        "float64",
    ),
    "evaluate: size": (
        lambda: evaluate_ports(Weights.of(seeded_params(0)), IMAGES[:, :, 1:], np.zeros(4, int)),
        ValueError,
        r"for images \(1, 28, 28\), got \(1, 27, 28\)",
    ),
    "setting: device": (lambda: Setting(device="tpu"), ValueError, "'tpu' cannot be used here"),
    "setting: half": (lambda: Setting(torch.float16), ValueError, "float16"),
    "setting: bfloat16": (lambda: Setting(mode="bfloat16"), ValueError, "needs float32 parameters, got torch.float64"),
    "setting: TF32": (lambda: Setting(torch.float32, mode="tf32"), ValueError, "needs a CUDA device, got cpu"),
    "setting: mode": (lambda: Setting(mode="fp8"), ValueError, "one of ieee, tf32, bfloat16, got 'fp8'"),  # type: ignore[arg-type]
    "parity: half": (lambda: judged(port=torch.half), ValueError, "float16"),
    "parity: dtypes": (lambda: judged(port=torch.float64, mode="bfloat16"), ValueError, "needs float32 parameters"),
    "parity: empty batch": (lambda: judged(x=np.ones((0, 4)), t=np.zeros(0, int)), ValueError, r"\(0, 4\)"),
    "parity: features": (lambda: judged(x=np.ones((1, 5))), ValueError, "5 features"),
    "parity: label": (lambda: judged(t=np.array([2])), ValueError, r"0\.\.1, got 2"),
    "parity: list": (lambda: judged(x=LIST), TypeError, "list"),
    "parity: a number for an array": (lambda: judged(nr.Affine(np.ones((4, 2)), 0.0)), TypeError, "float"),
    "parity: layer": (lambda: judged(type("Own", (nr.Relu,), {})()), TypeError, "the class Own are not known"),
    "parity: runs": (
        lambda: judged(runs=["trainning"]),
        ValueError,
        r"of training, prediction, .*, got \['trainning'\]",
    ),
    "parity: NaN": (lambda: judged(x=np.full((1, 4), np.nan)), ValueError, r"x must be finite .*, got nan at \[0, 0\]"),
    "parity: infinity": (
        lambda: judged(nr.Affine(np.full((4, 2), np.inf), np.ones(2))),
        ValueError,
        r"the reference's W1 must be finite to be judged, got inf at \[0, 0\]",
    ),
    "parity: a port's NaN": (
        lambda: judged(weight=np.nan),
        ValueError,
        r"the port's 0\.weight must be finite to be judged, got nan at \[0, 0\]",
    ),
    # --- The reference
    "filter too large": (
        lambda: nr.conv_output_size(4, 7, pad=1),
        ValueError,
        "7 pixels does not fit .* 4 pixels",
    ),
    "no stride": (
        lambda: nr.im2col(np.ones((1, 1, 4, 4)), 2, 2, 0),
        ValueError,
        "stride must be at least 1, got 0",
    ),
    "negative pad": (lambda: nr.Convolution(np.ones((1, 1, 2, 2)), 0, 1, -1), ValueError, "pad .* got -1"),
    "half a stride": (lambda: nr.Pooling(2, 2, 1.5), TypeError, r"stride .* 1\.5"),  # type: ignore[arg-type]
    "window of padding": (lambda: nr.Pooling(2, 2, 2, 2), ValueError, "2x2, got 2"),
    "images without channels": (lambda: nr.im2col(np.ones((4, 4)), 2, 2), ValueError, r"\(4, 4\)"),
    "another channel": (
        lambda: nr.Convolution(np.ones((1, 2, 2, 2)), 0).forward(np.ones((1, 3, 4, 4))),
        ValueError,
        "3 channels, .* takes 2",
    ),
    "another width": (
        lambda: nr.Affine(np.ones((3, 2)), 0).forward(np.ones((1, 4))),
        ValueError,
        "has 4 features",
    ),
    "bias of another size": (
        lambda: nr.Affine(np.ones((3, 2)), np.ones(3)),
        ValueError,
        r"b .*\(2,\), got \(3,\)",
    ),
    "flat filters": (
        lambda: nr.Convolution(np.ones((3, 4)), 0),
        ValueError,
        r"W must have 4 axes, got shape \(3, 4\)",
    ),
    "col of another shape": (lambda: nr.col2im(np.ones((4, 4)), (1, 1, 4, 4), 2, 2), ValueError, r"\(9, 4\)"),
    "ratio above 1": (lambda: nr.Dropout(1.5), ValueError, "dropout_ratio .* 1.5"),
    "gamma of another size": (
        lambda: nr.BatchNormalization(np.ones(3), 0).forward(np.ones((2, 4))),
        ValueError,
        r"gamma .*\(4,\), got \(3,\)",
    ),
    "label out of range": (
        lambda: nr.cross_entropy_error(np.ones((2, 3)), np.array([0, 3])),
        ValueError,
        r"0\.\.2, got 0 to 3",
    ),
    "negative label": (lambda: nr.SoftmaxWithLoss().forward(np.ones((1, 3)), np.array([-1])), ValueError, "-1"),
    "labels as floats": (lambda: nr.softmax_loss(np.ones((1, 3)), np.array([1.0])), TypeError, "float64"),
    "not one-hot": (lambda: nr.softmax_loss(np.ones((1, 3)), np.array([[0.5, 0.5, 0]])), ValueError, "one-hot"),
    "too few labels": (
        lambda: nr.softmax_loss(np.ones((2, 3)), np.array([1])),
        ValueError,
        r"\(2,\) or .* \(1,\)",
    ),
    "unequal shapes": (lambda: nr.sum_squared_error(np.ones(2), np.ones(3)), ValueError, r"\(2,\) and \(3,\)"),
    "integer x": (lambda: nr.numerical_gradient(np.sum, np.arange(3)), TypeError, "int64"),
    "unequal lengths": (lambda: nr.shuffle_dataset(np.ones(2), np.ones(3)), ValueError, "2 and 3"),
    "short curve": (lambda: nr.smooth_curve(np.ones(5)), ValueError, "got 5"),
    "no layers": (lambda: nr.Network({}), ValueError, "none"),
    "negative lr": (lambda: nr.SGD(lr=-1), ValueError, "lr .* -1"),
    "infinite lr": (lambda: nr.SGD(lr=float("inf")), ValueError, "lr .* inf"),
    "beta of 1": (lambda: nr.Adam(beta2=1), ValueError, "beta2 .* 1"),
    "unknown optimizer": (lambda: trained(optimizer="adamw"), ValueError, "sgd, .* got 'adamw'"),
    "no epochs": (lambda: trained(epochs=0), ValueError, "epochs .* 0"),
    "no batch": (lambda: trained(mini_batch_size=-5), ValueError, "mini_batch_size .* -5"),
    "no samples to evaluate": (lambda: trained(evaluate_sample_num_per_epoch=0), ValueError, "got 0"),
    "no test data": (lambda: trained(x_test=np.ones((0, 1, 6, 6))), ValueError, "x_test .*0, 1, 6, 6"),
    "too few targets": (lambda: trained(t_train=np.zeros(1, int)), ValueError, "x_train .* 2 and 1"),
    "twice the labels": (
        lambda: small().accuracy(np.ones((100, 1, 6, 6)), np.zeros(200, int)),
        ValueError,
        "x and t .* 100 and 200",
    ),
    "a parameter as text": (
        lambda: with_params(b1="ab"),
        TypeError,
        "parameter b1 must be a NumPy array, got str",
    ),
    "a parameter as list": (lambda: with_params(b1=[0.0, 0.0]), TypeError, "parameter b1 .* got list"),
    "a complex parameter": (
        lambda: with_params(b1=np.zeros(2, complex)),
        TypeError,
        "parameter b1 .* complex128",
    ),
    "an integer parameter": (
        lambda: with_params(b1=np.zeros(2, int)),
        TypeError,
        "parameter b1 .* floating .* int64",
    ),
    "no parameters": (lambda: small().set_params(None), TypeError, "params .* NoneType"),  # type: ignore[arg-type]
    "parameters in a list": (lambda: small().set_params([]), TypeError, "params .* list"),  # type: ignore[arg-type]
    "one running statistic": (
        lambda: nr.BatchNormalization(1.0, 0.0, running_var=np.ones(2)),
        ValueError,
        "running_mean and running_var .* only running_var",
    ),
    "update of whole numbers": (
        lambda: updated({"W": np.ones(1, int)}),
        TypeError,
        "parameter W .* dtype int64",
    ),
    "update of a word": (lambda: updated({"W": "1"}), TypeError, "parameter W must be a number, got '1'"),
    "update of a list": (lambda: updated({"W": [1.0]}), TypeError, "parameter W .* got list"),
    "gradient as list": (lambda: updated({"W": np.ones(1)}, {"W": [1.0]}), TypeError, "gradient of W .* list"),
    "complex errors": (lambda: nr.sum_squared_error(np.ones(2), np.ones(2) * 1j), TypeError, "t .* complex128"),
    "no optimizer": (lambda: trained(optimizer=None), ValueError, "optimizer .* got None"),
    "an optimizer made": (lambda: trained(optimizer=nr.SGD()), ValueError, "got .*SGD object"),
    "optimizer_param as number": (lambda: trained(optimizer_param=0.1), TypeError, "mapping, not float"),
    "layers in a list": (lambda: nr.Network([nr.Relu()]), TypeError, "layers .* list"),  # type: ignore[arg-type]
    "infinite bias": (lambda: nr.Affine(np.ones((3, 2)), float("inf")), ValueError, "b must be finite, got inf"),
    "another default": (
        lambda: operator.setitem(DEFAULT_CONV_PARAM, "pad", 1),  # type: ignore[call-overload]
        TypeError,
        "mappingproxy",
    ),
    "conv_param as list": (lambda: nr.SimpleConvNet(conv_param=[30, 5]), TypeError, "conv_param .* list"),  # type: ignore[arg-type]
}


def judged(
    layer: Any = None,
    x: Any = ONE[0],
    t: Any = ONE[1],
    port: torch.dtype = torch.float32,
    weight: float = 1.0,
    **options: Any,
) -> Any:
    """check_parity of one layer and its port; the arguments say what is wrong with them."""
    linear = nn.Linear(4, 2, dtype=port)
    nn.init.constant_(linear.weight, weight)
    reference = nr.Network({"Affine1": layer or nr.Affine(np.ones((4, 2)), np.ones(2))})
    return check_parity(reference, nn.Sequential(linear), x, t, **options)


def small() -> nr.SimpleConvNet:
    return nr.SimpleConvNet((1, 6, 6), {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}, 5, 3)


def with_params(**values: Any) -> None:
    network = small()
    network.set_params({**network.params, **values})


def updated(params: Any, grads: Any = None) -> None:
    nr.SGD().update(params, params if grads is None else grads)


def trained(**options: Any) -> None:
    x, t = np.ones((2, 1, 6, 6)), np.zeros(2, int)
    nr.Trainer(**{"network": small(), "x_train": x, "t_train": t, "x_test": x, "t_test": t, **options})


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    call, error, says = BAD[case]
    with pytest.raises(error, match=says):
        call()
