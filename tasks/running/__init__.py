"""Runs of the graph: what is to do, one stage supervised, receipts, the summary."""
