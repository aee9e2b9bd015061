"""The verdict: a port judged on several runs, each for what the others cannot show."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from numpy_ref.checks import Array, check_batch
from numpy_ref.functions import class_labels
from numpy_ref.layers import BatchNormalization, Layer
from numpy_ref.network import STATISTICS, Network
from torchport.choices import IEEE
from torchport.layers import SUM, kind_of
from torchport.layers.arithmetic import Setting, rounded
from torchport.layers.loss import OUTPUTS, softmax_with_loss
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity.certificate import judge, rows_of
from torchport.parity.compare import compare
from torchport.parity.given import (
    AGAIN,
    ALL,
    BATCH,
    DOUBLE,
    EXTREMES,
    INTEGERS,
    PREDICTION,
    SIZES,
    TRAINING,
    check_finite,
    check_given,
    restored,
    unwrapped,
)
from torchport.parity.integers import homogeneous, integer_case, scaled
from torchport.parity.judgement import Guide, Judgement, Run, Subject, told
from torchport.parity.links import Stage
from torchport.parity.losses import LOGITS, Loss, check_loss, taken_by
from torchport.parity.probes import probe
from torchport.parity.recording import tensors_in
from torchport.parity.report import Difference, Report, Row

OWN_SEED = 7919  # another than one that a port might set
FEW = 4  # samples on integers and in the first run, at least
MORE = 4  # times as many samples where few do not tell layers apart
MANY = 128  # samples of an extreme run
MOST = 2**24  # elements of the largest layer, in such a run
FACTORS = (2.0**12, 2.0**-30)  # of the integers: finds clamps, thresholds and offsets


def check_parity(
    reference: Network,
    port: nn.Module,
    x: Array,
    t: Array,
    *,
    mode: str = IEEE,
    seed: int = 0,
    loss: Loss = softmax_with_loss,
    output: int | str | None = None,
    run: Callable[[Tensor], Any] | None = None,
    runs: Sequence[str] = ALL,
    name: str = "port",
    progress: bool = False,
) -> Report:
    """Whether port, any nn.Module that holds reference's weights, computes and trains as reference does.

    The port runs as it is; nothing needs a name or a registration. Each layer of the reference is computed in float64
    on the port's own input of it, so what a row says is that layer's own fault. All that judging changes in the port
    is put back bit for bit.

    Args:
        reference: The oracle; its weights are rounded to the port's dtype.
        port: The module; torch.compile's, DataParallel's and DistributedDataParallel's wrappers are taken off, and
            what they wrap is judged; a compiled one is also judged as one piece.
        x: The user's batch (N, ...).
        t: Its labels (N,), or one-hot (N, C).
        mode: "ieee"; "tf32" (CUDA) or "bfloat16" (autocast), for float32 ports.
        seed: Of what is drawn.
        loss: Of (output, labels); what it takes, logits or log-probabilities, is what the port must end in.
        output: Which part of a tuple (a number) or a dict (a key) is the port's output; otherwise it is found.
        run: Another callable of the same port, torch.compile(port) say, judged as one piece.
        runs: Which of ALL to make.
        name: The port's, in the report.
        progress: Whether to show a bar on a terminal.

    Returns:
        A Report, which is true where there is parity.

    Raises:
        ValueError: For numbers that are not finite, an unfit x or t, or a dtype other than float64 and float32.
        TypeError: For layers of the reference that are not registered (torchport.layers.register).

    Example:
        >>> import numpy as np, numpy_ref, torchport
        >>> from torchport.parity import check_parity
        >>> reference = numpy_ref.SimpleConvNet(input_dim=(1, 10, 10))
        >>> port = torchport.SimpleConvNet.from_params(reference.params)
        >>> bool(check_parity(reference, port, np.random.rand(4, 1, 10, 10), np.arange(4)))
        True
    """
    check_given(reference, port, loss, runs)
    inner = unwrapped(port)
    run = run or (port if inner is not port else None)
    setting = Setting.of(inner, mode)
    check_finite(check_batch("x", x), reference.params, inner)
    x = setting.round(np.asarray(x))
    shapes = shapes_of(reference.layers.values(), x)
    labels = class_labels(t, (len(x), shapes[-1][0])).astype(np.int64)
    frozen = frozenset(id(parameter) for parameter in inner.parameters() if not parameter.requires_grad)
    origins = {
        (name.lower(), attribute): id(reference.params[key]) for key, (name, attribute) in reference.owners.items()
    }
    with restored(inner), setting.computing(), np.errstate(all="ignore"):
        torch.manual_seed(OWN_SEED + seed)  # of what the port draws; put back afterwards
        np.random.seed(OWN_SEED + seed)
        takes = taken_by(loss, shapes[-1][0], setting)
        stages = stages_of(reference, setting, takes)
        values = values_of(reference, stages, setting)
        subject = Subject(inner, stages, shapes, setting, loss, takes, output, frozen, values, origins)
        if inner is not port:
            subject.note(f"judged is what {type(port).__name__} wraps, and the whole in one piece")
        trial = _Trial(reference, subject, x, labels, seed)
        rows: list[Row] = []
        # The first run is always made: it tells which calls are which layers.
        parts = [part for part in ALL if part in (TRAINING, *runs)]
        for part in tqdm(parts, desc=name, unit="run", leave=False, disable=None if progress else True):
            rows += trial.make(part)
        if run is not None:
            rows += trial.piece(run)
    return Report(tuple(rows), name, setting.name, setting.device, seed, tuple(trial.made), tuple(subject.notes))


def check_layer(name: str, layer: Layer, module: nn.Module, x: Array, dout: Array, setting: Setting) -> list[Row]:
    """Rows for one module against one layer of the reference, on x and the upstream gradient dout. ValueError."""
    x, dout = setting.round(x), setting.round(dout)
    reference = Network({name: layer})
    shapes = shapes_of([layer], x)
    with restored(module), setting.computing():
        stages = stages_of(reference, setting, next(iter(OUTPUTS)))
        values = values_of(reference, stages, setting)
        subject = Subject(module, stages, shapes, setting, softmax_with_loss, values=values)
        rows = judge(subject, Run(TRAINING, x, cotangent=dout, wants_grad=True))
        if kind_of(layer).prediction is not None:
            rows += judge(subject, Run(PREDICTION, x, predicting=True))
    return rows


def shapes_of(layers: Any, x: Array) -> list[tuple[int, ...]]:
    """Of a sample: before the input's own stage, before each layer, before the output's and behind it."""
    passed, shapes = x[:1], [x.shape[1:]]
    for layer in layers:
        passed = _copied(layer).forward(passed)
        shapes.append(passed.shape[1:])
    return [shapes[0], *shapes, shapes[-1]]


def stages_of(reference: Network, setting: Setting, takes: str) -> list[Stage]:
    """The input, the reference's layers on weights as the port can hold them, and the output."""
    stages = [Stage("input", OUTPUTS[next(iter(OUTPUTS))]())]
    for name, layer in reference.layers.items():
        own = _copied(layer)
        for attribute in MODULE_ATTRIBUTES:
            if hasattr(own, attribute):
                setattr(own, attribute, setting.round(getattr(own, attribute)))
        stages.append(Stage(name.lower(), own))
    return [*stages, Stage("output", OUTPUTS[takes]())]


