"""A device without float64, as MPS is, played by the CPU."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("mps")
# What brings values back to the CPU.
LEAVING = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item}


def on(x):
    """The tensor as one of the device."""
    x = x.clone()
    x.is_on_device = True
    return x


def is_on(x):
    return isinstance(x, Tensor) and getattr(x, "is_on_device", False)


class NoFloat64(TorchFunctionMode):
    """Every tensor made of one of the device is there, too; one of float64 is an error.

    So is an operation that mixes it with a tensor on the CPU, but for numbers.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = tree_leaves((args, kwargs))
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        there = any(is_on(x) for x in tensors)
        if getattr(function, "__self__", None) is Tensor.device:
            return DEVICE if there else function(*args, **kwargs)
        leaving = function in LEAVING
        if function is Tensor.to:
            # Where `to` sends it: the place of a tensor, or of a device, or it stays.
            target = [x for x in tree_leaves((args[1:], kwargs)) if isinstance(x, Tensor)]
            devices = [x for x in inputs if isinstance(x, torch.device | str)]
            if target:
                there = is_on(target[0])
            elif devices:
                there = torch.device(devices[0]) == DEVICE
        elif any(isinstance(x, torch.device) and x == DEVICE for x in inputs):
            there = True
        elif there and not leaving:
            for x in tensors:
                mixed = not is_on(x) and x.ndim > 0 and function is not Tensor.__getitem__
                assert not mixed or x.dtype != torch.float64, f"{function} mixes devices"
        args, kwargs = tree_map(
            lambda x: torch.device("cpu") if isinstance(x, torch.device) and x == DEVICE else x,
            (args, kwargs),
        )
        out = function(*args, **kwargs)
        if is_on(out) and (leaving or not there):
            # The CPU's `cpu()` gives the tensor itself.
            return out.clone()
        if there and not leaving:
            for x in tree_leaves(out):
                if isinstance(x, Tensor):
                    assert x.dtype != torch.float64, f"{function} makes float64 on the device"
                    x.is_on_device = True
        return out
