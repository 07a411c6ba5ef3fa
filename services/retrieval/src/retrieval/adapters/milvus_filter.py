"""Filters to Milvus' expression language."""

from retrieval.core.filters import Filter


def expression(filter_: Filter) -> str:
    """What Milvus is asked for. Every value in it is a JSON literal."""
    raise NotImplementedError("filters are not compiled yet")
