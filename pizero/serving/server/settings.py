"""How a server is run: where it listens, who may come in, and how much anybody may ask for."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 2**20
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what clients can ask for; times in seconds.

    An answer that takes longer than `answer_time` is none (`DEADLINE`). A client that does not take what it
    is sent for `send_time`, does not answer pings for twice `ping_time`, or does not finish its handshake
    within `open_time`, is dropped. `state_magnitude` is the largest number that a state may hold.
    """

    clients: int = 32
    message_bytes: int = 16 * MEBIBYTE
    prompt_characters: int = 2000
    image_side: int = 4096
    state_magnitude: float = 1e6
    num_steps: int = 100
    answer_time: float = 30.0
    send_time: float = 5.0
    ping_time: float = 20.0
    open_time: float = 10.0
    drain_time: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"expected the limit {name} above 0, found {value}")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens and who may come in; port 0 is any that is free.

    Up to `batch` requests of different clients are computed as one batch, for which the first waits at most
    `batch_wait` seconds; 1 computes each by itself. `seed` is that of a client which gives none.
    ValueError for an address beyond this machine without a token, unless `insecure`.
    """

    host: str = LOOPBACK
    port: int = 8000
    token: str = ""
    insecure: bool = False
    certificate: Path | None = None
    key: Path | None = None
    dashboard: bool = False
    record: Path | None = None
    record_bytes: int = 1024 * MEBIBYTE
    batch: int = 1
    batch_wait: float = 0.002
    seed: int = 0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.is_local and not self.token and not self.insecure:
            raise ValueError(
                f"--host {self.host} lets every machine that reaches this one drive the robot: give a token "
                f"(--token-file), listen on {LOOPBACK}, or say --insecure if the network itself is closed"
            )
        if not self.is_local and self.dashboard:
            raise ValueError(
                f"the dashboard is for this machine alone, found --host {self.host}: listen on {LOOPBACK} "
                f"and reach it by a tunnel, for example `ssh -L 8000:localhost:8000`"
            )
        if self.key is not None and self.certificate is None:
            raise ValueError("--key needs the --certificate that it is of")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"expected a port from 0 to 65535, found {self.port}")
        if not 1 <= self.batch <= self.limits.clients:
            raise ValueError(
                f"expected batches of 1 to {self.limits.clients} (one for each client), found {self.batch}"
            )

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can reach the address: every address that the name stands for."""
        return is_loopback(self.host)

    def tls(self) -> ssl.SSLContext | None:
        """Return what encrypts connections; None without a certificate. ValueError if it cannot be used."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"expected a certificate and its key in PEM form in {self.certificate} and "
                f"{self.key or 'the same file'}: {error}"
            ) from None
        return context


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine and no other; a name counts if all of its addresses do."""
    if not host:
        return False  # every address of this machine
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise ValueError(
            f"expected an address or a name that is known here, found {host!r}: {error}"
        ) from None
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)
