"""Checkpoints: round trip, and errors for other files."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kinet_trt.export import checkpoint
from kinet_trt.export.checkpoint import ModelInfo
from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.registry import build

from kinet_trt.core.errors import KinetError

INFO = ModelInfo(
    mpp=0.5,
    mean=(0.1, 0.2, 0.3),
    std=(0.3, 0.2, 0.1),
    threshold=0.325,
    nms_radius=4,
    data="two fields",
    metrics={"figure": 0.5, "a.detection_f1": 0.25},
)


def network(**options: Any) -> Network:
    torch.manual_seed(1)
    return build(NetworkConfig(**{"width": 2, **options}))


def stored(tmp_path: Path, **changes: Any) -> Path:
    """Write a checkpoint with some of its entries replaced, or removed where the change is None."""
    path = tmp_path / "kinet.pt"
    checkpoint.save(path, network(), INFO)
    content = torch.load(path, weights_only=True) | changes
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


@pytest.mark.parametrize("architecture", ["paper", "release", "half"])
@pytest.mark.parametrize("roi", [True, False])
def test_round_trip_keeps_weights_configuration_and_traits(tmp_path: Path, architecture: str, roi: bool) -> None:
    original = network(architecture=architecture, roi=roi, activation="relu", dropout=0.25)
    original(torch.randn(2, 3, 32, 32))  # moves the running statistics
    path = tmp_path / "new" / "kinet.pt"
    checkpoint.save(path, original, INFO, {"iteration": 7, "best": 0.5})
    loaded = checkpoint.load(path)
    assert loaded.info == INFO
    assert isinstance(loaded.info.mean, tuple)
    assert loaded.network.config == original.config
    assert loaded.resume == {"iteration": 7, "best": 0.5}
    assert not loaded.network.training
    expected, found = original.state_dict(), loaded.network.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_saving_leaves_no_other_file_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "kinet.pt"
    checkpoint.save(path, network(), INFO)
    checkpoint.save(path, network(), dataclasses.replace(INFO, threshold=0.7))
    assert [p.name for p in tmp_path.iterdir()] == ["kinet.pt"]
    assert checkpoint.load(path).info.threshold == 0.7


def test_saving_does_not_change_the_network(tmp_path: Path) -> None:
    original = network().train()
    checkpoint.save(tmp_path / "kinet.pt", original, INFO)
    assert original.training
    assert all(parameter.requires_grad for parameter in original.parameters())


def test_load_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KinetError, match=r"none\.pt: no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04 cut", bytes(1000), b"\x80\x02}q\x00.", b"x,y,class\n1,2,positive\n"]
)
def test_load_reports_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kinet.pt"
    path.write_bytes(content)
    with pytest.raises(KinetError, match=r"kinet\.pt: not a "):
        checkpoint.load(path)


def test_load_reports_a_folder(tmp_path: Path) -> None:
    with pytest.raises(KinetError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_load_reports_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = stored(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(KinetError, match="not a readable checkpoint"):
        checkpoint.load(path)


def test_load_reports_any_damaged_byte_as_a_kinet_error(tmp_path: Path) -> None:
    path = stored(tmp_path)
    data = path.read_bytes()
    start = data.index(b"schema")
    rng = random.Random(1)
    other = {}
    for _ in range(250):
        changed = bytearray(data)
        position = rng.randrange(max(0, start - 40), start + 2500)
        changed[position] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            checkpoint.load(path)
        except KinetError:
            pass
        except Exception as error:
            other[type(error).__name__] = f"byte {position - start} after 'schema': {error}"
    assert not other


@pytest.mark.parametrize("content", [[1, 2], {"weights": {}}, torch.zeros(3), {"state_dict": {"a": torch.zeros(1)}}])
def test_load_of_another_torch_file_names_the_command_that_writes_checkpoints(tmp_path: Path, content: object) -> None:
    path = tmp_path / "kinet.pt"
    torch.save(content, path)
    with pytest.raises(KinetError, match="not a kinet-trt checkpoint, as `kinet-trt train` writes"):
        checkpoint.load(path)


def test_load_unpickles_only_tensors_and_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "kinet.pt"
    torch.save({"schema": 1, "network": Path("/tmp")}, path)
    with pytest.raises(KinetError, match="not a readable checkpoint"):
        checkpoint.load(path)


def test_load_of_a_newer_checkpoint_suggests_an_upgrade(tmp_path: Path) -> None:
    with pytest.raises(KinetError, match=r"checkpoint version 2, this kinet-trt reads up to 1\. Upgrade"):
        checkpoint.load(stored(tmp_path, schema=checkpoint.SCHEMA + 1))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"network": {"architecture": "paper", "width": 4}}, id="another width"),
        pytest.param({"network": {"architecture": "release", "width": 2}}, id="another architecture"),
        pytest.param({"network": {"architecture": "vnet", "width": 2}}, id="unknown architecture"),
        pytest.param({"network": {"depth": 3}}, id="unknown option"),
        pytest.param({"network": {"width": "32"}}, id="width as text"),
        pytest.param({"weights": {}}, id="no weights"),
        pytest.param({"weights": [1]}, id="weights of another kind"),
        pytest.param({"traits": {"colour": 3}}, id="unknown trait"),
        pytest.param({"traits": {"mean": 3}}, id="trait of another kind"),
        pytest.param({"network": None}, id="network missing"),
        pytest.param({"weights": None}, id="weights missing"),
        pytest.param({"traits": None}, id="traits missing"),
    ],
)
def test_load_reports_an_inconsistent_configuration(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(KinetError, match=r"kinet\.pt: the checkpoint is inconsistent"):
        checkpoint.load(stored(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"schema": "1"}, id="schema as text"),
        pytest.param({"schema": [1]}, id="schema as list"),
        pytest.param({"traits": [1]}, id="traits as list"),
        pytest.param({"resume": None}, id="resume missing"),
    ],
)
def test_load_reports_entries_of_wrong_type(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(KinetError, match=r"kinet\.pt"):
        checkpoint.load(stored(tmp_path, **changes))
