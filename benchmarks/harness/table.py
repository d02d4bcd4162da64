"""Which rows there are: a table per test module, expanded to one pytest case per row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

Size = Mapping[str, int | bool | str]

OUR_BACKENDS: Mapping[str, tuple[str, ...]] = {"cpu": ("native",), "cuda": ("triton", "cuda")}
"""Backends of `vdm_kernels` that are worth timing on a device (Triton's interpreter is not)."""


@dataclass(frozen=True)
class Table:
    """The rows of one op: sizes per device × dtypes per device × directions × backends.

    Args:
        op: the op's name, as in `vdm_kernels`.
        cpu, cuda: sizes of the full run on that device.
        quick: the one size of `--quick`, on every device.
        directions: `fwd`, `bwd`, `dx` (the gradient of the layer's input alone) or `step`.
        baselines: what PyTorch itself offers, beside the libraries, and our reference.
        ours: the rows of ours, per device.
        libraries: names of the calls that a user would make instead; a `Workload` has one of each name.
        slow: rows that `--quick` skips.
        dtypes: element types per device; `--quick` takes the first.
    """

    op: str
    cpu: tuple[Size, ...]
    cuda: tuple[Size, ...]
    quick: Size
    directions: tuple[str, ...] = ("fwd", "bwd")
    baselines: tuple[str, ...] = ("eager", "compile", "reference")
    ours: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: OUR_BACKENDS)
    libraries: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    dtypes: Mapping[str, tuple[torch.dtype, ...]] = field(
        default_factory=lambda: {"cpu": (torch.float32,), "cuda": (torch.bfloat16, torch.float32)}
    )


@dataclass(frozen=True)
class RowKey:
    """One row: what is measured, on what, by whom."""

    op: str
    size: Size
    dtype: torch.dtype
    direction: str
    device: str
    backend: str

    @property
    def case(self) -> str:
        """The size as a name: `{"preset": "bair", "B": 4, "guided": True}` is `bair-B4-guided`."""
        parts = []
        for name, value in self.size.items():
            if isinstance(value, str):
                parts.append(value)
            elif value is not False:
                parts.append(name if value is True else f"{name}{value}")
        return "-".join(parts)

    def numbers(self, *names: str) -> tuple[int, ...]:
        """Entries of the size."""
        return tuple(int(self.size[name]) for name in names)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def group(self) -> str:
        """What all rows that are compared with each other have in common."""
        return f"{self.op} {self.case} {self.dtype_name} {self.direction} {self.device}"

    def __str__(self) -> str:
        return f"{self.case}-{self.dtype_name}-{self.direction}-{self.device}-{self.backend}"


def expand(table: Table, device: str, *, quick: bool) -> Iterator[RowKey]:
    """The rows of `table` on `device`, those that are compared with each other next to each other."""
    sizes = (table.quick,) if quick else getattr(table, device)
    dtypes = table.dtypes[device][:1] if quick else table.dtypes[device]
    backends = (*table.baselines, *table.libraries, *table.ours[device])
    for size in sizes:
        for dtype in dtypes:
            for direction in table.directions:
                for backend in backends:
                    yield RowKey(table.op, size, dtype, direction, device, backend)
