"""One-line refusals of files that are not a dict of float arrays: the cause and, where there is one, the way out."""

from __future__ import annotations


class ParamsError(ValueError):
    """A file that is not a pickled dict of float arrays, or arrays that such a file cannot hold."""


def over_limit(what: str, max_bytes: int) -> ParamsError:
    """That what is larger than max_bytes."""
    way_out = "read it from Python with a larger max_bytes if you trust it"
    return ParamsError(f"{what}, over the limit of {max_bytes}: {way_out}")


_STARTS = {
    b"\x1f\x8b": "a gzip file: unpack it first",
    b"BZh": "a bzip2 file: unpack it first",
    b"\xfd7zXZ\x00": "an xz file: unpack it first",
    b"x\x9c": "a zlib file, as joblib writes them: load it with joblib and save it again with pickle",
    b"PK\x03\x04": "a zip file, as .pt and .npz files are: params.pkl is expected",
    b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.": "an old .pt file: load it with torch and save arrays",
    b"\x93NUMPY": "a .npy file: params.pkl is expected",
    b"\x89HDF": "an HDF5 file: params.pkl is expected",
    b"version https://git-lfs": "a Git LFS pointer: run git lfs pull",
    b"<": "a web page: download the raw file",
    b"\xc2\x80": "a pickle that was copied as text: copy it as binary",
    b"\xef\xbf\xbd": "a pickle that was copied as text: copy it as binary",
    b"\xff\xfe": "text in UTF-16, as PowerShell redirects it: copy the file as binary",
}

# By the first part of a module's name.
_WAYS_OUT = {
    "cupy": "holds CuPy arrays: save it again with cupy.asnumpy on each array",
    "joblib": "written by joblib: load it with joblib and save it again with pickle",
    "torch": "holds torch tensors: save it again with .numpy() on each",
    "collections": "holds a dict of a special kind: save dict(params)",
}

_OPCODES = {
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING"),
        "written by Python 2: load it there with Python 3's pickle.load(file, encoding='latin1') and save it again",
    ),
    **dict.fromkeys(
        ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"),
        "holds an object, expected a dict of arrays: save net.params, not the network",
    ),
}
_KINDS = {
    **dict.fromkeys(("FLOAT", "BINFLOAT"), "a number"),
    **dict.fromkeys(("LIST", "EMPTY_LIST", "APPEND", "APPENDS"), "a list"),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET", "ADDITEMS"), "a set"),
    **dict.fromkeys(("LONG4",), "a huge number"),
}


def foreign_file(data: bytes) -> str | None:
    """What data is by its first bytes, if it is no pickle."""
    if not data:
        return "an empty file"
    start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((what for known, what in _STARTS.items() if start.startswith(known)), None)


def damaged(why: str) -> ParamsError:
    """The error for a pickle that no pickler writes."""
    return ParamsError(f"damaged, truncated or not a pickle ({why}): fetch or copy it again")


def text_mode(data: bytes) -> str:
    """What to add to an error about data that went through text mode; nothing for other data."""
    if 0 < data.count(b"\n") == data.count(b"\r\n"):
        return "; each line feed follows a carriage return, as in a file that was copied as text: copy it as binary"
    return ""


def refused_opcode(op: str, key: str | None) -> ParamsError:
    """The error for an opcode that no dict of arrays needs, met after the key of an item (None: before any)."""
    if op in _OPCODES:
        return ParamsError(_OPCODES[op])
    if op in _KINDS:
        if key is None:
            return ParamsError(f"holds {_KINDS[op]}, expected a dict of arrays")
        return ParamsError(f"{key!r:.80} is {_KINDS[op]}, expected an array")
    return ParamsError(f"uses the pickle opcode {op}, which no dict of plain float arrays needs")


def refused_name(module: str, attribute: str, inside: bool) -> ParamsError:
    """The error for a global that no dict of arrays needs, inside the dict or in its place."""
    root = module.split(".")[0]
    if root in _WAYS_OUT:
        return ParamsError(_WAYS_OUT[root])
    cause = f"names {f'{module}.{attribute}'!r:.120}: only plain NumPy arrays are read, and nothing is ever run"
    if root == "numpy":
        return ParamsError(f"{cause}; save it again with np.array(value, dtype=float) for each")
    return ParamsError(cause if inside else f"{cause}; of a network, save net.params")
