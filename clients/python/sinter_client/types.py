"""The shapes of the API's JSON. Written by clients/python/generate out of openapi/openapi.json; don't edit.

Values are what `json` makes of the answers: dictionaries, with these types for editors and type checkers. What a class
without `total=False` names is always there; a key of the other part may be left out of a request, and of an answer
where its value would be null.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict, Union


class _ArrayInfo(TypedDict):
    dtype: str
    """`uint8`, `float32`, …, as NumPy names them; `string` for texts."""
    name: str
    shape: list[int]
    """Of images in files height, width and channels, 0 where they differ; of audio files `[0]`."""


class ArrayInfo(_ArrayInfo, total=False):
    """One input array; the axis of examples is left out of `shape`."""

    audio: AudioInfo | None
    media: Media | None
    range: list[float] | None
    """Smallest and largest number of all splits, as they are stored; left out for files and texts."""
    tokens: TokensInfo | None


class Artifact(TypedDict):
    """A file of a job."""

    digest: str
    """`sha256:` and the hex digest."""
    media_type: str
    name: str
    size_bytes: int
    url: str
    """Path of the file on this server."""


class _AskedExample(TypedDict):
    place: int


class AskedExample(_AskedExample, total=False):
    """An example of a data set that was asked about."""

    source: str | None
    """The file's name, or the text itself; left out for numbers."""


# Whose defaults hold: how the spectrogram is padded (librosa by zeros, torchaudio by reflection), on which scale mels
# lie (Slaney's, HTK's), and whether each mel band is divided by its width (Slaney's norm; none).
AudioConvention: TypeAlias = Literal["librosa", "torchaudio"]


# What is computed from the samples.
AudioFeatures: TypeAlias = Literal["waveform", "log_mel", "mfcc"]


class _AudioInfo(TypedDict):
    longest_ms: int
    """Length of the longest file."""
    median_ms: int
    """Half of the files are at most as long."""


class AudioInfo(_AudioInfo, total=False):
    """Sounds of an upload."""

    sample_rate: int | None
    """Samples a second; `null` where files differ."""


# Which logarithm a mel spectrogram gets.
AudioLogarithm: TypeAlias = Literal["db", "natural"]


class AudioOptions(TypedDict, total=False):
    """How a job has sounds prepared. What is `null` follows from the model's input and from the convention."""

    convention: AudioConvention | None
    f_max: float | None
    """Highest frequency in hertz; half of the sample rate when `null`."""
    f_min: float | None
    """Lowest frequency in hertz; 0 when `null`."""
    features: AudioFeatures | None
    hop_length: int | None
    """Samples from frame to frame; 512 (librosa) or half of `win_length` (torchaudio) when `null`."""
    logarithm: AudioLogarithm | None
    n_fft: int | None
    """Samples of a frame's Fourier transform; 2048 (librosa) or 400 (torchaudio) when `null`."""
    n_mels: int | None
    """Mel bands. When `null` as many as the model takes, or 128."""
    n_mfcc: int | None
    """Coefficients of `mfcc`. When `null` as many as the model takes, or 20 (librosa) or 40 (torchaudio)."""
    sample_rate: int | None
    """Samples a second that files of another rate are resampled to. The files' own when `null`, if they share one."""
    seconds: float | None
    """Length of an example: longer files are cut at their end, shorter ones get silence. What the model takes when
    `null`, or else as long as the longest file.
    """
    top_db: float | None
    """Decibels below an example's loudest value that are kept apart, all below being one. 80 when `null`, of a
    `log_mel` in torchaudio's convention all.
    """
    win_length: int | None
    """Samples that a frame's Hann window covers; `n_fft` when `null`."""


class _AudioPreparation(TypedDict):
    sample_rate: int
    samples: int
    """Samples of an example."""


class AudioPreparation(_AudioPreparation, total=False):
    """How a sound becomes an example: its channels are averaged, it is resampled, cut or filled with silence at its
    end, and made features.
    """

    spectrogram: SpectrogramPreparation | None


class Augment(TypedDict, total=False):
    """What happens to an example before a model sees it; in a training the same to teacher and student. Applied in
    the order of the fields.
    """

    crop: Crop | None
    cutmix: Mix | None
    cutout: Cutout | None
    flip: Flip | None
    frequency_mask: Stretches | None
    mixup: Mix | None
    noise: Noise | None
    time_mask: Stretches | None
    token_dropout: TokenDropout | None


# The word `auto`.
Auto: TypeAlias = Literal["auto"]


# How several teachers, or what one says about several views, become one.
Average: TypeAlias = Literal["logits", "probabilities"]


# Weights that make all labels count the same, however many examples they have.
Balanced: TypeAlias = Literal["balanced"]


class Blocked(TypedDict):
    """Channels that could not be removed, and why."""

    layer: str
    reason: str


class CalibrationBin(TypedDict):
    """Examples of which the model is about equally sure."""

    accuracy: float
    """Share of right ones; 0 without examples."""
    confidence: float
    """Mean probability of the class that the model says; 0 without examples."""
    examples: int


class CalibrationOptions(TypedDict, total=False):
    """The examples that criteria and the reconstruction look at."""

    examples: int
    """Of the train split, at most; 1 to 65536."""


# What an edge of a cell does.
CellOperation: TypeAlias = Literal["none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3"]


class CellSpace(TypedDict, total=False):
    """Networks of one repeated cell, with fresh weights, in the place of all that the model computes."""

    cells: int
    """In each stage."""
    channels: int
    """Of the first stage; each later one has twice as many."""
    operations: list[CellOperation]
    """What an edge can do."""
    stages: int
    """Each but the first begins with half of the resolution."""
    template: CellTemplate


# What stands around the cells, and which edges they have.
CellTemplate: TypeAlias = Literal["nas_bench_201"]


class _Change(TypedDict):
    metrics: dict[str, float]
    """After − before, by metric name."""
    nonzero_parameters_ratio: float
    """Nonzero parameters after ÷ before."""
    parameters_ratio: float
    size_ratio: float


class Change(_Change, total=False):
    """After beside before."""

    macs_ratio: float | None
    speedup: float | None
    """Median latency before ÷ after."""


# What examples of each label count in the cross-entropy.
ClassWeights: TypeAlias = Union["Balanced", "list[float]"]


class _Comparison(TypedDict):
    control: float
    metric: MetricName
    value: float


class Comparison(_Comparison, total=False):
    """A model beside that of its control on the test split, by the metric that decides whether the method helped."""

    p_value: float | None
    """How often the same test examples would set the two as far apart, or further, if neither were better: the
    p-value of Fisher's paired randomisation test, by 9,999 draws. `null` where the metric is no mean over
    examples, as `f1`.
    """


class Constraints(TypedDict, total=False):
    """The most that a candidate may have of each cost, in its own unit: counts for one example, bytes, milliseconds."""

    latency_ms: float | None
    """Median time of a run, measured on the job's device."""
    macs: float | None
    """Multiply-accumulate operations for one example."""
    nonzero_parameters: float | None
    parameters: float | None
    size_bytes: float | None
    """Of the ONNX file."""


# What a candidate costs.
Cost: TypeAlias = Literal["macs", "parameters", "nonzero_parameters", "size_bytes", "latency_ms"]


# How importance is told; the smallest goes first.
Criterion: TypeAlias = Literal[
    "magnitude",
    "gradient",
    "taylor",
    "fisher",
    "hessian",
    "entropy",
    "activation",
    "sparsegpt",
    "bn_scale",
    "lamp",
    "fpgm",
    "random",
]


class Crop(TypedDict):
    """A border of zeros, and a random cut of the old size out of that."""

    padding: int
    """Pixels on each side: how far an example is moved at most."""


# How the share removed grows from step to step.
Curve: TypeAlias = Literal["linear", "cubic", "exponential"]


class Cutout(TypedDict):
    """A square of zeros somewhere (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks
    with Cutout", 2017).
    """

    size: int
    """Pixels on each side; its centre may be anywhere, so it may stick out."""


