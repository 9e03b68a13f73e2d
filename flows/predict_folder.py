"""Flow: label the images of a watched folder with the champion, each content exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.accelerator import accelerator
from hypercolumns.allocator import keep_freed_memory, release_freed_memory
from storage.publish import ensure_folder
from storage.workspace import Workspace, resolve_workspace
from tasks.predict_folder import FolderPredicted, predict_watched_folder

__all__ = ["predict", "predict_folder"]

predict = task(name="predict", cache_policy=NO_CACHE, persist_result=False)(predict_watched_folder)


@flow(name="predict-folder", flow_run_name="{line}", persist_result=False, result_serializer="json")
def predict_folder(
    line: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "experiment",
    images: Path | None = None,
    out: Path | None = None,
    again: bool = False,
    settle_seconds: Annotated[float, Field(ge=0, le=86_400)] = 5.0,
    workspace: Path | None = None,
) -> State[FolderPredicted]:
    """Label the images of a watched folder with the champion, each content exactly once.

    Args:
        line: Name of the task line whose champion labels the images.
        images: The watched folder, with its subfolders; by default `inbox/LINE` in the workspace, which is made.
        out: Folder for the masks and their ledger; by default `predictions/LINE` in the workspace.
        again: Label images anew that an earlier champion labelled; their masks are replaced.
        settle_seconds: A file that was written to more recently than this is left for the next time.
        workspace: Folder of stores, samples, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
    """
    places = Workspace(resolve_workspace(workspace))
    keep_freed_memory()
    try:
        inbox = images or places.root / "inbox" / line
        if images is None:
            ensure_folder(inbox)
        with accelerator():
            masks = out or places.root / "predictions" / line
            found = predict(places, line, inbox, masks, again=again, settle_seconds=settle_seconds)
    finally:
        release_freed_memory()
    parts = {"masks written": len(found.masks), "images known already": found.known}
    parts |= {"still being written": found.waiting, "cannot be read": len(found.rejected)}
    told = ", ".join(f"{count} {what}" for what, count in parts.items() if count) or "no images"
    return Completed(message=f"{told}; model {found.model}", data=found)
