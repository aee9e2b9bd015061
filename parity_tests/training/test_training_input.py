"""Training refuses bad input with clear errors."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import numpy_ref as nr
from torchport.training import Config, Samples, train
from training.runs import SAMPLES


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "cifar"}, "data must be one of mnist, drawn, got 'cifar'"),
        ({"data_dir": 3}, "data_dir must be a string, got 3"),
        ({"train_size": 0}, "train_size must be at least 1, got 0"),
        ({"train_size": 2.5}, "train_size must be an integer, got 2.5"),
        ({"model": "linear"}, "model must be one of conv2d, unfold, numpy, got 'linear'"),
        ({"init": 1}, "init must be a string, got 1"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"sampling": "none"}, "sampling must be one of book, epoch, got 'none'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**32}, "seed must be at most 4294967295, got 4294967296"),
        ({"optimizer": "adamw"}, "optimizer must be one of sgd, .* got 'adamw'"),
        ({"lr": -0.1}, "lr must be at least 0, got -0.1"),
        ({"lr": float("nan")}, "lr must be finite, got nan"),
        ({"lr": "high"}, "lr must be a number, got 'high'"),
        ({"lr": 1e39}, "lr must be a number that float32 can hold, got 1e[+]39"),
        ({"momentum": 0.9}, "adam has the options lr, beta1, beta2, got momentum=0.9"),
        ({"optimizer": "momentum", "momentum": 1.5}, "momentum must be between 0 and 1, got 1.5"),
        ({"optimizer": "nesterov", "momentum": 0.0}, "momentum must be above 0 for nesterov"),
        ({"optimizer": "sgd", "decay_rate": 0.9}, "sgd has the options lr, got decay_rate=0.9"),
        ({"optimizer": "rmsprop", "decay_rate": -1}, "decay_rate must be at least 0, got -1"),
        ({"beta1": 1.0}, "beta1 must be between 0 and 0.99.*, got 1.0"),
        ({"beta2": 2}, "beta2 must be between"),
        ({"log_loss": "before"}, "log_loss must be one of step, after, got 'before'"),
        ({"keep": "best"}, "keep must be one of last, mean, got 'best'"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ({"precision": "fp8"}, "precision must be one of full, tf32, bf16, got 'fp8'"),
        ({"precision": "tf32", "dtype": "float64"}, "precision tf32 goes with dtype float32, got float64"),
        ({"kernels": "cuda"}, "kernels must be one of torch, triton, got 'cuda'"),
        ({"kernels": "triton", "network": "LeNet5"}, "kernels triton go with network SimpleConvNet only, got LeNet5"),
        ({"kernels": "triton", "optimizer": "sgd"}, "kernels triton go with optimizer adam only, got sgd"),
        ({"kernels": "triton", "dtype": "float64"}, "kernels triton go with dtype float32 only, got float64"),
        ({"kernels": "triton", "precision": "tf32"}, "kernels triton go with precision full only, got tf32"),
        ({"device": 0}, "device must be a string, got 0"),
        ({"deterministic": "yes"}, "deterministic must be True or False, got 'yes'"),
        ({"model": "numpy", "device": "cuda"}, "model numpy runs on the CPU as it is, got device=cuda"),
        ({"model": "numpy", "precision": "bf16"}, "model numpy runs on the CPU as it is, got precision=bf16"),
        ({"model": "numpy", "kernels": "triton"}, "model numpy runs on the CPU as it is, got kernels=triton"),
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_run(options: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says) as error:
        Config(**options)
    assert "\n" not in str(error.value)


def test_a_configuration_survives_its_file() -> None:
    config = Config(optimizer="rmsprop", decay_rate=0.9, lr=0.1, seed=5, init="x.pt", deterministic=True)
    assert Config.from_json(config.to_json()) == config
    assert json.loads(config.to_json()) == asdict(config)
    with pytest.raises(ValueError, match=r"missing \['seed'\], unexpected \['sede'\]"):
        Config.from_json(config.to_json().replace('"seed"', '"sede"'))
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        Config.from_json("[]")


def test_runs_of_before_are_read() -> None:
    """From when there was the option compile, no kernels, and only one preparation of images."""
    text = Config(epochs=3).to_json().replace("{", '{"compile": false,', 1).replace('  "kernels": "torch",\n', "")
    assert Config.from_json(text) == Config(epochs=3)
    text = text.replace('  "images": "unit",\n', "")
    assert "images" not in text
    assert Config.from_json(text) == Config(epochs=3, images="book")


def test_the_default_is_the_books_run_in_float32() -> None:
    config = Config()
    assert (config.data, config.network, config.dtype) == ("mnist", "SimpleConvNet", "float32")
    assert config.used("cpu", None).model == "conv2d"
    assert (config.epochs, config.batch_size, config.sampling, config.seed) == (20, 100, "book", 0)
    assert (config.optimizer, config.rule_options) == ("adam", {})


@pytest.mark.parametrize(
    ("options", "place", "model"),
    [
        ({"dtype": "float64"}, "cuda:1", "unfold"),
        ({"dtype": "float64"}, "cpu", "conv2d"),
        ({}, "cuda", "conv2d"),
        ({"dtype": "float64", "model": "conv2d"}, "cuda", "conv2d"),
        ({"dtype": "float64", "network": "LeNet5"}, "cuda", "conv2d"),
        ({"model": "numpy"}, "cpu", "numpy"),
    ],
    ids=["float64 on CUDA", "on the CPU", "float32", "conv2d asked for", "another network", "the reference"],
)
def test_the_model_is_chosen_by_the_device(options: dict[str, Any], place: str, model: str) -> None:
    assert Config(**options).used(place, None).model == model


def test_every_option_says_what_it_is() -> None:
    assert all(option.metadata["help"] for option in fields(Config))


@pytest.mark.parametrize(
    ("config", "samples", "says"),
    [
        (Config(train_size=111), SAMPLES, "train_size must be at most 110, which there are, got 111"),
        (
            Config(),
            SAMPLES._replace(x_train=SAMPLES.x_train / 255),
            "x_train must be uint8, 0 to 255, got dtype float64",
        ),
        (Config(), SAMPLES._replace(x_test=SAMPLES.x_test[0]), "x_test must have 4 axes"),
        (Config(), SAMPLES._replace(x_test=SAMPLES.x_test[..., :8, :8]), "images of one size"),
        (Config(), SAMPLES._replace(classes=1), "labels must be in 0..0"),
        (Config(), SAMPLES._replace(t_train=SAMPLES.t_train[:-1]), r"110|109"),
        (Config(device="tpu"), SAMPLES, "device 'tpu' cannot be used here"),
        (Config(precision="bf16", device="cpu"), SAMPLES, "precision bf16 needs a CUDA device, got cpu"),
        (Config(kernels="triton", device="cpu"), SAMPLES, "kernels triton needs a CUDA device, got cpu"),
        (Config(init="nothing.pkl"), SAMPLES, "nothing.pkl"),
    ],
    ids=["train_size", "floats", "one image", "sizes", "classes", "lengths", "device", "precision", "kernels", "init"],
)
def test_data_and_places_that_do_not_fit(config: Config, samples: Samples, says: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError, OSError), match=says) as error:
        train(config, samples=samples, out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.filterwarnings("ignore:the mean loss of epoch")
def test_training_goes_on_from_given_weights(tmp_path: Path) -> None:
    """One step with lr 0 leaves weights from any file as they are."""
    network = nr.SimpleConvNet((1, 10, 10), output_size=2, rng=np.random.RandomState(9))
    network.save_params(tmp_path / "params.pkl")
    for model in ("conv2d", "numpy"):
        config = Config(
            model=model, init=str(tmp_path / "params.pkl"), optimizer="sgd", lr=0, epochs=1, dtype="float64"
        )
        result = train(config, samples=SAMPLES, out=tmp_path / model)
        for name, value in network.params.items():
            np.testing.assert_array_equal(result.params[name], value)
        again = Config(model=model, init=str(tmp_path / model), optimizer="sgd", lr=0, epochs=1, dtype="float64")
        np.testing.assert_array_equal(train(again, samples=SAMPLES).params["W2"], network.params["W2"])


DATA = r"the data has images \(1, 10, 10\) in 2$"


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (nr.SimpleConvNet((1, 12, 12), output_size=2), rf"params.pkl is for images \(1, 12, 12\) in 2 classes, {DATA}"),
        (nr.SimpleConvNet((1, 10, 10), output_size=3), rf"params.pkl is for images \(1, 10, 10\) in 3 classes, {DATA}"),
        (nr.LeNet5((1, 12, 12), 2), "is a LeNet5, from which a SimpleConvNet cannot start"),
    ],
    ids=["size", "classes", "network"],
)
def test_weights_of_another_network_are_refused(network: nr.Network, says: str, tmp_path: Path) -> None:
    network.save_params(tmp_path / "params.pkl")
    with pytest.raises(ValueError, match=says):
        train(Config(init=str(tmp_path / "params.pkl")), samples=SAMPLES)


def test_training_leaves_torch_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    """Its switches, its random stream and NumPy's are unchanged, and nothing is printed."""
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    train(Config(epochs=1, deterministic=True, device="cpu"), samples=SAMPLES)
    assert not torch.are_deterministic_algorithms_enabled()
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)], ids=["off", "on", "warnings only"])
def test_deterministic_algorithms_are_for_the_run_only(before: tuple[bool, bool]) -> None:
    def switches() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    switches_of_steps = []
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    try:
        config = Config(epochs=1, deterministic=True, device="cpu")
        train(config, samples=SAMPLES, watch=lambda progress: switches_of_steps.append(switches()))
        assert set(switches_of_steps) == {(True, False)}
        assert switches() == before
    finally:
        torch.use_deterministic_algorithms(False)
