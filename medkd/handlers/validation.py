"""Validation every so many epochs, and behind the last one."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.handlers import ValidationHandler


class LastEpochValidationHandler(ValidationHandler):
    """MONAI's ``ValidationHandler``, which also validates the last epoch when ``interval`` does not end there.

    The model that is kept is the best of those validated: a schedule that ends between two validations would otherwise
    lose the epochs behind the last of them without a word.

    Args:
        interval: in epochs.
        validator: an evaluator of MONAI.
    """

    def attach(self, engine: Engine) -> None:
        """Hang the handler on a trainer."""

        def is_due(trainer: Engine, epoch: int) -> bool:
            return epoch % self.interval == 0 or epoch == trainer.state.max_epochs

        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=is_due), self)
