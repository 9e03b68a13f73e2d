"""Stages that are shared out: by a fleet of threads that takes the parts in any order, some of them twice, as JSON."""

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hypercolumns.errors import ImageError, MaskError
from storage.features import FeatureStore
from storage.models import load_model
from tasks.cluster import ENVIRONMENT_VARIABLE, Cluster, ClusterError, Terms
from tasks.evaluate import evaluate_model
from tasks.extract import extract_features
from tasks.extract_together import ExtractPart, extract_part, extract_together
from tasks.jobs import Job
from tasks.prepare import prepare_dataset
from tasks.score_together import score_part
from tests.factories import write_folder
from tests.pipeline_factory import LAYERS, extract_only, run_tasks, tiny_spec


class PretendedFleet:
    """Threads in place of workers: what they get and give has been JSON, and comes in any order."""

    def __init__(self, folder, parts=5, twice=True, lose=()):
        self.parts, self.terms = parts, Terms.here(folder)
        self.twice, self.lose = twice, set(lose)
        self.seen, self.answers = [], []

    def run(self, work, parts):
        self.seen.append((work, parts))
        kept = [part for number, part in enumerate(parts) if number not in self.lose]
        jobs = [*kept, *kept[::2]] if self.twice else kept
        random.Random(1).shuffle(jobs)
        with ThreadPoolExecutor(3) as executor:
            self.answers += executor.map(lambda part: work(type(part).model_validate_json(part.model_dump_json())), jobs)
        return self.answers


def rows_of(store, layers=LAYERS):
    """Return the bytes of every committed row, by its key and layer."""
    index = store.core.index
    keys = [key for shard in index.shards() for key in index.slot_keys(shard).values()]
    reader = store.reader(list(layers))
    rows = store.rows(keys, list(layers))
    return {
        (key, layer): reader.read_stored(layer, [row])[0].tobytes()
        for key, row in zip(keys, rows, strict=True)
        for layer in layers
    }


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", splits={"train": 8, "val": 5}, image_hw=(48, 64))


def small(data, **overrides):
    return tiny_spec(data, store__shard_images=3, store__batch_images=2, **overrides)


def test_a_fleet_fills_the_store_with_the_bytes_of_one_process_by_row_key(data, tmp_path):
    alone, together = (Job(spec=small(data), workspace=tmp_path / name) for name in ("alone", "together"))
    expected = extract_features(alone, prepare_dataset(alone))
    fleet = PretendedFleet(tmp_path)
    found = extract_together(together, prepare_dataset(together), fleet)
    assert found.key == expected.key
    assert (found.cache, found.images_computed, found.cached) == (expected.cache, 13, False)
    assert found.layer_bytes == expected.layer_bytes
    one, other = FeatureStore.open(expected.path), FeatureStore.open(found.path)
    assert rows_of(other) == rows_of(one)
    assert len(rows_of(one)) == 13 * len(LAYERS)
    assert other.verify() == []
    ((_, parts),) = fleet.seen
    assert len(parts) == 5
    assert sorted(place for part in parts for first, stop in part.ranges for place in range(first, stop)) == list(range(13))
    assert sum(answer.images for answer in fleet.answers) == 13, "no image may be computed twice"


def test_what_is_there_is_not_shared_out_again(data, tmp_path):
    job = Job(spec=small(data), workspace=tmp_path / "w")
    prepared = prepare_dataset(job)
    extract_features(job, prepared)
    fleet = PretendedFleet(tmp_path)
    again = extract_together(job, prepared, fleet)
    assert (again.cached, again.images_computed) == (True, 0)
    assert fleet.seen == [(extract_part, [])]


def test_a_layer_that_is_added_is_cut_where_its_shards_are(data, tmp_path):
    job = Job(spec=small(data, backbone__layers=LAYERS[:1]), workspace=tmp_path / "w")
    extract_features(job, prepare_dataset(job))
    more = Job(spec=small(data), workspace=tmp_path / "w")
    fleet = PretendedFleet(tmp_path, parts=100)
    found = extract_together(more, prepare_dataset(more), fleet)
    store = FeatureStore.open(found.path)
    assert store.core.index.shards() == [0, 1, 2, 3, 4], "rows that exist are completed, none is written anew"
    assert [part.ranges for part in fleet.seen[0][1]] == [((0, 3),), ((3, 6),), ((6, 9),), ((9, 12),), ((12, 13),)]
    fresh = Job(spec=small(data), workspace=tmp_path / "fresh")
    assert rows_of(store) == rows_of(FeatureStore.open(extract_features(fresh, prepare_dataset(fresh)).path))


def test_parts_that_were_lost_are_named_and_the_next_run_does_only_them(data, tmp_path):
    job = Job(spec=small(data), workspace=tmp_path / "w")
    prepared = prepare_dataset(job)
    with pytest.raises(ClusterError, match=r"6 images are still not in store .* run again: it resumes"):
        extract_together(job, prepared, PretendedFleet(tmp_path, twice=False, lose={1, 2}))
    assert extract_together(job, prepared, PretendedFleet(tmp_path)).images_computed == 6


