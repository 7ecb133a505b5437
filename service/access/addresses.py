"""Which addresses are one client."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

#: Bits of an IPv6 address that name a network; the others are chosen by the machines in it (RFC 4291, 2.5.1).
_NETWORK_BITS = 64


@lru_cache(maxsize=1024)
def client_at(address: str) -> str:
    """The client at ``address``: of IPv6 its network, of IPv4 the address; any other text unchanged.

    A machine can take every address of its network, so that a bound for each of them would bound nothing. IPv4
    addresses that a socket for both shows as IPv6 (``::ffff:192.0.2.1``) are those of IPv4.
    """
    if ":" not in address:
        return address
    try:
        found = ip_address(address)
    except ValueError:
        return address
    assert isinstance(found, IPv6Address)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    rest = 128 - _NETWORK_BITS
    return f"{IPv6Address(int(found) >> rest << rest)}/{_NETWORK_BITS}"
