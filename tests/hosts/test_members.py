from __future__ import annotations

import pytest

from histrio.errors import WireError
from histrio.hosts.folder import HostFolder
from histrio.hosts.members import Member, Members
from histrio.hosts.proof import is_proof, new_token, proof, token_key
from histrio.net.keys import HostKey, fingerprint
from tests.hosts.conftest import Clock

HEAD = HostKey(bytes(32)).peer_id
IDS = [HostKey(bytes([index]) * 32).peer_id for index in range(1, 100)]


def machine(index: int = 0, name: str = "studio") -> Member:
    return Member(peer_id=IDS[index], name=name, address="192.168.1.7")


def shown(token: str, joiner: str = IDS[0]) -> str:
    return proof(token_key(token), "joiner", HEAD, joiner)


def test_a_token_admits_one_machine_and_proves_the_head(members: Members) -> None:
    token = members.make_token(valid_s=60)
    answer = members.admit_by_token(HEAD, machine(), shown(token))
    assert is_proof(answer, token_key(token), "head", HEAD, IDS[0])
    assert [each.name for each in members.all()] == ["studio"]
    assert members.admit_by_token(HEAD, machine(1), shown(token, IDS[1])) == "", "it is spent"
    assert [each.peer_id for each in members.all()] == [IDS[0]]


def test_a_reusable_token_admits_many_until_it_expires(members: Members, clock: Clock) -> None:
    token = members.make_token(valid_s=60, is_reusable=True)
    for index in range(3):
        assert members.admit_by_token(HEAD, machine(index), shown(token, IDS[index]))
    clock.now += 61
    assert members.admit_by_token(HEAD, machine(3), shown(token, IDS[3])) == ""
    assert [each.name for each in members.all()] == ["studio", "studio-2", "studio-3"], "each has a name of its own"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "0" * 64,
        proof(token_key(new_token()), "joiner", HEAD, IDS[0]),
    ],
    ids=["nothing", "zeros", "another token"],
)
def test_a_wrong_proof_admits_nothing_and_spends_nothing(members: Members, given: str) -> None:
    token = members.make_token(valid_s=60)
    assert members.admit_by_token(HEAD, machine(), given) == ""
    assert members.all() == []
    assert members.admit_by_token(HEAD, machine(), shown(token))


def test_a_proof_is_good_for_its_machines_and_its_side_only(members: Members) -> None:
    token = members.make_token(valid_s=60)
    key = token_key(token)
    for stolen in (shown(token, IDS[1]), proof(key, "head", HEAD, IDS[0]), proof(key, "joiner", IDS[1], IDS[0])):
        assert members.admit_by_token(HEAD, machine(), stolen) == ""
    assert members.admit_by_token(HEAD, machine(), shown(token)), "control"


def test_the_token_itself_is_in_no_file(members: Members, folder: HostFolder) -> None:
    token = members.make_token(valid_s=60)
    assert (folder.path / "tokens.json").exists()
    for file in folder.path.iterdir():
        assert token not in file.read_text()
        assert token.replace("-", "") not in file.read_text()


@pytest.mark.parametrize("text", ["", "abcd", "abcd-efgh-ijk1", "abcd-efgh-ijkm-npqr", "abcd_efgh_2345"])
def test_what_cannot_be_a_token_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(WireError, match="abcd-efgh-2345"):
        token_key(text)


def test_tokens_are_typed_as_people_type() -> None:
    assert token_key("abcd-efgh-2345") == token_key(" ABCDefgh 2345 ") != token_key("abcd-efgh-2346")


def test_a_person_accepts_by_name_or_fingerprint(members: Members) -> None:
    members.ask(machine(0, "studio"))
    members.ask(machine(1, "attic"))
    assert [each.name for each in members.requests()] == ["studio", "attic"]
    assert members.accept("attic").peer_id == IDS[1]
    assert members.accept(fingerprint(IDS[0])).name == "studio"
    assert members.requests() == []
    assert [each.name for each in members.all()] == ["attic", "studio"]
    with pytest.raises(WireError, match="no machine called 'cellar' asks to join"):
        members.accept("cellar")


def test_two_that_call_themselves_alike_are_told_apart(members: Members) -> None:
    members.ask(machine(0))
    members.ask(machine(1))
    with pytest.raises(WireError, match="give the fingerprint"):
        members.accept("studio")
    assert members.accept(fingerprint(IDS[1])).peer_id == IDS[1]


def test_requests_are_few_and_pass(members: Members, clock: Clock) -> None:
    for index in range(70):
        clock.now += 1
        members.ask(machine(index, f"m{index}"))
    found = members.requests()
    assert len(found) == 64
    assert found[-1].name == "m69", "the oldest ones go"
    members.ask(machine(69, "m69"))
    assert len(members.requests()) == 64, "one that asks again stands there once"
    clock.now += 601
    assert members.requests() == []


def test_tokens_are_few(members: Members, clock: Clock) -> None:
    for _ in range(256):
        members.make_token(valid_s=60)
    with pytest.raises(WireError, match="256 valid tokens"):
        members.make_token(valid_s=60)
    clock.now += 61
    assert members.make_token(valid_s=60)


def test_a_machine_that_is_removed_is_not_on_the_list(members: Members) -> None:
    token = members.make_token(valid_s=60)
    members.admit_by_token(HEAD, machine(), shown(token))
    before = members.version
    assert members.remove("studio").peer_id == IDS[0]
    assert members.all() == []
    assert members.version != before
    with pytest.raises(WireError, match="is admitted"):
        members.remove("studio")
