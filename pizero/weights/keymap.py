"""One checkpoint's names and layouts against ours: a list of places, read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pizero.names import nearest
from pizero.weights.tensors import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the axes of a foreign tensor become those of ours, and back.

    The axes are put in `order`; then the two of them from `merge` on, of sizes `heads`, become one; or a
    first axis of size 1 is added.
    """

    order: tuple[int, ...] = ()
    merge: int | None = None
    heads: tuple[int, int] = (0, 0)
    new_axis: bool = False

    def read(self, foreign: Tensor) -> Tensor:
        """Return a foreign tensor in our layout."""
        ours = foreign.permute(self.order) if self.order else foreign
        if self.merge is not None:
            ours = ours.flatten(self.merge, self.merge + 1)
        return ours[None] if self.new_axis else ours

    def write(self, ours: Tensor) -> Tensor:
        """Return our tensor in the foreign layout."""
        foreign = ours[0] if self.new_axis else ours
        if self.merge is not None:
            foreign = foreign.unflatten(self.merge, self.heads)
        if self.order:
            foreign = foreign.permute([self.order.index(axis) for axis in range(len(self.order))])
        return foreign


SAME = Layout()
TRANSPOSED = Layout(order=(1, 0))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one tensor of ours is in a foreign checkpoint: `foreign[index]`, in another layout."""

    ours: str
    foreign: str
    index: tuple[int, ...] = ()
    layout: Layout = SAME


@dataclass(frozen=True, kw_only=True)
class NameScheme:
    """All names of one kind of checkpoint of one model.

    `aliases` are further names under which a tensor of `places` may be found, and is written too if it is
    among `copies`; `unused` are names and shapes of what some checkpoints hold and no computation reads.
    """

    name: str
    places: tuple[Place, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    copies: frozenset[str] = frozenset()
    unused: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def foreign_shapes(scheme: NameScheme, ours: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a checkpoint of a model whose tensors have the shapes `ours`."""
    indices: dict[str, list[tuple[int, ...]]] = {}
    parts: dict[str, tuple[int, ...]] = {}
    for place in scheme.places:
        part = place.layout.write(torch.empty(ours[place.ours], device="meta"))
        indices.setdefault(place.foreign, []).append(place.index)
        parts[place.foreign] = tuple(part.shape)
    return {
        name: tuple(max(column) + 1 for column in zip(*indices[name], strict=True)) + shape
        for name, shape in parts.items()
    }


def check_sizes_told(names: Iterable[str], found: Iterable[str], naming: str) -> None:
    """Raise one ValueError that lists all of the tensors which tell a model's size and are not there."""
    there = set(found)
    missing = [f"{name}{_near(name, there)}" for name in names if name not in there]
    if missing:
        raise ValueError(
            f"expected the tensors that tell a model's size in {naming}'s names, among {len(there)} found; "
            + _listed("missing", missing)
        )


def check_coverage(
    scheme: NameScheme, found: Mapping[str, TensorInfo], ours: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise one ValueError that lists every missing, unknown and mis-shaped tensor with its nearest name."""
    expected = foreign_shapes(scheme, ours)
    names_of: dict[str, list[str]] = {name: [name] for name in expected}
    for alias, name in scheme.aliases.items():
        names_of[name].append(alias)
    missing = [name for name, names in names_of.items() if not any(each in found for each in names)]
    wanted = {each: expected[name] for name, names in names_of.items() for each in names}
    extra = [name for name in found if name not in wanted and name not in scheme.unused]
    shapes = [
        f"{name}: expected {list(shape)}, found {list(found[name].shape)}"
        + (" (transposed?)" if found[name].shape == shape[::-1] else "")
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    integers = [name for name in wanted if name in found and not found[name].dtype.is_floating_point]
    lines = [
        _listed("missing", [f"{name}{_near(name, extra)}" for name in missing]),
        _listed("unknown", [f"{name}{_near(name, missing)}" for name in extra]),
        _listed("of another shape", shapes),
        _listed("not of floating-point numbers", integers),
    ]
    if any(lines):
        raise ValueError(
            f"{source} does not hold the model that its tensors suggest ({scheme.name}). "
            + " ".join(line for line in lines if line)
            + " Nothing was written."
        )


def written_infos(scheme: NameScheme, ours: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return name, shape and dtype of all that a checkpoint of this scheme holds, in the order of `ours`.

    Only schemes without stacked tensors can be written.
    """
    assert not any(place.index for place in scheme.places)
    places = {place.ours: place for place in scheme.places}
    infos = {}
    for name, info in ours.items():
        place = places[name]
        shape = tuple(place.layout.write(torch.empty(info.shape, device="meta")).shape)
        copies = [a for a, original in scheme.aliases.items() if original == place.foreign]
        for foreign in (place.foreign, *(copy for copy in copies if copy in scheme.copies)):
            infos[foreign] = TensorInfo(shape=shape, dtype=info.dtype)
    dtype = next(iter(infos.values())).dtype
    return infos | {name: TensorInfo(shape=shape, dtype=dtype) for name, shape in scheme.unused.items()}


def write_tensors(
    scheme: NameScheme, infos: Mapping[str, TensorInfo], read: Callable[[str], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield a checkpoint's tensors in the order of `infos`; `read(name)` gives one of ours."""
    places = {place.foreign: place for place in scheme.places}
    for name, info in infos.items():
        if name in scheme.unused:
            yield name, torch.zeros(info.shape, dtype=info.dtype)
        else:
            place = places[scheme.aliases.get(name, name)]
            yield name, place.layout.write(read(place.ours)).contiguous()


def _near(name: str, candidates: Iterable[str]) -> str:
    listed = list(candidates)
    guess = nearest(name, listed).partition("Known:")[0].strip() if listed else ""
    return f" ({guess})" if guess else ""


def _listed(label: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = f"; and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{len(names)} {label}: {'; '.join(names[:20])}{rest}."
