"""The online store: where the endpoint reads the newest snapshot of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from bundle.files import write_atomically

if TYPE_CHECKING:
    from bundle.features.online import Snapshot

FILE = "online.msgpack"


class OnlineStore(dg.ConfigurableResource[None]):
    """Snapshots on the endpoint's disk: `<path>/<pipeline>/online.msgpack`, replaced atomically."""

    path: str

    def place(self, pipeline: str) -> Path:
        return Path(self.path) / pipeline / FILE

    def publish(self, snapshot: Snapshot) -> Path:
        """Make a snapshot the newest one of its pipeline; readers see the old or the new.

        Publishing it again changes nothing.

        Raises OSError (disk full, say) with the old snapshot intact.
        """
        place, content = self.place(snapshot.pipeline), snapshot.encode()
        if not (place.exists() and place.read_bytes() == content):
            write_atomically(place, content)
        return place

    def newest(self, pipeline: str) -> Snapshot | None:
        """The published snapshot, None where there is none yet.

        Raises ValueError for a file that is no snapshot.
        """
        from bundle.features.online import Snapshot

        try:
            return Snapshot.decode(self.place(pipeline).read_bytes())
        except FileNotFoundError:
            return None
