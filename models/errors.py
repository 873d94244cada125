"""Every way in which a model can refuse, one tree.

ModelError
├── WeightsNotFound      no source has the files of the model asked for
├── UnsupportedModel     the files are there, but this runtime cannot serve them exactly
├── AdapterRefused       an adapter's files are broken, or of another model; or the model takes none
├── TemplateRefused      the model's chat template does not accept these messages
├── PromptTooLong        the prompt leaves no room for a reply in the context window
├── EngineLoading        the model is still being loaded: come back later
├── EngineFull           the waiting line is full: come back later
├── ReplyFailed          this one reply could not be made
├── CorpusRefused        there is no text to train on, or the corpus is not whole
├── RunRefused           a training run cannot begin or go on: locked, of another shape, or its files are broken
└── EngineClosed         the engine is shutting down, or its thread has died
"""

from __future__ import annotations


class ModelError(Exception):
    """Base of this package's errors."""


class WeightsNotFound(ModelError):
    """No source has the files of the model asked for."""


class UnsupportedModel(ModelError):
    """The files are there, but this runtime cannot serve them exactly."""


class AdapterRefused(ModelError):
    """An adapter's files are broken, or of another model; or the model takes none."""


class TemplateRefused(ModelError):
    """The model's chat template does not accept these messages."""


class SteeringRefused(ModelError):
    """The model has no residual stream that can be looked at or steered."""


class PromptTooLong(ModelError):
    """The prompt leaves no room for a reply in the context window."""

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"This model's context window is {context_length} tokens, but the prompt alone takes {prompt_tokens}. "
            "Shorten the messages."
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class EngineLoading(ModelError):
    """The model is still being loaded: come back later."""


class EngineFull(ModelError):
    """The waiting line is full: come back later."""


class ReplyFailed(ModelError):
    """This one reply could not be made; the others go on."""


class EngineClosed(ModelError):
    """The engine is shutting down, or its thread has died."""


class CorpusRefused(ModelError):
    """There is no text to train on, or the corpus is not whole."""


class RunRefused(ModelError):
    """A training run cannot begin or go on: it is locked, of another shape, or its files are broken."""
