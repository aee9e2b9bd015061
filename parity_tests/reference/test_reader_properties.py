"""Whatever was done to a file of weights: reading it gives what pickle gives, or one line; soon, and in little memory.

EXAMPLES=1000000 pytest parity_tests/reference/test_reader_properties.py --hypothesis-profile=explore
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from numpy_ref import ParamsError
from numpy_ref.params import check_arrays, decode_params, looked_at
from numpy_ref.pickles import ARRAYS, read_values
from reference.crafted import instructions, renamed, same

Parts = list[tuple[bytes, bytes]]  # opcode, argument

BATCH = 10_000  # hypothesis remembers every example of a run
EXAMPLES = settings().max_examples

WEIGHTS: list[dict[str, Any]] = [
    {"W": np.arange(6.0).reshape(2, 3).astype(kind), "b": np.asfortranarray(np.arange(4).reshape(2, 2).astype(kind))}
    for kind in ("<f8", ">f8", "<f4", ">f2")
]
WEIGHTS += [{"permuted": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)}, OrderedDict(W=np.arange(3.0))]
WEIGHTS += [{"long": np.full(70, 0.1)}, dict.fromkeys(["one", "other"], np.arange(3.0))]
SAMPLES = [
    instructions(memo(renamed(pickle.dumps(weights, protocol), core)))
    for weights in WEIGHTS
    for protocol in range(6)
    for core in ["numpy.core", "numpy._core"][: 1 + (np.__version__ >= "2")]
    for memo in (bytes, pickletools.optimize)  # as it is, and without what is never read
]
CODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
SNIPPETS: list[Parts] = [
    *[[(code, argument)] for code in CODES for argument in (b"", b"\0", b"\xff", b"\xff" * 4, b"1\n", b"a\nb\n")],
    [(b"c", b"os\nsystem\n"), (b"\x8c", b"\x04true"), (b"\x85", b""), (b"R", b"")],
    [(b"\x8c", b"\x05posix"), (b"\x8c", b"\x06system"), (b"\x93", b"")],
    [(b"c", b"numpy\ndtype\n"), (b"\x8c", b"\x02O8"), (b"\x89", b""), (b"\x88", b""), (b"\x87", b""), (b"R", b"")],
    *[[(code, b"")] * 50 for code in (b"2", b"\x85", b"(", b"\x94")],
]
VALUES = [b"N", b"K\1", b"\x88", b"\x89", b"\x8c\2f4", b"C\1b", b")", b"}", b"K\2\x85", b"("]
LINES = [b"-1", b"", b"00", b"01", b"18446744073709551616", b"9" * 5000, b"1L", b"\\ud800", b"\\U0001F600"]
SIZES = [0, 1, 2**7, 2**8 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]

EDIT = struct.Struct("<BHHH")


def edited(parts: Parts, kind: int, i: int, j: int, k: int) -> Parts:
    """parts, of which one or a few are dropped, repeated, moved, taken from another file, put in, or forged."""
    i %= len(parts)
    (code, argument), few = parts[i], parts[i : i + 1 + j % 24]
    new: Parts = []
    match kind % 9:
        case 0:
            return parts[:i] + parts[i + len(few) :]
        case 1:
            return parts[:i] + few * (2 + k % 20) + parts[i + len(few) :]
        case 2:
            return parts[:i] + few[::-1] + parts[i + len(few) :]
        case 3:
            new = SAMPLES[j % len(SAMPLES)][k % 80 :][: 1 + j % 7]
        case 4:
            new = [*SNIPPETS[j % len(SNIPPETS)], (code, argument)]
        case 5:
            new = [(VALUES[j % len(VALUES)], b"")]
        case 6:
            new = [(CODES[j % len(CODES)], argument)]
        case 7:
            size = struct.pack("<Q", SIZES[k % len(SIZES)])
            new = [(code, size[: (1, 2, 4, 8)[j % 4]] + argument[(0, 1, 4, 8)[j // 4 % 4] :])]
        case 8:
            new = [(code, LINES[j % len(LINES)] + b"\n" + argument.partition(b"\n")[2])]
    return parts[:i] + new + parts[i + 1 :]


def joined(parts: Parts, framed: bool, damage: str, at: int) -> bytes:
    """The file, which may then be cut off or changed in one byte."""
    content = bytearray(b"".join(code + argument for code, argument in parts))
    if framed and parts[0][0] == b"\x80":
        content[2:2] = b"\x95" + struct.pack("<Q", len(content) - 2)
    if damage == "cut":
        del content[at % len(content) :]
    elif damage == "flip":
        content[at // 8 % len(content)] ^= 1 << at % 8
    return bytes(content)


def arrays_in(content: bytes) -> Any:
    return check_arrays(decode_params(content), allow_nonfinite=True)


def read(content: bytes, decode: Callable[[bytes], Any] = arrays_in) -> tuple[Any, str, int]:
    """What is in it, or {} and the refusal; and the peak of memory in bytes."""
    tracemalloc.start()
    try:
        return decode(content), "", tracemalloc.get_traced_memory()[1]
    except ParamsError as error:
        return {}, str(error), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Plain(pickle.Unpickler):
    """pickle itself, for what the reader takes to be harmless."""

    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) in ARRAYS
        return super().find_class(module, name)


@pytest.mark.parametrize("_", range(max(1, EXAMPLES // BATCH)))
@pytest.mark.filterwarnings("ignore:numpy.core", "ignore:dtype")  # what pickle says of old files
@settings(max_examples=min(max(EXAMPLES, 400), BATCH), deadline=2000)
@given(
    parts=st.sampled_from(SAMPLES),
    edits=st.integers(0, 4),
    places=st.binary(min_size=4 * EDIT.size, max_size=4 * EDIT.size),  # in one: each draw takes hypothesis some time
    framed=st.booleans(),
    damage=st.sampled_from(["", "", "", "cut", "flip"]),
    at=st.integers(0, 2**16 - 1),
)
def test_any_file_is_read_as_pickle_reads_it_or_refused(
    _: int, parts: Parts, edits: int, places: bytes, framed: bool, damage: str, at: int
) -> None:
    for edit in [*EDIT.iter_unpack(places)][:edits]:
        parts = edited(parts, *edit) or [(b".", b"")]
    content = joined(parts, framed, damage, at)
    leniently, strictly = read(content, lambda data: looked_at(data, read_values)), read(content)
    for _, says, peak in (leniently, strictly):
        assert peak < 3 * len(content) + 2**18
        assert says.isprintable()
        assert len(says) < 400
    found = strictly[0]
    assert found or edits or damage
    assert not found or same(leniently[0], found)
    expected = Plain(io.BytesIO(content)).load() if found else {}
    assert list(found) == list(expected)
    for name, array in found.items():
        assert type(name) is str
        assert type(array) is np.ndarray
        assert array.flags.carray
        assert array.dtype == expected[name].dtype.newbyteorder("=")
        assert array.dtype in (np.float16, np.float32, np.float64)
        assert array.shape == expected[name].shape
        assert array.tobytes() == expected[name].astype(array.dtype).tobytes()
