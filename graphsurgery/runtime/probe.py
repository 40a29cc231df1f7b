"""What only a run can tell: the smallest feed a model takes, and how wide a value then is."""

from __future__ import annotations

import numpy as np

from graphsurgery.encoder.hidden_state import HiddenState
from graphsurgery.encoder.roles import roles_of
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import Drawer, blank_mask
from graphsurgery.runtime.session import open_session


def measured_width(model: Model, hidden: HiddenState) -> int:
    """The last dim of ``hidden``, measured by running the model on one short text. UnsupportedModelError when that fails."""
    purpose = f"the hidden size of {hidden.name} cannot be read off the weights"
    try:
        drawer = Drawer.of(model, roles_of(model.interface))
        session = open_session(model, extra_outputs=[hidden.name])
        found = session.run(drawer.feed(blank_mask(drawer), seed=0), [hidden.name])[hidden.name]
    except GraphSurgeryError as error:
        raise UnsupportedModelError(f"{purpose}, and running the model failed: {error}", error.advice, error.options) from error
    if found.ndim != 3 or not np.issubdtype(found.dtype, np.floating):
        raise UnsupportedModelError(
            f"{hidden.name} is {found.dtype} of shape {list(found.shape)} when run; what is pooled is [batch, seq, hidden]",
            "name another value with --hidden-state",
            ("--hidden-state",),
        )
    return int(found.shape[-1])
