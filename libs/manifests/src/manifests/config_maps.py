"""What manifests take from ConfigMaps."""

from typing import Annotated

from pydantic import Field, StringConstraints

from manifests.base import SECRET_KEY_PATTERN, SECRET_NAME_PATTERN, Model
from manifests.cel import Schema

_LONG = Schema((("maxLength", 253),))


class ConfigMapKeyRef(Model):
    """Refers to one key of a ConfigMap of the same namespace."""

    # Both are named by the same rules as a Secret's.
    name: Annotated[str, StringConstraints(pattern=SECRET_NAME_PATTERN), _LONG] = Field(
        description="Name of the ConfigMap. In local mode: a folder below the state folder's configmaps."
    )
    key: Annotated[str, StringConstraints(pattern=SECRET_KEY_PATTERN), _LONG] = Field(
        description="Key within the ConfigMap. In local mode: a file in that folder."
    )
