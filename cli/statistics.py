"""`hypercolumns store statistics`: mean, spread and principal components of the channels of a store's layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import JsonOption, WorkspaceOption, command, emit
from cli.selection import KeyArgument, store_paths

if TYPE_CHECKING:
    from distributed import Client

    from storage.features import FeatureStore

__all__ = ["register_statistics"]


def register_statistics(stores: typer.Typer) -> None:
    """Add `store statistics`."""
    stores.command("statistics")(_statistics)


@command
def _statistics(
    key: KeyArgument = None,
    layer: Annotated[list[str] | None, typer.Option(help="A layer's name, may be repeated; all layers by default.")] = None,
    pca: Annotated[int, typer.Option(min=0, help="How many principal components of each layer.")] = 0,
    dask_address: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler whose workers share the work; by default $HYPERCOLUMNS_DASK_ADDRESS."),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reckon mean and variance of every channel over all images of a store, and the directions in which cells vary most.

    Reads every map once, and once more for principal components.
    """
    from storage.features import FeatureStore

    stores = [FeatureStore.open(path) for path in store_paths(workspace, key)]
    chosen = [(store, name) for store in stores for name in layer or store.layers]
    for store, name in chosen:
        store.array_path(name)  # An unknown layer is refused before any is read.
    found: dict[str, dict[str, Any]] = {store.key: {} for store in stores}
    lines = []
    with _client(dask_address) as client:
        for store, name in chosen:
            found[store.key][name] = told = _told(store, name, pca, client)
            lines.append(_line(store.key, name, told))
    emit(found, as_json, "\n".join(lines) or "no stores yet")


@contextlib.contextmanager
def _client(address: str | None) -> Iterator[Client | None]:
    from pydantic import ValidationError

    from hypercolumns.errors import SpecError
    from tasks.cluster import Cluster, ClusterError

    try:
        cluster = Cluster(dask_address=address).chosen()
    except ValidationError as error:
        raise SpecError(f"--dask-address: {error.errors()[0]['msg']}") from error
    if cluster is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(cluster.dask_address, timeout=10, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"{cluster.dask_address}: expected a Dask scheduler, found none ({error}). Remedy: start one (`dask scheduler`), "
            "or correct the address"
        ) from error
    with client:
        yield client


def _told(store: FeatureStore, layer: str, count: int, client: Client | None) -> dict[str, Any]:
    from tasks.statistics import channel_statistics, principal_components

    channels = channel_statistics(store, layer, client)
    told: dict[str, Any] = {"cells": channels.cells, "mean": channels.mean.tolist(), "variance": channels.variance.tolist()}
    if count:
        found = principal_components(store, layer, count, client)
        told["principal_components"] = {
            "components": found.components.tolist(),
            "variance": found.variance.tolist(),
            "share": found.share.tolist(),
        }
    return told


def _line(key: str, layer: str, told: dict[str, Any]) -> str:
    means, variances = told["mean"], told["variance"]
    text = f"{key}  {layer}: {len(means)} channels, {told['cells']} cells, means {min(means):.4g} to {max(means):.4g}, "
    text += f"standard deviations {min(variances) ** 0.5:.4g} to {max(variances) ** 0.5:.4g}"
    if "principal_components" in told:
        shares = ", ".join(f"{share:.1%}" for share in told["principal_components"]["share"])
        text += f"; principal components hold {shares} of the variance"
    return text
