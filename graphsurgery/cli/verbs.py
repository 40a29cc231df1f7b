"""Every verb of the command line. Imports nothing heavy, so that ``--help`` is quick."""

from __future__ import annotations

from typing import NamedTuple

from graphsurgery.edit_list import LISTED

EDIT = "editing:edit_command"


class Verb(NamedTuple):
    """A verb of the command line."""

    command: str
    """The function that makes its command from the verb, as ``module:function`` within this package."""
    summary: str
    """The line that ``--help`` shows."""


GROUPS: dict[str, dict[str, Verb]] = {
    "Whole models": {
        "bake": Verb("baking:bake_command", "make one verified file of a whole model folder, in a folder ready to publish"),
        "run": Verb("recipes:run_command", "run a recipe file (edits and checks) on a file or a model folder"),
        "recipe": Verb("recipes:recipe_command", "recipe show MODEL: print the recipe that made a file"),
        "optimize": Verb("optimizing:optimize_command", "fuse for ONNX Runtime, say what did not fuse and why, and prove it"),
        "export": Verb("exporting:export_command", "export the transformer of a model folder to ONNX, with Optimum"),
    },
    "Look and prove": {
        "inspect": Verb("inspecting:inspect_command", "show a file's interface, encoder and head, and who can read it"),
        "verify": Verb("verifying:verify_command", "prove a file against the one it was made from"),
    },
}
"""The verbs as ``--help`` groups them."""
for _one in LISTED.values():
    GROUPS.setdefault(_one.group, {})[_one.verb] = Verb(EDIT, _one.summary)
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}
