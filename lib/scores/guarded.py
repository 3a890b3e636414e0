"""Networks in half precision, and networks that memory is too small for."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn


class GuardedNetwork:
    """A network that goes on in float32 once half precision answers with NaN or infinity.

    Memory that runs out becomes a MemoryError that names the mend. The network that was given is
    never changed.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, call: Callable[[nn.Module, torch.dtype, torch.device], Tensor]) -> Tensor:
        """What the network answers.

        Args:
            call: call(module, dtype, device) -> the answer to inputs that are brought there.
        """
        try:
            dtype = next(self.module.parameters()).dtype
            # With offloading the weights lie elsewhere until they are needed.
            device = get_module_execution_device(self.module)
            answer = call(self.module, dtype, device)
            if dtype.itemsize < 4 and not bool(torch.isfinite(answer).all()):
                warnings.warn(
                    f"{type(self.module).__name__} answered with NaN or infinity in {dtype}; it "
                    "goes on in float32 (load with dtype=torch.float32 to begin there)",
                    stacklevel=2,
                )
                self.go_on_in_float32()
                answer = call(self.module, torch.float32, device)
            return answer
        except (RuntimeError, MemoryError) as error:
            memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
            if memory or "allocate memory" in str(error):
                raise MemoryError(
                    f"not enough memory for {type(self.module).__name__} ({error}); use a smaller "
                    "micro_batch=, dtype=torch.float16 or bfloat16, attention_slicing=True, "
                    "vae_tiling=True, cpu_offload=True, or smaller images (size=)"
                ) from error
            raise

    def go_on_in_float32(self) -> None:
        """Have a copy of the network in single precision in its place."""
        # With offloading it sends away the network before it in the pipeline, which stays the same.
        hook = getattr(self.module, "_hf_hook", None)
        predecessor = getattr(hook, "prev_module_hook", None)
        self.module = copy.deepcopy(self.module, {id(predecessor): predecessor}).float()


def is_offloaded(network: nn.Module) -> bool:
    """Whether hooks of accelerate or diffusers bring weights to their device when needed."""
    hooks = ("_hf_hook", "_diffusers_hook")
    return any(hasattr(module, hook) for module in network.modules() for hook in hooks)


@contextmanager
def exact_time(network: nn.Module, embedding: str | None, time: Tensor) -> Iterator[None]:
    """Have a network in half precision embed a time that it would round before.

    bfloat16 knows 368 and 370 and nothing between: noise levels closer than 0.4 % would be one.

    Args:
        network: to be called inside.
        embedding: its module that makes sines of the time, called with the time first; None for a
            network that does not round it.
        time: what the module should get, in single precision.
    """
    if embedding is None or next(network.parameters()).dtype.itemsize >= 4:
        yield
        return
    waiting = [time]

    def tell(module: nn.Module, inputs: tuple) -> tuple:
        # It is called for the guidance afterwards.
        return (waiting.pop(),) if waiting else inputs

    handle = network.get_submodule(embedding).register_forward_pre_hook(tell)
    try:
        yield
    finally:
        handle.remove()
