"""How large a measured model is; apart from what writes it, which takes memory."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """How large an encoder is. ``external``: weights are in a data file beside the model; ``sparse``: they are, too, and are
    zeros in holes of it."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int = 30522
    positions: int = 512
    sparse: bool = False
    external: bool = False

    @property
    def weight_bytes(self) -> int:
        """About: the matrices and the tables, as float32."""
        return 4 * self.hidden * (12 * self.hidden * self.layers + self.vocabulary + self.positions)

    def command(self, path: Path) -> list[str]:
        """The command that writes such an encoder to ``path``."""
        return [sys.executable, str(Path(__file__).with_name("models.py")), json.dumps(asdict(self)), str(path)]
