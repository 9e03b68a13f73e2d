"""What the runs' records say of what they use, and what looking after stores does to it."""

from storage.garbage import sweep
from storage.references import named_keys
from storage.runs import read_run
from tasks.evaluate import evaluate_model
from tasks.extract import extract_features
from tasks.plan import check_plan
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.record import begin_run
from tasks.sample import sample_pixels
from tasks.train import train_dense
from tests.pipeline_factory import tiny_spec


def run_recorded(spec, workspace, swept=lambda job: None):
    """Run all stages in a run of their own; call something between them."""
    job = begin_run(spec, workspace)
    stages = []
    for stage in (prepare_dataset, extract_features, sample_pixels, pretrain_classifier):
        stages.append(stage(job, *stages))
        swept(job)
    prepared, extracted, sampled, pretrained = stages
    check_plan(job, prepared)
    trained = train_dense(job, prepared, pretrained)
    swept(job)
    evaluated = evaluate_model(job, prepared, extracted, sampled, pretrained, trained)
    return job, [*stages, trained, evaluated]


def test_a_run_names_everything_it_uses_its_baselines_too_and_a_sweep_in_the_middle_takes_nothing(data, workspace):
    spec = tiny_spec(data, evaluate__baselines=["majority", "rgb", "random_weights"], backbone__weights="random:1")
    swept = []
    job, stages = run_recorded(spec, workspace, lambda job: swept.append(sweep(job.places, 0, remove=True)))
    assert [item for found in swept for item in found.garbage] == []
    named = named_keys(read_run(job.run_dir))
    assert {stage.key for stage in stages} <= named
    folders = (job.places.stores, job.places.models, job.places.evaluations, job.places.samples)
    made = {path.stem for folder in folders for path in folder.iterdir()}
    assert len(made) == 2 + 4 + 1 + 3
    assert made <= named
    assert sweep(job.places, 0, remove=True).garbage == ()


def test_what_a_run_is_about_to_use_is_named_before_it_is_looked_for(data, workspace, monkeypatch):
    seen = []

    def looking(root, key):
        seen.append((key, named_keys(read_run(job.run_dir))))
        raise InterruptedError

    job = begin_run(tiny_spec(data), workspace)
    prepared = prepare_dataset(job)
    extracted = extract_features(job, prepared)
    sampled = sample_pixels(job, prepared, extracted)
    monkeypatch.setattr("tasks.pretrain.model_exists", looking)
    try:
        pretrain_classifier(job, prepared, extracted, sampled)
    except InterruptedError:
        ((key, named),) = seen
        assert key in named