def values_of(reference: Network, stages: Sequence[Stage], setting: Setting) -> dict[tuple[str, str], Array]:
    """The parameters by stage and attribute, as a port of this dtype has them."""
    if setting.held == setting.dtype:
        pairs = [(stage, name) for stage in stages for name in MODULE_ATTRIBUTES if hasattr(stage.layer, name)]
        return {(stage.name, name): getattr(stage.layer, name) for stage, name in pairs}
    owners = reference.owners.items()
    return {(layer.lower(), name): rounded(reference.params[key], setting.dtype) for key, (layer, name) in owners}


def _copied(layer: Any) -> Any:
    """A copy that shares its parameters, but no random generator."""
    own = copy.copy(layer)
    if hasattr(own, "rng"):
        own.rng = np.random.RandomState(0)
    return own


class _Trial:
    """The runs of one port."""

    def __init__(self, reference: Network, subject: Subject, x: Array, labels: Array, seed: int) -> None:
        self.reference, self.subject, self.x, self.labels, self.seed = reference, subject, x, labels, seed
        self.rng = np.random.default_rng([seed, 4])
        self.made: list[str] = []
        self.drawn = True  # whether the port takes drawn data
        self.fewest = 2 if any(isinstance(stage.layer, BatchNormalization) for stage in subject.stages) else 1

    def make(self, part: str) -> list[Row]:
        """The rows of one of ALL."""
        runs: dict[str, Callable[[], Iterator[Row]]] = {
            TRAINING: self._training,
            PREDICTION: self._prediction,
            SIZES: self._sizes,
            BATCH: self._batch,
            INTEGERS: self._integers,
            AGAIN: self._again,
            EXTREMES: self._extremes,
            DOUBLE: self._double,
        }
        return list(runs[part]())

    def _judge(self, run: Run, subject: Subject | None = None) -> list[Row]:
        self.made.append(run.name)
        return judge(subject or self.subject, run)

    def _on_drawn(self, run: Run, subject: Subject | None = None) -> list[Row]:
        """Where the port raises, it may take only data of a certain range: then it is not judged, and that is said."""
        rows = self._judge(run, subject)
        if not _raised(rows):
            return rows
        self.made.pop()
        self.subject.note(f"not judged on {run.name}: {rows[0].worst.note}, {rows[0].where}")
        return []

    def _cotangent(self, n: int) -> Array:
        return self.rng.standard_normal((n, *self.subject.shapes[-1]))

    def _draw(self, n: int) -> Array:
        """Standard normal samples; the user's own where the port does not take those."""
        if not self.drawn:
            return self.x[np.arange(n) % len(self.x)]
        return self.subject.setting.round(self.rng.standard_normal((n, *self.x.shape[1:])))

    def _training(self) -> Iterator[Row]:
        """As people train: on dense data, whose values coincide nowhere, x without a gradient."""
        subject, n = self.subject, max(len(self.x), FEW)
        run = self._drawn_run(n)
        rows = self._judge(run)
        if _raised(rows) and n > len(self.x):
            run = self._drawn_run(len(self.x))
            rows = judge(subject, run)
        if not all(row.ok for row in rows) and not _raised(rows) and _dead(subject.guides):
            # A layer may be dead on so few samples, so that values coincide. Others show which calls are which layers:
            # if all of them hold there, the first run is judged by that.
            other = replace(subject, guides=[], notes={})
            if all(row.ok for row in judge(other, self._drawn_run(MORE * n))):
                subject.guides[:] = other.guides
                rows = judge(subject, run)
        if _raised(rows):
            # It may take only data of a certain range: then the user's.
            self.drawn = False
            self.made.pop()
            own = self._judge(self._drawn_run(len(self.x)))
            if not _raised(own):
                self.subject.note(f"drawn data were not judged: {rows[0].worst.note}, {rows[0].where}")
                rows = own
        yield from rows

    def _drawn_run(self, n: int) -> Run:
        return Run(TRAINING, self._draw(n), cotangent=self._cotangent(n), first=True)

    def _prediction(self) -> Iterator[Row]:
        run = Run(PREDICTION, self._draw(len(self.x)), predicting=True)
        yield from self._judge(run)
        # Once more, on other data and with gradients enabled: an answer may be kept, or be another one then.
        yield from judge(self.subject, run._replace(x=self._draw(len(self.x)), grads=True))

    def _sizes(self) -> Iterator[Row]:
        """Other numbers of samples: hard-wired sizes, squeeze, a remainder that is dropped."""
        few, more = self.fewest, len(self.x) + 3
        yield from self._judge(Run(_samples(few), self._draw(few), cotangent=self._cotangent(few)))
        yield from self._judge(Run(_samples(more), self._draw(more), cotangent=self._cotangent(more)))

    def _batch(self) -> Iterator[Row]:
        """The user's batch and loss; the loss by itself also on all classes, and on logits far from each other."""
        yield from self._judge(Run(BATCH, self.x, labels=self.labels, wants_grad=True))
        subject, classes = self.subject, self.subject.shapes[-1][0]
        labels = self.rng.permutation(np.arange(2 * classes) % classes)
        for scale in (1.0, 1e3):
            logits = scale * self.rng.standard_normal((len(labels), classes))
            outputs = subject.setting.round(OUTPUTS[subject.takes]().forward(subject.setting.round(logits)))
            yield from check_loss(
                outputs, labels, subject.setting, subject.loss, subject.takes, f"loss, logits x {scale:g}"
            )

    def _integers(self) -> Iterator[Row]:
        """On small whole numbers, where every sum is exact: zeros before relu, ties in pooling windows."""
        subject = self.subject
        if subject.setting.mode != IEEE:
            return
        found = subject.guides[0].parameters if subject.guides else {}
        held = {key: each[0] for key, each in found.items() if each and each[0].settable}
        if not found or len(held) < len(found):
            lacking = sorted({f"{stage}.{MODULE_ATTRIBUTES[name]}" for stage, name in found.keys() - held.keys()})
            subject.note(f"not run on integers, since {', '.join(lacking) or 'no weight'} cannot be set")
            return
        case = integer_case(self.reference, self.x.shape[1:], max(len(self.x), FEW), self.seed)
        whole = [("integers", case, 1.0)]
        if homogeneous(self.reference):
            whole += [(f"integers x 2^{int(np.log2(factor))}", scaled(case, factor), factor) for factor in FACTORS]
        blind = [layer for layer, share in case.zeros.items() if share == 0]
        if blind:
            subject.note(f"no zero or tie was seen at {', '.join(blind)}")
        for name, each, scale in whole:
            layers = {key.lower(): layer for key, layer in each.network.layers.items()}
            own = [Stage(stage.name, layers.get(stage.name, stage.layer)) for stage in subject.stages]
            for mine, stage in zip(own, subject.stages, strict=True):
                if isinstance(stage.layer, BatchNormalization):  # as the runs before have left them
                    vars(mine.layer).update({each: getattr(stage.layer, each) for each in STATISTICS})
            inexact = each.inexact_from.lower() or ("" if subject.takes == LOGITS else "output")
            run = Run(name, each.x, cotangent=each.cotangent, exact=True, scale=scale, inexact_from=inexact)
            with restored(subject.port, weights=False):
                try:
                    for (of_stage, attribute), parameter in held.items():
                        parameter.set(np.asarray(getattr(layers[of_stage], attribute)))
                    yield from self._on_drawn(run, replace(subject, stages=own))
                finally:
                    for key, parameter in held.items():
                        parameter.set(subject.values[key])

    def _again(self) -> Iterator[Row]:
        """What is kept between calls."""
        yield from self._judge(Run("batch again", self.x, labels=self.labels, wants_grad=True, again=True))

    def _extremes(self) -> Iterator[Row]:
        subject = self.subject
        largest = max(int(np.prod(shape)) for shape in subject.shapes)
        if MANY * largest <= MOST:
            yield from self._judge(Run(_samples(MANY), self._draw(MANY)))
        else:
            subject.note(f"{MANY} samples were not run, for their memory")
        if self.x.ndim == 4:
            n = max(min(len(self.x), 8), self.fewest)
            rows = self._judge(Run("channels_last", self._draw(n), memory_format=torch.channels_last))
            if _raised(rows):  # loudly, which is no wrong number: view, where reshape would do
                self.made.pop()
            else:
                yield from rows
        if not homogeneous(self.reference) and self.drawn:
            yield from self._on_drawn(Run("x 1000", subject.setting.round(1e3 * self._draw(len(self.x)))))

    def _double(self) -> Iterator[Row]:
        """A float32 port's float64 twin, where a slip shows that float32 rounds away."""
        subject = self.subject
        if subject.setting != Setting(torch.float32, subject.setting.device):
            return
        if not all(each[0].settable for guide in subject.guides[:1] for each in guide.parameters.values() if each):
            return  # weights that are computed in float64 are others
        setting = Setting(torch.float64, subject.setting.device)
        with restored(subject.port, weights=False):
            subject.port.double()
            twin = replace(subject, setting=setting, notes={}, seen={})
            judgement = Judgement(
                twin, Run("as float64", self._draw(len(self.x)), cotangent=self._cotangent(len(self.x)))
            )
            rows = rows_of(judgement)
            kinds = {c.tensor.dtype for c in judgement.record.calls if c.of_data and c.tensor.is_floating_point()}
            if judgement.record.error is not None or kinds != {torch.float64}:
                subject.note("not judged as a float64 twin: it computes in float32 whatever its weights are")
                return
        self.made.append("as float64")
        yield from rows

    def piece(self, run: Callable[[Tensor], Any]) -> Iterator[Row]:
        """Another callable of the port, seen in one piece: its outputs and gradients within the probes' limits."""
        subject, x, name = self.subject, self._draw(len(self.x)), "in one piece"
        if any(kind_of(stage.layer).repeat is not None for stage in subject.stages):
            subject.note("run= was not judged: what it drops cannot be seen in one piece")
            return
        cotangent = self._cotangent(len(x))
        whole = probe([stage.layer for stage in subject.stages], x, cotangent, subject.setting.arithmetic)
        self.made.append(name)
        subject.port.zero_grad(set_to_none=True)
        subject.port.train()
        try:
            returned = list(tensors_in(run(subject.setting.tensor(x))))
            fitting = [tensor for tensor in returned if tensor.shape == whole.output.shape]
            found = (fitting or returned)[0]
            found.backward(subject.setting.tensor(cotangent).to(found.dtype))
        except Exception as error:  # whatever a user's callable raises
            yield Row(name, "port", "output", SUM, Difference(note=f"it raised {told(error)}"))
            return
        actual = found.detach().double().cpu().numpy()
        yield Row(name, "port", "output", SUM, compare(actual, whole.output, whole.limit))
        held = subject.guides[0].parameters if subject.guides else {}
        for stage, grads, limits in zip(subject.stages, whole.grads, whole.grads_limits, strict=True):
            for attribute, expected in grads.items():
                for each in held.get((stage.name, attribute), [])[:1]:
                    value = each.gradient(expected) if each.settable else None
                    worst = Difference(note="it gets no gradient")
                    if value is not None:
                        worst = compare(value, expected, limits[attribute])
                    if each.settable:
                        yield Row(name, stage.name, f"grad_{MODULE_ATTRIBUTES[attribute]}", SUM, worst)


def _dead(guides: Sequence[Guide]) -> bool:
    """Whether a layer makes the same of all samples."""
    values = [link.end.value for guide in guides[:1] for link in guide.links if link.end.value is not None]
    return any(np.array_equal(value, np.broadcast_to(value[:1], value.shape)) for value in values)


def _raised(rows: Sequence[Row]) -> bool:
    return any("the port raised" in row.worst.note for row in rows)


def _samples(n: int) -> str:
    return "1 sample" if n == 1 else f"{n} samples"
