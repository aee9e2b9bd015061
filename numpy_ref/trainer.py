"""The book's training loop (Deep Learning from Scratch, chapter 5 onwards)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from numpy_ref.checks import Array, check_int, check_pair, random_stream
from numpy_ref.network import Network
from numpy_ref.optimizer import OPTIMIZERS, Optimizer


class Trainer:
    """Trains network on batches drawn with replacement, and records the loss of every step and two accuracies an epoch.

    Each recorded loss is that of the batch after its update. Accuracies are measured after the first step of each
    epoch, on the first evaluate_sample_num_per_epoch samples of either set (None: on all). An epoch is a whole number
    of steps, rounded up; the original tests a float iter_per_epoch with %, and so misses evaluations if the batch size
    does not divide the number of samples. With verbose, each loss, each epoch and the final accuracy are printed, as in
    the book. network is a Network, or anything with its params, gradient, loss and accuracy. ValueError for empty or
    unequal data sets, sizes below 1 and unknown optimizers; TypeError.
    """

    def __init__(
        self,
        network: Network,
        x_train: Array,
        t_train: Array,
        x_test: Array,
        t_test: Array,
        epochs: int = 20,
        mini_batch_size: int = 100,
        optimizer: str = "SGD",
        optimizer_param: Mapping[str, float] | None = None,
        evaluate_sample_num_per_epoch: int | None = None,
        verbose: bool = True,
        rng: np.random.RandomState | None = None,
    ) -> None:
        check_pair("x_train", x_train, "t_train", t_train)
        check_pair("x_test", x_test, "t_test", t_test)
        if evaluate_sample_num_per_epoch is not None:
            check_int("evaluate_sample_num_per_epoch", evaluate_sample_num_per_epoch, 1)
        self.network = network
        self.x_train, self.t_train = x_train, t_train
        self.x_test, self.t_test = x_test, t_test
        self.epochs = check_int("epochs", epochs, 1)
        self.batch_size = check_int("mini_batch_size", mini_batch_size, 1)
        self.optimizer = _make_optimizer(optimizer, {"lr": 0.01} if optimizer_param is None else optimizer_param)
        self.evaluate_sample_num_per_epoch = evaluate_sample_num_per_epoch
        self.verbose = verbose
        self.rng = random_stream(rng)
        self.train_size = len(x_train)
        self.iter_per_epoch = -(-self.train_size // self.batch_size)
        self.max_iter = self.epochs * self.iter_per_epoch
        self.current_iter = 0
        self.current_epoch = 0
        self.train_loss_list: list[float] = []
        self.train_acc_list: list[float] = []
        self.test_acc_list: list[float] = []
        self.final_test_acc: float | None = None

    def train(self) -> None:
        """Run all epochs, then measure final_test_acc on the whole test set."""
        for _ in range(self.max_iter):
            self.train_step()
        self.final_test_acc = self.network.accuracy(self.x_test, self.t_test)
        self._print("=============== Final Test Accuracy ===============")
        self._print(f"test acc:{self.final_test_acc}")

    def train_step(self) -> None:
        """Draw a batch, update the network, and measure the two accuracies if an epoch begins."""
        batch = self.rng.choice(self.train_size, self.batch_size)
        x, t = self.x_train[batch], self.t_train[batch]
        self.optimizer.update(self.network.params, self.network.gradient(x, t))
        self.train_loss_list.append(float(self.network.loss(x, t)))
        self._print(f"train loss:{self.train_loss_list[-1]}")
        if self.current_iter % self.iter_per_epoch == 0:
            self._evaluate()
        self.current_iter += 1

    def _evaluate(self) -> None:
        self.current_epoch += 1
        n = self.evaluate_sample_num_per_epoch
        train_acc = self.network.accuracy(self.x_train[:n], self.t_train[:n])
        test_acc = self.network.accuracy(self.x_test[:n], self.t_test[:n])
        self.train_acc_list.append(train_acc)
        self.test_acc_list.append(test_acc)
        self._print(f"=== epoch:{self.current_epoch}, train acc:{train_acc}, test acc:{test_acc} ===")

    def _print(self, line: str) -> None:
        if self.verbose:
            print(line)


def _make_optimizer(name: str, options: Mapping[str, float]) -> Optimizer:
    if not isinstance(name, str) or name.lower() not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    return OPTIMIZERS[name.lower()](**options)