# What happens to an upload with examples that can't be used: files that can't be decoded, texts that are empty or too
# long, rows of tables in which something is missing.
Damaged: TypeAlias = Literal["refuse", "skip"]


class DataOptions(TypedDict, total=False):
    """How a data set is split, batched and prepared."""

    batch_size: int
    """Examples of one training step; what the model's file fixes, where it does."""
    embed_preprocessing: bool
    """Whether the result's model does the scaling and normalising (scale, mean, std) itself, so that it takes pixels
    or other numbers as they are stored.
    """
    limit: int | None
    """Use at most so many examples of each split, of a test split in the data set the first ones; all when `null`."""
    preprocess: Preprocess
    test_fraction: float
    """Share set aside as the test split where the data set has none of its own."""
    validation_fraction: float
    """Share of the train split set aside to select on, 0 to below 1."""


class _Dataset(TypedDict):
    created_at: str
    digest: str
    """`sha256:` and the hex digest of the file; of several files, the digest over their sorted lines `name digest`."""
    format: DatasetFormat
    id: str
    inputs: list[ArrayInfo]
    name: str
    size_bytes: int
    skipped: list[SkippedFile]
    """Examples of the upload that are no part of it, since they can't be used."""
    splits: Splits
    tags: dict[str, str]


class Dataset(_Dataset, total=False):
    """A data set."""

    excluded: list[str]
    """Columns of a table that are no inputs, as was asked for."""
    target: TargetInfo | None


# The file format of a data set.
DatasetFormat: TypeAlias = Literal["npz", "idx", "csv", "jsonl", "parquet", "safetensors", "images", "texts", "audio"]


class _Delivery(TypedDict):
    attempts: int
    created_at: str
    event: str
    id: str
    """What the receiver gets as `webhook-id`, the same at each try."""
    status: DeliveryStatus
    target: Target
    url: str
    """Empty for MLflow."""


class Delivery(_Delivery, total=False):
    """A message to a webhook, or what is written to MLflow."""

    delivered_at: str | None
    last_error: str | None
    next_attempt_in_seconds: float | None
    """Until the next try; of a pending message only."""
    response_status: int | None
    """What the receiver answered last."""


# How far a message is.
DeliveryStatus: TypeAlias = Literal["pending", "sending", "delivered", "failed"]


class DeviceInfo(TypedDict):
    """A compute device that jobs can ask for."""

    adapter: str
    """The processor's or adapter's own name."""
    auto: bool
    """Whether `auto` may choose it."""
    backend: str
    """`flex`, `vulkan`, `metal`, `dx12`, …"""
    name: str
    """`cpu`, `wgpu`, `wgpu:1`, …"""
    type: str
    """`cpu`, `discrete_gpu`, `integrated_gpu`, `virtual_gpu` or `other`; a software adapter is a `cpu`."""


# One dimension of a declared shape: a number, or the name of a dynamic axis.
Dimension: TypeAlias = Union["int", "str"]


class _DimensionInfo(TypedDict):
    name: str


class DimensionInfo(_DimensionInfo, total=False):
    """One dimension of a space."""

    choices: list[Any]
    """What can be chosen; left out for numbers."""
    depends_on: str | None
    """The dimension that decides whether this one counts."""
    importance: float | None
    """Share of the variance of the first objective that it explains (functional ANOVA); after a search."""
    range: list[float] | None
    """The least and the largest number."""


class DistillControl(TypedDict):
    """The same student trained without a teacher."""

    epochs: int
    metrics: dict[str, float]
    """By metric name, on the test split."""


# What is made small.
DistillLossName: TypeAlias = Literal[
    "soft_targets",
    "cross_entropy",
    "logits_mse",
    "decoupled",
    "standardized",
    "similarity",
    "contrastive",
    "feature",
    "attention_transfer",
    "relational",
    "cosine",
    "bounded_regression",
]


class _DistillOutcome(TypedDict):
    agreement: dict[str, float]
    """How near the student is to its teachers on the test split: `top_1`, the share of examples with the same class;
    `mean_squared_error` and `cosine` of the outputs. Of embeddings, whatever their widths, over at most 1,000
    examples: `spearman`, the rank correlation of the cosines of all pairs, and `recall_at_1` and `recall_at_10`,
    the share of each example's nearest neighbours that are the same.
    """
    losses: list[DistillTerm]
    source: TeacherSource
    teacher: dict[str, float]
    """By metric name, on the test split, of all teachers as one; empty without labels."""
    teachers: int


class DistillOutcome(_DistillOutcome, total=False):
    """What a distillation did."""

    comparison: Comparison | None
    control: DistillControl | None
    helped: bool | None
    """Whether the student is better than the control by that, be it by chance: see `significant`. One pair of
    trainings; `null` without a control.
    """
    significant: bool | None
    """Whether the p-value of the comparison is below 0.05: more may be chance."""
    views: int
    """Of each example, how many the teachers saw and were averaged over; 1 is the example alone."""


class DistillPair(TypedDict):
    """Two tensors that a loss compared."""

    projected: bool
    """Whether a projection was trained between the two, and let go of afterwards."""
    student: str
    student_shape: list[int]
    teacher: str
    teacher_shape: list[int]
    """Of one example."""


class DistillParams(TypedDict, total=False):
    """Parameters of a `distill` job."""

    average: Average
    class_map: list[int] | None
    """For each class of the student, which class of the teacher it is; the same order when `null`. The labels of the
    data set are the student's.
    """
    control: bool
    """Whether the same student is also trained from the same weights without a teacher, for as many epochs."""
    finetune: TrainParams
    losses: list[LossTerm]
    """What is added up and made small; `soft_targets` (0.9) and `cross_entropy` (0.1) when left out, with
    `logits_mse` in the place of `soft_targets` where a task has no classes. Who names just these two is
    understood alike.
    """
    student: Student | None
    teacher: TeacherChoice
    teacher_views: TeacherViews | None
    teachers: list[str]
    """Further teachers beside the first; their outputs are averaged with its."""


class DistillPlan(TypedDict):
    """What a distillation would do."""

    control: bool
    """Whether the same student is trained without a teacher, too."""
    epochs: int
    """Of the student's training."""
    losses: list[DistillTerm]
    """With the tensors that they compare."""
    student: PlanCost
    teacher: PlanCost
    """Of the first teacher."""
    teachers: int


class _DistillTerm(TypedDict):
    name: DistillLossName


class DistillTerm(_DistillTerm, total=False):
    """One loss of a distillation."""

    pairs: list[DistillPair]


class _DryRun(TypedDict):
    kind: JobKind
    plan: Plan
    steps: int
    """Optimizer steps of all its trainings, at most."""


class DryRun(_DryRun, total=False):
    """What a job would do, without doing it."""

    data: InferredData | None


class EarlyStopping(TypedDict):
    """Ends training when the validation loss stops falling, and keeps the best epoch's weights."""

    patience: int
    """Epochs without improvement that are borne."""


class _Environment(TypedDict):
    device: str
    seed: int
    version: str


class Environment(_Environment, total=False):
    """Where and how the figures came about."""

    data: InferredData | None
    sandbox: Sandbox | None


class EvaluateParams(TypedDict, total=False):
    """Parameters of an `evaluate` job."""

    metrics: list[MetricName]
    """The task's usual metrics when empty."""


class EvaluatePlan(TypedDict):
    """What an evaluation would measure."""

    cost: PlanCost
    metrics: list[MetricName]
    test_examples: int
    """What it would be measured on."""


class EvaluationHoldout(TypedDict):
    """Trained on the train split, judged on the validation split."""

    method: Literal["holdout"]


class _EvaluationCrossValidation(TypedDict):
    method: Literal["cross_validation"]


class EvaluationCrossValidation(_EvaluationCrossValidation, total=False):
    """Both splits together in so many parts, stratified by label; each judges once what the others train."""

    folds: int
    """2 to 100, and no more than the rarest label has examples."""
    stop_hopeless: bool
    """Ends a trial when each of at least two folds is worse than the worst of the best trial's; with a single
    objective that is a metric.
    """


