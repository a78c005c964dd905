"""Whether the ledger can be believed, told to the endpoint.

Nothing moves on the word of an altered ledger. The endpoint serves on from its verified copies, and
its metric says why nothing changes any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from assets.traffic.entries import entries
from resources.ledger import LedgerError

if TYPE_CHECKING:
    from resources.endpoint import EndpointTarget
    from resources.ledger import Ledger

WAY_OUT = (
    "Nothing is approved, released or moved until the ledger is restored; the endpoint serves on "
    "from its verified bundles. `evergreen doctor` checks the ledger again"
)


class Looked(NamedTuple):
    """What a look at the ledger found: `problem` is None where all is well."""

    problem: str | None
    news: bool


def look(ledger: Ledger, endpoint: EndpointTarget) -> Looked:
    """Verify the whole ledger, read every entry, and tell the endpoint what is wrong with it.

    `news` says whether the endpoint was told something else before.
    """
    try:
        ledger.verify()
        entries(ledger)
    except LedgerError as error:
        return Looked(str(error), endpoint.alarm(str(error)))
    return Looked(None, endpoint.alarm(None))
