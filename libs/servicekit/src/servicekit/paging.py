"""Page sizes and page tokens that cannot be forged or moved to another list."""

import base64
import binascii
import hashlib
import hmac

from servicekit.errors import InvalidArgument
from servicekit.identity import IdentityKey

_MAC_BYTES = 12


def page_size(value: int, *, default: int, maximum: int, field: str = "page_size") -> int:
    """The size to use: 0 is the default, more than the maximum is the maximum.

    Raises:
        InvalidArgument: Below 0.
    """
    if value < 0:
        raise InvalidArgument.field(field, f"must be 0 (default {default}) to {maximum}", value)
    return min(value or default, maximum)


class PageTokens:
    """Signs cursors, bound to the arguments of the list they belong to."""

    def __init__(self, key: IdentityKey) -> None:
        self._key = hashlib.sha256(b"page-token" + key.secret).digest()

    def encode(self, bound: tuple[str, ...], cursor: str) -> str:
        """The token for `cursor` in the list that the arguments `bound` name."""
        raw = cursor.encode()
        return base64.urlsafe_b64encode(self._mac(bound, raw) + raw).rstrip(b"=").decode()

    def decode(self, bound: tuple[str, ...], token: str) -> str:
        """The cursor of a token that `encode` made for the same arguments.

        Raises:
            InvalidArgument: Anything else.
        """
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            data = b""
        mac, raw = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if len(mac) != _MAC_BYTES or not hmac.compare_digest(mac, self._mac(bound, raw)):
            raise InvalidArgument.field(
                "page_token", "is not one that this list returned for these arguments; start without it"
            )
        return raw.decode()

    def _mac(self, bound: tuple[str, ...], raw: bytes) -> bytes:
        message = b"\0".join([*(part.encode() for part in bound), raw])
        return hmac.digest(self._key, message, "sha256")[:_MAC_BYTES]