class _EvaluationSharedWeights(TypedDict):
    method: Literal["shared_weights"]


class EvaluationSharedWeights(_EvaluationSharedWeights, total=False):
    """All candidates share the model's weights, which are trained once, as `trial` says: in every step the model
    itself, the smallest candidate and some at random learn (the sandwich rule). Candidates are then judged on the
    validation split as they are, their running statistics taken anew.
    """

    random: int
    """Candidates at random in each step, 1 to 16."""


# How a trial is judged. No example of the test split has a part in it.
Evaluation: TypeAlias = Union["EvaluationHoldout", "EvaluationCrossValidation", "EvaluationSharedWeights"]


class _Event(TypedDict):
    at: str
    id: int
    """Grows from event to event."""
    level: Level
    message: str
    type: str
    """A snake_case word for programs, such as `job_started`."""


class Event(_Event, total=False):
    """Something that happened in a job."""

    data: dict[str, Any] | None


_ExampleTarget = TypedDict("_ExampleTarget", {
    "value": "dict[str, Any]",
})


_ExampleTargetOthers = TypedDict("_ExampleTargetOthers", {
    "class": "str | None",
}, total=False)


class ExampleTarget(_ExampleTarget, _ExampleTargetOthers):
    """The target of an example."""


class _Expected(TypedDict):
    inputs: list[InferredInput]
    """How numbers, images, recordings and texts became the inputs."""
    output: str
    """Name of the output that was compared with the target."""
    task: Task


class Expected(_Expected, total=False):
    """What a job did with its data, which a job on what it made does alike where its request says nothing else."""

    class_names: list[str] | None
    """What the outputs are called, where the data set had words for its classes: others with these names are
    numbered alike.
    """


# A size in pixels.
Extent: TypeAlias = Union["int", "list[int]"]


class FieldError(TypedDict):
    """One fault in a request body: where it is and what to do about it."""

    detail: str
    """What is wrong there, and what would be right."""
    pointer: str
    """RFC 6901 JSON pointer into the request body, for instance `/params/target/sparsity`."""


# Along which axis half of the examples are mirrored.
Flip: TypeAlias = Literal["horizontal", "vertical", "both"]


class _Fold(TypedDict):
    cost: TrialCost
    epochs: int
    metrics: dict[str, float]
    """By metric name."""
    seconds: float
    """Of the training's steps."""
    validation_loss: list[float]
    """After each epoch."""


class Fold(_Fold, total=False):
    """One training of a candidate and what was measured on the examples that it did not see."""

    validation_seconds: float
    """Of the validations after its epochs."""


class FromMlflow(TypedDict):
    """A version of a registered model. It is fetched when the job is submitted, once for each project."""

    mlflow: str
    """`models:/NAME/VERSION` or `models:/NAME@ALIAS`."""


class FrontEntry(TypedDict):
    """A trial that no other one beats in every objective."""

    artifact: str
    """The same model among the job's artifacts."""
    config: dict[str, Any]
    model: str
    """The model as the trial (its first fold) trained it."""
    trial: int
    values: dict[str, float]
    """Of the objectives, by name."""


# Which way is better.
Goal: TypeAlias = Literal["maximize", "minimize"]


# What is removed.
Granularity: TypeAlias = Literal["weight", "n_m", "channel", "head", "block"]


class HalvingParams(TypedDict, total=False):
    """Rounds of longer and longer trainings."""

    around: StrategyParams
    """What chooses the trials that begin."""
    eta: int
    """One of so many goes on, and trains so many times longer."""
    rounds: int | None
    """When `null` as many as leave one, of `hyperband` four at most."""


class Health(TypedDict):
    """The process answers."""

    status: str
    """Always `ok`."""


# Names with what they can be. They are chosen in the order of names, those that others wait for first.
Hyperparameters: TypeAlias = Union["dict[str, Range]"]


class _ImagePreparation(TypedDict):
    channels: int
    """1 (grey, ITU-R 601-2), 3 (red, green, blue) or 4 (with opacity)."""
    crop: list[int]
    """Height and width of the middle that is left; what an image lacks is black."""


class ImagePreparation(_ImagePreparation, total=False):
    """How an image file becomes an example of `height · width · channels` bytes, channels last: colours are
    converted, then the image is resized (bilinear, antialiased where it shrinks) and its middle cut out.
    """

    resize: Extent | None


class _InferredData(TypedDict):
    batch_size: int
    """Smaller than asked where the file has a fixed batch size."""
    inputs: list[InferredInput]
    output: str
    """Name of the model's output that is compared with the target."""
    splits: SplitSizes
    task: Task


class InferredData(_InferredData, total=False):
    """Everything that was inferred about a job's data."""

    class_names: list[str] | None
    """What the classes are called, where the data set has words for them: in the order of the model's, where that
    knows their names.
    """
    cut: int
    """Texts that have more tokens than the model gets."""
    embedded: bool
    """Whether the result's model has scale, mean and std in its graph."""
    label_map: list[int]
    """By label of the data set: the model's class of the same name. Left out where both number them alike."""
    outputs: int | None
    """Number of values of that output for one example, or for one of its tokens."""
    prepared: list[str]
    """How examples become the inputs, for people."""
    skipped: int
    """Examples of the upload that are not among them, since they can't be used."""


class _InferredInput(TypedDict):
    array: str
    """Name of the data set's array; empty where none feeds the input."""
    input: str
    """Name of the model's input."""
    mean: list[float]
    scale: float
    shape: list[int]
    """Shape of one example as the model gets it."""
    std: list[float]
    transposed: bool
    """Whether channels-last examples are turned to channels-first."""


class InferredInput(_InferredInput, total=False):
    """How one stored array becomes one input of the model."""

    audio: AudioPreparation | None
    dtype: str
    """What the stored numbers are, as NumPy names them; empty where none feed the input."""
    image: ImagePreparation | None
    inherited: bool
    """Whether it is prepared as in the job that made the model, since the request says nothing else."""
    inside: Normalisation | None
    tokens: TokenPreparation | None
    zeros: bool
    """Whether it is a recurrent state, which begins with zeros."""


# The word `initial`.
Initial: TypeAlias = Literal["initial"]


class ItemChange(TypedDict, total=False):
    """What is to be changed of a model or a data set; what is left out stays."""

    name: str | None
    """1 to 200 bytes."""
    tags: dict[str, str] | None
    """In the place of those that there were; at most 50, keys of 1 to 64 bytes, values of at most 500."""


class _Job(TypedDict):
    attempt: int
    """0 before the first."""
    created_at: str
    id: str
    kind: JobKind
    max_attempts: int
    request: JobRequest
    """As accepted, defaults filled in."""
    status: JobStatus


class Job(_Job, total=False):
    """A job."""

    error: Problem | None
    finished_at: str | None
    last_heartbeat_at: str | None
    name: str | None
    progress: Progress | None
    queue_position: int | None
    """1 for the job that runs next; `null` unless queued."""
    result: JobResult | None
    started_at: str | None


# What a job does.
JobKind: TypeAlias = Literal["train", "evaluate", "prune", "distill", "search", "pipeline"]


class _JobRequest(TypedDict):
    kind: JobKind
    model: ModelSource
    """In answers always an id."""


class JobRequest(_JobRequest, total=False):
    """A job as it is posted, and as it is kept: defaults filled in."""

    data: DataOptions
    dataset: str | None
    """An uploaded data set; only a `prune` by a criterion of the weights alone, without fine-tuning, can do without."""
    device: str
    """`auto`, `cpu`, or a name from `GET /v1/devices`."""
    dry_run: bool
    """Answer with the plan and its cost instead of queueing the job."""
    max_attempts: int
    """How often the job is begun, or gone on with, before it has failed, 1 to 100; 3 when left out."""
    name: str | None
    """What lists call the job, and the model that it makes."""
    params: dict[str, Any]
    """By kind: `TrainParams`, `EvaluateParams`, `PruneParams`, `DistillParams`, `SearchParams` or `PipelineParams`."""
    priority: int
    """Higher runs first, −1000 to 1000."""
    seed: int
    """Of everything that is drawn: with the same seed, files and device the result is the same. 0 when left out."""
    tags: dict[str, str]
    """Words of one's own to find jobs by, at most 50."""
    task: Task | None
    timeout_seconds: int
    """How long an attempt may take; 86,400, a day, when left out."""
    webhook: Webhook | None


