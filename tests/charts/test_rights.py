"""Rights: the operator's are those that its code uses, users' are those of their roles."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from agentteams_operator.adapters import kubernetes
from agentteams_operator.core.objects import OURS
from agentteams_operator.handlers.watches import OWNED, WATCHED
from agentteams_operator.specs.pool import namespace_objects
from tests.support.helm import render

Rights = dict[tuple[str, str], set[str]]
_GROUP = "agentteams.dev"


def rights(rules: Iterable[Mapping[str, Any]]) -> Rights:
    found = defaultdict[tuple[str, str], set[str]](set)
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found[group, resource] |= set(rule["verbs"])
    return dict(found)


def used() -> Rights:
    """What the operator's code asks the API server for."""
    needed = defaultdict[tuple[str, str], set[str]](set)
    for *group, _, resource in (*WATCHED, *OWNED):
        needed["".join(group), resource] |= {"list", "watch"}
    # kopf looks which kinds there are.
    needed["apiextensions.k8s.io", "customresourcedefinitions"] |= {"list", "watch"}
    for kind, (group_name, _, plural) in kubernetes._PLURALS.items():
        if kind in OURS:
            needed[group_name, f"{plural}/status"] |= {"patch"}
        elif kind == "Event":
            needed[group_name, plural] |= {"create"}
        elif kind == "ConfigMap":
            needed[group_name, plural] |= {"get"}  # texts of teams, golden sets
        else:
            # Server-side apply is a patch that may create.
            needed[group_name, plural] |= {"create", "patch", "delete"}
    needed[_GROUP, "knowledgebases"] |= {"patch"}  # finalizers
    needed["", "secrets"] |= {"get"}  # the key that a probe sends
    # Who gives a right must have it.
    (role,) = [one for one in namespace_objects("n", b"k" * 32) if one["kind"] == "Role"]
    for key, verbs in rights(role["rules"]).items():
        needed[key] |= verbs
    return dict(needed)


def test_the_operator_may_do_what_its_code_does_and_nothing_else() -> None:
    (role,) = [
        one
        for one in render("small")
        if one["kind"] == "ClusterRole" and one["metadata"]["name"].endswith("-operator")
    ]
    given, needed = rights(role["rules"]), used()
    assert given == needed
    # Of Secrets only our own are changed.
    for rule in role["rules"]:
        if "secrets" in rule["resources"] and {"patch", "delete", "update"} & set(rule["verbs"]):
            names = ["identity", "model-credentials", "judge-credentials", "shared-models"]
            assert rule["resourceNames"] == [f"agentteams-{name}" for name in names]
