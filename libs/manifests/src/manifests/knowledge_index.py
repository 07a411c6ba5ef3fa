"""The index of a KnowledgeBase, and the sources of its documents."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from manifests.base import FOLDER_PATTERN, Model, Name, Violation, refuse
from manifests.cel import Cel

IndexTypeName = Literal["FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "HNSW_SQ"]
_IVF = {"nlist": (1, 65_536), "nprobe": (1, 65_536)}
_HNSW = {"M": (4, 64), "efConstruction": (8, 512), "ef": (1, 32_768)}
_BOUNDS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "FLAT": {},
    "IVF_FLAT": _IVF,
    "IVF_SQ8": _IVF,
    "HNSW": _HNSW,
    "HNSW_SQ": _HNSW,
}
_SEARCHED = ("nprobe", "ef")


class IndexTarget(Model):
    """What tuning must reach."""

    recall_percent: int = Field(
        default=95, ge=50, le=100, description="Of the 10 nearest chunks, so many are found."
    )


class IndexTuning(Model):
    """Measuring the index and choosing its parameters."""

    enabled: bool = Field(
        default=True, description="By itself, when there is reason to. On demand it is always possible."
    )


def _index_rules() -> Iterator[Cel]:
    """The twin of KnowledgeIndex._violations."""
    yield Cel(
        "self.policy != 'Manual' || has(self.type)",
        "is required with policy Manual; name a type, such as HNSW, or set policy: Auto",
        ".type",
    )
    for field in ("type", "buildParams", "searchParams"):
        set_ = f"has(self.{field})" + ("" if field == "type" else f" && self.{field}.size() > 0")
        yield Cel(
            f"self.policy == 'Manual' || !({set_})",
            "only with policy Manual; remove it, or set policy: Manual",
            f".{field}",
        )
    for field, searched in (("buildParams", False), ("searchParams", True)):
        for type_, bounds in _BOUNDS.items():
            known = [name for name in bounds if (name in _SEARCHED) == searched]
            listed = ", ".join(f"'{name}'" for name in known)
            yield Cel(
                f"!has(self.type) || self.type != '{type_}' || !has(self.{field}) || "
                f"self.{field}.all(name, name in [{listed}])",
                f"{type_} has {' and '.join(known) or 'none'}; remove the others",
                f".{field}",
            )
        for name, (least, most) in (_IVF | _HNSW).items():
            if (name in _SEARCHED) == searched:
                yield Cel(
                    f"!has(self.{field}) || !('{name}' in self.{field}) || "
                    f"(self.{field}['{name}'] >= {least} && self.{field}['{name}'] <= {most})",
                    f"{name} must be {least} to {most}; choose a number between",
                    f".{field}",
                )


class KnowledgeIndex(Model):
    """The index of its vectors."""

    cel: ClassVar = tuple(_index_rules())

    policy: Literal["Auto", "Manual"] = Field(
        default="Auto",
        description="Auto: chosen by size and by what the deployed Milvus has. Manual: `type`.",
    )
    type: IndexTypeName | None = Field(
        default=None,
        description="Required with policy Manual, and only there. Another one builds a second collection "
        "beside the one in use, and swaps.",
    )
    build_params: dict[str, int] = Field(
        default_factory=dict,
        max_length=8,
        description="With policy Manual: nlist of IVF; M and efConstruction of HNSW. Default: by rows.",
    )
    search_params: dict[str, int] = Field(
        default_factory=dict,
        max_length=8,
        description="With policy Manual: nprobe of IVF; ef of HNSW. Default: tuned by measurement.",
    )
    target: IndexTarget = Field(default_factory=IndexTarget, description="What tuning must reach.")
    tuning: IndexTuning = Field(default_factory=IndexTuning, description="Whether it is tuned by itself.")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        if self.policy == "Manual" and self.type is None:
            yield Violation(
                ("type",), "is required with policy Manual", "name a type, such as HNSW, or set policy: Auto"
            )
        for given, there in (
            ("type", self.type is not None),
            ("buildParams", bool(self.build_params)),
            ("searchParams", bool(self.search_params)),
        ):
            if self.policy == "Auto" and there:
                yield Violation((given,), "only with policy Manual", "remove it, or set policy: Manual")
        for field, params, searched in (
            ("buildParams", self.build_params, False),
            ("searchParams", self.search_params, True),
        ):
            bounds = _BOUNDS[self.type] if self.type else {}
            known = [name for name in bounds if (name in _SEARCHED) == searched]
            for name, value in params.items() if self.type else ():
                if name not in known:
                    yield Violation(
                        (field, name), f"{self.type} has {' and '.join(known) or 'none'}", "remove it"
                    )
                elif not bounds[name][0] <= value <= bounds[name][1]:
                    yield Violation(
                        (field, name),
                        f"must be {bounds[name][0]} to {bounds[name][1]}",
                        "choose a number between",
                    )


class SourceFolder(Model):
    """A folder that the service's worker sees."""

    path: Annotated[str, StringConstraints(pattern=FOLDER_PATTERN)] = Field(
        description="Below the folder that the installation allows: relative, with '/', without '..'."
    )


class KnowledgeSource(Model):
    """Documents that the service fetches itself."""

    name: Name = Field(description="Unique among the sources.")
    folder: SourceFolder = Field(description="A folder that is looked through now and then.")
    delete_policy: Literal["Keep", "Mirror"] = Field(
        default="Keep",
        description="When a file has gone from the source. Keep: its document stays. Mirror: it goes too.",
    )
    interval_seconds: int = Field(default=60, ge=5, le=86_400, description="How often it is looked through.")
