"""The loops of `loops.cpp`, compiled on first use, a matter of two seconds, and kept in the cache. They are an option: where
there is no C++ compiler `library` returns None and `featint.kernels.sparse` does the same in plain PyTorch, at about half the speed."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from featint import store

SOURCE = Path(__file__).with_name("loops.cpp")
FLAGS = "-O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -std=c++17 -shared -fPIC"
DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, with one note in the log that says why."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    lost = "training runs in plain PyTorch, at about half the speed (results agree to rounding)"
    if compiler is None:
        logging.getLogger(__name__).warning(
            "no C++ compiler found (g++, clang++ or $CXX): %s", lost
        )
        return None
    command = [*shlex.split(compiler), *FLAGS.split()]
    try:
        file = store.cache() / "kernels" / f"{fingerprint(command)}.so"
        if not file.exists():
            compile_to(file, command)
        return ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError) as e:
        reason = (getattr(e, "stderr", None) or str(e)).strip().splitlines()[-1]
        logging.getLogger(__name__).warning("the kernels did not compile (%s): %s", reason, lost)
        return None


def fingerprint(command: list[str]) -> str:
    """Names what the compiled file depends on: source, command and, since it is compiled for this very processor, the processor."""
    parts = (
        SOURCE.read_text(),
        *command,
        platform.machine(),
        platform.processor(),
        *processor_flags(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@functools.cache
def processor_flags() -> tuple[str, ...]:
    """The instruction sets that Linux reports; empty elsewhere."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    return tuple(
        next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    )


def compile_to(file: Path, command: list[str]) -> None:
    """Compile under a temporary name and rename: processes that start together do not see half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        draft = Path(folder) / file.name
        subprocess.run(
            [*command, str(SOURCE), "-o", str(draft)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        draft.replace(file)


def keep_memory() -> None:
    """Let glibc serve large blocks from memory that it keeps (M_MMAP_MAX = 0, no trimming); nothing happens with other C libraries."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)
        mallopt(-1, 2**31 - 1)


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors: on the CPU, all float32 or all float64, and compiled."""
    kinds = {(t.device.type, t.dtype) for t in tensors}
    return kinds in ({("cpu", torch.float32)}, {("cpu", torch.float64)}) and library() is not None


def fast_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16 matrices faster than float32 ones."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor_flags())


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int) -> None:
    """Call a kernel with tensors (contiguous) and sizes; the number of threads is PyTorch's."""
    f = getattr(library(), f"{name}_{DTYPES[dtype]}")
    f(
        *(
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a)
            for a in arguments
        ),
        torch.get_num_threads(),
    )


def bag(acts: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    """Sum over k of acts[b, k] * table[indices[b, k]]: (batch, d).

    Raises ValueError if the codes' two halves differ in shape, IndexError for a feature outside the table.
    """
    (batch, k), (d_sae, d) = indices.shape, table.shape
    if acts.shape != indices.shape:
        raise ValueError(
            f"acts have the shape {tuple(acts.shape)}, indices {tuple(indices.shape)}; they must be the same"
        )
    if indices.numel() and not (indices.amin() >= 0 and indices.amax() < d_sae):
        raise IndexError(
            f"feature indices range from {indices.amin()} to {indices.amax()}, but there are {d_sae} features"
        )
    out = acts.new_empty(batch, d)
    call(
        "bag",
        acts.dtype,
        acts.contiguous(),
        indices.contiguous(),
        table.contiguous(),
        out,
        batch,
        k,
        d,
        d_sae,
    )
    return out


def row_dots(rows: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    """rows[b] . table[indices[b, k]]: (batch, k)."""
    out = rows.new_empty(indices.shape)
    call(
        "row_dots",
        rows.dtype,
        rows.contiguous(),
        indices.contiguous(),
        table.contiguous(),
        out,
        *indices.shape,
        *table.shape[::-1],
    )
    return out


def weight_grad(rows: Tensor, acts: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    """Sum over b, k of acts[b, k] * rows[b] into row indices[b, k]: (d_sae, d)."""
    out = rows.new_empty(d_sae, rows.shape[1])
    call(
        "weight_grad",
        rows.dtype,
        rows.contiguous(),
        acts.contiguous(),
        indices.contiguous(),
        out,
        *indices.shape,
        rows.shape[1],
        d_sae,
    )
    return out


def top(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, by their columns (which `bag` and `row_dots` like best), as float32 (float64 for float64), and their columns: (batch, k) each."""
    batch, n = x.shape
    values = torch.empty(batch, k, dtype=torch.promote_types(x.dtype, torch.float32))
    indices = torch.empty(batch, k, dtype=torch.int64)
    call("top", x.dtype, x.contiguous(), values, indices, batch, n, k)
    return values, indices