class _JobResult(TypedDict):
    before: Measurement
    environment: Environment


class JobResult(_JobResult, total=False):
    """`result` of a succeeded job."""

    after: Measurement | None
    change: Change | None
    distill: DistillOutcome | None
    model: str | None
    """The new model; `null` for `evaluate`, which makes none."""
    prune: PruneOutcome | None
    search: SearchOutcome | None
    steps: list[StepResult]
    """A pipeline's steps in order."""
    training: Training | None
    warnings: list[Warning]
    """What speaks against taking the result as it is; events of these types say the same."""


# Where a job stands.
JobStatus: TypeAlias = Literal["queued", "running", "canceling", "succeeded", "failed", "canceled"]


class Latency(TypedDict):
    """Time of one run of the model, in milliseconds, measured by Sinter's own engine."""

    batch_size: int
    p50: float
    p90: float


class _LayerChange(TypedDict):
    macs_after: int
    macs_before: int
    name: str
    nonzero_parameters_after: int
    operator: str
    parameters_after: int
    parameters_before: int


class LayerChange(_LayerChange, total=False):
    """One layer before and after."""

    group: str | None


class _LayerInfo(TypedDict):
    macs: int
    name: str
    nonzero_parameters: int
    operator: str
    output_shape: list[int]
    """Shape of the first output, for a batch of one; empty when unknown."""
    parameters: int
    prunable: bool
    """Whether its weights make channels that can be removed."""


class LayerInfo(_LayerInfo, total=False):
    """One node that holds parameters or costs MACs."""

    blocked_by: str | None
    """Why channels can't be removed, where they can't."""
    group: str | None
    """The set of channels that its output is part of and that must leave together: layers with the same name are
    coupled. A normalisation is in the set of what it normalises.
    """
    input_groups: list[str]
    """Sets of the channels that it takes in: its weights shrink with them, too."""
    output: str
    """The tensor that it makes: what `pairs` of a distillation name."""


# The order of an image's axes in the data set.
Layout: TypeAlias = Literal["nchw", "nhwc"]


# The word `learned`.
Learned: TypeAlias = Literal["learned"]


class LearningRateSchedule(TypedDict, total=False):
    """A learning-rate schedule."""

    name: ScheduleName
    warmup_fraction: float
    """Share of the steps over which the rate rises from zero, 0 to 1."""


# How loud an event is.
Level: TypeAlias = Literal["info", "warning", "error"]


# What the training makes small.
LossName: TypeAlias = Literal["cross_entropy", "binary_cross_entropy", "mean_squared_error"]


class _LossTerm(TypedDict):
    name: DistillLossName


class LossTerm(_LossTerm, total=False):
    """One loss of the sum."""

    alpha: float | None
    """`decoupled`: the factor of the target class's part, 1 when `null`; `relational`: of the distances, 25 when
    `null`.
    """
    beta: float | None
    """`decoupled`: the factor of the other classes' part, 8 when `null`; `relational`: of the angles, 50 when
    `null`.
    """
    margin: float | None
    """`bounded_regression`: by how much the student's squared error must be below the teacher's, 0 when `null`."""
    pairs: Pairs | None
    temperature: Temperature | None
    weight: Weight


class _Measurement(TypedDict):
    compressed_bytes: int
    """Of the ONNX file after DEFLATE."""
    metrics: dict[str, float]
    """By metric name, on the test split."""
    nonzero_parameters: int
    parameters: int
    size_bytes: int
    """Of the ONNX file."""


class Measurement(_Measurement, total=False):
    """The figures of one model."""

    latency_ms: Latency | None
    macs: int | None
    """Multiply-accumulates for one example; zero weights are counted."""
    quality: Quality | None


# What examples are that are no numbers.
Media: TypeAlias = Literal["image", "text", "audio"]


# A figure measured on a split.
MetricName: TypeAlias = Literal[
    "loss",
    "accuracy",
    "top_2_accuracy",
    "top_3_accuracy",
    "top_5_accuracy",
    "top_10_accuracy",
    "balanced_accuracy",
    "f1",
    "weighted_f1",
    "precision",
    "recall",
    "roc_auc",
    "average_precision",
    "expected_calibration_error",
    "perplexity",
    "mean_squared_error",
    "root_mean_squared_error",
    "mean_absolute_error",
    "r2",
    "spearman",
]


class MetricPoint(TypedDict):
    """A point of a curve."""

    at: str
    step: int
    value: float


class MetricSeries(TypedDict):
    """A curve."""

    name: str
    """For instance `train/loss`."""
    points: list[MetricPoint]


class Mix(TypedDict):
    """Blends of examples, or boxes of one in another, with a share from a Beta(`alpha`, `alpha`) distribution."""

    alpha: float
    """Small for shares near 0 and 1, 1 for all alike."""


class _Model(TypedDict):
    created_at: str
    digest: str
    """`sha256:` and the hex digest of the file."""
    format: ModelFormat
    id: str
    name: str
    size_bytes: int
    summary: ModelSummary
    tags: dict[str, str]


class Model(_Model, total=False):
    """A model."""

    job_id: str | None
    """The job that made it."""
    parent_id: str | None
    """The model that a job made this one from."""


# The file format of a model.
ModelFormat: TypeAlias = Literal["onnx", "safetensors"]


# Which model a new job is for: the id of one that the service has, or a version that MLflow has.
ModelSource: TypeAlias = Union["str", "FromMlflow"]


class _ModelSummary(TypedDict):
    inputs: list[TensorInfo]
    nonzero_parameters: int
    operators: dict[str, int]
    """How many nodes of each operator."""
    outputs: list[TensorInfo]
    parameters: int
    """Elements of all weights that training changes, as PyTorch counts them: running statistics of batch
    normalisation and scalar constants are none.
    """
    producer: str
    """Name and version of the program that wrote the file."""
    trainable: bool
    """Whether a `train` job can work on it."""
    unsupported_operators: list[str]
    """Operators that this version can't run."""


class ModelSummary(_ModelSummary, total=False):
    """What the graph of a model holds and costs."""

    expects: Expected | None
    macs: int | None
    """Multiply-accumulates for one example; `null` where the shapes can't be known."""
    not_trainable_because: str | None
    """Why not, where it can't: the node without a gradient for instance."""
    opset: int | None
    """Version of the `ai.onnx` operator set; `null` for a file without a graph."""
    tokenizer: TokenizerInfo | None


class NewWebhook(TypedDict):
    """A webhook before a job needs it."""

    url: str


class _NodeInfo(TypedDict):
    inputs: list[str]
    """Tensors that it reads, in order, without weights and other constants: inputs of the model, or `outputs` of
    nodes before it.
    """
    macs: int
    name: str
    nonzero_parameters: int
    operator: str
    output_shape: list[int]
    """Shape of the first output, for a batch of one; empty when unknown."""
    outputs: list[str]
    parameters: int


class NodeInfo(_NodeInfo, total=False):
    """One node of a model's graph."""

    group: str | None
    """As of a layer."""
    input_groups: list[str]
    """As of a layer."""


class Noise(TypedDict):
    """Normal noise on every element."""

    std: float
    """Its deviation, on the scale of the model's input."""


class Normalisation(TypedDict):
    """`(number · scale − mean) ÷ std`."""

    mean: list[float]
    scale: float
    std: list[float]


class _Objective(TypedDict):
    metric: ObjectiveName


class Objective(_Objective, total=False):
    """One figure that the search makes large or small."""

    goal: Goal | None


# The loss of classification, under its own name.
ObjectiveLoss: TypeAlias = Literal["cross_entropy"]


