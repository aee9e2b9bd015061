"""One run of a port, judged: every layer of the reference on the port's own recorded input, forward and backward.

Nothing is carried from layer to layer. The input of the first layer is the x that was given, the output of the last is
what the port returned: if every link holds, the whole holds, at any depth, by induction.
"""

from __future__ import annotations

from torchport.parity.backward import backward_rows
from torchport.parity.computed import computed_rows
from torchport.parity.forward import forward_rows, parameter_rows
from torchport.parity.judgement import Judgement
from torchport.parity.left import left_rows
from torchport.parity.report import Row
from torchport.parity.subject import Run, Subject


def judge(subject: Subject, run: Run) -> list[Row]:
    """The rows of one run: forward from the input, what the run leaves behind, the loss, backward from the output."""
    judged = Judgement(subject, run)
    rows = rows_of(judged)
    judged.release()
    return rows


def rows_of(judged: Judgement) -> list[Row]:
    """Of a run that has been made."""
    if judged.output is None:
        return [judged.raised()]
    parameters = list(parameter_rows(judged))  # first: a value that the port computes is the one to judge with
    forward = list(forward_rows(judged))
    if not all(row.ok for row in forward) and judged.found_anew():
        forward = list(forward_rows(judged))
    rows = [*forward, *left_rows(judged), *parameters]
    if judged.run.labels is not None or judged.run.cotangent is not None:
        rows += backward_rows(judged)
    if judged.run.first and all(row.ok for row in rows):
        rows += computed_rows(judged)
    return rows if any(not row.ok for row in rows) else [*rows, *extra_rows(judged)]


def extra_rows(judged: Judgement) -> list[Row]:
    """Parameters that are trained and that the reference has not; those that nobody uses are only said."""
    rows, subject, calls = list[Row](), judged.subject, judged.record.calls
    serving, todo = set[int](), [p.call for each in judged.parameters.values() for found in each for p in found.pieces]
    while todo:
        call = todo.pop()
        if call.number not in serving:
            serving.add(call.number)
            todo += [calls[parent] for parent in call.parents]
    served, used = {id(calls[number].tensor) for number in serving}, {id(call.tensor): call for call in calls}
    for name, parameter in subject.port.named_parameters() if judged.run.cotangent is not None else ():
        if id(parameter) in served or id(parameter) in subject.frozen:
            continue
        if parameter.grad is None or not parameter.grad.any():
            subject.note(f"{name} {'is not used' if parameter.grad is None else 'has a gradient of 0'}")
        else:
            user = used.get(id(parameter))
            link = next((link for link in judged.links if user in judged.sides(link)), judged.links[-1])
            note = "it gets a gradient and serves no layer of the reference"
            rows.append(judged.wrong(link.name, name, note, user.where if user else ""))
    return rows
