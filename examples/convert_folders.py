"""Convert many model folders in one go, and tell what became of each: the way to use graphsurgery in a build.

    python examples/convert_folders.py OUTPUT FOLDER [FOLDER...]   # sentence-transformers folders with an ONNX file
    python examples/convert_folders.py                             # the small folders of this repository

Every file is proven before it gets its name. A folder that cannot be converted does not stop the others; the exit code is 1.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import graphsurgery

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def convert(folder: Path, output: Path) -> bool:
    """Bake ``folder`` into the folder ``output``, and print one line or the error with its advice."""
    try:
        baked = graphsurgery.bake(folder, output)
    except graphsurgery.GraphSurgeryError as error:
        print(f"{folder.name}: {error}\n    what to do: {error.advice}")
        return False
    print(f"{folder.name}: {baked.outcome.report}")
    return True


def main(arguments: Sequence[str]) -> int:
    if arguments:
        output, folders = Path(arguments[0]), [Path(one) for one in arguments[1:]]
        converted = [convert(folder, output / folder.name) for folder in folders]
    else:
        with tempfile.TemporaryDirectory() as output:
            converted = [convert(FIXTURES / name, Path(output) / name) for name in ("bert", "xlmr")]
    return 0 if all(converted) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
