"""Safe requests to URLs that users chose (protection against server-side request forgery).

Internal addresses are refused, unless WEBHOOK_NETWORKS allows them. When a URL is submitted, only an address in it is
checked: a web process may have no network, and must not wait for a name server. At each attempt, the name is resolved
once, all its addresses are checked, and the connection goes to a checked address. So an attacker gains nothing by
changing the address of a name after the check. Redirects are not followed.
"""

import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from sentiment_app.errors import InvalidError
from sentiment_app.infrastructure.app_state import settings

TIMEOUT = urllib3.Timeout(connect=5, read=10)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# No other IPv6 addresses are assigned yet (RFC 4291, section 2.4).
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Multicast, and the special-purpose addresses that IANA lists (RFC 6890; the IPv4 and the IPv6 registry of 2024), also
# those that are reachable from everywhere: no receiver of webhooks has one. What Python's `is_global` knows depends on
# its version.
SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
            *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
        ),
    )
)
PUBLIC_ONLY = (
    "Webhooks go to public addresses over https, or to networks that the operator allows with WEBHOOK_NETWORKS. "
    "This URL leads to neither."
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForbiddenAddressError(Exception):
    """The URL leads to an address that webhooks must not reach."""

    def __init__(self, reason: str = PUBLIC_ONLY) -> None:
        super().__init__(reason)


def check_url(url: str) -> None:
    """Refuse a URL that webhooks must not use, as far as this is known without resolving its name.

    Raises:
        InvalidError: its field is webhook_url.
    """
    parts = _split(url)
    if parts is None:
        raise InvalidError("The URL must be an https URL without user, password and fragment.", field="webhook_url")
    try:
        _refuse_known_address(parts)
    except ForbiddenAddressError as error:
        raise InvalidError(str(error), field="webhook_url") from None


def post(url: str, headers: dict[str, str], body: bytes) -> tuple[bool, str]:
    """Send a POST request. Returns whether its status was 2xx; and its status, or why there was no response."""
    parts = _split(url)
    if parts is None:
        return False, "not an https URL"
    try:
        pool = _pool(parts, _resolve(parts))
        with pool:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            response = pool.urlopen(
                "POST",
                target,
                body=body,
                headers={**headers, "Host": parts.netloc},
                redirect=False,
                retries=False,
                timeout=TIMEOUT,
                preload_content=False,
            )
            response.close()  # only its status matters
    except ForbiddenAddressError as error:
        return False, str(error)
    except (HTTPError, OSError) as error:
        return False, type(error).__name__
    return 200 <= response.status < 300, str(response.status)


def _pool(parts: SplitResult, address: Address) -> urllib3.HTTPConnectionPool:
    host = str(parts.hostname)
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(str(address), parts.port or 80, maxsize=1)
    return urllib3.HTTPSConnectionPool(
        str(address), parts.port or 443, maxsize=1, server_hostname=host, assert_hostname=host
    )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        return None
    is_plain = not (parts.username or parts.password or parts.fragment) and url.isascii() and url.isprintable()
    return parts if parts.scheme in ("https", "http") and parts.hostname and is_plain and has_port else None


def _resolve(parts: SplitResult) -> Address:
    """The address to connect to, after all addresses of the name were checked."""
    try:
        addresses = _find_addresses(parts)
    except (OSError, UnicodeError):
        raise ForbiddenAddressError("The name of the host cannot be resolved.") from None
    _refuse_internal(addresses, parts.scheme)
    return addresses[0]


def _find_addresses(parts: SplitResult, flags: int = 0) -> list[Address]:
    default = 443 if parts.scheme == "https" else 80
    found = socket.getaddrinfo(parts.hostname, parts.port or default, type=socket.SOCK_STREAM, flags=flags)
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _refuse_internal(addresses: list[Address], scheme: str) -> None:
    if not all(_is_allowed(address, scheme) for address in addresses):
        raise ForbiddenAddressError


def _refuse_known_address(parts: SplitResult) -> None:
    """Refuse what can be refused without resolving a name."""
    try:
        addresses = _find_addresses(parts, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # the host is a name
        host = str(parts.hostname)
        is_localhost = host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
        if (is_localhost or parts.scheme == "http") and not settings().webhook_networks:
            raise ForbiddenAddressError from None
    else:
        _refuse_internal(addresses, parts.scheme)


def _is_allowed(address: Address, scheme: str) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            address = address.ipv4_mapped
        elif address in NAT64 or address.sixtofour or address.teredo:
            return False  # an embedded IPv4 address
    if any(address in ipaddress.ip_network(network) for network in settings().webhook_networks):
        return True
    is_assigned = address.version == 4 or address in GLOBAL_UNICAST
    return scheme == "https" and is_assigned and not any(address in network for network in SPECIAL)
