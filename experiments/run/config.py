"""The type of a config."""

from typing import TYPE_CHECKING, Any

import ml_collections

__all__ = ["ConfigDict"]

if TYPE_CHECKING:

    class ConfigDict(ml_collections.ConfigDict):
        """ml_collections' class, whose fields may be anything. Type checkers would infer one type for all of them."""

        def __getattr__(self, attribute: str) -> Any: ...

        def __getitem__(self, key: str) -> Any: ...

        def get(self, key: str, default: Any = None) -> Any: ...

else:
    ConfigDict = ml_collections.ConfigDict
