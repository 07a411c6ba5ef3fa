"""How likely a text is, read from the tokens of a prompt as endpoints show them."""

import pytest

from evaluation.adapters.likelihoods import text_logprob


def tokens(*pieces: str) -> list[dict[str, dict[str, object]] | None]:
    """Each piece is as likely as its place: 1, 2, 4 …: a sum tells which were taken."""
    return [{str(n): {"logprob": float(-(2**n)), "decoded_token": piece}} for n, piece in enumerate(pieces)]


@pytest.mark.parametrize(
    ("pieces", "text", "total"),
    [
        (("A", " cat"), "A cat", -3),
        (("said", "\n", "A", " cat"), "A cat", -12),  # what comes before is not taken
        (("A", "cat"), "A cat", -3),  # a tokenizer that keeps blanks to itself
        (("\n", " A", " cat"), "A cat", -6),  # or puts one before the first
        (("x", "\nA", " cat"), "A cat", None),  # a piece that reaches over the edge
        (("A", " caf", "\ufffd", "\ufffd"), "A café", -15),  # a character in two tokens
        (("so", "\ufffd", "\ufffd", " A"), "é A", -14),
        (("A", " dog"), "A cat", None),
        (("cat",), "A cat", None),
        ((), "A cat", None),
    ],
)
def test_the_tokens_of_the_text_are_those_at_the_end(
    pieces: tuple[str, ...], text: str, total: float | None
) -> None:
    if total is not None:
        assert text_logprob([None, *tokens(*pieces)], text) == total
        return
    with pytest.raises(ValueError, match="do not end with the text"):
        text_logprob([None, *tokens(*pieces)], text)


def test_the_token_s_own_comes_before_likelier_ones() -> None:
    own = {"logprob": -3.0, "decoded_token": "cat", "rank": 9}
    likelier = {"logprob": -0.1, "decoded_token": "dog", "rank": 1}
    assert text_logprob([None, {"4": own, "2": likelier}], "cat") == -3.0
