"""Tells Keras of tfcomp's classes as soon as Keras is imported, so that its own `load_model` finds them.

Keras looks for the classes of a saved model among those that were registered, and imports no package but its own for
them. Importing Keras together with tfcomp would take seconds, of which a user of codecs alone has no need.
"""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # see `tfcomp`
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

MODULES = ("tfcomp.models.autoencoder", "tfcomp.models.vae")
"""Modules whose import registers all classes that a saved model may name."""


class _AfterKeras:  # no MetaPathFinder: to import that class takes longer than all else here
    """Finds Keras as others do, and has `MODULES` imported when that import is over."""

    _searching = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - as Python calls it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        if self._searching:
            return None
        from importlib.util import find_spec

        self._searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self._searching = False
        loader: Any = spec.loader if spec else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _register()

            loader.exec_module = exec_module
        return spec


def _register() -> None:
    for name in MODULES:
        import_module(name)


def register_with_keras() -> None:
    """Registers now if Keras is imported already, else when it is."""
    if sys.modules.get("keras") is not None:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras())