# What a trial can be judged by.
ObjectiveName: TypeAlias = Union["MetricName", "ObjectiveLoss", "Cost"]


# A number, which is as a list of it, or a list.
OneOrMore: TypeAlias = Union["float", "list[float]"]


class Optimizer(TypedDict, total=False):
    """An optimizer and its constants."""

    learning_rate: float
    """At its highest; 0.001 when left out."""
    momentum: float | None
    """`sgd` and `rmsprop` only."""
    name: OptimizerName
    nesterov: bool | None
    """`sgd` only."""
    weight_decay: float
    """Decoupled for `adamw`, added to the gradient for the others."""


# How the weights are updated from their gradients.
OptimizerName: TypeAlias = Literal["sgd", "adam", "adamw", "rmsprop"]


# Which tensors of teacher and student belong together.
Pairs: TypeAlias = Union["list[list[str]]", "Auto"]


class PipelineParams(TypedDict):
    """Parameters of a `pipeline` job as they are posted."""

    steps: list[StepRequest]
    """One after another, each on what the one before made."""


class PipelinePlan(TypedDict):
    """What a pipeline would do, step by step; what training changes is not known beforehand."""

    steps: list[StepPlan]


# What a job would do, by its kind.
Plan: TypeAlias = Union["PrunePlan", "SearchPlan", "DistillPlan", "PipelinePlan", "EvaluatePlan", "TrainPlan"]


class _PlanCost(TypedDict):
    nonzero_parameters: int
    parameters: int


class PlanCost(_PlanCost, total=False):
    """What a graph costs."""

    macs: int | None


_PredictedClass = TypedDict("_PredictedClass", {
    "label": "int",
    "probability": "float",
})


_PredictedClassOthers = TypedDict("_PredictedClassOthers", {
    "class": "str | None",
}, total=False)


class PredictedClass(_PredictedClass, _PredictedClassOthers):
    """A class and how likely it is."""


class PredictedTensor(TypedDict):
    """A named output."""

    dtype: str
    """As NumPy names it."""
    name: str
    shape: list[int]
    values: dict[str, Any]
    """Nested lists of that shape; `null` is not a number or infinite."""


class _Prediction(TypedDict):
    outputs: list[PredictedTensor]
    """Every output of the model."""


class Prediction(_Prediction, total=False):
    """What a model answered."""

    examples: list[AskedExample]
    """The examples of a data set."""
    prepared: list[str]
    """How the examples were prepared, an input each, for people."""
    targets: list[ExampleTarget] | None
    """For each of a data set's examples what the data set says of it."""
    top: list[list[PredictedClass]] | None
    """For each example the likeliest classes of the main output, the likeliest first, at most five; none of an
    example with an output that is infinite or no number. Left out where that is not `[examples, classes]`.
    """


class Preprocess(TypedDict, total=False):
    """How the stored numbers become the model's input: `(stored · scale − mean) ÷ std`."""

    audio: AudioOptions | None
    crop: Extent | None
    layout: Layout | None
    max_length: int | None
    """How many tokens of a text a model gets that takes any number: longer ones are cut, shorter ones filled up.
    When `null` as many as the longest text has, at most as many as the tokenizer's file says, or 512.
    """
    mean: OneOrMore | None
    resize: Extent | None
    scale: float | None
    """1/255 for uint8 images and 1 otherwise when `null`."""
    std: OneOrMore | None


class _Problem(TypedDict):
    code: str
    """A stable snake_case word for programs."""
    detail: str
    """What happened and what to do about it, for a person."""
    status: int
    title: str
    type: str
    """A URI reference that names the kind of problem: `/docs/problems#CODE`."""


class Problem(_Problem, total=False):
    """RFC 9457 problem details (`application/problem+json`).

    `status` is the HTTP status; in `job.error`, where no HTTP answer was due when the fault happened, it is the
    status that the same fault would have had at submission.
    """

    errors: list[FieldError]
    instance: str
    """The path of the request, or of the job."""
    request_id: str | None


class _Progress(TypedDict):
    fraction: float
    """0 to 1 over the whole job."""
    phase: str
    """`load`, `evaluate`, `prune`, `recalibrate`, `finetune`, `train`, `measure`, `report`."""


class Progress(_Progress, total=False):
    """How far a job is."""

    epoch: int | None
    epochs: int | None
    eta_seconds: float | None
    step: int | None
    steps: int | None


# A score of a candidate that was not trained; more is better.
ProxyName: TypeAlias = Literal["synflow", "grad_norm", "naswot", "zico", "parameters"]


class PruneGroup(TypedDict):
    """Channels that live on the same axes, and what is planned for them."""

    frozen: int
    """Units on the same axes that must stay."""
    layers: list[str]
    """Nodes whose outputs these channels are."""
    name: str
    removed: list[int]
    """Units that would go."""
    scores: list[float | None]
    """Importance of each unit; `null` where the criterion can't tell, so that the unit stays."""
    units: int
    """Smallest sets of channels that can go."""


class _PruneOutcome(TypedDict):
    asked: dict[str, float]
    """By target name, as asked."""
    blocked: list[Blocked]
    layers: list[LayerChange]
    reached: dict[str, float]
    """By target name: what the final graph has."""


class PruneOutcome(_PruneOutcome, total=False):
    """What a pruning was asked for and what it reached."""

    judged_by: MetricName | None
    limited_by: str | None
    """Why no smaller model was tried, where the metric would have allowed it."""
    round_to: int | None
    """The multiple that kept channel counts were rounded to; `null` for single weights."""
    scores: list[ScoreHistogram]
    """Scores at the first cut, by group (by kernel for single weights)."""
    sensitivity: list[Sensitivity]
    """Asked for by `sensitivity`."""
    stages: list[PruneStage]
    """How good the model was on the way; empty without a validation split."""
    trials: list[PruneTrial]
    """Of `max_accuracy_drop` and `max_worsening`, in the order in which they were made."""


class PruneParams(TypedDict, total=False):
    """Parameters of a `prune` job."""

    calibration: CalibrationOptions
    criterion: Criterion
    distill: list[LossTerm]
    """Losses by which the model as it was before the first cut teaches what is left in each fine-tuning, as
    `distill` has them; the labels alone teach when empty.
    """
    exclude: list[str]
    """Node names to leave alone, with `*` and `?`."""
    finetune: TrainParams | None
    granularity: Granularity
    keep: dict[str, list[int]]
    """By pattern of node names: output channels (indices) of those nodes that stay; `channel` and `head` only."""
    m: int | None
    """Neighbours along the input axis that are looked at together; `n_m` only, 4 when `null`."""
    max_layer_sparsity: float
    """Largest share that any one layer (group) loses; of the granularity `block` the share of all blocks, rounded
    up.
    """
    n: int | None
    """Weights that stay of each `m`; `n_m` only, 2 when `null`."""
    norm: int | None
    """1 for the sum of absolute values, 2 for the Euclidean norm; `magnitude` only."""
    recovery: Recovery
    reduction: Reduction
    """Over the tensors that a channel (head) has a part in; `channel` and `head` only."""
    round_to: int | None
    """Kept channel counts are multiples of this, where the layer has that many. When `null`, the largest of 16, 8,
    4, 2 and 1 that lands near the target: runtimes compute channels in blocks as wide as the processor's vectors,
    and a count between two blocks can be slower than the unpruned layer.
    """
    schedule: PruneSchedule
    scope: Scope
    sensitivity: bool
    """Whether the report has, for each group of channels (heads, the blocks, each kernel by its weights), the
    metrics of the validation split with a quarter, half, three and nine tenths of it gone and nothing else.
    """
    slimming: Slimming | None
    storage: Storage
    """How the zeros of `weight` and `n_m` are written into the file."""
    target: Target
    """Not with `n_m`, whose sparsity is `1 − n ÷ m`."""


class PrunePlan(TypedDict):
    """What a pruning would do."""

    after: PlanCost
    before: PlanCost
    groups: list[PruneGroup]
    """For `channel`: every set of coupled channels."""
    outcome: PruneOutcome


