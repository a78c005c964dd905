"""Endpoint: what the ledger wants served, and what is served."""