@pytest.mark.parametrize("train_epochs", [1, 0])
def test_a_fleet_scores_bit_for_bit_as_one_process(data, tmp_path, train_epochs):
    spec = small(
        data, train__epochs=train_epochs, evaluate__baselines=["majority", "prior", "rgb", "deepest"], evaluate__flip=True
    )
    outcome = run_tasks(spec, tmp_path / "w")
    kept = outcome.evaluated.path
    aside = kept.rename(tmp_path / "kept" if (tmp_path / "kept").mkdir() else tmp_path / "kept" / kept.name)
    fleet = PretendedFleet(tmp_path, parts=3)
    found = evaluate_model(outcome.job, *outcome.stages[:-1], fleet=fleet)
    assert found.model_dump(exclude={"seconds"}) == outcome.evaluated.model_dump(exclude={"seconds"})
    (expected, described), (tensors, description) = load_model(aside), load_model(found.path)
    assert description == described
    assert expected.keys() == tensors.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(tensors[name], values, err_msg=name)
    assert (aside / "model.safetensors").read_bytes() == (found.path / "model.safetensors").read_bytes()
    ((work, parts),) = fleet.seen
    assert work is score_part
    assert [(part.first, part.stop) for part in parts] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert not (outcome.job.places.checkpoints / found.key).exists(), "parts are removed once the evaluation is kept"


def test_scores_of_a_lost_fleet_are_found_by_the_next_one(data, tmp_path):
    outcome = run_tasks(small(data), tmp_path / "w")
    outcome.evaluated.path.rename(tmp_path / "aside")

    class Lost(PretendedFleet):
        def run(self, work, parts):
            super().run(work, parts)
            raise ClusterError("lost")

    with pytest.raises(ClusterError, match="lost"):
        evaluate_model(outcome.job, *outcome.stages[:-1], fleet=Lost(tmp_path, lose={1}))
    fleet = PretendedFleet(tmp_path, twice=False)
    assert evaluate_model(outcome.job, *outcome.stages[:-1], fleet=fleet).metrics == outcome.evaluated.metrics
    assert sorted(answer.found for answer in fleet.answers) == [False, True, True, True, True]


def test_a_worker_that_would_fill_another_store_is_refused(data, tmp_path):
    job = Job(spec=small(data), workspace=tmp_path / "w")
    part = ExtractPart(job=job, prepared=prepare_dataset(job), terms=Terms.here(tmp_path), store_key="0" * 16, ranges=((0, 3),))
    with pytest.raises(ClusterError, match=r"expected to fill store 0000.*the same weights file"):
        extract_part(part)


def test_terms_name_what_a_worker_lacks(tmp_path):
    terms = Terms.here(tmp_path)
    terms.refuse_unfit()
    assert terms.complaints() == []
    assert {"python", "torch", "prefect"} <= set(terms.versions)
    other = terms.model_copy(update={"versions": {**terms.versions, "torch": "1.0"}})
    (said,) = other.complaints()
    assert "it has torch " in said
    assert "the flow has 1.0" in said
    (said,) = terms.model_copy(update={"code": "other"}).complaints()
    assert "its code of hypercolumns is another" in said
    gone = terms.model_copy(update={"folder": tmp_path / "gone"})
    with pytest.raises(ClusterError, match=r"a worker on .* cannot take part: it does not see .*gone: the workspace must be"):
        gone.refuse_unfit()


def test_a_worker_that_may_not_write_says_so(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert "cannot write to the workspace" in Terms.here(tmp_path).complaints()[0]


@pytest.mark.parametrize(
    "address", ["http://here:8787/status", "8786", "tcp://here", "tcp://a b:1", "here:port", "tcp://here:123456"]
)
def test_what_is_no_scheduler_s_address_is_refused_with_an_example(address, monkeypatch):
    with pytest.raises(ValueError, match=r"expected a Dask scheduler's address such as tcp://10\.0\.0\.5:8786"):
        Cluster(dask_address=address)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, address)
    with pytest.raises(ClusterError, match=ENVIRONMENT_VARIABLE):
        Cluster().chosen()


@pytest.mark.parametrize("address", ["tcp://10.0.0.5:8786", "here:8786", "tls://[::1]:8786"])
def test_the_environment_names_a_cluster_where_a_flow_names_none(address, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert Cluster().chosen() is None
    assert Cluster(dask_address="").chosen() is None
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, address)
    assert Cluster(parts_per_thread=3).chosen() == Cluster(dask_address=address, parts_per_thread=3)
    assert Cluster(dask_address="other:1").chosen() == Cluster(dask_address="other:1")


def test_what_was_extracted_alone_is_found_by_a_run_that_has_a_cluster(data, tmp_path):
    extract_only(small(data), tmp_path / "w")
    job = Job(spec=small(data), workspace=tmp_path / "w", cluster=Cluster(dask_address="here:8786"))
    assert extract_together(job, prepare_dataset(job), PretendedFleet(tmp_path)).cached


@pytest.mark.parametrize("kind", [ImageError, MaskError])
def test_errors_about_files_cross_from_a_worker_whole(kind, tmp_path):
    sent = kind(tmp_path / "a.png", "is truncated", "copy it again")
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is kind
    assert (str(received), received.path, received.reason, received.remedy) == (str(sent), sent.path, sent.reason, sent.remedy)
