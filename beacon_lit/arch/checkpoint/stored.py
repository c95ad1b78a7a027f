"""Read parameters that files hold in another form than the model: experts are stored one by one, and stacked when read.

transformers does this when it loads a whole model; here it is done for one parameter at a time.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

from beacon_lit.arch.checkpoint.files import as_value_error


@dataclass(frozen=True)
class Stored:
    """Where a parameter is stored.

    Attributes:
        parts: (name, file, pattern) of each tensor that the parameter is made of; the pattern is the converter's.
        converter: makes one tensor of them; None: there is one tensor, the parameter itself.
    """

    parts: tuple[tuple[str, Path, str], ...]
    converter: Any = None

    @property
    def file(self) -> Path:
        """The first file that is read."""
        return self.parts[0][1]

    def read(self, name: str, model: nn.Module) -> Tensor:
        """Read the parameter.

        Args:
            name: its name in the model.
            model: the model, for its config.
        """
        tensors = [_tensor(part, file) for part, file, _ in self.parts]
        if self.converter is None:
            return tensors[0]
        converter = copy.deepcopy(self.converter)
        for (part, _, pattern), tensor in zip(self.parts, tensors, strict=True):
            converter.add_tensor(name, part, pattern, tensor)
        found = converter.convert(name, model=model, config=model.config)[name]
        return found[0] if isinstance(found, list) else found


def stored_parameters(model: Any, files: Mapping[str, Path]) -> dict[str, Stored]:
    """Return where each parameter is stored, by its name in the model.

    Args:
        model: the model; weights are not needed.
        files: file by name of the tensor.
    """
    transforms = get_model_conversion_mapping(model, add_legacy=False)
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    renamings = [each for each in transforms if not isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    found: dict[str, Stored] = {}
    for name in sorted(files, key=dot_natural_key):  # the order in which experts are stacked
        target, pattern = rename_source_key(name, renamings, converters)
        known = found.get(target, Stored((), None if pattern is None else by_pattern[pattern]))
        found[target] = Stored((*known.parts, (name, files[name], pattern or "")), known.converter)
    return found


def _tensor(name: str, file: Path) -> Tensor:
    with as_value_error(str(file)), safe_open(file, "pt") as opened:
        return opened.get_tensor(name)
