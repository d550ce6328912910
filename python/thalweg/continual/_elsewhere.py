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
