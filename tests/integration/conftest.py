"""What tests on a cluster begin with. Files that need another cluster or namespace name theirs the same."""

from collections.abc import Iterator

import pytest

from tests.support.kube import Cluster, shared_cluster
from tests.support.operator_process import FakeEndpoint, Operator, fake_endpoint, running_operator


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """The one that all tests share, with our kinds."""
    cluster = shared_cluster()
    cluster.install_crds()
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="module")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Of all namespaces, for the tests of a file."""
    with cluster.namespace("operator") as own:
        with running_operator(
            cluster, tmp_path_factory.mktemp("operator"), lease_namespace=own, lease_s="6"
        ) as operator:
            yield operator
        assert "Traceback" not in operator.log


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    """An endpoint of models."""
    with fake_endpoint() as endpoint:
        yield endpoint
