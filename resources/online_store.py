"""The online store: where the endpoint reads the newest snapshot of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from bundle.files import write_atomically
from resources.keys import Keys

if TYPE_CHECKING:
    from bundle.features.online import Snapshot

FILE = "online.msgpack"


class OnlineStore(dg.ConfigurableResource[None]):
    """Signed snapshots on the endpoint's disk: `<path>/<pipeline>/online.msgpack`.

    `signer` is the platform's key: an endpoint uses no snapshot that it did not sign.
    """

    path: str
    signer: Keys

    def place(self, pipeline: str) -> Path:
        return Path(self.path) / pipeline / FILE

    def publish(self, snapshot: Snapshot) -> Path:
        """Make a snapshot the newest one of its pipeline; readers see the old or the new.

        Publishing it again changes nothing, except that it repairs a damaged file. Raises OSError
        (disk full, say) with the old snapshot intact.
        """
        from bundle.online_file import sealed

        place, content = self.place(snapshot.pipeline), sealed(snapshot, self.signer.sign)
        if not (place.exists() and place.read_bytes() == content):
            write_atomically(place, content)
        return place

    def newest(self, pipeline: str) -> Snapshot | None:
        """The published snapshot, None where there is none yet.

        Raises ValueError for a file that is not a snapshot of this pipeline signed by the platform.
        """
        from bundle.online_file import unseal

        try:
            content = self.place(pipeline).read_bytes()
        except FileNotFoundError:
            return None
        return unseal(content, self.signer.public_pem(), pipeline)
