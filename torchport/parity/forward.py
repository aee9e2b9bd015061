"""Judges the forward pass: each layer of the reference, on the port's own input, against the port's output."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from numpy_ref.checks import Array
from torchport.layers import EXACT, SUM, kind_of, parameters_of
from torchport.layers.loss import Identity
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity.causes import cause_of
from torchport.parity.compare import Difference, compare
from torchport.parity.deviation import Deviation
from torchport.parity.judgement import Judgement
from torchport.parity.parameters import DERIVED, locate
from torchport.parity.probes import probe
from torchport.parity.rows import Row
from torchport.parity.stages import Link, Stage, apply


def forward_rows(judgement: Judgement) -> Iterator[Row]:
    """Yield rows for all links, from the input to the output."""
    for link in judgement.links:
        yield from _link_rows(judgement, link)


def _link_rows(judgement: Judgement, link: Link) -> Iterator[Row]:
    if not link.stages:
        yield _changed_row(judgement, link)
        return
    stage, where = link.stages[0], judgement.where(link)
    rule, x = kind_of(stage.layer).rule.name, judgement.reshaped(link.start.value, stage.name)
    if x is None:
        yield judgement.failing_row(link.name, "output", "no call holds its input", where)
    elif len(link.stages) > 1 and not link.fault:
        layers = [s.layer for s in link.stages]
        expected, limit = probe(layers, x, None, judgement.a, prediction=judgement.run.predicting).output
        limit = np.zeros(()) if judgement.is_exact(link.stages[-1], x) else limit
        yield judgement.row(link.name, "output", SUM, judgement.compare_call(link.end, expected, limit), where)
    elif link.start is link.end and not link.fault and rule == EXACT:
        pass  # no call, and none needed: a flattening that the next layer does by itself
    else:
        yield _layer_row(judgement, link, stage, x, where)


def _layer_row(judgement: Judgement, link: Link, stage: Stage, x: Array, where: str) -> Row:
    a, predicting, exact = judgement.a, judgement.run.predicting, judgement.is_exact(stage, x)
    try:
        applied = apply(stage, x, a, actual=link.end.value, predicting=predicting, exact=exact)
    except ValueError as error:  # the port cannot have drawn that
        return judgement.failing_row(link.name, "output", str(error), where)
    judgement.applied[link] = applied
    for further in link.stages[1:]:  # a link with a fault ends where the next right layer begins
        applied = apply(further, applied.y, a, predicting=predicting)
    limit = judgement.widened_for_fft([link], applied.limit, applied.y)
    worst = judgement.compare_call(link.end, applied.y, limit, applied.entry_limit)
    cause = _cause(judgement, link, stage, x, worst) if worst.ratio > 1 else ""
    return judgement.row(link.name, "output", kind_of(stage.layer).rule.name, worst, where, cause)


def _changed_row(judgement: Judgement, link: Link) -> Row:
    """The row for a link between two layers, where the port changes a value and should not."""
    is_after = link.fault == "changed"
    x, actual = judgement.reshaped(link.start.value, link.name, int(is_after)), link.end.value
    where, quantity = judgement.where(link), "output" if is_after else "input"
    if x is None or actual is None or actual.size != x.size:
        return judgement.failing_row(link.name, quantity, "it has another shape there", where)
    worst = judgement.compare_call(link.end, x, 0.0)
    name, actual = f"the {quantity} of {link.name}", actual.reshape(x.shape)
    deviation = Deviation(name, Identity(), x, actual, judgement.a, limit=0.0)
    return judgement.row(link.name, quantity, EXACT, worst, where, cause_of(deviation) if worst.ratio > 1 else "")


def _cause(judgement: Judgement, link: Link, stage: Stage, x: Array, worst: Difference) -> str:
    if link.fault == "missing":
        return f"{stage.name} is missing"
    if link.end.value is None or len(link.stages) > 1:
        return ""
    deviation = _deviation(judgement, link, stage, x)
    if worst.note and deviation.fits(deviation.actual, stage.layer, x, x):
        return ""  # the numbers are right: the note names a dtype or a shape
    return cause_of(deviation)


def _deviation(judgement: Judgement, link: Link, stage: Stage, x: Array) -> Deviation:
    assert link.end.value is not None
    side_inputs = ((call.label or f"a tensor of {call.where}", call.array) for call in judgement.side_inputs(link))
    port_tensors = {name: array for name, array in side_inputs if array is not None}
    reference_params = {
        f"{s.name}.{MODULE_ATTRIBUTES[attribute]}": value
        for s in judgement.subject.stages
        for attribute, value in parameters_of(s.layer).items()
    }
    return Deviation(
        *(stage.name, stage.layer, x, link.end.value, judgement.a),
        predicting=judgement.run.predicting,
        port_tensors=port_tensors,
        reference_params=reference_params,
    )


def parameter_rows(judgement: Judgement) -> Iterator[Row]:
    """Locate the reference's parameters in the port, by the guide if it has them; yield rows for what is wrong."""
    locations_by_key = judgement.guide.parameters
    for link in judgement.links:
        for stage, attribute in judgement.parameters_of(link) if not link.fault else ():
            key = stage.name, attribute
            if locations_by_key:
                locations = locations_by_key.get(key, [])
                judgement.parameters[key] = [location.in_record(judgement.record) for location in locations]
                continue
            sample_shape = judgement.subject.shapes[judgement.subject.indices[stage.name]]
            calls = judgement.finder.calls_of(link)
            value = getattr(stage.layer, attribute) if judgement.run.exact else judgement.subject.values[key]
            judgement.parameters[key] = locate(judgement.record, calls, value, sample_shape, judgement.a.u)
            yield from _parameter_row(judgement, link, stage, attribute, value)
    judgement.guide.parameters = judgement.parameters


def _parameter_row(judgement: Judgement, link: Link, stage: Stage, attribute: str, value: Array) -> Iterator[Row]:
    """Yield rows if the port has no such parameter, or not with the reference's numbers within DERIVED roundings."""
    locations, quantity = judgement.parameters[stage.name, attribute], MODULE_ATTRIBUTES[attribute]
    where = judgement.where(link)
    if not locations:
        x = judgement.reshaped(link.start.value, stage.name) if len(link.stages) == 1 else None
        cause = "" if x is None else _deviation(judgement, link, stage, x).parameter_cause(attribute)
        worst = Difference(note="no tensor that it takes has the reference's values")
        yield judgement.row(stage.name, quantity, EXACT, worst, where, cause)
        return
    if any(piece.call.is_leaf and not piece.call.label for piece in locations[0].pieces):
        note = "it is no parameter of the port, so no optimizer trains it"
        yield judgement.failing_row(stage.name, f"grad_{quantity}", note, where)
    if any(id(piece.call.tensor) in judgement.subject.frozen for piece in locations[0].pieces):
        judgement.subject.note(f"{stage.name}.{quantity} is frozen: judged as though it were trained")
    if not locations[0].settable:
        judgement.subject.note(f"{stage.name}.{quantity} is computed from others, which are not judged")
    actual = locations[0].value(value)
    if not np.array_equal(actual, value):
        worst = compare(actual, value, DERIVED * judgement.a.u * np.abs(value))
        yield judgement.row(stage.name, quantity, SUM, worst, where)
        setattr(stage.layer, attribute, judgement.subject.setting.round(actual))
