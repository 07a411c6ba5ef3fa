"""Tokenizers of models whose vocabularies lie in a folder, as tokenizer.json files."""

import asyncio
from collections import OrderedDict
from pathlib import Path

import structlog

from manifests import ModelConfig
from orchestrator.core.context.tokens import Tokenizer

log = structlog.get_logger()

_MAX_LOADED = 8  # each takes 10 to 100 MB


class TokenizerFiles:
    """Reads `<name of the ModelConfig>.json` when its tokens are first counted, and keeps the last used ones.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: OrderedDict[Path, Tokenizer | None] = OrderedDict()
        self._loading = asyncio.Lock()

    async def of(self, config: ModelConfig) -> Tokenizer | None:
        """See Tokenizers. A file that cannot be read counts as none; the log says so once."""
        path = self._folder / f"{config.metadata.name}.json"
        async with self._loading:
            if path not in self._loaded:
                self._loaded[path] = await asyncio.to_thread(_load, path)
                if len(self._loaded) > _MAX_LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(path)
            return self._loaded[path]


def _load(path: Path) -> Tokenizer | None:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer as Encoder  # noqa: PLC0415  only where there are files

    try:
        encoder = Encoder.from_file(str(path))
    except Exception as error:  # noqa: BLE001  tokenizers raises bare Exception
        log.warning("tokenizer_not_read", file=path.name, error=str(error))
        return None
    encoder.no_truncation()
    encoder.no_padding()
    log.info("tokenizer_read", file=path.name, words=encoder.get_vocab_size())

    def count(text: str) -> int:
        whole = text.encode(errors="replace").decode()
        # In a batch of one: only so does it let other threads work meanwhile.
        return len(encoder.encode_batch_fast([whole], add_special_tokens=False)[0])

    return count
