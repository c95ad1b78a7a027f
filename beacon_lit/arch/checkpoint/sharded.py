"""Read and set whole parameters, even if FSDP2 or ZeRO has spread them over ranks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


@contextmanager
def gathered(parameter: Tensor) -> Iterator[Tensor]:
    """Gather a whole parameter for reading within this context. If it is spread, every rank must enter."""
    if isinstance(parameter, DTensor):
        yield parameter.full_tensor().detach()
    elif hasattr(parameter, "ds_id"):
        yield _all_parts(parameter)
    else:
        yield parameter.detach()


def _all_parts(parameter: Any) -> Tensor:
    """Return a copy of a whole parameter of ZeRO stage 3.

    DeepSpeed's own context would free the parameter in the middle of a pass that uses or prefetches the parameter.
    """
    own = parameter.ds_tensor.detach().to(parameter.device)  # it may be offloaded to the CPU
    parts = own.new_empty(own.numel() * torch.distributed.get_world_size(parameter.ds_process_group))
    torch.distributed.all_gather_into_tensor(parts, own, parameter.ds_process_group)
    return parts[: parameter.ds_numel].view(parameter.ds_shape)


@torch.no_grad()
def samples(parameters: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return evenly spaced values of whole parameters, in bf16 on the CPU. Every rank must call this.

    Ranks exchange these values alone, all at once, where each holds a range of a flattened parameter; other parameters
    are gathered.

    Args:
        parameters: parameters by name, in the same order on every rank.
        count: how many values of each at least; fewer than twice as many are returned, and all of a smaller parameter.
    """
    found: dict[str, Tensor] = {}
    exchanged: dict[Any, list[Tensor]] = {}
    for name, parameter in parameters.items():
        step = max(1, size(parameter) // count)
        held = _held(parameter)
        if held is None:
            with gathered(parameter) as whole:
                found[name] = whole.flatten()[::step].to("cpu", torch.bfloat16)
            continue
        part, first, group = held
        found[name] = values = part.new_zeros(len(range(0, size(parameter), step)), dtype=torch.float32)
        ahead = -first % step  # from the first value that this rank holds to the first of those to return
        own = part[ahead::step].to(torch.bfloat16)
        values[(first + ahead) // step :][: len(own)] = own
        exchanged.setdefault(group, []).append(values)
    for group, parts in exchanged.items():
        together = torch.cat(parts)
        torch.distributed.all_reduce(together, group=group)  # each value is one rank's, and zero elsewhere
        for values, summed in zip(parts, together.split([*map(len, parts)]), strict=True):
            values.copy_(summed)
    return {name: values.to("cpu", torch.bfloat16) for name, values in found.items()}


def _held(parameter: Any) -> tuple[Tensor, int, Any] | None:
    """Return what this rank holds of a flattened parameter, the index of its first value, and the ranks that hold the
    rest; None if the parameter is whole, or spread in another way."""
    if isinstance(parameter, DTensor) and parameter.placements == (Shard(0),):
        rows = -(-len(parameter) // parameter.device_mesh.size())
        first = min(rows * parameter.device_mesh.get_local_rank(), len(parameter)) * parameter.shape[1:].numel()
        return parameter.to_local().flatten(), first, parameter.device_mesh.get_group()
    if hasattr(parameter, "ds_id"):
        part = parameter.ds_tensor.detach().to(parameter.device).flatten()  # it may be offloaded to the CPU
        first = part.numel() * torch.distributed.get_rank(parameter.ds_process_group)
        return part[: max(0, parameter.ds_numel - first)], first, parameter.ds_process_group
    return None


def collect(parameters: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Copy whole parameters to the CPU. Every rank must call this.

    Args:
        parameters: parameters by name, in the same order on every rank.
        keep: whether this rank gets the copies; else it only takes part in gathering. Default: True.

    Returns:
        Copies by name; empty without `keep`.
    """
    found = {}
    for name, parameter in parameters.items():
        with gathered(parameter) as tensor:
            if keep:
                found[name] = tensor.contiguous().to("cpu", copy=True)
        del tensor  # so that the next parameter is not gathered beside this one
    return found


def collect_whole(model: nn.Module, options: dict[str, Any]) -> bool:
    """Add the whole state dict of a model that is spread over ranks to the options of `save_pretrained`.

    Args:
        model: the model. If it is spread over ranks, every rank must call this function.
        options: the options; "state_dict" is added unless it is given.

    Returns:
        Whether this rank writes.
    """
    write = bool(options.get("is_main_process", True))
    if is_spread(model) and options.get("state_dict") is None:
        options["state_dict"] = collect(dict(model.named_parameters()), write)
    return write


@torch.no_grad()
def put(parameter: Tensor, value: Tensor) -> None:
    """Set a whole parameter. Every rank must call this with the same value.

    Args:
        parameter: the parameter, possibly spread over ranks.
        value: the new value, with the shape of the whole parameter; converted to its dtype.

    Raises:
        ValueError: the value has another shape.
    """
    if value.shape != shape(parameter):
        raise ValueError(f"a value of shape {tuple(value.shape)} is not allowed; allowed: {tuple(shape(parameter))}")
    value = value.to(parameter.device, parameter.dtype)
    if isinstance(parameter, DTensor):
        parameter.copy_(spread_like(parameter, value))
    elif hasattr(parameter, "ds_id"):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
    else:
        parameter.copy_(value)
    if is_mastered(parameter):
        put_master(parameter, value)


@torch.no_grad()
def spread_like(parameter: DTensor, value: Tensor) -> DTensor:
    """Spread a value, the same on every rank and of the parameter's whole shape, over ranks like the parameter."""
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


@torch.no_grad()
def put_master(parameter: Tensor, value: Tensor, state: str | None = None) -> None:
    """Set DeepSpeed's float32 copy of a trained parameter, or a state of its optimizer.

    DeepSpeed's own function cannot set a parameter whose size is not a multiple of the number of ranks.

    Args:
        parameter: the parameter.
        value: the whole value, the same on every rank.
        state: name of the optimizer's state, e.g. "exp_avg"; default: the float32 copy.
    """
    from deepspeed import utils

    if not hasattr(parameter, "ds_id"):
        value = value.to(parameter.device, torch.float32)
        if state is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, state)
        return
    local = utils.safe_get_local_fp32_param(parameter)
    rank = torch.distributed.get_rank()
    own = value.flatten()[rank * local.numel() : (rank + 1) * local.numel()].to(local)
    own = torch.nn.functional.pad(own, (0, local.numel() - own.numel()))
    if state is None:
        utils.safe_set_local_fp32_param(parameter, own)
    else:
        utils.safe_set_local_optimizer_state(parameter, own, state)


def is_mastered(parameter: Tensor) -> bool:
    """Whether a DeepSpeed optimizer trains the parameter and keeps a float32 copy of it."""
    return parameter.requires_grad and (hasattr(parameter, "_z3_optimizer") or hasattr(parameter, "_hp_mapping"))


def size(parameter: Tensor) -> int:
    """Return the number of elements of a whole parameter, on all ranks together."""
    return getattr(parameter, "ds_numel", parameter.numel())


def shape(parameter: Tensor) -> torch.Size:
    """Return the shape of a whole parameter."""
    return getattr(parameter, "ds_shape", parameter.shape)


def is_spread(model: nn.Module) -> bool:
    """Whether some of a model's parameters are spread over ranks, even if they are gathered at the moment."""
    spread = (isinstance(value, DTensor) or hasattr(value, "ds_id") for value in model.parameters())
    return isinstance(model, FSDPModule) or any(spread)
