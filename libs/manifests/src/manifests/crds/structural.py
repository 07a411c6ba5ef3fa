"""From a model's JSON schema to the structural schema of a CustomResourceDefinition.

Nothing is referred to: every `$ref` is written out. `null` is not a value there, defaults of nested objects
are written in full, and empty defaults are left out: a field that nobody wrote is absent, and rules can ask
for it with `has`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from manifests.base import PATTERN_WORDS
from manifests.cel import VALIDATIONS, Cel

_KEPT = (
    "description", "type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "minProperties", "maxProperties", "required", "default",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
)  # fmt: skip
_DROPPED = ("title", "$defs", "examples")
Schema = dict[str, Any]


class UnknownKeyword(Exception):
    """The model has something that a structural schema has no word for."""


def structural(model: type[BaseModel]) -> Schema:
    """The schema of a model.

    Raises:
        UnknownKeyword: A keyword that nobody has thought about.
    """
    whole = model.model_json_schema(by_alias=True)
    return _Writer(whole.get("$defs", {})).write(whole, model.__name__)


class _Writer:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def write(self, schema: Mapping[str, Any], at: str) -> Schema:
        schema = self._resolved(schema)
        written: Schema = {}
        for key, value in schema.items():
            if key in _KEPT:
                written[key] = value
            elif key == "const":
                written["enum"] = [value]
            elif key == "properties":
                written[key] = {name: self.write(of, f"{at}.{name}") for name, of in value.items()}
            elif key == "items":
                written[key] = self.write(value, f"{at}[]")
            elif key == "additionalProperties":
                if isinstance(value, dict):
                    written[key] = self.write(value, f"{at}[]")
            elif key == "patternProperties":
                ((pattern, of),) = value.items()
                written["additionalProperties"] = self.write(of, f"{at}[]")
                written.setdefault(VALIDATIONS, []).append(_names_rule({"pattern": pattern}, at))
            elif key == "propertyNames":
                written.setdefault(VALIDATIONS, []).append(_names_rule(value, at))
                if "enum" in value:
                    written["maxProperties"] = len(value["enum"])
            elif key not in _DROPPED:
                raise UnknownKeyword(f"{at}: {key}: {value!r}; say in crds/structural.py what it becomes")
        return _tidy(written)

    def _resolved(self, schema: Mapping[str, Any]) -> Schema:
        """Without `$ref` and without the `null` of `X | None`."""
        found = dict(schema)
        while True:
            if "anyOf" in found:
                rest = [one for one in found.pop("anyOf") if one != {"type": "null"}]
                if len(rest) != 1:
                    raise UnknownKeyword(f"a union of {len(rest)} types: {rest!r}")
                found = {**rest[0], **found}
            elif "$ref" in found:
                name = found.pop("$ref").rsplit("/", 1)[-1]
                found = {**self._definitions[name], **found}
            else:
                return found


def _names_rule(names: Mapping[str, Any], at: str) -> dict[str, str]:
    """A structural schema says nothing about the keys of a map."""
    if "enum" in names:
        allowed = ", ".join(f"'{name}'" for name in names["enum"])
        return Cel(f"self.all(k, k in [{allowed}])", f"the keys are {allowed}; name one of them").validation()
    if "pattern" in names:
        rule, words = f"self.all(k, k.matches(r'{names['pattern']}'))", PATTERN_WORDS[names["pattern"]]
        return Cel(rule, f"a key {words}; correct it").validation()
    if set(names) == {"maxLength"}:
        most = names["maxLength"]
        return Cel(
            f"self.all(k, k.size() <= {most})", f"keys have at most {most} characters; shorten it"
        ).validation()
    raise UnknownKeyword(f"{at}: propertyNames: {names!r}; say in crds/structural.py what it becomes")


def _tidy(schema: Schema) -> Schema:
    if schema.get("type") == "integer":
        small = schema.get("maximum", 2**63) < 2**31
        schema["format"] = "int32" if small else "int64"
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    if "default" in schema:
        default = schema["default"]
        if default == {}:  # in full: rules are asked of it as it stands here
            properties = schema.get("properties", {})
            default = {name: one["default"] for name, one in properties.items() if "default" in one}
            schema["default"] = default
        if default in (None, "", [], {}):
            del schema["default"]
    order = {key: position for position, key in enumerate((*_KEPT, "properties", "items"))}
    return dict(sorted(schema.items(), key=lambda item: order.get(item[0], len(order))))
