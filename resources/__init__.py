"""With what the stages work: settings, lake, reports, tracking, ledger, keys, online store,
endpoint, notifier.
"""
