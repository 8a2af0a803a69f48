"""A component of Kubeflow Pipelines (SDK version 2) that has a model pruned by a Sinter server, and a pipeline with it.

    pip install kfp kfp-kubernetes                        # tried with 2.17.3
    # The key: sinter key create --name kubeflow --role submit
    kubectl create secret generic sinter --from-literal=key="$SINTER_KEY"
    python kubeflow_component.py                          # writes sinter_pipeline.yaml, to upload or run

`sinter_client` is installed when the component starts. Build a wheel of it (`pip wheel --no-deps clients/python`), put it
where the cluster can fetch it, and say with SINTER_CLIENT where that is: anything that pip takes, such as a URL.
"""

import os

from kfp import compiler, dsl, kubernetes
from kfp.dsl import HTML, Input, Metrics, Model, Output

SINTER_CLIENT = os.environ.get("SINTER_CLIENT", "sinter-client==0.1.0")


@dsl.component(base_image="python:3.12-slim", packages_to_install=[SINTER_CLIENT])
def prune(
    model: Input[Model],
    sinter_url: str,
    dataset: str,
    params: dict,
    data: dict,
    run: str,
    smaller: Output[Model],
    report: Output[HTML],
    metrics: Output[Metrics],
):
    """Sends the model, waits for the job, and fetches the smaller model and the report.

    `dataset` is the id of a data set that the server has, `run` names this use of it: a pod that is started again with
    the same name takes up the job instead of queueing another. The key is in the variable SINTER_KEY.
    """
    from sinter_client import Client

    with Client(sinter_url) as client:
        # One that an earlier pod of this run has uploaded already; what jobs made has the job's name.
        uploaded = next((each for each in client.models() if each["name"] == run and not each["job_id"]), None)
        if uploaded is None:
            uploaded = client.upload_model(model.path, name=run, progress=False)
        job = client.submit("prune", uploaded, dataset, params, data=data, name=run, idempotency_key=run)
        job.wait(progress=False)
        job.download("model.onnx", smaller.path, progress=False)
        job.download("report.html", report.path, progress=False)
    smaller.metadata.update(framework="onnx", sinter_job=job.id, sinter_model=job.result["model"])
    for name, value in job.result["after"]["metrics"].items():
        metrics.log_metric(name, value)
    metrics.log_metric("macs_ratio", job.result["change"]["macs_ratio"])


@dsl.pipeline(name="sinter")
def pipeline(model_uri: str, dataset: str, sinter_url: str = "http://sinter:8080"):
    """Takes an ONNX file from the object store and leaves a smaller one there."""
    original = dsl.importer(artifact_uri=model_uri, artifact_class=Model, reimport=False)
    task = prune(
        model=original.output,
        sinter_url=sinter_url,
        dataset=dataset,
        params={"granularity": "channel", "target": {"macs_ratio": 0.5}, "finetune": {"epochs": 10}},
        # How the examples are made what the model expects; empty where Sinter infers it.
        data={},
        run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    task.set_retry(2)
    kubernetes.use_secret_as_env(task, secret_name="sinter", secret_key_to_env={"key": "SINTER_KEY"})


if __name__ == "__main__":
    compiler.Compiler().compile(pipeline, "sinter_pipeline.yaml")
