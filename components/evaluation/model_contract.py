"""What callers of a model depend on: its classes, and its signatures with their inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pergola.components.artifacts.record import Record

INPUTS, OUTPUTS = "inputs", "outputs"
Tensors = Mapping[str, str]  # name -> dtype and shape, such as "uint8 (?, ?, ?, 3)"


@dataclass(frozen=True)
class ModelContract(Record):
    """The contract of one model.

    The shape of an input is part of it, since a caller must match it; of an output only the number of
    dimensions is, since more classes or another network make it longer.
    """

    FILE: ClassVar[str] = "contract.json"

    labels: tuple[str, ...]
    signatures: Mapping[str, Mapping[str, Tensors]]  # name -> "inputs" or "outputs" -> tensors


@dataclass(frozen=True)
class ContractChanges:
    """How a contract differs from the one before it, each change in a few words."""

    broken: tuple[str, ...]  # what a caller may depend on and that is gone or another
    added: tuple[str, ...]  # what is new, which disturbs nobody


def changes(before: ModelContract, now: ModelContract) -> ContractChanges:
    """What of a model's contract another one breaks, and what it adds."""
    broken = [f"class '{name}' is gone" for name in before.labels if name not in now.labels]
    added = [f"class '{name}' is new" for name in now.labels if name not in before.labels]
    for name, tensors in before.signatures.items():
        if name not in now.signatures:
            broken.append(f"signature '{name}' is gone")
            continue
        for kind in (INPUTS, OUTPUTS):
            broken += _broken(name, kind[:-1], tensors[kind], now.signatures[name][kind])
    for name, tensors in now.signatures.items():
        old = before.signatures.get(name)
        if old is None:
            added.append(f"signature '{name}' is new")
            continue
        broken += [f"{_named(name, 'input', key)} is new, and callers do not send it"
                   for key in tensors[INPUTS] if key not in old[INPUTS]]  # fmt: skip
        added += [f"{_named(name, 'output', key)} is new"
                  for key in tensors[OUTPUTS] if key not in old[OUTPUTS]]  # fmt: skip
    return ContractChanges(tuple(broken), tuple(added))


def _broken(signature: str, kind: str, before: Tensors, now: Tensors) -> Iterator[str]:
    for key, tensor in before.items():
        if key not in now:
            yield f"{_named(signature, kind, key)} is gone"
        elif now[key] != tensor:
            yield f"{_named(signature, kind, key)} was {tensor} and is {now[key]}"


def _named(signature: str, kind: str, key: str) -> str:
    return f"{kind} '{key}' of signature '{signature}'"
