"""Reporting: report model, pages, plots and tables, shared by every stage."""
