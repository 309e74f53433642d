"""Which data a run was trained on: counts and a hash of their content, whatever their path.

    {"train": {"count": 360, "sha256": "…"}, "test": {"count": 40, "sha256": "…"}}

Of at most 2 GiB in memory all examples are hashed, of other sources 64 that are evenly spaced. A source whose examples
differ each time they are read (random augmentation) has no hash: then only the counts can be compared.
"""

import hashlib

import numpy as np

from data_lib.sources import Dataset, Source, gather, spread

WHOLE_BYTES = 2 * 2**30
SOME = 64

Identity = dict[str, dict[str, int | str]]


def identity(dataset: Dataset) -> Identity:
    """The counts and hashes of both splits, as JSON can hold them; the hash is "" where there is none."""
    return {name: {"count": len(source), "sha256": digest(source)} for name, source in dataset._asdict().items()}


def digest(source: Source) -> str:
    """The first 16 digits of the SHA-256 of the examples, their dtypes and shapes, and their number; "" if none."""
    if not len(source):
        return _hash(0, {})
    arrays = getattr(source, "arrays", None)
    whole = {} if arrays is None else arrays()
    if whole and sum(array.nbytes for array in whole.values()) <= WHOLE_BYTES:
        return _hash(len(source), whole)
    indices = spread(source, SOME)
    if _hash(1, gather(source, indices[:1])) != _hash(1, gather(source, indices[:1])):
        return ""
    return _hash(len(source), gather(source, indices))


def differences(then: Identity, now: Identity) -> list[str]:
    """What differs between two identities, one line per split: empty for the same data."""
    found = []
    for name in ("train", "test"):
        a, b = then.get(name, {}), now.get(name, {})
        if a.get("count") != b.get("count"):
            found.append(f"{name}: {a.get('count')} examples then, {b.get('count')} now")
        elif a.get("sha256") and b.get("sha256") and a["sha256"] != b["sha256"]:
            found.append(f"{name}: {a['count']} other examples (SHA-256 {a['sha256']} then, {b['sha256']} now)")
    return found


def _hash(count: int, arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256(str(count).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()[:16]
