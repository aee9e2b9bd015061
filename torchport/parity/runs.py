"""The runs of one port, and how each is judged: every layer of the reference on the port's own recorded input.

No error is carried from layer to layer. The first layer's input is the given x, the last layer's output is what the
port returned: if every link holds, the whole port holds, at any depth, by induction.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from numpy_ref.functions import class_labels
from numpy_ref.layers import BatchNormalization
from numpy_ref.network import STATISTICS, Network
from torchport.choices import IEEE
from torchport.layers import SUM, kind_of
from torchport.layers.arithmetic import Setting
from torchport.layers.loss import OUTPUTS
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity.backward import backward_rows
from torchport.parity.calls import array_of, describe_error, tensors_in
from torchport.parity.compare import Difference, compare
from torchport.parity.derived_weights import derived_weight_rows
from torchport.parity.forward import forward_rows, parameter_rows
from torchport.parity.integers import IntegerCase, homogeneous, integer_case, scaled
from torchport.parity.judgement import Judgement
from torchport.parity.losses import LOGITS, check_loss
from torchport.parity.preparation import BATCH, PREDICTION, TRAINING, restored
from torchport.parity.probes import probe
from torchport.parity.rows import Row
from torchport.parity.side_effects import extra_parameter_rows, side_effect_rows
from torchport.parity.stages import Stage
from torchport.parity.subject import LARGEST_LAYER, Run, Subject

FEW = 4  # the fewest samples of the first run and of those on integers
FACTORS = (2.0**12, 2.0**-30)  # scales of the integers, which show clamps, thresholds and offsets


def judge(subject: Subject, run: Run) -> list[Row]:
    """Run the subject once and return its rows: forward, side effects, parameters, the loss and backward."""
    judgement = Judgement(subject, run)
    rows = judgement_rows(judgement)
    judgement.release()
    return rows


def judgement_rows(judgement: Judgement) -> list[Row]:
    """The rows of a run that has been recorded."""
    if judgement.output is None:
        return [judgement.raised_row()]
    parameters = list(parameter_rows(judgement))  # first, as layers are judged with the weights a port computes
    forward = list(forward_rows(judgement))
    if not all(row.ok for row in forward) and judgement.relink():
        forward = list(forward_rows(judgement))
    rows = [*forward, *side_effect_rows(judgement), *parameters]
    if judgement.run.labels is not None or judgement.run.cotangent is not None:
        rows += backward_rows(judgement)
    if judgement.run.first and all(row.ok for row in rows):
        rows += derived_weight_rows(judgement)
    return rows if any(not row.ok for row in rows) else [*rows, *extra_parameter_rows(judgement)]


class Trial:
    """The runs of one port: a method for each name in ALL, and piece."""

    def __init__(self, reference: Network, subject: Subject, x: Array, t: Array, seed: int) -> None:
        self.reference, self.subject, self.x, self.seed = reference, subject, x, seed
        self.classes = subject.shapes[-1][0]
        self.labels = class_labels(t, (len(x), self.classes)).astype(np.int64)
        self.rng = np.random.default_rng([seed, 4])
        self.run_names: list[str] = []
        self.takes_drawn_data = True  # False if the port raises an error on it
        self.least_samples = 2 if any(isinstance(layer, BatchNormalization) for layer in subject.layers) else 1

    def _judge(self, run: Run, subject: Subject | None = None, *, may_raise: bool = False) -> list[Row]:
        """Judge one run; with may_raise, an error of the port (which may check its input's range) is only noted."""
        rows = judge(subject or self.subject, run)
        if may_raise and _raised(rows):
            raised = textwrap.shorten(rows[0].worst.note, 60, placeholder=" ...")
            self.subject.note(f"not judged on {run.name}: {raised}, {rows[0].where}")
            return []
        self.run_names.append(run.name)
        return rows

    def _cotangent(self, n: int) -> Array:
        return self.rng.standard_normal((n, *self.subject.shapes[-1]))

    def _draw(self, n: int) -> Array:
        """n standard normal samples; the user's own if the port does not take those."""
        if not self.takes_drawn_data:
            return self.x[np.arange(n) % len(self.x)]
        return self.subject.setting.round(self.rng.standard_normal((n, *self.x.shape[1:])))

    def training(self) -> Iterator[Row]:
        """Judge training on dense data, in which no two values coincide, without a gradient for x."""
        subject, n = self.subject, max(len(self.x), FEW)
        rows = judge(subject, self._first(n))
        if _raised(rows) and n > len(self.x):
            rows = judge(subject, self._first(len(self.x)))
        if _raised(rows):  # the port may check its input's range: try the user's data
            self.takes_drawn_data = False
            on_user_data = judge(subject, self._first(len(self.x)))
            if not _raised(on_user_data):
                subject.note(f"drawn data were not judged: {rows[0].worst.note}, {rows[0].where}")
                rows = on_user_data
        self.run_names.append(TRAINING)
        yield from rows

    def _first(self, n: int) -> Run:
        return Run(TRAINING, self._draw(n), cotangent=self._cotangent(n), first=True)

    def prediction(self) -> Iterator[Row]:
        """Judge prediction, twice: a port may cache its output, or compute another with gradients enabled."""
        run = Run(PREDICTION, self._draw(len(self.x)), predicting=True)
        yield from self._judge(run)
        yield from judge(self.subject, run._replace(x=self._draw(len(self.x)), enable_grad=True))

    def sizes(self) -> Iterator[Row]:
        """Judge other numbers of samples, which show hard-wired sizes, squeeze and a dropped remainder."""
        for n in (self.least_samples, len(self.x) + 3):
            yield from self._judge(Run(_samples(n), self._draw(n), cotangent=self._cotangent(n)))

    def batch(self) -> Iterator[Row]:
        """Judge the user's batch with its loss; then the loss alone, on labels of all classes and on large logits."""
        yield from self._judge(Run(BATCH, self.x, labels=self.labels, wants_grad=True))
        setting, takes = self.subject.setting, self.subject.takes
        counts = 2 + np.arange(self.classes) % 3  # not equal, as a loss may weight classes by them
        labels = self.rng.permutation(np.repeat(np.arange(self.classes), counts))
        for scale in (1.0, 1e3):
            logits = setting.round(scale * self.rng.standard_normal((len(labels), self.classes)))
            outputs = setting.round(OUTPUTS[takes]().forward(logits))
            yield from check_loss(outputs, labels, setting, self.subject.loss, takes, f"loss, logits x {scale:g}")

    def integers(self) -> Iterator[Row]:
        """Judge on small integers, where every sum is exact, with zeros before relu and ties in pooling windows."""
        subject, parameters = self.subject, self.subject.parameters
        if subject.setting.mode != IEEE:
            return
        unset = [key for key, locations in parameters.items() if not locations or not locations[0].settable]
        lacking = ", ".join(sorted(f"{stage}.{MODULE_ATTRIBUTES[name]}" for stage, name in unset))
        if len(unset) == len(parameters):
            reason = f"{lacking} cannot be set" if lacking else "no weight can be set"
            subject.note(f"not run on integers, since {reason}")
            return
        if unset:
            subject.note(f"{lacking} cannot be set: the relu or pooling after it was not judged at zeros or ties")
        held, n = subject.params_of(self.reference, {stage for stage, _ in unset}), max(len(self.x), FEW)
        case = integer_case(self.reference, self.x.shape[1:], n, self.seed, held)
        if blind := [layer for layer, share in case.zeros.items() if share == 0]:
            subject.note(f"no zero or tie was seen at {', '.join(blind)}")
        yield from self._on_integers("integers", case)
        for factor in FACTORS if homogeneous(self.reference) and all(name == "W" for _, name in unset) else ():
            yield from self._on_integers(f"integers x 2^{int(np.log2(factor))}", scaled(case, factor), factor)

    def _on_integers(self, name: str, case: IntegerCase, scale: float = 1.0) -> list[Row]:
        """Judge the port with the weights of case, and write its own back."""
        subject, layers = self.subject, {key.lower(): layer for key, layer in case.network.layers.items()}
        for stage_name, layer in ((stage.name, stage.layer) for stage in subject.stages):
            if isinstance(layer, BatchNormalization):  # running statistics as earlier runs left them
                vars(layers[stage_name]).update({statistic: getattr(layer, statistic) for statistic in STATISTICS})
        stages = [Stage(stage.name, layers.get(stage.name, stage.layer)) for stage in subject.stages]
        settable = {key: ways[0] for key, ways in subject.parameters.items() if ways and ways[0].settable}
        inexact = case.inexact_from.lower() or ("" if subject.takes == LOGITS else "output")
        run = Run(name, case.x, cotangent=case.cotangent, exact=True, scale=scale, inexact_from=inexact)
        with restored(subject.port, whole=False):
            try:
                for (stage_name, attribute), location in settable.items():
                    location.write(np.asarray(getattr(layers[stage_name], attribute)))
                return self._judge(run, replace(subject, stages=stages), may_raise=True)
            finally:
                for key, location in settable.items():
                    location.write(subject.values[key])

    def again(self) -> Iterator[Row]:
        """Judge the user's batch once more, which shows state kept between calls."""
        yield from self._judge(Run("batch again", self.x, labels=self.labels, wants_grad=True, again=True))

    def extremes(self) -> Iterator[Row]:
        """Judge many samples, channels_last storage, and values at which activations saturate."""
        subject, n, many = self.subject, len(self.x), self.subject.many
        if many * max(subject.sizes) <= LARGEST_LAYER:
            yield from self._judge(Run(_samples(many), self._draw(many)))
        else:
            subject.note(f"{many} samples were not run, for their memory")
        if self.x.ndim == 4:  # may_raise: view() may refuse the layout, which is no wrong number
            x = self._draw(max(min(n, 8), self.least_samples))
            yield from self._judge(Run("channels_last", x, memory_format=torch.channels_last), may_raise=True)
        if not homogeneous(self.reference) and self.takes_drawn_data:
            yield from self._judge(Run("x 1000", subject.setting.round(1e3 * self._draw(n))), may_raise=True)

    def double(self) -> Iterator[Row]:
        """Judge a float32 port converted to float64, which shows mistakes smaller than float32's roundings."""
        subject, setting = self.subject, Setting(torch.float64, self.subject.setting.device)
        if subject.setting != replace(setting, dtype=torch.float32):
            return
        if not all(locations[0].settable for locations in subject.parameters.values() if locations):
            return  # computed weights would have other values in float64
        with restored(subject.port, whole=False):
            subject.port.double()
            n = len(self.x)
            run = Run("as float64", self._draw(n), cotangent=self._cotangent(n))
            judgement = Judgement(replace(subject, setting=setting, notes={}, earlier_outputs={}), run)
            rows = judgement_rows(judgement)
            tensors = [call.tensor for call in judgement.record.calls if call.depends_on_input]
            dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
            if judgement.record.error is not None or dtypes != {torch.float64}:
                subject.note("not judged as a float64 twin: it computes in float32 whatever its weights are")
                return
        self.run_names.append(run.name)
        yield from rows

    def piece(self, run: Callable[[Tensor], Any]) -> Iterator[Row]:
        """Judge another callable of the port as one piece: its output and gradients within the limits of probes."""
        subject, x, name = self.subject, self._draw(len(self.x)), "in one piece"
        if any(kind_of(layer).repeat is not None for layer in subject.layers):
            subject.note("run= was not judged: what it drops cannot be seen in one piece")
            return
        cotangent = self._cotangent(len(x))
        probed = probe(subject.layers, x, cotangent, subject.setting.arithmetic)
        self.run_names.append(name)
        subject.port.zero_grad(set_to_none=True)
        subject.port.train()
        try:
            returned = list(tensors_in(run(subject.setting.tensor(x))))
            output = next((tensor for tensor in returned if tensor.shape == probed.output[0].shape), returned[0])
            output.backward(subject.setting.tensor(cotangent).to(output.dtype))
        except Exception as error:  # whatever a user's callable raises
            yield Row(name, "port", "output", SUM, Difference(note=f"it raised {describe_error(error)}"))
            return
        yield Row(name, "port", "output", SUM, compare(array_of(output), *probed.output))
        for (stage, attribute), locations in subject.parameters.items():
            if locations and locations[0].settable:
                key = subject.indices[stage], attribute
                value, missing = locations[0].gradient(probed.values[key]), Difference(note="it gets no gradient")
                worst = missing if value is None else compare(value, probed.values[key], probed.limits[key])
                yield Row(name, stage, f"grad_{MODULE_ATTRIBUTES[attribute]}", SUM, worst)


def _raised(rows: Sequence[Row]) -> bool:
    return any("the port raised" in row.worst.note for row in rows)


def _samples(n: int) -> str:
    return "1 sample" if n == 1 else f"{n} samples"
