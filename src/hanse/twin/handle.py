"""Eighty arrays as one pointer: how compiled code gets at a `World` without copying it.

Here: `Handle`, and what numba has to know of it: `w.name` in compiled code is the array `World.name`. Not here: the arrays (`arrays`).

numba passes a tuple of arrays by value: some five hundred machine words at each call that the compiler does not inline, which cost
more than the simulation itself. A handle is the address of a table of array descriptors; passing it costs a register, and an attribute
is a load from that table. Descriptors do not change while compiled code runs, which `invariant.load` tells the compiler.

numba lets an index be negative, counted from the end, and pays for it at every access: two instructions and a load of the length. No
index into a `World` is, so its arrays are `Grid`s, which do without. Parts of a grid (`w.offers[v]`) are arrays like any other.
"""

from __future__ import annotations

import operator
from typing import Any, Final

import numpy as np
from numba import typeof
from numba.core import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_builtin,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np import arrayobj

from hanse.twin.arrays import World

WORD_BYTES: Final = 8
FIXED_WORDS: Final = 5
"""Of numba's array descriptor: reference count holder, parent, items, bytes an item, data; then shape and strides."""


class Handle:
    """A `World` as compiled code takes it; keep it as long as the arrays are used."""

    def __init__(self, world: World) -> None:
        self.world = world
        words: list[int] = []
        for array in world:
            assert array.flags.c_contiguous, "descriptors are written for contiguous arrays"
            words += [
                0,
                0,
                array.size,
                array.itemsize,
                array.ctypes.data,
                *array.shape,
                *array.strides,
            ]
        self._table = np.array(words, np.int64)
        self.address = int(self._table.ctypes.data)
        self.kind = _kind_of(world)
        """What numba takes it for: it asks at each call from Python, and arrays do not change their types."""


class Grid(types.Array):
    """An array whose indices are never negative."""

    @classmethod
    def of(cls, array: types.Array) -> Grid:
        """The same array."""
        return cls(array.dtype, array.ndim, array.layout, not array.mutable, aligned=array.aligned)


register_model(Grid)(models.ArrayModel)


def _unsigned(kind: types.Type) -> types.Type:
    if isinstance(kind, types.UniTuple | types.Tuple):
        return types.BaseTuple.from_types(tuple(_unsigned(part) for part in kind))
    return types.uintp if isinstance(kind, types.Integer) else kind


def _with_unsigned(context: Any, builder: Any, sig: Any, args: Any) -> tuple[Any, Any]:
    """Signature and arguments of an access, with indices that numba takes as they are."""
    kind = _unsigned(sig.args[1])
    index = context.cast(builder, args[1], sig.args[1], kind)
    changed = sig.return_type(sig.args[0], kind, *sig.args[2:])
    return changed, (args[0], index, *args[2:])


@lower_builtin(operator.getitem, Grid, types.Integer)
def _get_one(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return arrayobj.getitem_arraynd_intp(
        context, builder, *_with_unsigned(context, builder, sig, args)
    )


@lower_builtin(operator.getitem, Grid, types.BaseTuple)
def _get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return arrayobj.getitem_array_tuple(
        context, builder, *_with_unsigned(context, builder, sig, args)
    )


@lower_builtin(operator.setitem, Grid, types.Any, types.Any)
def _set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return arrayobj.setitem_array(context, builder, *_with_unsigned(context, builder, sig, args))


class WorldType(types.Type):
    """numba's type of a handle: the fields and their array types, and where each descriptor begins."""

    def __init__(self, fields: tuple[tuple[str, types.Array], ...]) -> None:
        self.fields = fields
        self.by_name: dict[str, tuple[types.Array, int]] = {}
        at = 0
        for name, array in fields:
            self.by_name[name] = array, at
            at += FIXED_WORDS + 2 * array.ndim
        super().__init__(name=f"World({','.join(f'{n}:{a.name}' for n, a in fields)})")


_kinds: dict[tuple[Any, ...], WorldType] = {}


def _kind_of(world: World) -> WorldType:
    """Working out eighty types takes ten milliseconds, so those of equal arrays are made once."""
    key = tuple((array.dtype, array.ndim, array.flags.writeable) for array in world)
    if key not in _kinds:
        types_of = (Grid.of(typeof(array)) for array in world)
        _kinds[key] = WorldType(tuple(zip(World._fields, types_of, strict=True)))
    return _kinds[key]


@typeof_impl.register(Handle)
def _typeof_handle(handle: Handle, _context: Any) -> WorldType:
    return handle.kind


@register_model(WorldType)
class _WorldModel(models.PrimitiveModel):
    """A bare address."""

    def __init__(self, manager: Any, kind: WorldType) -> None:
        from llvmlite import ir

        super().__init__(manager, kind, ir.IntType(8).as_pointer())


@unbox(WorldType)
def _unbox_handle(_kind: WorldType, value: Any, c: Any) -> NativeValue:
    number = c.pyapi.object_getattr_string(value, "address")
    address = c.pyapi.number_as_ssize_t(number)
    c.pyapi.decref(number)
    pointer = c.builder.inttoptr(address, c.context.get_value_type(_kind))
    return NativeValue(pointer)


@infer_getattr
class _WorldAttributes(AttributeTemplate):
    key = WorldType

    def generic_resolve(self, kind: Any, name: str) -> Any:  # type: ignore[override]
        found = kind.by_name.get(name)
        return found[0] if found else None


@lower_getattr_generic(WorldType)
def _lower_attribute(context: Any, builder: Any, kind: WorldType, value: Any, name: str) -> Any:
    from llvmlite import ir

    array, at = kind.by_name[name]
    shape = context.get_value_type(array)
    offset = ir.Constant(ir.IntType(64), at * WORD_BYTES)
    pointer = builder.bitcast(builder.gep(value, [offset]), shape.as_pointer())
    loaded = builder.load(pointer)
    loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
    return loaded
