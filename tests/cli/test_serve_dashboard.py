"""`pizero serve --dashboard`: for this machine alone."""

from pathlib import Path

import pytest

from pizero.cli.serve import serve

TOKEN = "a-token-of-the-tests"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
@pytest.mark.parametrize("protection", ["token", "insecure"])
def test_a_dashboard_beyond_this_machine_is_refused(tmp_path: Path, host: str, protection: str) -> None:
    """Whatever else protects the port, and before the policy is read."""
    (tmp_path / "token").write_text(TOKEN)
    token_file = tmp_path / "token" if protection == "token" else None
    insecure = protection == "insecure"
    with pytest.raises(ValueError, match="for this machine alone") as refusal:
        serve(tmp_path / "none", host=host, token_file=token_file, insecure=insecure, dashboard=True)
    assert "ssh -L" in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_this_machine_it_is_taken(tmp_path: Path, host: str) -> None:
    """What is refused here is the policy, which is not there."""
    with pytest.raises(ValueError, match=r"none") as refusal:
        serve(tmp_path / "none", host=host, dashboard=True, dry_run=True)
    assert "dashboard" not in str(refusal.value)
