"""Write recipes/deploy anew: what `graphsurgery deploy` writes for a baked fixture, for each program.

    .venv/bin/python scripts/deploy_examples.py

tests/test_deploy.py compares the committed files with what `deploy` writes today.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import graphsurgery  # noqa: E402
from graphsurgery.deploying.deploy import TARGETS, deploy  # noqa: E402

EXAMPLES = ROOT / "recipes" / "deploy"
PLACE = "/srv/models/my-model-baked"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "my-model"
        shutil.copytree(ROOT / "fixtures" / "bert", source)
        baked = graphsurgery.bake(source, verify=False).folder
        for target in TARGETS:
            shutil.rmtree(EXAMPLES / target, ignore_errors=True)
            deploy(baked, target, output=EXAMPLES / target, place=PLACE)


if __name__ == "__main__":
    main()