class PruneSchedule(TypedDict, total=False):
    """In how many cuts the target is reached; fine-tuning stands between them."""

    curve: Curve
    rewind: Rewind | None
    rigl: Rigl | None
    steps: int
    """How many cuts."""


class PruneStage(TypedDict):
    """How good a model was at one stage of its pruning."""

    metrics: dict[str, float]
    """By metric name, on the validation split."""
    stage: StageName
    step: int
    """Of the schedule, from 1."""


class _PruneTrial(TypedDict):
    asked: dict[str, float]
    """By target name."""
    reached: dict[str, float]
    """By target name; empty where the target can't be reached."""
    within: bool
    """Whether that is no more than what was allowed."""


class PruneTrial(_PruneTrial, total=False):
    """One model that was made to see whether it is good enough."""

    worsening: float | None
    """How much worse the metric on the validation split is than the original's; `null` where the target can't be
    reached.
    """


class _Quality(TypedDict):
    calibration: list[CalibrationBin]
    """15 bins of confidence of the same width, from 0 to 1."""
    confusion: list[list[int]]
    """Examples by label (rows) and by the class that the model says (columns)."""


class Quality(_Quality, total=False):
    """What a classifier takes for what, and how sure it is."""

    order: list[int] | None
    """By label the class that the model says instead, where its answers fit the labels in another order of the
    classes.
    """


class Range(TypedDict, total=False):
    """What one hyperparameter can be: exactly one of `choice`, `uniform`, `log_uniform`, `int` and `log_int`."""

    choice: list[Any] | None
    """One of these values."""
    int: list[int] | None
    """A whole number from the first to the second."""
    log_int: list[int] | None
    """The same, its logarithm evenly."""
    log_uniform: list[float] | None
    """The same, its logarithm evenly."""
    uniform: list[float] | None
    """A number from the first to the second."""
    when: dict[str, list[Any]]
    """By the name of a hyperparameter with a `choice`: only where that is one of these values."""


class Readiness(TypedDict):
    """Whether the server can do its work."""

    checks: ReadinessChecks
    status: str
    """`ok` or `unavailable`."""


class ReadinessChecks(TypedDict):
    """What the readiness is made of; each is `ok` or says what is wrong."""

    store: str
    """`ok` or `not_writable`."""
    worker: str
    """`ok`, `silent` or `draining`."""


class Recovery(TypedDict, total=False):
    """What follows a cut before any training; needs a data set, and is left out without one."""

    correct_bias: bool
    """Changes only the offsets behind a cut, so that the means of the results are those of the original, where
    nothing is reconstructed; `channel` only.
    """
    recalibrate: bool
    """Measures the statistics of batch normalisation anew, where nothing is reconstructed."""
    reconstruct: bool
    """Changes the kernels behind a cut so that their results are those of the original as nearly as can be (least
    squares on unlabelled examples); `channel` only.
    """


# How the importances that a channel has in several tensors become one.
Reduction: TypeAlias = Literal["mean", "sum", "max", "l2"]


# Where surviving weights go back to.
Rewind: TypeAlias = Union["Initial", "int"]


class Rigl(TypedDict, total=False):
    """Weights that grow back for others that go (Evci et al., "Rigging the Lottery", ICML 2020)."""

    every: int
    """Steps of training from one move to the next."""
    fraction: float
    """Share of a tensor's weights that move at first; it falls to 0 with a cosine."""
    until: float
    """Share of the steps after which none move any more."""


class Sandbox(TypedDict):
    """What a job's process was kept from; what is `false` the system could not do."""

    files: bool
    """All files but its own (Linux, Landlock)."""
    network: bool
    """The network and other programs (Linux, seccomp)."""


# How the learning rate changes over the whole training.
ScheduleName: TypeAlias = Literal["constant", "cosine", "linear", "step"]


# What is compared with what.
Scope: TypeAlias = Literal["global", "layer", "isomorphic"]


class ScoreHistogram(TypedDict):
    """How the scores of a group are distributed, in bins of equal width."""

    counts: list[int]
    """Units (weights) in each bin."""
    greatest: float
    """Where the last bin ends."""
    least: float
    """Where the first bin begins."""
    name: str
    removed: list[int]
    """Those of them that were removed."""


class _Screening(TypedDict):
    proxy: ProxyName


class Screening(_Screening, total=False):
    """Candidates are looked at before one of them is trained."""

    candidates: int
    """Wherever a strategy takes one at random, it takes the best of so many by the proxy; 1 only notes it."""


class _ScreeningOutcome(TypedDict):
    candidates: int
    proxy: ProxyName


class ScreeningOutcome(_ScreeningOutcome, total=False):
    """How well scores without training foretold what training found."""

    correlation: float | None
    """Spearman's rank correlation of the score with the first objective as it gets better, over the trials trained
    longest; `null` where nothing varies.
    """
    parameters_correlation: float | None
    """The same of the number of parameters."""


class _SearchControl(TypedDict):
    epochs: int
    metrics: dict[str, float]
    """Of its winner, trained like the search's, on the test split."""
    trials: int


class SearchControl(_SearchControl, total=False):
    """Random search with as much training."""

    best: float | None
    """The first objective of its best trial."""


class _SearchOutcome(TypedDict):
    best: list[Trial]
    """The winner and the next best, ten at most."""
    epochs: int
    """Of all trainings of candidates."""
    failed: int
    """Those that failed or were infeasible."""
    front: list[FrontEntry]
    """Trials that no other one beats in every objective."""
    objectives: list[Objective]
    space: list[DimensionInfo]
    strategy: str
    trials: int
    """Different candidates that were judged."""


class SearchOutcome(_SearchOutcome, total=False):
    """What a search found."""

    comparison: Comparison | None
    control: SearchControl | None
    exceeds: str | None
    """The constraint that the winner, trained in full, does not meet, though its trial did."""
    helped: bool | None
    """Whether the winner is better than the control's by that, be it by chance: see `significant`. Without a control
    `null`.
    """
    hypervolume: float | None
    """What the front dominates, up to the worst figures of all trials; several objectives only."""
    not_applicable: list[str]
    """What the space names and what leaves no choice in this model, for instance `depth` without residual blocks."""
    screening: ScreeningOutcome | None
    significant: bool | None
    """Whether the p-value of the comparison is below 0.05: more may be chance."""
    space_size: float | None
    """Candidates in the space, infeasible ones too; `null` for infinitely many."""
    warm: int
    """Trials that an earlier search had judged."""


class SearchParams(TypedDict, total=False):
    """Parameters of a `search` job."""

    constraints: Constraints
    """The most that a candidate may have of each cost."""
    control: bool
    """Whether random search with as much training is done beside."""
    evaluation: Evaluation
    final: dict[str, Any] | None
    """What is different from `trial` when the winner is trained, on the train and the validation split together
    (with `early_stopping` on the train split).
    """
    objectives: list[Objective]
    """The accuracy, or the loss of tasks without one, when empty. The first one chooses the winner."""
    reconstruct: bool | None
    """Whether what is behind the channels that a candidate lacks is fitted to the model's own results before the
    training, as after a cut of a pruning (least squares on unlabelled examples). When `null`, where the model has
    no batch normalisation: with it a training mends a bare cut as well or better. Nothing is with
    `shared_weights`, cells or fresh weights.
    """
    screening: Screening | None
    space: SearchSpace
    steps: list[StepRequest]
    """What is done to each candidate instead of `trial`, as a `pipeline` has it; hyperparameters are then named by
    their places, such as `steps.0.params.finetune.epochs`.
    """
    strategy: StrategyParams
    trial: TrainParams
    """How each candidate is trained, with the hyperparameters put in their places; for 3 epochs when left out."""
    trials: int
    """Different candidates that are judged, at most."""
    warm_start: str | None
    """A search that has ended, whose trials count as seen where the space has them."""


