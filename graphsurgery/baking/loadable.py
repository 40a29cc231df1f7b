"""What sentence-transformers needs to load a baked folder with its ONNX backend: the hidden state as an output, and the modules
that it applies to that itself."""

from __future__ import annotations

from graphsurgery.baking.plan import BakePlan
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.folders.files import inside, is_folder, open_file
from graphsurgery.folders.modules import MODULES, Module
from graphsurgery.folders.weights import NAMES
from graphsurgery.model.sources import FileBytes

WANTED = (".json", *NAMES)


def module_files(plan: BakePlan) -> dict[str, FileBytes]:
    """``modules.json``, and configs and weights of the modules behind the encoder, by their places in the folder; nothing where
    sentence-transformers could not use them: the hidden state is no output, or was changed before it was pooled."""
    if not keeps_hidden_state(plan):
        return {}
    found = {MODULES: open_file(inside(plan.folder, MODULES, str(plan.folder)))}
    for module in plan.modules[1:]:
        found |= _own_files(module, plan)
    return found


def keeps_hidden_state(plan: BakePlan) -> bool:
    """Whether the encoder's own hidden state, which the first module behind it pools, is an output still."""
    if len(plan.modules) < 2 or (plan.modules[0].kind, plan.modules[1].kind) != ("Transformer", "Pooling"):
        return False
    return any(isinstance(step, AddPooling) and step.hidden_state in step.keep_output for step in plan.steps)


def _own_files(module: Module, plan: BakePlan) -> dict[str, FileBytes]:
    if module.path == plan.folder or not is_folder(module.path):
        return {}
    paths = (path for path in sorted(module.path.iterdir()) if path.name.endswith(WANTED))
    return {
        path.relative_to(plan.folder).as_posix(): open_file(inside(module.path, path.name, str(module.path))) for path in paths
    }
