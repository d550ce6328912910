"""Names that other libraries use for what is here."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast, get_args

from thalweg import _checks
from thalweg._habits import advice
from thalweg.errors import ArgumentError

_LEARNS = "strategy.fit(task) learns one task, and continual.run(strategy, scenario) all of them"
_JUDGES = (
    "continual.run evaluates all tasks after each one, and strategy.predict(x) returns classes"
)
#: Advice for attribute names of Avalanche, mammoth or scikit-learn.
ELSEWHERE = {
    **dict.fromkeys(("train", "train_task", "observe", "train_experience"), _LEARNS),
    **dict.fromkeys(("eval", "evaluate", "test", "score", "accuracy"), _JUDGES),
    "partial_fit": "strategy.step(x, y) takes a step on a batch of a stream",
    **{
        name: f"it belongs to the trainer, strategy.trainer.{name}"
        for name in ("model", "optimizer", "loss", "history")
    },
    **dict.fromkeys(
        ("save_checkpoint", "checkpoint"),
        "continual.run(..., checkpoint=path, resume=True) saves and resumes a run;"
        " strategy.save(path) saves the trainer and what the strategy has gathered",
    ),
    **dict.fromkeys(("mem_size", "storage_policy", "memory"), "it is strategy.buffer"),
    **dict.fromkeys(
        ("ewc_lambda", "lambda_e", "e_lambda", "reg_strength"), "it is strategy.strength"
    ),
}

_STEPS = "pass epochs, steps and batch_size to continual.run or strategy.fit"
_BUFFER = "it is buffer: a number of samples, or a buffer such as continual.BalancedBuffer(200)"
#: The same for arguments of their constructors.
ARGUMENTS = {
    **dict.fromkeys(
        ("ewc_lambda", "e_lambda", "lambda_e", "si_lambda", "lambda_reg", "reg_strength", "lam"),
        "it is strength",
    ),
    **dict.fromkeys(
        ("model", "optimizer", "criterion", "loss"),
        "a strategy goes around a trainer, tw.Trainer(model, loss=..., optimizer=...)",
    ),
    **dict.fromkeys(("train_mb_size", "train_epochs", "epochs", "n_epochs"), _STEPS),
    **dict.fromkeys(("mem_size", "buffer_size", "memory_size", "capacity"), _BUFFER),
    **dict.fromkeys(("minibatch_size", "batch_size_mem", "sample_size"), "it is batch_size"),
    **dict.fromkeys(
        ("decay_factor", "gamma"),
        "OnlineEWC(..., decay=...) reduces the importances of earlier tasks",
    ),
    "mode": "EWC has a penalty for each task, and OnlineEWC one for all tasks",
    "patterns_per_exp": "it is per_task",
    "memory_strength": "it is margin",
}

_LONG = {
    **dict.fromkeys(("n_epochs", "num_epochs", "train_epochs", "max_epochs"), "it is epochs"),
    **dict.fromkeys(("n_steps", "iters", "iterations", "max_steps"), "it is steps"),
    **dict.fromkeys(("train_mb_size", "minibatch_size", "mb_size"), "it is batch_size"),
    **dict.fromkeys(
        ("model", "optimizer", "loss", "criterion", "lr", "learning_rate"),
        "it belongs to the trainer, tw.Trainer(model, loss=..., optimizer=optim.Adam(lr=...))",
    ),
    "callbacks": "only trainer.fit takes them; continual.run(..., evaluate_every=..., log=path)"
    " evaluates, and writes the scores, during training",
    "shuffle": "every pass has a random order; to keep the order of the rows, call"
    " strategy.learn(task, steps=..., shuffle=False) between strategy.begin(task) and"
    " strategy.end(task)",
}
_A_TASK = "pass the data as a task, continual.Task(x, y, x_test, y_test)"
_HELD_OUT = "each task has its held-out samples, Task(x, y, x_test, y_test), for evaluation"
#: Arguments that others pass to functions that learn one task.
OF_FITS = {
    **_LONG,
    **dict.fromkeys(("x", "y", "X", "experience", "dataset", "data"), _A_TASK),
    **dict.fromkeys(("validation_data", "validation_split", "eval_streams"), _HELD_OUT),
    **dict.fromkeys(
        ("progress", "verbose"), "continual.run(..., progress=True) shows a progress bar"
    ),
    **{
        name: f"it belongs to the task, Task(..., {name}=...)"
        for name in ("sample_weight", "classes")
    },
}
#: To functions that learn all tasks.
OF_RUNS = {
    **_LONG,
    **dict.fromkeys(
        ("plugins", "plugin"),
        "combine strategies by nesting them, as in EWC(Replay(trainer, 200), 1.0)",
    ),
    **dict.fromkeys(("validation_data", "validation_split", "eval_streams"), _HELD_OUT),
    **dict.fromkeys(("eval_every", "eval_epochs"), "it is evaluate_every, in steps"),
    **dict.fromkeys(
        ("metrics", "evaluator"),
        "it is metric, a function that scores a task; result.metrics() has all that follow from"
        " the scores",
    ),
    **dict.fromkeys(("loggers", "logger", "log_dir"), "it is log, a .csv or .json file"),
    **dict.fromkeys(("save_path", "checkpoint_path", "checkpoint_dir"), "it is checkpoint"),
    **dict.fromkeys(("tasks", "benchmark", "stream", "experiences"), "it is scenario"),
    **dict.fromkeys(("trainer", "learner", "method"), "it is strategy, which may be a trainer"),
    **dict.fromkeys(
        ("seed", "random_state"), "it belongs to the model, nn.Sequential(..., seed=...)"
    ),
    "verbose": "it is progress",
}
_ARRAYS = {
    **dict.fromkeys(("train", "X", "x_train", "X_train"), "it is x"),
    **dict.fromkeys(("Y", "y_train", "targets", "labels"), "it is y"),
    **dict.fromkeys(("test", "x_val", "X_test", "x_valid", "x_eval"), "it is x_test"),
    **dict.fromkeys(("y_val", "y_valid", "y_eval"), "it is y_test"),
}
_KIND = dict.fromkeys(("scenario", "setting", "mode", "incremental"), "it is kind")
#: To functions that make scenarios, from arrays that all tasks share.
OF_SCENARIOS = {
    **_KIND,
    **dict.fromkeys(
        ("class_order", "fixed_class_order", "classes_order"), "it is order, in continual.split"
    ),
    **dict.fromkeys(
        ("n_experiences", "n_tasks", "num_tasks", "n_splits", "n_steps"), "it is tasks"
    ),
    **dict.fromkeys(("random_state", "shuffle", "shuffle_classes"), "seed=0 draws a random order"),
    **dict.fromkeys(
        ("return_task_id", "task_labels"), 'kind="task" makes the task known at evaluation'
    ),
    **dict.fromkeys(
        ("rotations", "rotations_list", "degrees"), "it is angles, in continual.rotated"
    ),
    **_ARRAYS,
}
#: To functions that make scenarios, from each task's own arrays.
OF_ARRAYS = {
    **_KIND,
    **dict.fromkeys(
        ("x", "y", "x_test", "y_test", *_ARRAYS),
        "pass the arrays of each task, tasks=[(x, y, x_test, y_test), ...]",
    ),
    **dict.fromkeys(("task_names", "labels"), "it is names"),
}
#: To `Task`.
OF_TASKS = {
    **_ARRAYS,
    **dict.fromkeys(("task_id", "task_label"), "it is index"),
    **dict.fromkeys(("weights", "weight"), "it is sample_weight"),
}
#: To functions that judge samples.
OF_PREDICTIONS = {
    **dict.fromkeys(("task_id", "task_label", "task_labels", "context"), "it is task"),
    **dict.fromkeys(("active", "allowed", "active_classes"), "it is classes"),
}

#: Names that others have in the module.
NAMES = {
    **dict.fromkeys(("SI", "PathIntegral"), "it is SynapticIntelligence"),
    **dict.fromkeys(
        ("ER", "ExperienceReplay", "Rehearsal", "ReplayPlugin"), "it is Replay(trainer, 200)"
    ),
    **dict.fromkeys(
        ("iCaRL", "ICaRL", "NCM", "NCMClassifier"),
        'NearestMean(Replay(trainer, BalancedBuffer(2000, select="herding"))) classifies as iCaRL'
        " does",
    ),
    **dict.fromkeys(
        ("ReplayBuffer", "Memory", "EpisodicMemory", "ExperienceBalancedBuffer"),
        "there are ReservoirBuffer and BalancedBuffer; Replay(trainer, 200) creates its own",
    ),
    "ClassBalancedBuffer": "it is BalancedBuffer(capacity), whose classes share the capacity",
    "ReservoirSamplingBuffer": "it is ReservoirBuffer",
    **dict.fromkeys(
        ("SplitMNIST", "SplitFMNIST", "SplitCIFAR10", "SplitCIFAR100", "nc_benchmark"),
        "continual.split(x, y, x_test, y_test, tasks=5) divides the classes of any arrays",
    ),
    "PermutedMNIST": "it is continual.permuted(x, y, x_test, y_test)",
    "RotatedMNIST": "it is continual.rotated(x, y, x_test, y_test)",
    **dict.fromkeys(
        ("benchmark_from_datasets", "ni_benchmark", "Benchmark", "ContinualDataset"),
        "continual.from_arrays([(x, y, x_test, y_test), ...]) makes a Scenario",
    ),
    "Experience": "it is Task(x, y, x_test, y_test)",
    **dict.fromkeys(
        ("progressive_val_score", "evaluate_prequential", "prequential_evaluation"),
        "continual.prequential(strategy, batches) predicts each batch before it learns it",
    ),
    **dict.fromkeys(("train", "fit"), _LEARNS),
    **dict.fromkeys(("evaluate", "Evaluator"), _JUDGES),
    "Trainer": "it is tw.Trainer",
    **dict.fromkeys(("JointTraining", "MultiTask"), "it is Joint(trainer, scenario)"),
    **dict.fromkeys(("FineTune", "Finetune", "Finetuning"), "it is Naive, or the trainer itself"),
    "FromScratchTraining": "it is FromScratch",
    "LearningWithoutForgetting": "it is LwF",
    "ElasticWeightConsolidation": "it is EWC",
    "MemoryAwareSynapses": "it is MAS",
    **dict.fromkeys(("EWCPlugin", "EWCpp"), "it is EWC, or OnlineEWC, around a trainer"),
    "EvaluationPlugin": "continual.run evaluates all tasks after each one, and returns a Result",
    **dict.fromkeys(
        ("accuracy", "forgetting", "bwt", "fwt", "average_accuracy", "intransigence", "plasticity"),
        "it is in continual.metrics, and for a run in result.metrics()",
    ),
}

#: Names that others use for the results of a run.
OF_RESULTS = {
    **dict.fromkeys(
        ("accuracy", "acc", "average_accuracy", "final_accuracy", "mean_accuracy", "score"),
        'it is result.metrics()["average_accuracy"]; result.r has the scores of all tasks after'
        " each one",
    ),
    **dict.fromkeys(("accuracies", "matrix", "R", "accuracy_matrix"), "it is result.r"),
    "forgetting": 'it is result.metrics()["forgetting_max"], or continual.metrics.forgetting',
    **dict.fromkeys(("bwt", "backward_transfer"), 'it is result.metrics()["bwt_gem"]'),
    **dict.fromkeys(("fwt", "forward_transfer"), 'it is result.metrics()["fwt_gem"]'),
    **dict.fromkeys(("loss", "losses"), 'it is result.histories[i]["loss"], for task i'),
    **dict.fromkeys(
        ("model", "trainer", "strategy"), "it is the one that was passed to continual.run"
    ),
    **dict.fromkeys(("to_csv", "to_json"), "result.save(path) writes a .csv or .json file"),
    **dict.fromkeys(
        ("to_dataframe", "to_pandas", "df"), "it is pandas.DataFrame(result.records())"
    ),
    "time": "it is result.seconds",
}

#: Kinds of scenarios: what may be known when a sample is judged.
Kind: TypeAlias = Literal["task", "domain", "class"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: The same, by their abbreviations and Avalanche's names.
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("til", "taskil", "taskincremental", "multihead"), "task"),
    **dict.fromkeys(("dil", "domainil", "domainincremental", "ni"), "domain"),
    **dict.fromkeys(("cil", "classil", "classincremental", "nc", "singlehead"), "class"),
}


def kind_of(kind: Any) -> Kind:
    """Return `kind` if it is known; otherwise raise an error that translates other names."""
    plain = "".join(letter for letter in str(kind).lower() if letter.isalnum())
    if isinstance(kind, str) and kind not in KINDS and plain in _KINDS:
        listed = ", ".join(f'"{it}"' for it in KINDS)
        raise ArgumentError(
            f'kind must be one of {listed}; got {kind!r}, which is kind="{_KINDS[plain]}"'
        )
    return cast("Kind", _checks.one_of("kind", kind, KINDS))


def no_attribute(thing: Any, name: str, elsewhere: Mapping[str, str]) -> AttributeError:
    """Make the error for an unknown attribute, with a suggestion of what was meant."""
    more = ""
    if not name.startswith("_"):  # Python's protocols look for such names
        more = advice(name, elsewhere, [known for known in dir(thing) if not known.startswith("_")])
    text = f"{type(thing).__name__} has no attribute {name!r}{more}"
    return AttributeError(text, name=name, obj=thing)
