"""Release: bundle, approval and the ledger entry without which nothing is served."""
