"""Traffic: what ledger entries mean, and how a bundle takes over step by step, on evidence."""
