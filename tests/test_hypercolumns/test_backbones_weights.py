"""Weights: found, checked before use, never executed, strict about what they are for."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pickle
import socket
import threading
import time
import types
import urllib.error
import zipfile

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from hypercolumns.backbones import build_backbone, weights
from hypercolumns.errors import WeightsError
from hypercolumns.specs import BackboneSpec

CANVAS_HW = (32, 32)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(3)
    return torchvision.models.squeezenet1_1().state_dict()


def _build(path, **changes):
    return build_backbone(BackboneSpec(name="squeezenet1_1", weights=str(path), **changes), CANVAS_HW)


def _maps(backbone):
    return backbone(torch.ones(1, 3, *CANVAS_HW))["features.12.cat"]


def test_a_seed_gives_the_same_weights_each_time_and_leaves_the_caller_s_random_state_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)

    first, second, other = _build("random:4"), _build("random:4"), _build("random:5")

    assert torch.equal(torch.rand(3), expected)
    assert first.weights_sha256 == second.weights_sha256 != other.weights_sha256
    assert torch.equal(_maps(first), _maps(second))


def test_random_weights_keep_activations_at_one_scale():
    maps = _build("random:0")(torch.randn(4, 3, *CANVAS_HW, generator=torch.Generator().manual_seed(0)))

    scales = [float(value.std()) for value in maps.values()]

    assert all(0.2 < scale < 5 for scale in scales)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_state_dict_is_read_from_its_file_and_known_by_the_file_s_digest(state, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)

    backbone = _build(path)

    plain = torchvision.models.squeezenet1_1().eval()
    plain.load_state_dict(state)
    with torch.inference_mode():
        expected = plain.features(torch.ones(1, 3, *CANVAS_HW))
    assert torch.allclose(_maps(backbone), expected, rtol=1e-4, atol=1e-5)
    assert backbone.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_path_may_use_home_and_variables(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setenv("MY_WEIGHTS", str(tmp_path))

    assert _build("$MY_WEIGHTS/weights.pth").weights_sha256


def test_the_features_alone_are_enough_even_in_half_precision(state, tmp_path):
    features = {key: value.half() for key, value in state.items() if key.startswith("features.")}
    save_file(features, tmp_path / "features.safetensors")

    maps = _maps(_build(tmp_path / "features.safetensors"))

    assert maps.dtype == torch.float32


def test_only_what_the_wanted_layers_need_may_not_be_missing(state, tmp_path):
    shallow = {key: value for key, value in state.items() if key.startswith(("features.0", "features.3"))}
    torch.save(shallow, tmp_path / "shallow.pth")

    assert _build(tmp_path / "shallow.pth", layers=("features.3.cat",)).layers[0].channels == 128
    with pytest.raises(WeightsError, match=r"missing: features.10.expand1x1.bias.* and \d+ more; check the backbone's name"):
        _build(tmp_path / "shallow.pth")


def test_foreign_and_misshapen_entries_are_listed(state, tmp_path):
    wrong = {**state, "features.0.weight": torch.zeros(96, 3, 7, 7), "head.weight": torch.zeros(1)}
    torch.save(wrong, tmp_path / "wrong.pth")

    with pytest.raises(WeightsError, match=r"unknown: head.weight; of another shape: features.0.weight \(96, 3, 7, 7\) for"):
        _build(tmp_path / "wrong.pth")


def test_old_files_without_batch_counters_and_with_old_densenet_names_still_fit(tmp_path):
    torch.manual_seed(0)
    modern = torchvision.models.densenet121().state_dict()
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for key, value in modern.items()
        if "num_batches_tracked" not in key and not key.startswith("classifier")
    }
    torch.save(old, tmp_path / "old.pth")
    spec = BackboneSpec(name="densenet121", weights=str(tmp_path / "old.pth"), layers=("features.denseblock1.cat",))

    assert build_backbone(spec, CANVAS_HW).layers[0].channels == 256


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_execute_something_is_refused_unexecuted(tmp_path):
    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump({"features.0.weight": _Trap(str(tmp_path / "executed"))}, file, protocol=2)
    torch.save({"features.0.weight": _Trap(str(tmp_path / "executed"))}, tmp_path / "evil.pt")

    for name in ("evil.pth", "evil.pt"):
        with pytest.raises(WeightsError, match="expected a state dict of tensors"):
            _build(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 broken zip"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused_by_name(tmp_path, content, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=r"damaged\.\w+: expected a state dict of tensors"):
        _build(path)


@pytest.mark.parametrize(("held", "said"), [({"state_dict": {}}, r"the keys \['state_dict'\]"), ([1, 2], "a list")])
def test_a_file_that_holds_something_else_is_refused_with_what_it_holds(tmp_path, held, said):
    torch.save(held, tmp_path / "checkpoint.pth")

    with pytest.raises(WeightsError, match=said):
        _build(tmp_path / "checkpoint.pth")


def test_two_entries_of_one_name_are_refused(tmp_path):
    torch.save({1: torch.zeros(1), "1": torch.ones(1)}, tmp_path / "twice.pth")

    with pytest.raises(WeightsError, match="two of one name"):
        _build(tmp_path / "twice.pth")


def test_an_archive_that_unpacks_to_more_than_it_has_is_refused_unpacked(state, tmp_path):
    torch.save(state, tmp_path / "bomb.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/999", bytes(30_000_000))

    with pytest.raises(WeightsError, match=r"unpacks to 3\d{7} bytes, more than the file has"):
        _build(tmp_path / "bomb.pth")


def test_a_file_with_another_digest_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"anything")
    digest = hashlib.sha256(b"anything").hexdigest()

    with pytest.raises(WeightsError, match=rf"expected sha256 {'0' * 64}, got {digest}"):
        _build(tmp_path / "weights.pth", weights_sha256="0" * 64)


def test_the_right_digest_is_accepted(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()

    assert _build(tmp_path / "weights.pth", weights_sha256=digest).weights_sha256 == digest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("missing.pth", "which is not there"),
        ("/", "which is a folder"),
        ("random:-1", "random:SEED"),
        ("random", "random:SEED"),
        ("IMAGENET1K_V9", "IMAGENET1K_V1.*nearest: IMAGENET1K_V1"),
    ],
)
def test_weights_that_cannot_be_are_refused(given, said):
    with pytest.raises(WeightsError, match=said):
        _build(given)


def test_caffenet_and_timm_have_no_published_weights_here():
    with pytest.raises(WeightsError, match=r"random:SEED, a path .* for caffenet, got 'IMAGENET1K_V1'"):
        build_backbone(BackboneSpec(name="caffenet", weights="IMAGENET1K_V1"), (227, 227))


def test_shapes_weights_exist_for_one_network_only():
    with pytest.raises(WeightsError, match=r"`shapes` exists for squeezenet1_1 only, got 'vgg11'"):
        build_backbone(BackboneSpec(name="vgg11", weights="shapes"), CANVAS_HW)


def test_shapes_weights_that_are_not_installed_are_named_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHAPES_WEIGHTS", tmp_path / "squeezenet1_1_shapes.safetensors")

    with pytest.raises(WeightsError, match=r"squeezenet1_1_shapes.safetensors is missing.*pretrain-backbone"):
        _build("shapes")


def test_shapes_weights_are_loaded_like_any_file(state, tmp_path, monkeypatch):
    features = {key: value.half() for key, value in state.items() if key.startswith("features.")}
    save_file(features, tmp_path / "shapes.safetensors")
    monkeypatch.setattr(weights, "SHAPES_WEIGHTS", tmp_path / "shapes.safetensors")

    assert _build("shapes").weights_sha256 == hashlib.sha256((tmp_path / "shapes.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_offline_with_nothing_cached_the_file_and_its_folder_are_named(cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", refuse)

    with pytest.raises(WeightsError, match=r"expected squeezenet1_1-b8a52dc0.pth in .*checkpoints.*no network.*remedy"):
        _build("IMAGENET1K_V1")


def _published_at(url: str, monkeypatch) -> None:
    member = types.SimpleNamespace(name="IMAGENET1K_V1", url=url)
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: [member])


def test_a_server_that_never_answers_is_given_up_on(cache, monkeypatch):
    monkeypatch.setattr(weights, "_DOWNLOAD_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _published_at(f"http://127.0.0.1:{silent.getsockname()[1]}/net-00000000.pth", monkeypatch)
        started = time.monotonic()
        with pytest.raises(WeightsError, match="could not be downloaded"):
            _build("IMAGENET1K_V1")

    assert time.monotonic() - started < 5
    assert socket.getdefaulttimeout() is None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_published_weights_are_fetched_once_and_checked(state, served, cache, monkeypatch):
    folder, address = served
    torch.save(state, folder / "raw")
    name = f"net-{hashlib.sha256((folder / 'raw').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "raw").rename(folder / name)
    _published_at(f"{address}/{name}", monkeypatch)

    first = _build("IMAGENET1K_V1")
    (folder / name).unlink()

    assert _build("IMAGENET1K_V1").weights_sha256 == first.weights_sha256
    (cache / name).write_bytes(b"tampered")
    with pytest.raises(WeightsError, match=r"expected a sha256 that starts with .* delete the file"):
        _build("IMAGENET1K_V1")


def test_a_download_with_another_hash_is_not_kept(served, cache, monkeypatch):
    folder, address = served
    (folder / "net-00000000.pth").write_bytes(b"something else")
    _published_at(f"{address}/net-00000000.pth", monkeypatch)

    with pytest.raises(WeightsError, match=r"could not be downloaded .invalid hash"):
        _build("IMAGENET1K_V1")
    assert not list(cache.iterdir())
