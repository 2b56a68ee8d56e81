"""Plain functions as denoisers."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastdiff.storing.sources import is_installed


class FunctionModule(nn.Module):
    """A function as a module, which holds the modules that the function can be seen to use.

    A copy of it is a function that uses the copies of those modules.

    Parameters
    ----------
    function : callable
        ``f(x, t, **conditioning)``.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        # What torch.compile makes of a function would be compiled again for each copy.
        self.forward = getattr(function, "_torchdynamo_orig_callable", function)
        seen = _Rebinding({})
        seen.rebound(self.forward)
        self.used = nn.ModuleList(seen.modules)

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionModule:
        copied = FunctionModule.__new__(FunctionModule)
        nn.Module.__init__(copied)
        copied.used = copy.deepcopy(self.used, memo)
        pairs = zip(self.used, copied.used, strict=True)
        copied.forward = _Rebinding({id(old): new for old, new in pairs}).rebound(self.forward)
        copied.training = self.training
        return copied


class _Rebinding:
    """Makes functions that use other modules where given ones use some.

    Modules are looked for in closures, in global names, in defaults and bound arguments, in the
    objects of methods, and one level inside objects, lists and dicts that are found there.

    Parameters
    ----------
    others : mapping of int to Module
        What takes the place of a module, by its id; those that are not there stay.

    Attributes
    ----------
    modules : list of Module
        Those that were seen, once each.
    """

    def __init__(self, others: Mapping[int, nn.Module]) -> None:
        self.modules: list[nn.Module] = []
        self._others = others
        self._done: dict[int, tuple[Any, Any]] = {}  # the former keeps its id its own

    def rebound(self, value: Any) -> Any:
        """Return what uses the other modules as `value` does its own."""
        if id(value) not in self._done:
            self._done[id(value)] = value, value  # for functions that call themselves
            self._done[id(value)] = value, self._rebuilt(value)
        return self._done[id(value)][1]

    def _rebuilt(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            self.modules.append(value)
            return self._others.get(id(value), value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            owner = self.rebound(value.__self__)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, functools.partial):
            named = {name: self.rebound(part) for name, part in value.keywords.items()}
            return functools.partial(
                self.rebound(value.func), *map(self.rebound, value.args), **named
            )
        if type(value) in {list, tuple} and _has_module(value):
            return type(value)(map(self.rebound, value))
        if type(value) is dict and _has_module(value.values()):
            return {name: self.rebound(part) for name, part in value.items()}
        if not isinstance(value, (type, types.ModuleType)):
            return self._object(value)
        return value

    def _object(self, value: Any) -> Any:
        own = getattr(value, "__dict__", {})
        others = self._others_of({k: v for k, v in own.items() if isinstance(v, nn.Module)})
        if not others:
            return value
        copied = copy.copy(value)
        vars(copied).update(others)
        return copied

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """Return the same code with other closures, globals and defaults, where there are any."""
        code, known = function.__code__, function.__globals__
        # Functions of libraries name nobody's module; those that decorate one hold it in a closure.
        names = [] if is_installed(Path(code.co_filename)) else [*_names(code)]
        others = self._others_of({name: known[name] for name in names if name in known})
        cells = tuple(map(self._cell, function.__closure__ or ()))
        defaults = [self.rebound(part) for part in (function.__defaults__, function.__kwdefaults__)]
        attributes = self._others_of(vars(function))
        old = (*(function.__closure__ or ()), function.__defaults__, function.__kwdefaults__)
        same = all(a is b for a, b in zip((*cells, *defaults), old, strict=True))
        if same and not others and not attributes:
            return function
        own = {**known, **others} if others else known
        closure = cells if function.__closure__ else None
        rebuilt = types.FunctionType(code, own, function.__name__, defaults[0], closure)
        rebuilt.__kwdefaults__ = defaults[1]
        vars(rebuilt).update({**vars(function), **attributes})
        return rebuilt

    def _others_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of `values` that change, changed."""
        pairs = ((name, value, self.rebound(value)) for name, value in values.items())
        return {name: other for name, value, other in pairs if other is not value}

    def _cell(self, cell: types.CellType) -> types.CellType:
        try:
            value = cell.cell_contents
        except ValueError:  # it is empty
            return cell
        other = self.rebound(value)
        return cell if other is value else types.CellType(other)


def _has_module(values: Any) -> bool:
    return any(isinstance(value, nn.Module) for value in values)


def _names(code: types.CodeType) -> Iterator[str]:
    """Return the global names that a function and those inside it may use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
