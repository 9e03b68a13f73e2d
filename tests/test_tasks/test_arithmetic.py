"""What a job was left to decide of its arithmetic stands decided in its record, and in what it hands to other machines."""

from hypercolumns.arithmetic import settle
from hypercolumns.specs import ExperimentSpec, TrainSpec
from storage.runs import list_runs
from tasks.jobs import Job
from tasks.record import begin_run

LEFT_OPEN = ExperimentSpec(train=TrainSpec(precision="automatic"))


def test_a_job_and_its_record_say_what_is_computed(tmp_path):
    assert Job(spec=LEFT_OPEN, workspace=tmp_path).spec.train.precision == settle("automatic")
    job = begin_run(LEFT_OPEN, tmp_path)
    assert job.spec.train.precision == settle("automatic")
    (view,) = list_runs(job.places.runs)
    assert view.spec["train"]["precision"] == settle("automatic")


def test_what_was_decided_elsewhere_is_not_decided_again(tmp_path):
    sent = Job(spec=LEFT_OPEN.model_copy(update={"train": TrainSpec(precision="bfloat16")}), workspace=tmp_path)
    assert Job.model_validate_json(sent.model_dump_json()) == sent
