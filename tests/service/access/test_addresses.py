from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.addresses import client_at


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("key:alice", "key:alice"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_the_client_at_an_address(address: str, client: str) -> None:
    assert client_at(address) == client


@given(st.integers(0, 2**128 - 1))
def test_the_addresses_of_a_network_are_one_client(number: int) -> None:
    address = IPv6Address(number)
    if address.ipv4_mapped is None:
        assert client_at(str(address)) == str(ip_network((number >> 64 << 64, 64)))
        assert client_at(address.exploded) == client_at(str(IPv6Address(number ^ 2**63)))
        assert client_at(str(address)) != client_at(str(IPv6Address(number ^ 2**64)))


@given(st.integers(0, 2**32 - 1))
def test_each_ipv4_address_is_a_client(number: int) -> None:
    address = str(IPv4Address(number))
    assert client_at(address) == client_at(f"::ffff:{address}") == address
