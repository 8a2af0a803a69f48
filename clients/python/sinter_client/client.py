"""The client: uploads, submissions, and what the server has."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, overload

import httpx

from . import types
from ._connection import READING_TIMEOUT, Connection
from ._transfer import download, packed, pages, sha256_of, upload
from .errors import UnknownName
from .job import Job, target

Path = str | os.PathLike[str]


class Client:
    """A Sinter server, and the key to it.

    `url` is by default that of the variable SINTER_URL, or http://127.0.0.1:8080, and `key` that of SINTER_KEY.
    `timeout` are the seconds that the server may be silent while it owes an answer; those that wait for its work
    (uploads, plans, jobs) may take longer. What failed for a reason that passes (no connection, 429, a gateway's 502,
    503 or 504) is tried again up to `retries` times, less often before the first answer, where that can't do anything
    twice.

    Threads may share a client. A `Job` is for one thread; `client.job(id)` gives each its own. Processes can't share a
    client: make one after a fork.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, timeout: float = 60.0, retries: int = 10
    ) -> None:
        url = url or os.environ.get("SINTER_URL") or "http://127.0.0.1:8080"
        self._connection = Connection(url, key or os.environ.get("SINTER_KEY"), timeout, retries)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._connection.close()

    # Uploads.

    def upload_model(
        self,
        path: Path,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        progress: bool = True,
        external_data: Iterable[Path] = (),
        *,
        tokenizer: Path | None = None,
        reuse: bool = False,
    ) -> types.Model:
        """Uploads an ONNX or safetensors file, under its own name without the ending unless there is another.

        With `reuse` a file that the server has already is not uploaded again; its newest model is returned. An upload
        that is cut goes on where it was. With tags, with the files that hold an ONNX model's external data, or with the
        tokenizer.json of a model that reads texts, it is a form, which begins anew.
        """
        beside = [*external_data, *([] if tokenizer is None else [tokenizer])]
        if reuse and not beside:
            with open(path, "rb") as file:
                there = next(self.models(digest=f"sha256:{sha256_of(file).hex()}"), None)
            if there is not None:
                return there
        model: types.Model = self._upload("/v1/models", path, name, {}, tags, progress, beside)
        return model

    def upload_dataset(
        self,
        path: Path | Iterable[Path],
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        progress: bool = True,
        *,
        format: types.DatasetFormat | None = None,
        target: str | None = None,
        text: str | None = None,
        damaged: types.Damaged | None = None,
        classes: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> types.Dataset:
        """Uploads a data set: one file, such as an npz or a table, a folder of pictures, recordings or texts, or files that
        belong together, such as train.csv, test.csv and tokenizer.json.

        What is left out is detected: the format; the column of the target and that of texts. What can't be used is refused
        unless `damaged` says otherwise. `exclude` are columns of a table that are no inputs, and `classes` are in the order
        of the alphabet unless they are named in that of the model.
        """
        paths = [pathlib.Path(path)] if isinstance(path, (str, os.PathLike)) else [pathlib.Path(one) for one in path]
        if not paths:
            raise ValueError("there is no file to upload")
        query = _reading(format, target, text, damaged, classes, exclude)
        with contextlib.ExitStack() as stack:
            if len(paths) == 1 and paths[0].is_dir():
                folder = paths[0].resolve()
                name = name or folder.name
                paths = [packed(folder, stack)]
            dataset: types.Dataset = self._upload("/v1/datasets", paths[0], name, query, tags, progress, paths[1:])
        return dataset

    def read_again(
        self,
        dataset: str | types.Dataset,
        name: str | None = None,
        *,
        target: str | None = None,
        text: str | None = None,
        format: types.DatasetFormat | None = None,
        damaged: types.Damaged | None = None,
        classes: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> types.Dataset:
        """Makes a data set of the files of one that is there, read in another way: with another target, or its classes
        in another order, for instance.

        Nothing is uploaded, and the first stays as it is.
        """
        reading = _reading(format, target, text, damaged, classes, exclude)
        query = {"files_of": self._id("dataset", dataset), **_given({"name": name}), **reading}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        response = self._connection.request("POST", "/v1/datasets", params=query, headers=headers)
        made: types.Dataset = response.json()
        return made

    def _upload(
        self,
        route: str,
        path: Path,
        name: str | None,
        query: Mapping[str, str],
        tags: Mapping[str, str] | None,
        progress: bool,
        beside: Iterable[Path] = (),
    ) -> Any:
        path = pathlib.Path(path)
        query = {"name": name or path.stem, **query}
        return upload(self._connection, route, path, map(pathlib.Path, beside), query, tags or {}, progress)

    # Jobs.

    # One overload a kind, so that editors know the parameters of each.

    @overload
    def submit(
        self, kind: Literal["train"], model: str | types.Model, dataset: str | types.Dataset | None = None,
        params: types.TrainParams | None = None, **options: Any,
    ) -> Job: ...
    @overload
    def submit(
        self, kind: Literal["evaluate"], model: str | types.Model, dataset: str | types.Dataset | None = None,
        params: types.EvaluateParams | None = None, **options: Any,
    ) -> Job: ...
    @overload
    def submit(
        self, kind: Literal["prune"], model: str | types.Model, dataset: str | types.Dataset | None = None,
        params: types.PruneParams | None = None, **options: Any,
    ) -> Job: ...
    @overload
    def submit(
        self, kind: Literal["distill"], model: str | types.Model, dataset: str | types.Dataset | None = None,
        params: types.DistillParams | None = None, **options: Any,
    ) -> Job: ...
    @overload
    def submit(
        self, kind: Literal["search"], model: str | types.Model, dataset: str | types.Dataset | None = None,
        params: types.SearchParams | None = None, **options: Any,
    ) -> Job: ...
    @overload
    def submit(
        self, kind: Literal["pipeline"], model: str | types.Model, dataset: str | types.Dataset | None = None,
        params: types.PipelineParams | None = None, **options: Any,
    ) -> Job: ...
    def submit(
        self,
        kind: types.JobKind,
        model: str | types.Model,
        dataset: str | types.Dataset | None = None,
        params: Any = None,
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Job:
        """Queues a job; it is durable when this returns.

        `model` and `dataset` are ids, names or what an upload returned, as are the models within `params`; `options` are
        the other fields of a job: `name`, `data`, `task`, `device`, `seed`, `priority`, `max_attempts`,
        `timeout_seconds`, `tags`, `webhook`. However often the connection is lost, one job is queued; with an
        `idempotency_key` of the caller's also when the program was started again, for as long as the server keeps the key.
        """
        if options.get("dry_run"):
            raise TypeError("a dry run queues no job: use plan()")
        body = self._body(kind, model, dataset, params, options)
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return Job(self._connection, self._connection.request("POST", "/v1/jobs", json=body, headers=headers).json())

    def plan(
        self,
        kind: types.JobKind,
        model: str | types.Model,
        dataset: str | types.Dataset | None = None,
        params: Any = None,
        **options: Any,
    ) -> types.Plan:
        """What a job would do and what its result would cost, without queueing it."""
        return self.dry_run(kind, model, dataset, params, **options)["plan"]

    def dry_run(
        self,
        kind: types.JobKind,
        model: str | types.Model,
        dataset: str | types.Dataset | None = None,
        params: Any = None,
        **options: Any,
    ) -> types.DryRun:
        """As `plan`, with how the data set would feed the model and how many steps the training would have."""
        body = self._body(kind, model, dataset, params, {**options, "dry_run": True})
        timeout = httpx.Timeout(self._connection.timeout, read=READING_TIMEOUT)
        answer: types.DryRun = self._connection.request("POST", "/v1/jobs", json=body, timeout=timeout).json()
        return answer

    def job(self, job: str) -> Job:
        """A job by its id or name."""
        return Job(self._connection, self._connection.request("GET", f"/v1/jobs/{self._id('job', job)}").json())

    def jobs(
        self,
        status: types.JobStatus | None = None,
        kind: types.JobKind | None = None,
        model: str | types.Model | None = None,
        tag: str | None = None,
        dataset: str | types.Dataset | None = None,
        name: str | None = None,
    ) -> Iterator[Job]:
        """All jobs, the newest first, or those alone that a filter lets through; `tag` is `key` or `key:value`."""
        of_model, of_dataset = model and self._id("model", model), dataset and self._id("dataset", dataset)
        filters = {"status": status, "kind": kind, "model": of_model, "tag": tag, "dataset": of_dataset, "name": name}
        for row in pages(self._connection, "/v1/jobs", **_given(filters)):
            yield Job(self._connection, row)

    # Models and data sets. Where a call takes one, it takes what an upload returned, an id, or a name, which stands for
    # the newest that is called so.

    def models(self, name: str | None = None, digest: str | None = None) -> Iterator[types.Model]:
        """All models, the newest first, or those alone of a name, or of a file's digest (`sha256:` and 64 digits)."""
        return pages(self._connection, "/v1/models", **_given({"name": name, "digest": digest}))

    def model(self, model: str | types.Model) -> types.Model:
        path = f"/v1/models/{self._id('model', model)}"
        found: types.Model = self._connection.request("GET", path).json()
        return found

    def change_model(
        self, model: str | types.Model, name: str | None = None, tags: Mapping[str, str] | None = None
    ) -> types.Model:
        """Gives a model another name, or other tags in the place of its own."""
        changed: types.Model = self._change("model", model, name, tags)
        return changed

    def graph(self, model: str | types.Model) -> list[types.NodeInfo]:
        """All nodes of a model, in the order in which they can be computed: what each reads, holds and costs."""
        path = f"/v1/models/{self._id('model', model)}/graph"
        nodes: list[types.NodeInfo] = self._connection.request("GET", path).json()["data"]
        return nodes

    def layers(self, model: str | types.Model) -> list[types.LayerInfo]:
        """What a model consists of, what each layer costs, and which must lose channels together."""
        path = f"/v1/models/{self._id('model', model)}/layers"
        layers: list[types.LayerInfo] = self._connection.request("GET", path).json()["data"]
        return layers

    def predict(
        self,
        model: str | types.Model,
        file: Path | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        texts: Iterable[str | tuple[str, str]] | None = None,
        examples: Iterable[int] | None = None,
        split: Literal["train", "test"] | None = None,
        dataset: str | types.Dataset | None = None,
        preprocess: types.Preprocess | None = None,
    ) -> types.Prediction:
        """What a model says of a few examples, for a quick look.

        They are one of: a file (an image, a recording, a text), `inputs` (numbers by the names of the model's inputs, as
        lists or arrays), `texts`, and `examples`, which are places in a split of the data set. What is left out is as in the
        job that made the model: the data set, and how examples are prepared.
        """
        numbers = inputs and {name: getattr(one, "tolist", lambda one=one: one)() for name, one in inputs.items()}
        places = None if examples is None else [int(one) for one in examples]
        given = {"inputs": numbers, "texts": _several("texts", texts), "examples": places, "split": split}
        asked = _given(given)
        if (file is None) == (not asked):
            raise TypeError("predict takes one of: a file, inputs, texts, examples")
        content = json.dumps(asked).encode() if file is None else pathlib.Path(file).read_bytes()
        query = _given({
            "dataset": dataset and self._id("dataset", dataset), "preprocess": preprocess and json.dumps(preprocess),
        })
        path = f"/v1/models/{self._id('model', model)}/predict"
        kind = "application/json" if file is None else "application/octet-stream"
        headers = {"Content-Type": kind}
        found: types.Prediction = self._connection.request(
            "POST", path, params=query, content=content, headers=headers
        ).json()
        return found

    def download_model(self, model: str | types.Model, path: Path = ".", progress: bool = True) -> pathlib.Path:
        """Fetches a model's file into a file or a folder, and returns where it is.

        It goes on after a cut, is verified, and is at the path only when it is whole.
        """
        id = self._id("model", model)
        address = f"/v1/models/{id}/content"
        if pathlib.Path(path).is_dir():
            about = self.model(id)
            path = target(path, f"{about['name'].replace('/', '_')}.{about['format']}")
        return download(self._connection, address, pathlib.Path(path), progress)

    def delete_model(self, model: str | types.Model) -> None:
        self._connection.request("DELETE", f"/v1/models/{self._id('model', model)}", repeat=False)

    def datasets(self, name: str | None = None, digest: str | None = None) -> Iterator[types.Dataset]:
        """All data sets, the newest first, or those alone of a name, or of a file's digest."""
        return pages(self._connection, "/v1/datasets", **_given({"name": name, "digest": digest}))

    def dataset(self, dataset: str | types.Dataset) -> types.Dataset:
        path = f"/v1/datasets/{self._id('dataset', dataset)}"
        found: types.Dataset = self._connection.request("GET", path).json()
        return found

    def change_dataset(
        self, dataset: str | types.Dataset, name: str | None = None, tags: Mapping[str, str] | None = None
    ) -> types.Dataset:
        """Gives a data set another name, or other tags in the place of its own."""
        changed: types.Dataset = self._change("dataset", dataset, name, tags)
        return changed

    def delete_dataset(self, dataset: str | types.Dataset) -> None:
        self._connection.request("DELETE", f"/v1/datasets/{self._id('dataset', dataset)}", repeat=False)

    def _id(self, what: Literal["model", "dataset", "job"], thing: str | types.Model | types.Dataset) -> str:
        """The id of what is named; the newest of that name where it is no id."""
        if not isinstance(thing, str):
            if not isinstance(thing, Mapping) or "id" not in thing:
                raise TypeError(f"a {what.replace('dataset', 'data set')} is an id, a name, or what an upload returned, not {thing!r}")
            return thing["id"]
        with contextlib.suppress(ValueError):
            return str(uuid.UUID(thing))
        newest = next(pages(self._connection, f"/v1/{what}s", name=thing), None)
        if newest is None:
            raise UnknownName(f"the server has no {what.replace('dataset', 'data set')} that is called {thing!r}")
        id: str = newest["id"]
        return id

    def _change(
        self,
        what: Literal["model", "dataset"],
        thing: str | types.Model | types.Dataset,
        name: str | None,
        tags: Mapping[str, str] | None,
    ) -> Any:
        change = _given({"name": name, "tags": None if tags is None else dict(tags)})
        path = f"/v1/{what}s/{self._id(what, thing)}"
        return self._connection.request("PATCH", path, json=change).json()

    def _body(
        self,
        kind: types.JobKind,
        model: str | types.Model,
        dataset: str | types.Dataset | None,
        params: Any,
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"kind": kind, "model": self._source(model), **options}
        if dataset is not None:
            body["dataset"] = self._id("dataset", dataset)
        if params is not None:
            body["params"] = self._with_ids(params)
        return body

    def _source(self, model: str | types.Model | types.FromMlflow) -> Any:
        """The id of a model, or where it is in MLflow."""
        if isinstance(model, str) and model.startswith("models:/"):
            return {"mlflow": model}
        if isinstance(model, Mapping) and "mlflow" in model:
            return model
        return self._id("model", model)

    def _with_ids(self, params: Any) -> Any:
        """Parameters with the ids of the models that they name: a student, teachers, those of steps. What is no such name
        is left for the server to judge."""
        def model(thing: Any) -> Any:
            return self._id("model", thing) if isinstance(thing, str) or (isinstance(thing, Mapping) and "id" in thing) else thing

        if not isinstance(params, Mapping):
            return params
        params = dict(params)
        student, teachers, steps = params.get("student"), params.get("teachers"), params.get("steps")
        if isinstance(student, Mapping) and "model" in student:
            params["student"] = {**student, "model": model(student["model"])}
        if isinstance(teachers, list | tuple):
            params["teachers"] = [model(teacher) for teacher in teachers]
        if isinstance(steps, list | tuple):
            params["steps"] = [
                {**step, "params": self._with_ids(step["params"])} if isinstance(step, Mapping) and "params" in step else step
                for step in steps
            ]
        return params

    # Everything else.

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that any path answers with; options are those of httpx. Not sent again when an answer was lost,
        unless it is a GET.

            client.request("GET", "/v1/devices")["data"]
        """
        response = self._connection.request(method, path, repeat=method == "GET", **options)
        return response.json() if response.content else None


def _reading(
    format: str | None,
    target: str | None,
    text: str | None,
    damaged: str | None,
    classes: Iterable[str] | None,
    exclude: Iterable[str] | None,
) -> dict[str, str]:
    """How a data set is read, as a query has it."""
    lists = {
        name: json.dumps(several)
        for name, given in (("classes", classes), ("exclude", exclude))
        if (several := _several(name, given)) is not None
    }
    return _given({"format": format, "target": target, "text": text, "damaged": damaged, **lists})


def _several(name: str, given: Iterable[Any] | None) -> list[Any] | None:
    if isinstance(given, str):
        raise TypeError(f"{name} is a list of strings, as [{given!r}]")
    return None if given is None else list(given)


def _given(filters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in filters.items() if value is not None}