class _SearchPlan(TypedDict):
    cost: TrialCost
    """Of the model itself; its size is that of the file as it would be written again, which candidates are, too."""
    epochs: int
    """Of all trainings of candidates, at most."""
    feasible_share: float
    """Share of the candidates that meet the constraints on MACs, parameters and size: of all where there are at most
    512, else of a hundred at random.
    """
    space: list[DimensionInfo]
    trials: int
    """Different candidates that will be judged, at most."""


class SearchPlan(_SearchPlan, total=False):
    """What a search would do."""

    nearest: str | None
    """Where none of the hundred does: the constraints, and the least that any candidate was seen to have."""
    not_applicable: list[str]
    """What the space names and what leaves no choice in this model, for instance `depth` without residual blocks."""
    space_size: float | None
    """Candidates in the space, infeasible ones too; `null` for infinitely many."""
    warnings: list[str]
    """What the job would warn of."""


class SearchSpace(TypedDict, total=False):
    """What can change. Architectures are made of the job's model."""

    activation: list[str]
    """Operators that take the place of an activation."""
    cell: CellSpace | None
    depth: bool
    """Whether residual blocks may go."""
    exclude: list[str]
    """Node names to leave alone, with `*` and `?`."""
    expand: list[float]
    """In inverted bottlenecks (a depthwise convolution between two of single points): channels inside by channels
    that come in, in place of `width`; the model's own and less.
    """
    groups: list[int]
    """Numbers of groups of convolutions that have none; kernels between groups go."""
    hyperparameters: Hyperparameters
    kernel: list[int]
    """Sizes of square kernels of convolutions."""
    resolution: list[float]
    """Shares of the height and width of images that the model looks at; a Resize at its beginning sees to it."""
    width: list[float]
    """Shares of the channels (neurons, heads) of each group."""


class Sensitivity(TypedDict):
    """How a model bears the loss of a part of one group."""

    layers: list[str]
    name: str
    points: list[SensitivityPoint]


class SensitivityPoint(TypedDict):
    """The model with a part of one group gone, and nothing done about it."""

    metrics: dict[str, float]
    """By metric name, on the validation split."""
    sparsity: float
    """Share of the group's units (the kernel's weights) that are gone."""


class SkippedFile(TypedDict):
    """A file, or a row of one, that is no part of the data set."""

    detail: str
    """Why."""
    name: str
    """Of a row the file's name, a colon and the line, or the number of the row."""


class _Slimming(TypedDict):
    epochs: int
    """How long that training is."""


class Slimming(_Slimming, total=False):
    """Training with a penalty on scales (Liu et al., "Network Slimming", ICCV 2017)."""

    strength: float
    """What the sum of the scales' sizes is multiplied by in the loss."""


class _SpectrogramPreparation(TypedDict):
    convention: AudioConvention
    f_max: float
    f_min: float
    frames_first: bool
    """Whether a frame's numbers lie side by side, `[frames, bands]`, as recurrent networks take them."""
    hop_length: int
    logarithm: AudioLogarithm
    n_fft: int
    n_mels: int
    win_length: int


class SpectrogramPreparation(_SpectrogramPreparation, total=False):
    """How the frames of a spectrogram are made."""

    n_mfcc: int | None
    """`null` for mel bands themselves."""
    top_db: float | None
    """`null` where nothing is cut off."""


class SplitSizes(TypedDict):
    """How many examples each split of a job has."""

    test: int
    train: int
    validation: int


class _Splits(TypedDict):
    test: int
    """0 where the files have no test split of their own; a job then sets one aside."""
    train: int


class Splits(_Splits, total=False):
    """Numbers of examples as the files have them."""

    validation: int
    """Left out where the files have no validation split of their own; a job then takes one out of the train split."""


# What happened to the model before it was measured.
StageName: TypeAlias = Literal["cut", "recovered", "finetuned"]


# Where training starts.
StartWeights: TypeAlias = Literal["keep", "reinitialize"]


class StepPlan(TypedDict):
    """What one step of a pipeline would do."""

    kind: JobKind
    plan: Plan


class _StepRequest(TypedDict):
    kind: JobKind


class StepRequest(_StepRequest, total=False):
    """One step as it is posted."""

    params: dict[str, Any]


class _StepResult(TypedDict):
    after: Measurement
    kind: JobKind


class StepResult(_StepResult, total=False):
    """One step of a pipeline."""

    distill: DistillOutcome | None
    prune: PruneOutcome | None


# How zeros are written.
Storage: TypeAlias = Literal["dense", "sparse"]


class StrategyParamsRandom(TypedDict):
    """At random, none twice: the control of all others."""

    name: Literal["random"]


class StrategyParamsGreedy(TypedDict):
    """Hill climbing, one dimension at a time, with restarts."""

    name: Literal["greedy"]


class _StrategyParamsGenetic(TypedDict):
    name: Literal["genetic"]


class StrategyParamsGenetic(_StrategyParamsGenetic, total=False):
    """Aging evolution, or NSGA-II with several objectives."""

    crossover: float
    """Probability that a child has two parents."""
    mutation: float
    """Probability that a coordinate changes."""
    population: int
    """How many of the candidates may have children."""


class _StrategyParamsTpe(TypedDict):
    name: Literal["tpe"]


class StrategyParamsTpe(_StrategyParamsTpe, total=False):
    """Tree-structured Parzen estimator, over all dimensions at once."""

    first: int
    """Points at random before."""


class StrategyParamsSuccessiveHalving(HalvingParams):
    """Short trainings of all trials; the best of each round train longer."""

    name: Literal["successive_halving"]


class StrategyParamsHyperband(HalvingParams):
    """Successive halving with several lengths of the first round."""

    name: Literal["hyperband"]


class StrategyParamsExhaustive(TypedDict):
    """Every point of a finite space."""

    name: Literal["exhaustive"]


# How the next point is chosen.
StrategyParams: TypeAlias = Union[
    "StrategyParamsRandom",
    "StrategyParamsGreedy",
    "StrategyParamsGenetic",
    "StrategyParamsTpe",
    "StrategyParamsSuccessiveHalving",
    "StrategyParamsHyperband",
    "StrategyParamsExhaustive",
]


class _Stretches(TypedDict):
    size: int
    """Most elements that one covers."""


class Stretches(_Stretches, total=False):
    """Stretches of zeros along one axis (Park et al., "SpecAugment", Interspeech 2019)."""

    count: int
    """How many, each somewhere else."""


class Student(TypedDict, total=False):
    """The model that learns: an uploaded one, or one made out of the teacher."""

    depth: float | None
    """Share of the residual blocks that the student has, above 0 to 1; 1 when `null`."""
    model: str | None
    """An uploaded model; no other field but `preprocess` goes with it."""
    preprocess: Preprocess | None
    weights: StudentWeights | None
    width: float | None
    """Share of each layer's channels that the student has, above 0 to 1; 1 when `null`."""


# Where the weights of a student come from that is made out of its teacher.
StudentWeights: TypeAlias = Literal["inherit", "reinitialize"]


class Target(TypedDict, total=False):
    """What the pruned model must reach; at least one. All that are given hold at the end."""

    channel_sparsity: float | None
    """Share of the prunable channels (heads, blocks) that are removed, above 0 and below 1; not `weight`."""
    latency_ratio: float | None
    """Median time of a run after ÷ before, at most, measured on the job's device; not `weight`."""
    macs_ratio: float | None
    """MACs after ÷ before, at most; not `weight`."""
    max_accuracy_drop: float | None
    """The smallest model whose accuracy on the validation split, recovered and fine-tuned, is below the original's
    by no more than this, found by bisection.
    """
    max_worsening: Worsening | None
    parameters_ratio: float | None
    """Parameters after ÷ before, at most; not `weight`."""
    size_ratio: float | None
    """Bytes of the file after ÷ before, at most; with `weight` only where `storage` is `sparse`."""
    sparsity: float | None
    """Share of the prunable weights that become zero, above 0 and below 1; `weight` only."""


class _TargetInfo(TypedDict):
    dtype: str
    name: str
    shape: list[int]
    """`[0]` for labels of the words of texts."""


