"""The loops of `loops.cpp`, compiled on first use, a matter of two seconds, and kept in the cache.

They are an option: where there is no C++ compiler `library` returns None and
`featint.kernels.sparse` does the same in plain PyTorch, at about half the speed.
"""

import ctypes
import functools
import logging
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from featint import store

KIND, FILE = "kernels", "loops.so"
SOURCE = Path(__file__).with_name("loops.cpp")
FLAGS = "-O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -std=c++17 -shared -fPIC"
DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, with one note in the log that says why."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    lost = "training runs in plain PyTorch, at about half the speed (results agree to rounding)"
    try:
        if compiler is None:
            raise OSError("no C++ compiler: g++, clang++ or $CXX")
        command = [*shlex.split(compiler), *FLAGS.split()]
        here = (platform.machine(), platform.processor(), *processor_flags())
        made_of = {"source": SOURCE.read_text(encoding="utf-8"), "command": command, "here": here}
        if not store.exists(KIND, made_of):
            compile_kernels(made_of)
        return ctypes.CDLL(str(store.load(KIND, made_of).file(FILE)))
    except (OSError, ValueError, subprocess.SubprocessError, store.StoreError) as e:
        reason = ((getattr(e, "stderr", None) or "").strip() or str(e)).splitlines()[-1]
        logging.getLogger(__name__).warning("there are no kernels (%s): %s", reason, lost)
        return None


@functools.cache
def processor_flags() -> tuple[str, ...]:
    """The instruction sets that Linux reports; empty elsewhere."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(flags.split())


def compile_kernels(made_of: dict) -> None:
    """Compile into the store.

    Raises OSError, StoreError or subprocess.SubprocessError if the compiler or the disk fails.
    """
    with store.create(KIND, made_of) as folder:
        heard = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
        command = [*made_of["command"], str(SOURCE), "-o", str(folder / FILE)]
        subprocess.run(command, check=True, timeout=120, **heard)
        ctypes.CDLL(str(folder / FILE))  # else what is no library would be kept


def keep_memory() -> None:
    """Let glibc serve large blocks from memory that it keeps; other C libraries stay as they are.

    M_MMAP_MAX = 0, and no trimming.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)
        mallopt(-1, 2**31 - 1)


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels take these: on the CPU, all float32 or all float64, and compiled."""
    kinds = {(t.device.type, t.dtype) for t in tensors}
    return kinds in ({("cpu", torch.float32)}, {("cpu", torch.float64)}) and library() is not None


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than float32 ones."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor_flags())


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int) -> None:
    """Call a kernel with tensors and sizes; the number of threads is PyTorch's."""
    f = getattr(library(), f"{name}_{DTYPES[dtype]}")
    # copies of what is not contiguous must live until the call returns
    held = [a.contiguous() if isinstance(a, Tensor) else ctypes.c_int64(a) for a in arguments]
    pointers = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in held]
    f(*pointers, torch.get_num_threads())


def bag(acts: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    """Sum over k of acts[b, k] * table[indices[b, k]]: (batch, d).

    Raises ValueError if the codes' two halves differ in shape, IndexError for a feature outside the
    table.
    """
    (batch, k), (d_sae, d) = indices.shape, table.shape
    if acts.shape != indices.shape:
        said = f"acts have the shape {tuple(acts.shape)}, indices {tuple(indices.shape)}"
        raise ValueError(f"{said}; they must be the same")
    if indices.numel() and not (indices.amin() >= 0 and indices.amax() < d_sae):
        said = f"feature indices range from {indices.amin()} to {indices.amax()}"
        raise IndexError(f"{said}, but there are {d_sae} features")
    out = acts.new_empty(batch, d)
    call("bag", acts.dtype, acts, indices, table, out, batch, k, d, d_sae)
    return out


def row_dots(rows: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    """rows[b] . table[indices[b, k]]: (batch, k)."""
    out = rows.new_empty(indices.shape)
    call("row_dots", rows.dtype, rows, indices, table, out, *indices.shape, *table.shape[::-1])
    return out


def weight_grad(rows: Tensor, acts: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    """Sum over b, k of acts[b, k] * rows[b] into row indices[b, k]: (d_sae, d)."""
    d = rows.shape[1]
    out = rows.new_empty(d_sae, d)
    call("weight_grad", rows.dtype, rows, acts, indices, out, *indices.shape, d, d_sae)
    return out


def top(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, (batch, k), and their columns, in the order of the columns.

    `bag` and `row_dots` like that order best. Values are float32, float64 for float64.
    """
    batch, n = x.shape
    values = torch.empty(batch, k, dtype=torch.promote_types(x.dtype, torch.float32))
    indices = torch.empty(batch, k, dtype=torch.int64)
    call("top", x.dtype, x, values, indices, batch, n, k)
    return values, indices
