"""Answers about a model that are found once and kept with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from graphsurgery.model.model import Model
from graphsurgery.model.records import Document

Found = TypeVar("Found")
Key = tuple[Hashable, ...]
Store: TypeAlias = "WeakKeyDictionary[Document, dict[Key, Found]]"
_SHARING = threading.Lock()


def find_once(store: Store[Found], model: Model, key: Key, find: Callable[[], Found]) -> Found:
    """Return what ``find`` found for ``key`` of ``model``. It runs once, unless two threads ask at the same time."""
    with _SHARING:
        known = store.setdefault(model.document, {})
        if key in known:
            return known[key]
    found = find()
    with _SHARING:
        return known.setdefault(key, found)
