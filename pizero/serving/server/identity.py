"""What a server says of itself before it is asked anything."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pizero.contract import Contract
from pizero.records import fingerprint, to_data
from pizero.serving.envelope import PROTOCOL
from pizero.serving.server.settings import Limits
from pizero.weights.folder import MANIFEST, sha256_of


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which policy is served: its name, the hash of its folder's manifest, and the contract."""

    name: str
    manifest: str
    contract: Contract
    limits: Limits

    @classmethod
    def of(cls, folder: Path, contract: Contract, limits: Limits) -> Identity:
        """Return the identity of a policy folder."""
        name = "/".join(folder.resolve().parts[-3:])
        return cls(name=name, manifest=sha256_of(folder / MANIFEST), contract=contract, limits=limits)

    def hello(self, client: str) -> dict[str, Any]:
        """Return the first message of our protocol: all that a client can hold the server to."""
        contract, limits = self.contract, self.limits
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "server": f"pizero {_version()}",
            "client": client,
            "model": {"name": self.name, "manifest": self.manifest},
            "contract": contract.sha256,
            "statistics": fingerprint(contract.statistics),
            "embodiment": to_data(contract.embodiment),
            "horizon": contract.horizon,
            "rate": contract.embodiment.rate,
            "actions": {"shape": [contract.horizon, contract.embodiment.action_dim], "dtype": "<f4"},
            "limits": {
                "message_bytes": limits.message_bytes,
                "prompt_characters": limits.prompt_characters,
                "image_side": limits.image_side,
                "num_steps": limits.num_steps,
                "answer_time": limits.answer_time,
            },
        }

    def metadata(self) -> dict[str, Any]:
        """Return the first message of openpi's protocol, whose clients read from it what they know."""
        robot = self.contract.embodiment
        return {
            "server": f"pizero {_version()}",
            "robot": robot.name,
            "cameras": list(robot.camera_names),
            "state": [dimension.name for dimension in robot.state],
            "actions": [dimension.name for dimension in robot.actions],
            "action_horizon": self.contract.horizon,
            "rate": robot.rate,
        }


def _version() -> str:
    try:
        return version("pizero")
    except PackageNotFoundError:
        return "from source"
