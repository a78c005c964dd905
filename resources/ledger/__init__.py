"""The ledger: the append-only, hash-chained, signed record of decisions and changes of traffic."""

from resources.ledger.entry import Entry, Head, Json, Kind, LedgerError
from resources.ledger.store import Guard, Ledger

__all__ = ["Entry", "Guard", "Head", "Json", "Kind", "Ledger", "LedgerError"]
