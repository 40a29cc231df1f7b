"""The packages that take long to import, or much memory: each is imported when something of it is first used.

Importing graphsurgery, or reading a file, needs none of them. Use them inside functions only: in the body of a module they
would be imported with it.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


class Deferred(ModuleType):
    """Stands for a module that is imported when the first of its names is looked up."""

    def __getattr__(self, name: str) -> Any:
        """Import the module and look the name up there. It is kept, so that the next look-up is as quick as in the module."""
        if name.startswith("__") and name != "__version__":  # what Python asks of any object
            raise AttributeError(name)
        value = getattr(_import(self.__name__), name)
        setattr(self, name, value)
        return value


@cache
def _import(name: str) -> ModuleType:
    """Import a package. ONNX Runtime sends no telemetry then, whatever its build does by default."""
    module = import_module(name)
    if name == "onnxruntime":
        module.disable_telemetry_events()
    return module


if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    import onnx_ir as ir
    import onnxruntime
    from onnx_graphsurgeon import Graph as SurgeonGraph
else:
    gs, ir, onnxruntime = map(Deferred, ("onnx_graphsurgeon", "onnx_ir", "onnxruntime"))

    class _OfSurgeonGraph(type):
        def __instancecheck__(cls, instance: object) -> bool:
            """Return whether ``instance`` is such a graph. If nothing has imported that package yet, it is none."""
            return gs.__name__ in sys.modules and isinstance(instance, gs.Graph)

    class SurgeonGraph(metaclass=_OfSurgeonGraph):
        """Stands for onnx_graphsurgeon.Graph in annotations and in isinstance."""

    SurgeonGraph.__name__ = "Graph"  # as messages name it


__all__ = ["SurgeonGraph", "gs", "ir", "onnxruntime"]
