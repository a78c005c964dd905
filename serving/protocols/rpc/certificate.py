"""TLS of the gRPC port: its certificate is read again for the next handshake after its files
changed."""

from __future__ import annotations

import logging

import grpc

from bundle.files import Stamp, stamp
from serving.options import Options

logger = logging.getLogger("serving")


class Certificate:
    """The pair of certificate and key that `options` names."""

    def __init__(self, options: Options) -> None:
        assert options.certificate is not None, "TLS needs a certificate"
        self._certificate = options.certificate
        self._key = options.private_key or options.certificate
        self._stamps: list[Stamp | None] = []

    def credentials(self) -> grpc.ServerCredentials:
        """Raises OSError where the files cannot be read."""
        first = self._read([stamp(self._certificate), stamp(self._key)])
        return grpc.dynamic_ssl_server_credentials(
            first, self._changed, require_client_authentication=False
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """None where nothing changed, or where the change cannot be read: the older pair stays."""
        stamps = [stamp(self._certificate), stamp(self._key)]
        if stamps == self._stamps:
            return None

        try:
            return self._read(stamps)
        except OSError as error:
            logger.error(
                "keeping the older certificate: %s cannot be read (%s)", self._certificate, error
            )
            return None

    def _read(self, stamps: list[Stamp | None]) -> grpc.ServerCertificateConfiguration:
        pair = self._key.read_bytes(), self._certificate.read_bytes()
        self._stamps = stamps
        return grpc.ssl_server_certificate_configuration([pair])
