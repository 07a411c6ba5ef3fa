"""The credentials of services that serve all tenants and may read no Secret of theirs.

Each has one Secret in the installation's namespace. The embedding service gets those keys that ModelConfigs
of type Embedding or Rerank name, the evaluation service those of the models that teams name as judge, and
neither any other.
"""

from collections.abc import Iterator

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.kept_secret import KeptSecret, Named, named_by, too_long
from agentteams_operator.core.objects import (
    CREDENTIALS_LABEL,
    MODEL,
    SECRET,
    TEAM,
    Key,
    Stored,
    embeds,
    judge_of,
)
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiServer
from agentteams_operator.core.sharing import may_use

NAME = "agentteams-model-credentials"
JUDGES_NAME = "agentteams-judge-credentials"


def of_embedding(cache: Cache) -> Iterator[Named]:
    """What the embedding service needs."""
    for key in cache.keys(MODEL):
        model = cache.get(key)
        if model is not None and model.deleted_at is None and embeds(model):
            yield from named_by(model)


def of_judges(cache: Cache) -> Iterator[Named]:
    """What the evaluation service needs."""
    for key in cache.keys(TEAM):
        team = cache.get(key)
        judge = judge_of(team)
        model = cache.get(judge) if judge and may_use(cache, key.namespace, judge) else None
        if team is not None and team.deleted_at is None and model is not None and model.deleted_at is None:
            yield from named_by(model)


def too_long_for_embedding(model: Stored) -> Iterator[tuple[str, str]]:
    """Names that the embedding service's Secret cannot have: reason and words."""
    if model.deleted_at is None and embeds(model):
        yield from too_long(named_by(model), "the embedding service")


class Credentials:
    """Keeps the Secret of each of these services.

    Args:
        namespace: The installation's.
    """

    def __init__(self, *, cache: Cache, api: ApiServer, namespace: str) -> None:
        self._cache = cache
        self._kept = [
            (KeptSecret(cache=cache, api=api, key=Key(SECRET, namespace, name), label=CREDENTIALS_LABEL), of)
            for name, of in ((NAME, of_embedding), (JUDGES_NAME, of_judges))
        ]

    async def look(self, one: Stored) -> Outcome:
        """What to do about the Secrets."""
        outcomes = [await kept.keep(of(self._cache)) for kept, of in self._kept]
        gone = tuple(key for outcome in outcomes for key in outcome.gone)
        return Outcome(gone=gone, again_s=min(outcome.again_s for outcome in outcomes))
