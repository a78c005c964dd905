"""Reports for every stage: the page, its tables and its plots."""
