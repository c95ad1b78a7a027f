"""Count the bytes of the tensors that exist while something runs."""

import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Memory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make within this context, as long as each exists.

    Attributes:
        now: bytes that exist now.
        most: the most that existed at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._note((*args, *kwargs.values()), 0)  # what is not known was made before
        out = func(*args, **kwargs)
        self._note((out,), 1)
        self.most = max(self.most, self.now)
        return out

    def _note(self, values: Iterable[Any], times: int) -> None:
        for x in values:
            if isinstance(x, list | tuple):
                self._note(x, times)
            elif isinstance(x, Tensor) and (storage := x.untyped_storage())._cdata not in self._known:
                key, size = storage._cdata, times * storage.nbytes()
                self._known[key] = weakref.ref(storage, partial(self._forget, key, size))
                self.now += size

    def _forget(self, key: int, size: int, _: Any) -> None:
        del self._known[key]
        self.now -= size
