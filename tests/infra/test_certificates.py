"""Certificates are renewed by the same systemd service as in production, and served at once."""

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
    # This starts the service as the timer does. The changed setting makes the renewal due.
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


def test_certificate_check_logs_the_expiry_date(host):
    assert host.run("systemctl start certificate-check.service").rc == 0
    assert "notAfter=" in host.run("journalctl -o cat -n 5 --no-pager -u certificate-check").stdout


def test_certificate_of_unknown_authority_is_reported(host):
    host.run("cd /etc/nginx/sentiment && cp -a certificate.pem kept.pem && cp -a key.pem kept.key")
    host.run("cd /etc/nginx/sentiment && ln -sf placeholder.pem certificate.pem && ln -sf placeholder.key key.pem")
    host.run("nginx -s reload || systemctl reload nginx")
    try:
        assert host.run("systemctl start certificate-check.service").rc != 0
        written = host.run("journalctl -o cat -n 9 --no-pager -u certificate-check").stdout
    finally:
        host.run("cd /etc/nginx/sentiment && mv kept.pem certificate.pem && mv kept.key key.pem")
        host.run("systemctl reload nginx")
    assert "The certificate for sentiment.test is not valid" in written
    assert host.run("systemctl start certificate-check.service").rc == 0
