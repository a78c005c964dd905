"""Retraining: one pure decision, live and in backtests."""
