"""Sixteen float32 at a time, for numba's compiled code: loads, conversions and arithmetic as LLVM's vectors.

LLVM makes of them what the processor has: one register of AVX-512, two of AVX2, four of NEON. Addresses are integers,
in bytes. Nothing is checked here: whoever passes an address answers for what lies there.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_model
from numba.extending import models as data_models

LANES = 16

_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
_F16, _F32 = ir.HalfType(), ir.FloatType()
_FLOATS = ir.VectorType(_F32, LANES)
_INTS = ir.VectorType(_I32, LANES)


class _Floats(types.Type):  # type: ignore[misc]  # numba is untyped
    """float32 in a register."""


class _Ints(types.Type):  # type: ignore[misc]
    """int32 that came from bytes."""


@register_model(_Floats)
class _FloatsModel(data_models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, front_end: Any) -> None:
        super().__init__(manager, front_end, _FLOATS)


@register_model(_Ints)
class _IntsModel(data_models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, front_end: Any) -> None:
        super().__init__(manager, front_end, _INTS)


_floats, _ints = _Floats("floats16"), _Ints("ints16")
_address, _float, _int = types.int64, types.float32, types.int64


def _operation(returns: Any, *takes: Any) -> Callable[[Callable[..., Any]], Any]:
    """A function for compiled code that is the LLVM code which `build(builder, *arguments)` writes."""

    def of(build: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            made = build(builder, *arguments)
            return context.get_dummy_value() if returns is types.void else made

        # numba folds the arguments of a call into the names of this function's: a star would not do.
        typed = (
            lambda typing: (returns(), generate),
            lambda typing, a: (returns(*takes), generate),
            lambda typing, a, b: (returns(*takes), generate),
            lambda typing, a, b, c: (returns(*takes), generate),
            lambda typing, a, b, c, d: (returns(*takes), generate),
            lambda typing, a, b, c, d, e: (returns(*takes), generate),
        )[len(takes)]
        typed.__name__, typed.__doc__, typed.__module__ = build.__name__, build.__doc__, build.__module__
        return intrinsic(typed)

    return of


def _at(builder: Any, address: Any, of: Any) -> Any:
    return builder.inttoptr(address, of.as_pointer())


def _all(builder: Any, scalar: Any) -> Any:
    """The same in every lane."""
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


def _constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _call(builder: Any, name: str, returns: Any, *arguments: Any) -> Any:
    of = ir.FunctionType(returns, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, of, name), arguments)


# --- registers ----------------------------------------------------------------------------------------------------


@_operation(_floats)
def zeros(builder: Any) -> Any:
    """0 in every lane."""
    return _constant(0.0)


@_operation(_floats, _float)
def splat(builder: Any, value: Any) -> Any:
    """One number in every lane."""
    return _all(builder, value)


@_operation(_floats, _floats, _floats)
def add(builder: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return builder.fadd(a, b)


@_operation(_floats, _floats, _floats)
def subtract(builder: Any, a: Any, b: Any) -> Any:
    """a - b."""
    return builder.fsub(a, b)


@_operation(_floats, _floats, _floats)
def multiply(builder: Any, a: Any, b: Any) -> Any:
    """a b."""
    return builder.fmul(a, b)


@_operation(_floats, _floats, _floats)
def divide(builder: Any, a: Any, b: Any) -> Any:
    """a / b."""
    return builder.fdiv(a, b)


@_operation(_floats, _floats, _floats, _floats)
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once."""
    return _call(builder, "llvm.fma.v16f32", _FLOATS, a, b, c)


@_operation(_floats, _floats, _floats)
def greater(builder: Any, a: Any, b: Any) -> Any:
    """The greater of each pair."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@_operation(_floats, _floats, _floats)
def lesser(builder: Any, a: Any, b: Any) -> Any:
    """The lesser of each pair."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@_operation(_floats, _floats)
def minus(builder: Any, of: Any) -> Any:
    """With the other sign."""
    return builder.fneg(of)


