"""Golden cases: one text file each, in the folder of its edit.

    $ add-pooling --mode mean          what is applied, as on the command line
    --- before                         the model, in ONNX text
    --- after                          what comes out, in ONNX text
    --- error NothingToPoolError       or, instead, the error's type and text

Lines before the first ``$`` say what the case is about. Paths, as in ``--weights 2_Dense``, start at the case's own folder:
what stands there is shared by the cases of an edit. Error texts name it ``.``.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import parser, printer

import graphsurgery
from graphsurgery.cli.main import cli
from graphsurgery.edits.edit import EDITS, Edit
from graphsurgery.errors import GraphSurgeryError

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """``after`` is ONNX text, or ``error`` a pair of type and text."""

    path: Path
    about: str
    commands: tuple[str, ...]
    before: str
    after: str | None
    error: tuple[str, str] | None

    @classmethod
    def read(cls, path: Path) -> Case:
        head, *parts = re.split(r"^--- (.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        about, *commands = re.split(r"^\$ ", head, flags=re.MULTILINE)
        sections = {title: text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}
        errors = [(title.removeprefix("error "), text) for title, text in sections.items() if title.startswith("error ")]
        return cls(
            path, about.strip(), tuple(line.strip() for line in commands), sections["before"], sections.get("after"),
            errors[0] if errors else None,
        )  # fmt: skip

    def source(self) -> graphsurgery.Model:
        """The model before, as if it lay in the case's folder."""
        return graphsurgery.load(parser.parse_model(self.before), folder=self.path.parent)

    def words(self, error: GraphSurgeryError) -> tuple[str, str]:
        """An error's type and text, in which no path names this machine."""
        text = f"{error.message}\n{error.advice}".strip()
        return type(error).__name__, text.replace(str(self.path.parent), ".").replace(str(CASES), "..")

    def edits(self) -> list[Edit]:
        """What the commands mean, given in the case's folder."""
        with contextlib.chdir(self.path.parent):
            return [parse_edit(command) for command in self.commands]

    def write(self, after: str | None, error: tuple[str, str] | None) -> None:
        """The file with what came out now."""
        commands = "\n".join(f"$ {command}" for command in self.commands)
        result = f"--- after\n{after}\n" if after is not None else f"--- error {error[0]}\n{error[1]}\n" if error else ""
        about = f"{self.about}\n" if self.about else ""
        self.path.write_text(f"{about}{commands}\n--- before\n{self.before}\n{result}", encoding="utf-8")


def parse_edit(command: str) -> Edit:
    """The edit that a command line means, parsed by the command line's own parser."""
    verb, *arguments = shlex.split(command)
    context = cli.get_command(None, verb).make_context(verb, ["model.onnx", *arguments])
    edit = EDITS[verb]
    return edit(**{field.name: context.params[field.name] for field in edit.declared()})


def text_of(model: onnx.ModelProto) -> str:
    """ONNX text, without the metadata (they hold fingerprints, which have tests of their own)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    return printer.to_text(copy).strip()


def case_files() -> list[Path]:
    return sorted(CASES.glob("*/*.txt"))
