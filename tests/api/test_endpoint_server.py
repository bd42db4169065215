"""Listening, stopping, and what is said when it cannot listen."""

from __future__ import annotations

import gc
import socket
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from histrio.config.tables import convert_table
from histrio.errors import ModelUnavailable, TopologyError, UnsupportedModel
from histrio_api.plugin import ApiService, register_edges
from histrio_api.service.listener import bind
from histrio_api.service.service import _spare_collector
from histrio_api.shared.settings import ApiSettings
from histrio_api.testing import Gate, ScriptedGateway, running_endpoint, saying, served_model
from histrio_api.text.tokenizer import Tokenizer


def test_a_port_in_use_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TopologyError, match=rf"^api\.port: 127\.0\.0\.1:{port} is already in use") as caught:
            bind(ApiSettings(port=port))
        assert caught.value.path == "api.port"
    bind(ApiSettings(port=port)).close()


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_said_plainly(host: str) -> None:
    with pytest.raises(TopologyError, match=r"^api\.host: .*not an address of this machine"):
        bind(ApiSettings(host=host, port=0, allow_anonymous=True))


def test_it_stops_although_a_stream_is_open(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: [Gate()])
    body = {"model": "test/scripted", "prompt": "a", "stream": True}
    with httpx.Client() as client:
        with running_endpoint(gateway, **{"keep-alive-s": 0.05}) as url:
            response = client.send(client.build_request("POST", f"{url}/v1/completions", json=body), stream=True)
            next(response.iter_raw())
        response.close()
    assert gateway.streams[0].was_cancelled.wait(45)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_what_a_first_request_has_loaded_is_looked_at_by_no_collection(model_folder: Path) -> None:
    _spare_collector.cache_clear()
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url:
        loaded = [[each] for each in range(100_000)]
        assert httpx.get(f"{url}/health").status_code == 200
        assert len(gc.get_objects()) > len(loaded), "a control: it answers, but generates nothing"
        assert httpx.post(f"{url}/v1/completions", json={"prompt": "a"}).status_code == 200
        while len(gc.get_objects()) > len(loaded):
            assert httpx.get(f"{url}/health").status_code == 200
    gc.unfreeze()


def test_it_starts_again_on_the_same_port(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url:
        assert httpx.get(f"{url}/health").status_code == 200
    with running_endpoint(gateway, port=int(url.rpartition(":")[2])) as again:
        assert again == url
        assert httpx.get(f"{url}/health").status_code == 200


def test_settings_are_kebab_case_numbers_with_bounds() -> None:
    assert msgspec.convert({"max-body-bytes": 5}, ApiSettings).max_body_bytes == 5
    for wrong in ({"port": 70_000}, {"max-body-bytes": 0}, {"max_body_bytes": 5}, {"api-keys": [""]}, {"prot": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, ApiSettings)
    assert (ApiSettings().host, ApiSettings().port) == ("127.0.0.1", 3001), "loopback by default"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"api-keys": []}, "api-keys is an empty list"),
        ({"api-keys": [], "host": "0.0.0.0", "allow-anonymous": True}, "api-keys is an empty list"),
        ({"host": "0.0.0.0"}, "give api-keys or a key-file, or set allow-anonymous = true"),
        ({"host": "::"}, "give api-keys or a key-file, or set allow-anonymous = true"),
        ({"host": "my-machine"}, "give api-keys or a key-file, or set allow-anonymous = true"),
    ],
)
def test_an_endpoint_open_to_every_client_has_to_be_asked_for(given: dict[str, Any], text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert(given, ApiSettings)
    with pytest.raises(TopologyError, match=rf"^api: .*{text}"):
        convert_table(given, ApiSettings, "api")


@pytest.mark.parametrize(
    "given",
    [
        {"host": "0.0.0.0", "api-keys": ["k"]},
        {"host": "0.0.0.0", "allow-anonymous": True},
        {"host": "localhost"},
        {"host": "127.9.9.9"},
        {"host": "::1"},
    ],
)
def test_an_endpoint_that_is_not_is_accepted(given: dict[str, Any]) -> None:
    assert msgspec.convert(given, ApiSettings)


def test_an_endpoint_without_keys_on_other_addresses_warns(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with running_endpoint(gateway, host="0.0.0.0", **{"allow-anonymous": True}):
        assert "any client that reaches 0.0.0.0 may use the endpoint" in caplog.text


def test_the_plugin_registers_the_service_api() -> None:
    services: list[object] = []
    register_edges(services.append)
    (service,) = services
    assert isinstance(service, ApiService)
    assert (service.name, service.settings) == ("api", ApiSettings)


def test_a_model_without_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
