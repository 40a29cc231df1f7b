"""Prompts: the text that a model expects in front of each text."""

from __future__ import annotations

from collections.abc import Mapping

from graphsurgery.errors import RequestError
from graphsurgery.suggestions import suggest


def choose_prompt(prompts: Mapping[str, str], default: str | None, name: str | None) -> str:
    """Return the prompt ``name`` of a folder's ``prompts``, or, without a name, its ``default`` one; empty if it has none.

    Raises RequestError if there is no such prompt.
    """
    if name is None:
        return "" if default is None else prompts.get(default, "")
    if name not in prompts:
        choices = ", ".join(prompts) or "none"
        raise RequestError(f"the folder has no prompt {name!r}", f"{suggest(name, prompts)}its prompts are: {choices}")
    return prompts[name]
