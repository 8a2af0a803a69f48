// The kinds of jobs: what a new one begins with, and which fields its form has.

// A field: [path in the request, label, type, {hint, options, when, columns, …}].
const CRITERIA = ["magnitude", "gradient", "taylor", "fisher", "hessian", "entropy", "activation", "sparsegpt", "bn_scale", "lamp", "fpgm", "random"];
const METRICS = ["loss", "accuracy", "top_2_accuracy", "top_3_accuracy", "top_5_accuracy", "top_10_accuracy", "balanced_accuracy", "f1", "weighted_f1", "precision", "recall",
  "roc_auc", "average_precision", "expected_calibration_error", "perplexity", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error", "r2", "spearman"];
const LOSSES = ["soft_targets", "cross_entropy", "logits_mse", "decoupled", "standardized", "similarity", "contrastive", "feature", "attention_transfer", "relational", "cosine", "bounded_regression"];
const COSTS = ["macs", "parameters", "nonzero_parameters", "size_bytes", "latency_ms"];

// Which usual values a form begins with: those of classes, or those of values.
const SOFT = [{ name: "soft_targets", temperature: 4, weight: 0.9 }, { name: "cross_entropy", weight: 0.1 }];
const SOFT_OF_VALUES = [{ name: "logits_mse", weight: 0.9 }, { name: "cross_entropy", weight: 0.1 }];
const ACCURATE = [{ metric: "accuracy", goal: "maximize" }, { metric: "macs", goal: "minimize" }];
const EXACT = [{ metric: "r2", goal: "maximize" }, { metric: "macs", goal: "minimize" }];

const LOSS_NAMES = { cross_entropy: "labels (the task's own loss)", soft_targets: "soft targets", logits_mse: "squared error of the outputs" };
const GRANULARITIES = [["channel", "channels"], ["weight", "single weights"], ["n_m", "n of m weights, as 2:4"], ["head", "attention heads"], ["block", "residual blocks"]];

const LOSS_ROWS = { noun: "loss", hint: "Those that are usual for the task when there is none.", columns: [["name", "Loss", "select", LOSSES.map((name) => [name, LOSS_NAMES[name] || name.replaceAll("_", " ")])], ["weight", "Weight", "number"], ["temperature", "Temperature", "number"]], fresh: { name: "cross_entropy", weight: 1 } };

const FLIPS = ["", ["horizontal", "left and right"], ["vertical", "top and bottom"], ["both", "along both axes"]];

const training = (at, name = "Training") => ({
  title: name,
  fields: [
    [`${at}.optimizer.name`, "Optimizer", "select", { usual: "adamw", options: ["", "adamw", "adam", "sgd", "rmsprop"] }],
    [`${at}.optimizer.learning_rate`, "Learning rate", "number", { hint: "0.001 when empty." }],
    [`${at}.optimizer.weight_decay`, "Weight decay", "number", { hint: "0.01 when empty." }],
    [`${at}.schedule.name`, "Learning-rate schedule", "select", { usual: "cosine", options: ["", "cosine", "linear", "step", "constant"] }],
    [`${at}.loss`, "Loss", "select", { usual: "that of the task", options: ["", "cross_entropy", "binary_cross_entropy", "mean_squared_error"] }],
    [`${at}.label_smoothing`, "Label smoothing", "number", { hint: "0 to below 1." }],
    [`${at}.early_stopping.patience`, "Early stopping after", "number", { hint: "Epochs without improvement that are borne." }],
    [`${at}.augment.crop.padding`, "Examples moved by at most", "number", { hint: "Pixels of images, each time anew." }],
    [`${at}.augment.flip`, "Examples mirrored", "select", { usual: "not", options: FLIPS }],
    [`${at}.weights`, "Weights at the start", "select", { usual: "keep", options: ["", "keep", "reinitialize"] }],
  ],
});

const granularity = (body) => body.params?.granularity || "channel";
const single = (body) => ["weight", "n_m"].includes(granularity(body));
const target = (name, label, hint, when) => [`params.target.${name}`, label, "number", { hint, when }];

export const COMMON = {
  data: {
    title: "Data",
    fields: [
      ["data.preprocess.scale", "Scale", "number", { hint: "Stored numbers times this; 1/255 for uint8 images when empty." }],
      ["data.preprocess.mean", "Mean", "numbers", { hint: "One, or one for each channel of images or column of a table; commas or blanks between." }],
      ["data.preprocess.std", "Standard deviation", "numbers", { hint: "As many." }],
      ["data.preprocess.layout", "Layout of images", "select", { usual: "detected", options: ["", "nchw", "nhwc"] }],
      ["data.batch_size", "Batch size", "number", { hint: "64 when empty." }],
      ["data.validation_fraction", "Validation fraction", "number", { hint: "0.1 when empty." }],
      ["data.test_fraction", "Test fraction", "number", { hint: "Of data sets without a test split; 0.1 when empty." }],
      ["data.limit", "Examples at most", "number", { hint: "Of each split; all when empty." }],
      ["data.embed_preprocessing", "The new model does scale, mean and deviation itself", "check", { when: (body) => body.kind !== "evaluate" }],
    ],
  },
  run: {
    title: "Run",
    fields: [
      ["device", "Device", "select", { usual: "auto", options: ["", "auto"] }],
      ["task", "Task", "select", { usual: "detected", options: ["", "classification", "multilabel", "regression", "token_classification", "language_modeling", "embedding"] }],
      ["seed", "Seed", "number", { hint: "The same seed gives the same result; 0 when empty." }], ["priority", "Priority", "number", { hint: "Higher runs first; 0 when empty." }],
      ["max_attempts", "Attempts at most", "number", { hint: "3 when empty." }], ["timeout_seconds", "Timeout in seconds", "number", { hint: "86400, a day, when empty." }],
      ["tags", "Tags", "tags", { hint: "To find jobs by: team=vision, run=3" }],
      ["webhook.url", "Webhook", "text", { hint: "A URL that is told how the job ends." }],
    ],
  },
};

export const KINDS = {
  train: {
    about: "Trains the model on the data set.",
    body: { params: { epochs: 10, optimizer: { name: "adamw", learning_rate: 0.001 } } },
    fields: [["params.epochs", "Epochs", "number"], ["params.weights", "Weights at the start", "select", { usual: "keep", options: ["", "keep", "reinitialize"] }]],
    more: [{ title: "Training", fields: training("params").fields.slice(0, -1) }],
  },
  evaluate: {
    about: "Measures the model on the test split, and changes nothing.",
    body: { params: {} },
    fields: [["params.metrics", "Metrics", "choices", { options: METRICS, hint: "The task's usual ones when none is chosen." }]],
    more: [],
  },
  prune: {
    about: "Removes channels, heads, blocks or single weights until the targets are met.",
    body: { params: { granularity: "channel", target: { macs_ratio: 0.5 }, finetune: { epochs: 5 } } },
    fields: [
      ["params.granularity", "What is removed", "select", {
        usual: "channels", options: ["", ...GRANULARITIES],
        // Targets of one granularity mean nothing to another one.
        then(body) {
          const kind = granularity(body);
          if (kind === "n_m") delete body.params.target;
          else body.params.target = kind === "weight" ? { sparsity: 0.9 } : { macs_ratio: 0.5 };
          // Nine of ten weights at once is more than a training mends.
          const many = kind === "weight";
          if (many) body.params.schedule = { steps: 5, ...body.params.schedule };
          else if (body.params.schedule?.steps === 5) delete body.params.schedule.steps;
          if (body.params.finetune?.epochs === (many ? 5 : 10)) body.params.finetune.epochs = many ? 10 : 5;
          if (Object.keys(body.params.schedule || { any: 1 }).length === 0) delete body.params.schedule;
        },
      }],
      ["params.criterion", "Importance by", "select", { usual: "magnitude", options: ["", ...CRITERIA.map((name) => name === "sparsegpt" ? [name, "sparsegpt (of weights, not of channels)"] : [name, name.replaceAll("_", " ")])],
        hint: "Least important are: small weights (magnitude, lamp: beside the rest of the layer; bn scale: of the normalisation); little effect on the loss (gradient, taylor, fisher, hessian); little to say about the data (entropy, activation); much like others (fpgm)." }],
      target("macs_ratio", "MACs after ÷ before", "At most; above 0, below 1.", (body) => !single(body)),
      target("sparsity", "Sparsity", "Share of weights that become zero.", (body) => granularity(body) === "weight"),
      ["params.n", "Weights that stay", "number", { hint: "2 when empty.", when: (body) => granularity(body) === "n_m" }],
      ["params.m", "of each", "number", { hint: "4 when empty.", when: (body) => granularity(body) === "n_m" }],
      ["params.schedule.steps", "Cuts", "number", { hint: "In how many steps the target is reached; 1 when empty." }],
      ["params.finetune.epochs", "Epochs of fine-tuning", "number", { hint: "Shared out over the cuts; none when empty." }],
    ],
    more: [
      {
        title: "Targets",
        fields: [
          target("parameters_ratio", "Parameters after ÷ before", null, (body) => !single(body)),
          target("size_ratio", "File size after ÷ before"), target("latency_ratio", "Latency after ÷ before", "Measured on the job's device.", (body) => !single(body)),
          target("channel_sparsity", "Share of channels removed", null, (body) => !single(body)),
          target("max_accuracy_drop", "Largest drop of accuracy", "The smallest model within it, for instance 0.01; of classes only."),
          ["params.target.max_worsening.metric", "Or of another metric", "select", { usual: "none", options: ["", ...METRICS] }],
          target("max_worsening.by", "worse by at most", "In the metric's own unit."),
        ],
      },
      {
        title: "Pruning",
        fields: [
          ["params.scope", "Scope", "select", { usual: "global", options: ["", "global", "layer", "isomorphic"], hint: "What is ranked together: all layers, each by itself, or those of the same shape." }],
          ["params.reduction", "Reduction", "select", { usual: "mean", options: ["", "mean", "sum", "max", "l2"], when: (body) => !single(body) }],
          ["params.norm", "Norm", "number", { hint: "1 or 2; magnitude only." }],
          ["params.schedule.curve", "Curve of the cuts", "select", { usual: "cubic", options: ["", "cubic", "linear", "exponential"] }],
          ["params.round_to", "Channel counts are multiples of", "number", { hint: "When empty the largest of 16, 8, 4, 2, 1 that lands near the target.", when: (body) => !single(body) }],
          ["params.max_layer_sparsity", "Largest share that a layer loses", "number", { hint: "0.95 when empty." }],
          ["params.exclude", "Nodes to leave alone", "list", { hint: "Names with * and ?, commas between." }],
          ["params.storage", "Storage of zeros", "select", { usual: "dense", options: ["", "dense", "sparse"], when: single }],
          ["params.sensitivity", "Measure how each group bears losses", "check"],
        ],
      },
      training("params.finetune", "Fine-tuning"),
    ],
  },
  distill: {
    about: "Trains a small student with the outputs of the model, its teacher.",
    usual: { path: "params.losses", classes: SOFT, values: SOFT_OF_VALUES },
    body: {
      params: {
        student: { width: 0.5 }, losses: SOFT,
        finetune: { epochs: 10 }, control: true,
      },
    },
    fields: [
      ["params.student.model", "Student", "model", {
        none: "made from the teacher", step: { none: "the model of the step before" },
        // An uploaded student comes as it is.
        then(body) {
          const { model } = body.params.student || {};
          body.params.student = model ? { model } : { width: 0.5 };
        },
      }],
      ["params.student.width", "Width of the student", "number", { hint: "Share of each layer's channels.", step: { hint: "Share of the teacher's channels; when empty, the model of the step before learns." }, when: (body) => !body.params?.student?.model }],
      ["params.student.depth", "Depth of the student", "number", { hint: "Share of the residual blocks.", when: (body) => !body.params?.student?.model }],
      ["params.losses", "Losses", "rows", LOSS_ROWS],
      ["params.finetune.epochs", "Epochs", "number"],
      ["params.control", "Train the same student without a teacher beside it", "check"],
    ],
    more: [
      {
        title: "Student and teachers",
        fields: [
          ["params.student.weights", "Weights of the student", "select", { usual: "inherit", options: ["", "inherit", "reinitialize"], when: (body) => !body.params?.student?.model }],
          ["params.teachers", "Further teachers", "list", { hint: "Ids of models, commas between." }],
          ["params.average", "Average of teachers", "select", { usual: "logits", options: ["", "logits", "probabilities"] }],
        ],
      },
      {
        title: "Views for the teacher",
        fields: [
          ["params.teacher_views.count", "Views", "number", { hint: "Of each example, moved or flipped; the teacher's answers are averaged, the student sees the example as it is." }],
          ["params.teacher_views.augment.crop.padding", "Moved by at most", "number", { hint: "Pixels." }],
          ["params.teacher_views.augment.flip", "Mirrored", "select", { usual: "not", options: FLIPS }],
        ],
      },
      training("params.finetune"),
    ],
    // Of a pipeline's step only.
    step: [["params.teacher", "Teacher", "select", { usual: "the model of the step before", options: ["", ["original", "the model that the pipeline began with"]] }]],
  },
  search: {
    about: "Looks for a better architecture made of the model, or better hyperparameters.",
    usual: { path: "params.objectives", classes: ACCURATE, values: EXACT },
    body: {
      params: {
        space: { width: [0.25, 0.5, 0.75, 1] }, strategy: { name: "tpe" }, trials: 16,
        objectives: ACCURATE,
        evaluation: { method: "holdout" }, trial: { epochs: 2 }, final: { epochs: 10 },
      },
    },
    fields: [
      ["params.space.width", "Widths", "numbers", { hint: "Shares of the channels of each group." }],
      ["params.space.depth", "Residual blocks may go", "check"],
      ["params.space.hyperparameters.learning_rate.log_uniform", "Learning rate from, to", "numbers", { hint: "For instance 0.0001, 0.1; not searched when empty. More under Space, and all others in “Parameters as JSON”." }],
      ["params.strategy.name", "Strategy", "select", {
        options: ["tpe", "random", "greedy", "genetic", "successive_halving", "hyperband", "exhaustive"],
        then(body) { body.params.strategy = { name: body.params.strategy.name }; },
        hint: "tpe learns where good ones lie, random is its control, genetic suits several objectives, halving stops bad ones early.",
      }],
      ["params.trials", "Trials at most", "number"],
      ["params.objectives", "Objectives", "rows", { hint: "The first decides who wins; all together make the Pareto front. “At most” below, under Judging, forces a smaller model.", noun: "objective", columns: [["metric", "Figure", "select", [...METRICS, "cross_entropy", ...COSTS]], ["goal", "Goal", "select", ["maximize", "minimize"]]], fresh: { metric: "macs", goal: "minimize" } }],
      ["params.trial.epochs", "Epochs of a trial", "number"],
      ["params.final.epochs", "Epochs of the winner", "number"],
    ],
    more: [
      {
        title: "Space",
        fields: [
          ["params.space.kernel", "Kernel sizes", "numbers"], ["params.space.activation", "Activations", "list", { hint: "Relu, HardSwish" }],
          ["params.space.expand", "Expansions", "numbers", { hint: "Of inverted bottlenecks." }], ["params.space.groups", "Groups of convolutions", "numbers"],
          ["params.space.resolution", "Resolutions", "numbers", { hint: "Shares of height and width." }], ["params.space.exclude", "Nodes to leave alone", "list"],
          ["params.space.hyperparameters.weight_decay.log_uniform", "Weight decay from, to", "numbers", { hint: "For instance 0.0001, 0.1." }],
          ["params.space.hyperparameters.batch_size.choice", "Batch sizes", "numbers", { hint: "For instance 16, 32, 64." }],
          ["params.space.hyperparameters.optimizer.choice", "Optimizers", "list", { hint: "adamw, sgd" }],
        ],
      },
      {
        title: "Judging",
        fields: [
          ["params.evaluation.method", "Evaluation", "select", { options: ["holdout", "cross_validation", "shared_weights"], then(body) { body.params.evaluation = { method: body.params.evaluation.method }; } }],
          ["params.evaluation.folds", "Folds", "number", { when: (body) => body.params?.evaluation?.method === "cross_validation" }],
          ["params.strategy.first", "Trials at random first", "number", { hint: "10 when empty; TPE chooses after them.", when: (body) => body.params?.strategy?.name === "tpe" }],
          ["params.strategy.population", "Population", "number", { when: (body) => body.params?.strategy?.name === "genetic" }],
          ...COSTS.filter((cost) => cost !== "nonzero_parameters").map((cost) => [`params.constraints.${cost}`, `At most: ${cost.replace("_", " ")}`, "number"]),
          ["params.control", "Random search with as much training beside it", "check"],
        ],
      },
      training("params.trial", "Training of a trial"),
    ],
  },
};

// Its steps are jobs of the other kinds.
KINDS.pipeline = {
  about: "Several steps, each on the model of the step before.",
  body: {
    params: {
      steps: [{ kind: "prune", params: { target: { macs_ratio: 0.5 }, finetune: { epochs: 3 } } },
        { kind: "distill", params: { teacher: "original", finetune: { epochs: 5 } } }, { kind: "evaluate", params: {} }],
    },
  },
  fields: [["params.steps", "Steps", "steps", {
    kinds: Object.fromEntries(["prune", "distill", "train", "evaluate"].map((kind) => [kind, KINDS[kind]])),
    fresh: { kind: "train", params: { epochs: 3 } },
  }]],
  more: [],
};
