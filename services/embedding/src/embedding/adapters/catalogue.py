"""ModelConfigs from the catalogue of manifests."""

from __future__ import annotations

from datetime import timedelta

from embedding.core.ports import ModelSpec, SecretRef
from manifests import Objects, SecretKeyRef


class CatalogueSpecs:
    """`ModelSpecs` over manifests, which their owner keeps up to date."""

    def __init__(self, catalogue: Objects) -> None:
        self._catalogue = catalogue

    def find(self, namespace: str, name: str) -> ModelSpec | None:
        """The ModelConfig of that name, as the manifests say now."""
        found = self._catalogue.model(namespace, name)
        if found is None:
            return None
        spec = found.spec
        credentials = spec.credentials_secret_key_ref
        return ModelSpec(
            type=spec.type,
            provider=spec.provider,
            model=spec.model,
            url=None if spec.endpoint is None else spec.endpoint.url,
            secret=None if credentials is None else _of(credentials),
            headers=tuple((h.name, _of(h.value_from.secret_key_ref)) for h in spec.headers_from),
            authorities=None if spec.tls is None else _of(spec.tls.ca_secret_key_ref),
            timeout=timedelta(seconds=spec.limits.timeout_seconds),
            max_retries=spec.limits.max_retries,
            max_concurrent=spec.limits.max_concurrent,
            dimensions=spec.embedding.dimensions,
        )


def _of(ref: SecretKeyRef) -> SecretRef:
    return SecretRef(name=ref.name, key=ref.key)
