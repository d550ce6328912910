"""Names that strategies have in other libraries, and where here is what they stand for."""

_LEARNS = "strategy.fit(task) learns one task, and continual.run(strategy, scenario) all of them"
_JUDGES = "continual.run judges all tasks after each, and strategy.predict(x) gives classes"
#: What belongs to a name of Avalanche's, mammoth's or scikit-learn's.
ELSEWHERE = {
    **dict.fromkeys(("train", "train_task", "observe", "train_experience"), _LEARNS),
    **dict.fromkeys(("eval", "evaluate", "test", "score", "accuracy"), _JUDGES),
    "partial_fit": "strategy.step(x, y) takes a step on a batch of a stream",
    **{
        name: f"it is the trainer's: strategy.trainer.{name}"
        for name in ("model", "optimizer", "loss", "history")
    },
    **dict.fromkeys(
        ("save", "load", "checkpoint"),
        "continual.run(..., checkpoint=path, resume=True) keeps everything; strategy.state_dict()"
        " has what was gathered, without the trainer",
    ),
    **dict.fromkeys(("mem_size", "storage_policy", "memory"), "it is strategy.buffer"),
    **dict.fromkeys(("ewc_lambda", "lambda_e", "e_lambda", "reg_strength"), "it is .strength"),
}

_STEPS = "it is of continual.run, or of strategy.fit: how long a task is learned, in what batches"
_BUFFER = "it is buffer: a number of samples, or one of the buffers in continual"
#: The same of what their makers take.
ARGUMENTS = {
    **dict.fromkeys(
        ("ewc_lambda", "e_lambda", "lambda_e", "si_lambda", "lambda_reg", "reg_strength", "lam"),
        "it is strength",
    ),
    **dict.fromkeys(
        ("model", "optimizer", "criterion", "loss"),
        "strategies are around a trainer, tw.Trainer(model, loss=, optimizer=)",
    ),
    **dict.fromkeys(("train_mb_size", "train_epochs", "epochs", "n_epochs"), _STEPS),
    **dict.fromkeys(("mem_size", "buffer_size", "memory_size", "capacity"), _BUFFER),
    **dict.fromkeys(("minibatch_size", "batch_size_mem", "sample_size"), "it is batch_size"),
    **dict.fromkeys(("decay_factor", "gamma"), "OnlineEWC(decay=) fades what was gathered"),
    "mode": "EWC keeps a penalty for each task, and OnlineEWC one for all",
    "patterns_per_exp": "it is per_task",
    "memory_strength": "it is margin",
}
