"""What scikit-learn does after each epoch: record figures, and decide whether to continue."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg import Trainer
    from thalweg.sklearn._base import Objective


class Stopping:
    """A callback that follows scikit-learn's rule, and keeps its figures in the estimator.

    When the loss (or the score, with early stopping) has not improved by `tol` for more than
    `n_iter_no_change` epochs, training ends, or continues with a fifth of an adaptive rate.
    """

    def __init__(
        self, estimator: Any, objective: "Objective", rows: int, penalty: float, held_out: Any
    ) -> None:
        self.estimator = estimator
        self.objective = objective
        self.rows = rows
        self.penalty = penalty
        #: Held-out samples, targets and weights, or None.
        self.held_out = held_out
        self.best: Any = None
        self.stopped = False

    def on_epoch_end(self, trainer: "Trainer", record: dict[str, float]) -> bool:
        """Record the figures of an epoch, and return whether it was the last."""
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator.t_ += self.rows
        # scikit-learn's loss includes the penalty at each batch. Here, its mean over an epoch is
        # approximated by the mean of both ends.
        before, self.penalty = self.penalty, record.get("penalty", 0.0)
        penalty = self.objective.scale * (before + self.penalty) / 2
        estimator.loss_ = self.objective.shown(record["loss"], penalty)
        estimator.loss_curve_.append(estimator.loss_)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        if self.held_out is None:
            self._follow_loss()
        else:
            self._follow_score(trainer)
        if estimator.learning_rate == "invscaling" and estimator.solver == "sgd":
            rate = self.objective.scale * estimator.learning_rate_init
            trainer.optimizer.lr = rate / (estimator.t_ + 1) ** estimator.power_t
        if estimator._no_improvement_count > estimator.n_iter_no_change:
            self.stopped = self._ends(trainer)
        return self.stopped

    def _follow_loss(self) -> None:
        estimator, loss = self.estimator, self.estimator.loss_
        improves = loss <= estimator.best_loss_ - estimator.tol
        estimator._no_improvement_count = 0 if improves else estimator._no_improvement_count + 1
        estimator.best_loss_ = min(estimator.best_loss_, loss)

    def _follow_score(self, trainer: "Trainer") -> None:
        estimator = self.estimator
        score = estimator._validation_score(*self.held_out)
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        # As in scikit-learn, NaN, for infinite predictions, does not count as a lack of progress.
        lacks = score < estimator.best_validation_score_ + estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if lacks else 0
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
            self.best = trainer.model.state_dict()

    def _ends(self, trainer: "Trainer") -> bool:
        """Whether training ends; if not, its rate has been lowered."""
        estimator = self.estimator
        what = "Validation score" if self.held_out is not None else "Training loss"
        text = (
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        rate = trainer.optimizer.lr
        ends = True
        if estimator.learning_rate == "adaptive" and estimator.solver == "sgd":
            ends = rate <= self.objective.scale * 1e-6
            text += " Learning rate too small." if ends else " Dividing the learning rate by 5."
        if estimator.verbose:
            print(f"{text} Stopping." if ends else text)
        if not ends:
            trainer.optimizer.lr = rate / 5
            estimator._no_improvement_count = 0
        return ends
