"""A certificate is renewed by the same timer's service as in production, and served at once."""

import json
import re
import socket
import ssl

import pytest
from conftest import NAME


def serial(address, root, name=NAME):
    context = ssl.create_default_context(cafile=root)
    with socket.create_connection((address, 443)) as plain, context.wrap_socket(plain, server_hostname=name) as tls:
        return tls.getpeercert()["serialNumber"]


def test_renewed_certificate_is_served_without_failed_requests(host, state, address, load):
    before = serial(address, state / "root.pem")
    # The service as the timer starts it; only told that it is time.
    host.check_output("sed -i '/^renew_before_expiry/s/6 hours/3650 days/' /etc/letsencrypt/renewal/sentiment.conf")
    try:
        with load() as during:
            done = host.run("systemctl start certbot.service")
    finally:
        host.run("sed -i '/^renew_before_expiry/s/3650 days/6 hours/' /etc/letsencrypt/renewal/sentiment.conf")
    assert done.rc == 0, host.run("journalctl -n 30 -u certbot --no-pager").stdout
    assert serial(address, state / "root.pem") != before
    assert during.failed == {}


def test_new_domain_name_gets_a_certificate(state, address, playbook):
    names = json.dumps({"tls_names": [NAME, f"www.{NAME}"]})
    try:
        playbook("provision", "-e", names)
        assert serial(address, state / "root.pem", f"www.{NAME}") == serial(address, state / "root.pem")
    finally:
        playbook("provision")
    with pytest.raises(ssl.SSLError):
        serial(address, state / "root.pem", f"www.{NAME}")


def test_valid_certificate_is_not_renewed(host, state, address):
    before = serial(address, state / "root.pem")
    assert host.run("systemctl start certbot.service").rc == 0
    assert serial(address, state / "root.pem") == before


def test_renewal_is_scheduled(host):
    assert re.search(r"certbot\.timer", host.run("systemctl list-timers --no-pager").stdout)


def test_expiring_certificate_is_reported(host):
    assert host.run("systemctl start certificate-check.service").rc == 0
    assert "notAfter=" in host.run("journalctl -o cat -n 5 --no-pager -u certificate-check").stdout
