"""A repository to erase, for the tests of erasing."""

import secrets
from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi

from ..support.erasing import make_history
from ..support.hub_server import HubServer


@pytest.fixture(scope="session")
def template(hub: HubServer) -> str:
    return make_history(hub, "owner/erase-template")


@pytest.fixture
def api(owner: HfApi, hub: HubServer) -> Iterator[HfApi]:
    hub.requests.clear()
    hub.store_requests.clear()
    yield owner
    hub.faults.clear()
    hub.keeps_unreachable = False
    assert not any(authorised for _, _, authorised in hub.store_requests), "the store is another host"


@pytest.fixture
def repo(api: HfApi, hub: HubServer, template: str) -> str:
    return hub.duplicate(template, f"owner/erase-{secrets.token_hex(4)}")
