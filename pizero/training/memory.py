"""How much memory a training run takes, before it starts: an update is made with tensors that are empty."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pizero.models.base import ActionModel
from pizero.models.build import construct
from pizero.training.config import Execution, TrainConfig
from pizero.training.flops import blank_batch
from pizero.training.ranks import Ranks
from pizero.training.recompute import Recompute, layers_of
from pizero.training.sharding import Gather
from pizero.training.state import prepare_model, state_of
from pizero.training.update import update


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one rank in a step of a run under way.

    `weights`, `gradients`, `optimizer` and `average` are whole tensors, or this rank's shares of them;
    `gradients` are those at the end of the backward pass. `activations` is what the end of the forward pass
    holds beyond those and beyond gathered weights: the batch, what the backward pass will read, and copies of
    weights in the dtype of the activations. `peak` is the most that is held at any moment of the step, with
    what operators give each other for a moment. What libraries, compiled layers and a device's own program
    take besides is not in it.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    peak: int


def describe(estimate: MemoryEstimate) -> list[tuple[str, str]]:
    """Return the rows of a table: what is held, and how much of it in GB (10⁹ bytes)."""
    rows = (
        ("weights", estimate.weights),
        ("gradients", estimate.gradients),
        ("optimizer", estimate.optimizer),
        ("moving average", estimate.average),
        ("activations at the end of the forward pass", estimate.activations),
        ("peak", estimate.peak),
    )
    return [(name, f"{size / 1e9:.3f} GB") for name, size in rows]


def estimate_memory(
    config: TrainConfig,
    *,
    rows: int,
    shards: int = 1,
    micro_batches: int = 1,
    recompute: Recompute = "nothing",
    gather: Gather = "float32",
    device: str = "cpu",
) -> MemoryEstimate:
    """Return the memory that an update of `micro_batches` times `rows` samples on one rank takes.

    Weights, gradients, optimizer and average are spread over `shards` ranks, as `sharding.shard` does it. The
    operators that are followed are those of `device`; "cuda" is known only where there is one.
    """
    pieces = min(micro_batches, 2)  # from the second on, there are gradients beside the activations
    execution = Execution(micro_batches=pieces, recompute=recompute)
    config = replace(config, batch_size=rows * pieces)
    ranks = Ranks(device=torch.device(device))
    with FakeTensorMode(), torch.device(device):
        model = construct(config.model)
        prepare_model(model, config, recompute)
        state = state_of(model, config)
        parameters = list(model.parameters())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        state.optimizer.step()
        weights, average = share_of(parameters, shards), share_of(state.average.values(), shards)
        wholes = {parameter: share_of([parameter], shards) for parameter in trained}
        gathered = 0
        if shards > 1:
            config = replace(config, ema_decay=None)  # it has been counted, and would need weights as stored
            gathered = _gather(model, gather)
        with Ledger() as ledger, Backward(ledger) as backward:
            if shards > 1:
                _spread_gradients(model, ledger, wholes)
            batch = blank_batch(config, config.batch_size, ranks.device)
            update(state, batch, config, step=0, execution=execution, ranks=ranks)
        used = [parameter for parameter in trained if parameter.grad is not None]
        moments = [moment for parameter in used for moment in state.optimizer.state[parameter].values()]
        optimizer = share_of(moments, shards)
    return MemoryEstimate(
        weights=weights,
        gradients=sum(wholes[parameter] for parameter in used),
        optimizer=optimizer,
        average=average,
        activations=backward.found,
        peak=weights + optimizer + average + gathered + ledger.peak,
    )


def share_of(tensors: Iterable[Tensor], shards: int) -> int:
    """Return the bytes of the first, largest part of tensors that are cut along their first axis."""
    return sum(
        tensor.nbytes
        if tensor.ndim == 0
        else -(-tensor.shape[0] // shards) * (tensor.nbytes // tensor.shape[0])
        for tensor in tensors
    )


def _gather(model: ActionModel, gather: Gather) -> int:
    """Let the weights of layers have the dtype that they are gathered in; return the bytes that are whole.

    Those outside of layers are whole all the time; besides, the layer that runs is, and the next one.
    """
    layers = list(layers_of(model))
    if gather == "bfloat16":
        for layer in layers:
            for parameter in layer.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
    sizes = sorted(share_of(layer.parameters(), 1) for layer in layers)
    return share_of(model.parameters(), 1) - sum(sizes[:-2])


def _spread_gradients(model: ActionModel, ledger: Ledger, shares: dict[torch.nn.Parameter, int]) -> None:
    """Count a layer's gradient, once it is there, as what is left of it when the ranks have summed theirs."""

    def spread(parameter: torch.nn.Parameter) -> None:
        assert parameter.grad is not None
        ledger.hold(parameter.grad.untyped_storage(), shares[parameter])

    for layer in layers_of(model):
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(spread)


class Ledger(TorchDispatchMode):
    """Bytes of every storage that is made under this mode and still held, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._ends: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, and count what it made; numbers that a step looks at are all 1, or true."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        given = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in given and id(storage) not in self._sizes:
                self.hold(storage, storage.nbytes())
        return result

    def hold(self, storage: torch.UntypedStorage, size: int) -> None:
        """Count a storage as so many bytes from now on, until nothing holds it."""
        key = id(storage)
        if key not in self._sizes:
            self._ends[key] = weakref.ref(storage, lambda _: self._release(key))
        self.live += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.live)

    def _release(self, key: int) -> None:
        self.live -= self._sizes.pop(key)
        del self._ends[key]


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Backward(TorchFunctionMode):
    """What a ledger holds when the first backward pass begins."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger, self.found = ledger, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the ledger before a call of `backward`."""
        if func is Tensor.backward and not self.found:
            self.found = self.ledger.live
        return func(*args, **(kwargs or {}))