class TargetInfo(_TargetInfo, total=False):
    """The labels or values to predict."""

    class_counts: list[int] | None
    """Examples of each class in all splits, in the order of the labels; left out for more than 1,000 classes, and
    where words have labels.
    """
    class_names: list[str] | None
    """Names of the classes, in the order of the labels, where the files have words for them."""
    classes: int | None
    """Largest label plus one, for integer labels without a shape, and for those of words."""
    numbered: bool
    """Whether the labels are numbers, which the names only name: their order is that of the numbers."""
    one_hot: bool
    """Whether each example has a single 1 among zeros, as classes do that were encoded; of files of arrays."""
    range: list[float] | None
    """Smallest and largest value of all splits."""
    zeros_and_ones: bool
    """Whether all values are 0 or 1, where they are numbers with fractions; of files of arrays."""


# What the model is for; tells the loss, the metrics and the form of the target.
Task: TypeAlias = Literal[
    "classification",
    "multilabel",
    "regression",
    "token_classification",
    "language_modeling",
    "embedding",
]


# Whose outputs the student learns.
TeacherChoice: TypeAlias = Literal["model", "original"]


# Where a teacher's outputs came from while the student trained.
TeacherSource: TypeAlias = Literal["live", "cached"]


class _TeacherViews(TypedDict):
    augment: Augment
    """How the others are drawn; anything but `mixup` and `cutmix`."""


class TeacherViews(_TeacherViews, total=False):
    """Views of an example that the teachers answer, their answers averaged as those of several teachers are, while
    the student sees the example as it is (Radosavovic et al., "Data Distillation: Towards Omni-Supervised
    Learning", CVPR 2018, section 3: one model's predictions on transformed copies, ensembled). For a teacher that
    was trained with such views itself.
    """

    count: int
    """How many, the example as it is among them: 2 to 256; 16 when left out."""


# A temperature.
Temperature: TypeAlias = Union["float", "Learned"]


class _TensorInfo(TypedDict):
    dtype: str
    """`float32`, `int64`, …, as NumPy names them."""
    name: str
    shape: list[Dimension]


class TensorInfo(_TensorInfo, total=False):
    """A named input or output of a model."""

    prepared: bool
    """Whether the model scales and normalises this input itself, since a job was asked to `embed_preprocessing`.
    Left out where it does not.
    """


class TokenDropout(TypedDict):
    """Tokens that are replaced."""

    probability: float
    """Of each token, above 0 to below 1. Padding stays: the tokenizer's, or tokens 0 of arrays."""
    token: int
    """What a dropped token becomes: the vocabulary's mask or unknown."""


# What an input of a model that reads texts gets.
TokenPart: TypeAlias = Literal["ids", "mask", "types", "positions"]


class TokenPreparation(TypedDict):
    """How a text becomes an example of `length` numbers: it is made tokens, cut to that length where it has more (of
    two texts the longer one first), and filled up where it has fewer.
    """

    length: int
    pad_token: int
    pad_type: int
    pads_left: bool
    part: TokenPart
    tokenizer: str
    """Digest of the tokenizer's file."""


class _TokenizerInfo(TypedDict):
    digest: str
    """SHA-256 of the file, in hex."""
    pad_token: int
    """What fills a sequence up: that of the file's padding, or else its token `[PAD]`, `<pad>` or the like, or else
    0.
    """
    pad_type: int
    """Type (segment) of that token."""
    pads_left: bool
    """Whether sequences are filled up in front."""
    vocabulary: int
    """Highest token plus one."""


class TokenizerInfo(_TokenizerInfo, total=False):
    """A tokenizer, as its `tokenizer.json` tells (the format of Hugging Face's `tokenizers`)."""

    max_length: int | None
    """Length that the file cuts sequences to."""


class TokensInfo(TypedDict):
    """Texts in tokens, with those that the tokenizer adds to each."""

    longest: int
    """Tokens of the longest text."""
    median: int
    """Half of the texts have at most so many tokens."""
    tokenizer: TokenizerInfo


class TrainParams(TypedDict, total=False):
    """Parameters of a `train` job, and of `finetune` in other kinds."""

    augment: Augment | None
    class_weights: ClassWeights | None
    early_stopping: EarlyStopping | None
    epochs: int
    """How often each example is seen."""
    label_smoothing: float
    """Share of each label spread over all classes, 0 to below 1."""
    loss: LossName | None
    optimizer: Optimizer
    schedule: LearningRateSchedule
    weights: StartWeights


class TrainPlan(TypedDict):
    """What a training would do."""

    cost: PlanCost
    epochs: int
    weights: StartWeights
    """What it begins with."""


class Training(TypedDict):
    """All training of the job together."""

    examples_per_second: float
    seconds: float


class _Trial(TypedDict):
    config: dict[str, Any]
    """By name of dimension; those that do not count for this candidate are left out."""
    folds: list[Fold]
    metrics: dict[str, float]
    """By metric name, the mean over the folds."""
    share: float
    """Share of a whole training."""
    status: TrialStatus
    trial: int
    """From 0 on, in the order of judging."""
    values: dict[str, float]
    """Of the objectives, by name; means over the folds."""


class Trial(_Trial, total=False):
    """One candidate, judged."""

    cost: TrialCost | None
    error: str | None
    """Why it failed, or which constraint it does not meet."""
    proxy: float | None
    """The score by which it was screened."""
    standard_errors: dict[str, float]
    """By metric name, the standard deviation over the folds by the root of their number; of several folds."""


class _TrialCost(TypedDict):
    nonzero_parameters: int
    parameters: int
    size_bytes: int
    """Of the ONNX file."""


class TrialCost(_TrialCost, total=False):
    """The costs of one candidate, trained."""

    latency_ms: float | None
    """Where an objective or a constraint needs it."""
    macs: int | None
    """For one example."""


# How a trial ended.
TrialStatus: TypeAlias = Literal["judged", "stopped", "infeasible", "failed"]


class _Upload(TypedDict):
    id: str
    offset: int
    """Bytes so far; the next piece begins here."""
    target: UploadTarget
    """What it becomes."""


class Upload(_Upload, total=False):
    """An upload that is not whole yet."""

    length: int | None
    """Bytes of the whole, if they were announced."""


# What an upload becomes when it is whole.
UploadTarget: TypeAlias = Literal["models", "datasets"]


class _Warning(TypedDict):
    message: str
    """For people."""
    type: str
    """A stable word, for instance `inputs_on_another_scale`."""


class Warning(_Warning, total=False):
    """Something that whoever takes a job's result should know."""

    data: dict[str, Any]
    """For programs; left out where there is no more to say."""


class _Webhook(TypedDict):
    url: str
    """`https` or `http`, a public address unless the server allows others."""


class Webhook(_Webhook, total=False):
    """An address that is told of a job by POST, signed as Standard Webhooks has it
    (<https://github.com/standard-webhooks/standard-webhooks>).
    """

    events: list[WebhookEvent]


class _WebhookEndpoint(TypedDict):
    created_at: str
    id: str
    project: str
    url: str


class WebhookEndpoint(_WebhookEndpoint, total=False):
    """A URL that jobs tell how they went."""

    secret: str | None
    """What its messages are signed with (`whsec_…`); `null` for a key that may only read."""


# What a job can tell.
WebhookEvent: TypeAlias = Literal["job.started", "job.succeeded", "job.failed", "job.canceled", "job.finished"]


_WeightObject = TypedDict("_WeightObject", {
    "from": "float",
    "to": "float",
})


_WeightObjectOthers = TypedDict("_WeightObjectOthers", {
    "curve": "WeightCurve",
}, total=False)


class WeightObject(_WeightObject, _WeightObjectOthers):
    """From the first step to the last."""


# The factor of one loss in the sum.
Weight: TypeAlias = Union["float", "WeightObject"]


# How a weight goes from one value to another.
WeightCurve: TypeAlias = Literal["linear", "cosine"]


class Worsening(TypedDict):
    """How much worse a metric may become."""

    by: float
    """In the metric's own unit, above 0: how much lower one may become of which more is better, how much higher
    another.
    """
    metric: MetricName
