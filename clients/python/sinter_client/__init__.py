"""Client of Sinter, the HTTP service that makes trained ONNX models smaller and faster.

    from sinter_client import Client

    with Client("http://127.0.0.1:8080") as client:
        model, data = client.upload_model("lenet.onnx"), client.upload_dataset("digits.npz")
        job = client.submit("prune", model, data, params={"target": {"macs_ratio": 0.5}})
        job.wait().download("model.onnx", "smaller.onnx")

`sinter_client.types` has the shapes of everything that goes in and comes out.
"""

from .client import Client
from .errors import ApiError, ConnectionLost, DigestMismatch, JobCanceled, JobFailed, SinterError, SinterWarning, UnknownName
from .job import Job

__all__ = [
    "ApiError",
    "Client",
    "ConnectionLost",
    "DigestMismatch",
    "Job",
    "JobCanceled",
    "JobFailed",
    "SinterError",
    "SinterWarning",
    "UnknownName",
]