@_operation(_float, _floats)
def total(builder: Any, of: Any) -> Any:
    """The sum of all lanes, halves first."""
    return _folded(builder, of, builder.fadd)


@_operation(_float, _floats)
def greatest(builder: Any, of: Any) -> Any:
    """The greatest lane."""
    return _folded(builder, of, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _folded(builder: Any, of: Any, join: Callable[[Any, Any], Any]) -> Any:
    left = LANES
    while left > 1:
        left //= 2
        half = ir.VectorType(_I32, left)
        unused = ir.Constant(of.type, ir.Undefined)
        low = builder.shuffle_vector(of, unused, ir.Constant(half, list(range(left))))
        high = builder.shuffle_vector(of, unused, ir.Constant(half, list(range(left, 2 * left))))
        of = join(low, high)
    return builder.extract_element(of, ir.Constant(_I32, 0))


@_operation(types.void, _address, _floats, _floats, _floats, _floats)
def store_totals(builder: Any, address: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    """The sums of the lanes of four, as four float32: in a third of the time of four `total`s."""
    ab, cd = _halves_added(builder, a, b, 8), _halves_added(builder, c, d, 8)
    four = _halves_added(builder, ab, cd, 4)
    for apart in (2, 1):
        turned = ir.Constant(_INTS, [n ^ apart for n in range(LANES)])
        four = builder.fadd(four, builder.shuffle_vector(four, four, turned))
    first = ir.Constant(ir.VectorType(_I32, 4), [0, 4, 8, 12])
    sums = builder.shuffle_vector(four, four, first)
    builder.store(sums, _at(builder, address, sums.type), align=4)


def _halves_added(builder: Any, a: Any, b: Any, run: int) -> Any:
    """Runs of so many lanes of a, then of b, each with the run behind it added."""
    low = [n for n in range(2 * LANES) if n // run % 2 == 0]
    of = [ir.Constant(_INTS, [n + more for n in low]) for more in (0, run)]
    return builder.fadd(*(builder.shuffle_vector(a, b, lanes) for lanes in of))


_LOG2E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


@_operation(_floats, _floats)
def exp(builder: Any, x: Any) -> Any:
    """e to the x, to within two units in the last place; x between -87 and 88, what is beyond is cut (Cephes' expf)."""
    x = builder.select(builder.fcmp_ordered("<", x, _constant(-87.0)), _constant(-87.0), x)
    x = builder.select(builder.fcmp_ordered(">", x, _constant(88.0)), _constant(88.0), x)
    n = _call(builder, "llvm.floor.v16f32", _FLOATS, builder.fadd(builder.fmul(x, _constant(_LOG2E)), _constant(0.5)))
    r = _call(builder, "llvm.fma.v16f32", _FLOATS, n, _constant(-_LN2_HIGH), x)
    r = _call(builder, "llvm.fma.v16f32", _FLOATS, n, _constant(-_LN2_LOW), r)
    y = _constant(_POLYNOMIAL[0])
    for c in _POLYNOMIAL[1:]:
        y = _call(builder, "llvm.fma.v16f32", _FLOATS, y, r, _constant(c))
    y = _call(builder, "llvm.fma.v16f32", _FLOATS, y, builder.fmul(r, r), builder.fadd(r, _constant(1.0)))
    power = builder.shl(builder.add(builder.fptosi(n, _INTS), ir.Constant(_INTS, [127] * LANES)), _shift(23))
    return builder.fmul(y, builder.bitcast(power, _FLOATS))


def _shift(by: int) -> Any:
    return ir.Constant(_INTS, [by] * LANES)


# --- memory -------------------------------------------------------------------------------------------------------


@_operation(_floats, _address)
def load(builder: Any, address: Any) -> Any:
    """Sixteen float32."""
    return builder.load(_at(builder, address, _FLOATS), align=4)


@_operation(types.void, _address, _floats)
def store(builder: Any, address: Any, value: Any) -> None:
    """Sixteen float32."""
    builder.store(value, _at(builder, address, _FLOATS), align=4)


@_operation(_floats, _address)
def load_bfloat16(builder: Any, address: Any) -> Any:
    """Sixteen bfloat16, exactly."""
    halves = builder.load(_at(builder, address, ir.VectorType(_I16, LANES)), align=2)
    return builder.bitcast(builder.shl(builder.zext(halves, _INTS), _shift(16)), _FLOATS)


@_operation(types.void, _address, _floats)
def store_bfloat16(builder: Any, address: Any, value: Any) -> None:
    """Sixteen float32 as bfloat16, to the nearest, ties to even. Not for NaN."""
    bits = builder.bitcast(value, _INTS)
    odd = builder.and_(builder.lshr(bits, _shift(16)), _shift(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _shift(0x7FFF))), _shift(16))
    halves = ir.VectorType(_I16, LANES)
    builder.store(builder.trunc(rounded, halves), _at(builder, address, halves), align=2)


@_operation(_floats, _address)
def load_float16(builder: Any, address: Any) -> Any:
    """Sixteen float16, exactly."""
    return builder.fpext(builder.load(_at(builder, address, ir.VectorType(_F16, LANES)), align=2), _FLOATS)


@_operation(_floats, _address)
def load_int8(builder: Any, address: Any) -> Any:
    """Sixteen signed bytes."""
    signed = builder.load(_at(builder, address, ir.VectorType(_I8, LANES)), align=1)
    return builder.sitofp(builder.sext(signed, _INTS), _FLOATS)


@_operation(_ints, _address)
def load_pairs(builder: Any, address: Any) -> Any:
    """Sixteen bytes, each of two numbers of four bits."""
    return builder.zext(builder.load(_at(builder, address, ir.VectorType(_I8, LANES)), align=1), _INTS)


@_operation(_floats, _ints)
def first_of(builder: Any, pairs: Any) -> Any:
    """The numbers in the lower four bits."""
    return builder.sitofp(builder.and_(pairs, _shift(15)), _FLOATS)


@_operation(_floats, _ints)
def second_of(builder: Any, pairs: Any) -> Any:
    """The numbers in the upper four bits."""
    return builder.sitofp(builder.lshr(pairs, _shift(4)), _FLOATS)


@_operation(_floats, _address)
def load_splat(builder: Any, address: Any) -> Any:
    """One float32 from memory in every lane."""
    return _all(builder, builder.load(_at(builder, address, _F32), align=4))


@_operation(_float, _address)
def load_one(builder: Any, address: Any) -> Any:
    """One float32."""
    return builder.load(_at(builder, address, _F32), align=4)


@_operation(_int, _address)
def load_int(builder: Any, address: Any) -> Any:
    """One int64."""
    return builder.load(_at(builder, address, _I64), align=8)


@_operation(types.void, _address, _float)
def store_one(builder: Any, address: Any, value: Any) -> None:
    """One float32."""
    builder.store(value, _at(builder, address, _F32), align=4)


# --- several threads ----------------------------------------------------------------------------------------------


@_operation(_int, _address, _int)
def take(builder: Any, address: Any, by: Any) -> Any:
    """The int64 there before so much was added to it, all at once; what others wrote before is seen."""
    return builder.atomic_rmw("add", _at(builder, address, _I64), by, "acq_rel")


@_operation(_int, _address)
def look(builder: Any, address: Any) -> Any:
    """The int64 there now, and all that was written before it."""
    return builder.load_atomic(_at(builder, address, _I64), "acquire", 8)


@_operation(types.void)
def pause(builder: Any) -> None:
    """Tell the processor that this thread waits for another."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), _PAUSE), [])


@_operation(types.void)
def give_way(builder: Any) -> None:
    """Let another thread have this core, where the system can be asked for it."""
    if platform.system() != "Windows":
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I32, []), "sched_yield"), [])


_PAUSE = "llvm.x86.sse2.pause"
