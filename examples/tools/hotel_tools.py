"""Tools of examples/tools/python.yaml: each function is one; its types are its schema."""

from typing import Annotated, Literal

from pydantic import Field

_PRICES = {"single": 80, "double": 120}


def price(room: Literal["single", "double"], nights: Annotated[int, Field(ge=1, le=30)]) -> dict[str, int]:
    """What a room costs, in euros."""
    return {"per_night": _PRICES[room], "total": _PRICES[room] * nights}
