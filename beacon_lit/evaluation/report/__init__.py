"""Writes results as one HTML page that opens without a network."""

from beacon_lit.evaluation.report.page import write_report

__all__ = ["write_report"]
